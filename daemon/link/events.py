"""Everything that can happen to the link, as values. What the machine returns for them is in `actions.py`.

An event that comes from a session carries its number; one of an older session is dropped by the machine.
"""

from __future__ import annotations

from msgspec import Struct


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened."""


class Target(Struct, frozen=True, kw_only=True):
    """Which gateway to dial, and as which client. `account` empty: any.

    `address`: the one of the host's addresses that answered last, which is dialled first.

    `timeout`: s over dial, handshake and account list until the attempt is reported as failed.
    """

    host: str
    port: int
    clientId: int
    account: str = ""
    timeout: float = 10.0
    address: str = ""


# --- people and time ----------------------------------------------------------------------------------------


class ConnectRequested(Event, frozen=True, kw_only=True):
    """A request to connect. `target` is complete: what the request left out is filled in from the settings.

    `bare`: the request named nothing (`{}`), so it joins whatever attempt is under way.
    """

    target: Target
    bare: bool


class DisconnectRequested(Event, frozen=True, kw_only=True):
    pass


class ReconnectRequested(Event, frozen=True, kw_only=True):
    pass


class StopRequested(Event, frozen=True, kw_only=True):
    """The daemon ends: SIGTERM, Ctrl-C, logoff or `daemon.stop`."""


class TimerExpired(Event, frozen=True, kw_only=True):
    """The time of `Link.wake` has come."""


class MachineResumed(Event, frozen=True, kw_only=True):
    """The machine was suspended, or this process stopped, for `seconds`."""

    seconds: float


class WindowEnded(Event, frozen=True, kw_only=True):
    """A planned window is over."""


# --- from a session -------------------------------------------------------------------------------------------


class SessionEvent(Event, frozen=True, kw_only=True):
    session: int


class Dialled(SessionEvent, frozen=True, kw_only=True):
    """TCP is open. `peer` is the address that answered."""

    peer: str


class Greeted(SessionEvent, frozen=True, kw_only=True):
    """The server version came."""

    serverVersion: int


class Opened(SessionEvent, frozen=True, kw_only=True):
    """Account list and next order id are there: a session."""

    serverVersion: int
    accounts: tuple[str, ...]


class Failed(SessionEvent, frozen=True, kw_only=True):
    """The attempt ended before `Opened`. `code`: IBKR's number or errno; `text`: theirs."""

    reason: str
    code: int | None = None
    text: str = ""


class AttemptOverdue(SessionEvent, frozen=True, kw_only=True):
    """The target's timeout passed without `Opened`. The connection stays open until the machine ends it.

    Comes once without a server version; with one, every further timeout until the rest is there.
    """

    reason: str
    code: int | None = None
    text: str = ""


class Synced(SessionEvent, frozen=True, kw_only=True):
    """The first snapshots are over, complete or not."""


class Lost(SessionEvent, frozen=True, kw_only=True):
    """The socket ended after `Opened`. `reason`: `socketLost`, or `notTws` when the stream cannot be read any more."""

    reason: str = "socketLost"
    code: int | None = None
    text: str = ""


class ProbeAnswered(SessionEvent, frozen=True, kw_only=True):
    rtt: float  # s


class ProbeOverdue(SessionEvent, frozen=True, kw_only=True):
    pass


class MessageReceived(SessionEvent, frozen=True, kw_only=True):
    """A complete message came while the session was `unproven`."""


class UpstreamLost(SessionEvent, frozen=True, kw_only=True):
    """1100 or 2110, with whatever request id."""

    code: int
    text: str


class UpstreamRestored(SessionEvent, frozen=True, kw_only=True):
    """1101 (`dataLost`), 1102, or an answer from upstream proven after 2110 (`code` None)."""

    code: int | None
    text: str
    dataLost: bool


class PortMoved(SessionEvent, frozen=True, kw_only=True):
    """1300. `port` is None where the text names none."""

    port: int | None
    text: str


class FarmChanged(SessionEvent, frozen=True, kw_only=True):
    farm: str
    type: str
    state: str


class ReadOnlyApi(SessionEvent, frozen=True, kw_only=True):
    """Error 321, the API is read-only: order requests stop for this session."""

    text: str


class CompetingSession(SessionEvent, frozen=True, kw_only=True):
    """10197 on market data."""

    text: str


class RateExceeded(SessionEvent, frozen=True, kw_only=True):
    """Code 100."""

    text: str
