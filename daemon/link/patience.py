"""How long to wait before the next attempt, by the reason the last one ended; and what a long silence probably means.

Pure arithmetic on values. The guesses change nothing of what is done about the link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from msgspec import Struct

from daemon.link.windows import RESTART_ALLOWANCE, login_expired
from shared import reasons
from shared.backoff import doubling, ladder, spread
from shared.settings import is_loopback

KEPT_OPEN = 120.0
"""s for which an attempt's one connection stays open: each new one may raise another dialog in TWS, and a gateway that
is frozen or slow answers the one that is there."""
GHOST = 120.0
"""s in which a client id in use is probably our own dead session, which TWS releases by itself."""
GHOST_WAITS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0)
"""s: a gateway mostly releases the id of a session that was reset within a second or two."""
FLAPPING = 30.0
"""s: a loss so soon after the one before waits, and a session must be ready for as long to be called recovered."""
COMPETING_AFTER = 300.0
"""s of a lost upstream outside the planned windows, after which another login is the likelier cause."""
COMPETING_MEMORY = 600.0
"""s for which a 10197 still speaks about a lost upstream."""
LOGIN_DAY = timedelta(days=1)
"""A gateway that runs through Sunday 01:00 New York fails at its next daily restart, within a day."""

REFUSED = frozenset({"portClosed", "closedDuringHandshake"})
"""What a gateway at its login screen looks like; the second through a forwarder such as socat."""


class Patience(Struct, frozen=True, kw_only=True):
    """`seconds(tries, longest)` before the attempt after the `tries`-th failure of this kind in a row.

    `atOnce`: the first attempt after a loss does not wait. `blocked`: a person must act. `blockedAfter`: s after which
    one must, and from then on the wait is `blockedSeconds`.
    """

    seconds: Callable[[int, float], float]
    atOnce: bool = False
    blocked: bool = False
    blockedAfter: float | None = None
    blockedSeconds: float = 0.0


def _ordinary(tries: int, longest: float) -> float:
    return doubling(1.0, longest, tries)


NEVER = Patience(seconds=lambda _tries, _longest: 0.0)
"""No attempt ends with such a reason: the session is kept, or none is wanted."""

PATIENCE: Mapping[reasons.Patience, Patience] = {
    "loopbackPort": Patience(seconds=lambda _tries, _longest: 0.5),
    "doubling": Patience(seconds=_ordinary),
    "atOnce": Patience(seconds=_ordinary, atOnce=True),
    "portMoved": Patience(seconds=_ordinary, atOnce=True),
    "handshake": Patience(seconds=lambda _tries, _longest: 1.0),
    "ghost": Patience(
        seconds=lambda tries, _longest: ladder(GHOST_WAITS, tries), blockedAfter=GHOST, blockedSeconds=60.0
    ),
    "person": Patience(seconds=lambda _tries, _longest: 300.0, blocked=True),
    "upstream": NEVER,
    "none": NEVER,
}

COUNTED_AS: Mapping[reasons.Patience, reasons.Patience] = {"atOnce": "doubling", "portMoved": "doubling"}
"""Kinds that climb the same ladder: a loss goes on where refused dials elsewhere have come to."""


class FailureCounts(Struct, frozen=True, kw_only=True):
    """How often each kind of failure has come since a session was last ready long enough, and when the first came."""

    tries: Mapping[str, int] = {}
    since: Mapping[str, float] = {}  # monotonic


def kind(reason: str, host: str) -> reasons.Patience:
    """Which patience a reason has at `host`."""
    named = reasons.CATALOGUE[reason].patience
    if named is None:
        raise ValueError(f"{reason} is no reason of the link")
    if named == "loopbackPort" and not is_loopback(host):
        return "doubling"
    return named


def after(
    reason: str, host: str, failures: FailureCounts, *, longest: float, now: float, random_unit: float
) -> tuple[FailureCounts, float, bool]:
    """The failures grown by this failure, the seconds to wait, and whether a person must act."""
    own = kind(reason, host)
    patience = PATIENCE[own]
    counted = COUNTED_AS.get(own, own)
    tries = failures.tries.get(counted, 0) + 1
    since = failures.since.get(counted, now)
    grown = FailureCounts(tries={**failures.tries, counted: tries}, since={**failures.since, counted: since})
    blocked = patience.blocked or (patience.blockedAfter is not None and now - since >= patience.blockedAfter)
    seconds = patience.blockedSeconds if blocked and patience.blockedSeconds else patience.seconds(tries, longest)
    return grown, spread(seconds, random_unit), blocked


def at_once(reason: str) -> bool:
    """Whether the first attempt after a loss for this reason does not wait."""
    named = reasons.CATALOGUE[reason].patience
    return named is not None and PATIENCE[named].atOnce


class Outage(Struct, frozen=True, kw_only=True):
    """Since when the target is down, as far as guesses need it. `lastReady` is None for one that was never up."""

    since: float  # monotonic
    lastReady: datetime | None = None
    inRestart: bool = False


def probably(reason: str, outage: Outage, wall: datetime, now: float) -> str | None:
    """`loginRequired` where a refused gateway probably waits for a person's login; else nothing better is known.

    Only after the allowance of a restart, and only when the weekly end of all logins lies between the last session and
    now (or shortly before its end: the next restart is what needs the login), or the gateway's own restart has not
    brought it back.
    """
    if reason not in REFUSED or now - outage.since < RESTART_ALLOWANCE.total_seconds():
        return None
    expired = login_expired(wall)
    weekly = wall - expired < LOGIN_DAY if outage.lastReady is None else outage.lastReady - expired < LOGIN_DAY
    return "loginRequired" if weekly or outage.inRestart else None
