"""What the link can be in, each state with its data, and what each of them is called outside."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from daemon.link.events import Target
from daemon.link.patience import FailureCounts, Outage
from daemon.link.windows import Calendar
from shared.messages import FarmState, LastError, Phase, Upstream


class Now(Struct, frozen=True):
    """`random_unit`: uniform in 0–1, the only randomness."""

    monotonic: float
    wall: datetime
    random_unit: float


class Policy(Struct, frozen=True, kw_only=True):
    """What never changes while the daemon runs. `reconnectMax` in s."""

    configured: Target
    automatic: bool = False
    reconnectMax: float = 15.0
    calendar: Calendar = Calendar()


class ConnectionTarget(Struct, frozen=True, kw_only=True):
    """A target, and how it has gone with it. `accounts` are those of its last session."""

    target: Target
    failures: FailureCounts = FailureCounts()
    attempts: int = 0  # since it was last ready
    lastLoss: float | None = None  # monotonic
    outage: Outage | None = None
    accounts: tuple[str, ...] = ()
    peer: str = ""  # the address that answered last
    found: tuple[str, ...] = ()  # the accounts of a session that was refused for them


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of a session; none of these follows from another. `lost`: the code of the loss of upstream."""

    serverVersion: int | None = None
    readOnly: bool = False
    farms: dict[str, FarmState] = {}
    lost: int | None = None
    competing: bool = False  # the likelier cause of a lost upstream
    suspectAt: float | None = None  # monotonic: when it becomes that
    competedAt: float | None = None  # monotonic: the last 10197


class Down(Struct, frozen=True):
    """The link is not wanted: `held` down by request, or auto-connect is off."""

    held: bool


class Waiting(Struct, frozen=True, kw_only=True):
    """`until` is monotonic. `hint` is a better guess of the cause than `reason`.

    `back`: what a port that the gateway named gives way to when it fails.
    """

    connection: ConnectionTarget
    reason: str
    until: float
    blocked: bool = False
    hint: str | None = None
    back: Return | None = None


class Return(Struct, frozen=True, kw_only=True):
    """A target that was up, to be dialled again at once. `moved`: its gateway named another port."""

    connection: ConnectionTarget
    moved: bool = False


Back = Down | Waiting | Return
"""What a target that was requested, or that a gateway named, gives way to when it fails."""


class Overdue(Struct, frozen=True, kw_only=True):
    """An attempt that was reported as failed for `reason`, whose connection stays open until `until` (monotonic)."""

    reason: str
    until: float


class Connecting(Struct, frozen=True, kw_only=True):
    """`why`: the reason the link was not ready before. `requested`: by a person, whichever account is logged in.

    `timeout`: s until it is reported as failed, which a person may have chosen for this attempt alone.
    """

    session: int
    connection: ConnectionTarget
    timeout: float
    why: str | None = None
    back: Back | None = None
    requested: bool = False
    overdue: Overdue | None = None
    facts: Facts = Facts()


class Live(Struct, frozen=True, kw_only=True):
    """A session. `reading`: the first snapshots are under way; `synced`: they are over. `readyAt` is monotonic."""

    session: int
    connection: ConnectionTarget
    facts: Facts
    why: str | None = None
    back: Back | None = None
    reading: bool = False
    synced: bool = False
    overdue: bool = False
    readyAt: float | None = None


class Stopping(Struct, frozen=True):
    pass


State = Down | Waiting | Connecting | Live | Stopping


class PreviousPhase(Struct, frozen=True):
    """What the link was before an attempt: if that ends where it began, it has been this all the time."""

    phase: Phase
    reason: str | None
    since: datetime


class Link(Struct, frozen=True, kw_only=True):
    """`base`: the settings' target, at the port it has moved to. `session`: the number of the latest dial.

    `opened`: completed handshakes so far, which is what the outside calls the number of the session.
    """

    policy: Policy
    base: Target
    state: State
    since: datetime
    previous: PreviousPhase | None = None
    session: int = 0
    opened: int = 0
    lastError: LastError | None = None

    @property
    def phase(self) -> Phase:
        return phase(self.state)

    @property
    def reason(self) -> str | None:
        """Why the link is not ready; `None` when it is, and before the first attempt has ended."""
        return reason(self.state)

    @property
    def current(self) -> int | None:
        """The number of the session or attempt that is under way."""
        return self.state.session if isinstance(self.state, Connecting | Live) else None

    @property
    def connection(self) -> ConnectionTarget | None:
        return self.state.connection if isinstance(self.state, Connecting | Live | Waiting) else None

    @property
    def target(self) -> Target:
        return self.base if self.connection is None else self.connection.target

    @property
    def next_attempt(self) -> float | None:
        """Monotonic time of the next dial, where it is known."""
        match self.state:
            case Waiting(until=until) | Connecting(overdue=Overdue(until=until)):
                return until
        return None

    @property
    def wake(self) -> float | None:
        """Monotonic time at which `TimerExpired` is due."""
        match self.state:
            case Waiting() | Connecting():
                return self.next_attempt
            case Live(facts=Facts(competing=False, suspectAt=at)):
                return at
        return None

    @property
    def farms(self) -> dict[str, FarmState]:
        """The session's data farms; none without a session."""
        return self.state.facts.farms if isinstance(self.state, Live) else {}

    @property
    def upstream(self) -> Upstream:
        if not isinstance(self.state, Live):
            return "unknown"
        if self.state.facts.lost is not None:
            return "lost"
        return "ok" if self.state.synced else "unknown"


def phase(state: State) -> Phase:
    match state:
        case Down(held=held):
            return "held" if held else "disabled"
        case Waiting(blocked=blocked):
            return "blocked" if blocked else "waiting"
        case Connecting(overdue=overdue):
            return "connecting" if overdue is None else "waiting"
        case Live(overdue=True):
            return "unproven"
        case Live(facts=Facts(lost=int())):
            return "upstreamLost"
        case Live(synced=synced):
            return "ready" if synced else "syncing"
        case Stopping():
            return "stopping"


def reason(state: State) -> str | None:
    match state:
        case Down(held=held):
            return "manual" if held else "autoConnectOff"
        case Waiting(reason=known, hint=hint):
            return hint or known
        case Connecting(overdue=Overdue(reason=known)):
            return known
        case Connecting(why=why):
            return why
        case Live(overdue=True):
            return "probeTimeout"
        case Live(facts=Facts(lost=int(), competing=competing)):
            return "competingSession" if competing else "upstreamLost"
        case Live(synced=synced, why=why):
            return None if synced else why
        case Stopping():
            return "shuttingDown"
