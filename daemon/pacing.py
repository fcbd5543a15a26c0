"""What IBKR lets one session ask of its history servers, as pure arithmetic on what was asked before.

Source of the rules: FAULTS 44. Never asks anything, never waits, reads no clock: `history.py` does.

* bars of 30 s or less: 60 requests in any ten minutes, BID_ASK counting twice
* no identical request within 15 s
* fewer than six requests for one contract, exchange and type of data within 2 s
* at most 50 requests open at once

IBKR states the second and third for small bars only; they are kept for all, since they cost a large bar nothing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import chain, repeat

from msgspec import Struct
from msgspec.structs import replace

SMALL_BAR = 30
"""s; a bar up to this size counts against the ten minutes."""
LIMIT, WINDOW = 60, 600.0
IDENTICAL = 15.0
BURST, BURST_WINDOW = 5, 2.0
OPEN = 50
SLACK = 0.5
"""s added to every window: requests leave by our clock and are counted at their arrival, which a full queue moves."""
OPEN_RETRY = 5.0
"""s after which asking again is worth while when 50 requests stay open: IBKR answers most within this."""


class Request(Struct, frozen=True, kw_only=True):
    """`key`: equal for identical requests. `group`: contract, exchange, type. `small`: bars of 30 s or less.

    `weight`: how often it counts. `deadline`: monotonic s by which it must have been sent.
    """

    key: Hashable
    group: Hashable
    small: bool
    weight: int = 1
    deadline: float = math.inf


class Sent(Struct, frozen=True):
    at: float
    key: Hashable
    group: Hashable
    weight: int
    counted: bool  # against the ten minutes


class Budget(Struct, frozen=True, kw_only=True):
    """What was sent lately, oldest first, and how many are open. `strictUntil`: until then large bars count too."""

    sent: tuple[Sent, ...] = ()
    open: int = 0
    strictUntil: float = -math.inf


class Go(Struct, frozen=True):
    """Send it now."""


class Wait(Struct, frozen=True):
    """Ask again at `until` (monotonic s), or as soon as a request closes."""

    until: float


class Refuse(Struct, frozen=True):
    """It cannot be sent by its deadline; `retryAfter` s from now it could be."""

    retryAfter: float


Decision = Go | Wait | Refuse


class Figures(Struct, frozen=True, kw_only=True):
    """`used` of `limit` in the last ten minutes; `resetsIn`: s until a unit comes back, `None` if none is used."""

    used: int
    limit: int
    resetsIn: float | None


def counts(budget: Budget, request: Request, now: float) -> bool:
    """Whether the request uses up the ten minutes' allowance."""
    return request.small or now < budget.strictUntil


def decide(budget: Budget, request: Request, now: float, ahead: int = 0) -> Decision:
    """Whether `request` may be sent. `ahead`: units of the ten minutes' allowance promised to requests before it."""
    until = max(now, _identical(budget, request), _burst(budget, request))
    if counts(budget, request, now):
        until = max(until, _allowance(budget, ahead + request.weight, now))
    if until > request.deadline:
        return Refuse(until - now)
    if until > now:
        return Wait(until)
    if budget.open < OPEN:
        return Go()
    return Wait(request.deadline) if now < request.deadline else Refuse(OPEN_RETRY)


def opened(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after `request` was sent at `now`; what no rule looks at any more is dropped."""
    entry = Sent(now, request.key, request.group, request.weight, counts(budget, request, now))
    kept = tuple(sent for sent in budget.sent if now < sent.at + (WINDOW if sent.counted else IDENTICAL) + SLACK)
    return replace(budget, sent=(*kept, entry), open=budget.open + 1)


def closed(budget: Budget) -> Budget:
    """The budget after a request was answered, refused or cancelled."""
    return replace(budget, open=budget.open - 1)


def spent(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after IBKR called `request` a violation: somebody else asks too (a chart in TWS, an earlier daemon).

    What is not known to be used counts as used now. If the bars were large, large ones count for the next ten minutes.
    """
    unknown = LIMIT - _used(budget, now)
    sent = (*budget.sent, Sent(now, None, None, unknown, True)) if unknown > 0 else budget.sent
    return replace(budget, sent=sent, strictUntil=budget.strictUntil if request.small else now + WINDOW)


def figures(budget: Budget, now: float) -> Figures:
    back = next((at - now for at, _ in _expiries(budget, now)), None)
    return Figures(used=_used(budget, now), limit=LIMIT, resetsIn=back)


def _used(budget: Budget, now: float) -> int:
    return sum(weight for _, weight in _expiries(budget, now))


def _expiries(budget: Budget, now: float) -> list[tuple[float, int]]:
    """When how many units of the allowance come back, soonest first."""
    back = ((sent.at + WINDOW + SLACK, sent.weight) for sent in budget.sent if sent.counted)
    return [(at, weight) for at, weight in back if at > now]


def _allowance(budget: Budget, units: int, now: float) -> float:
    """When the `units`-th unit from now is free: those that are, then those that come back, then these once more."""
    expiries = _expiries(budget, now)
    free = LIMIT - sum(weight for _, weight in expiries)
    slots = list(chain(repeat(now, free), *(repeat(at, weight) for at, weight in expiries)))
    rounds, slot = divmod(units - 1, LIMIT)
    return slots[slot] + rounds * (WINDOW + SLACK)


def _identical(budget: Budget, request: Request) -> float:
    return max((sent.at + IDENTICAL + SLACK for sent in budget.sent if sent.key == request.key), default=-math.inf)


def _burst(budget: Budget, request: Request) -> float:
    """When fewer than six of the group lie within 2 s."""
    back = [at for sent in budget.sent if sent.group == request.group for at in repeat(sent.at, sent.weight)]
    at = len(back) + request.weight - BURST - 1
    return back[at] + BURST_WINDOW + SLACK if at >= 0 else -math.inf
