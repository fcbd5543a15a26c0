"""IBKR's pacing rules for historical data, as pure arithmetic on the requests made before.

Source: FAULTS 44. For bars of 30 s or less:

* 60 requests in any ten minutes, BID_ASK counting twice
* no identical request within 15 s
* fewer than six requests for one contract, exchange and type of data within 2 s

For all bars: at most 50 requests open at once. Larger bars have no other limit; where the server calls one of them a
violation all the same, an equal request waits for 15 s, and others of its contract for 2 s.

IBKR counts a request when it arrives, which is not visible here: it may stand in a send queue first. So its windows are
counted from its answer, before which it must have arrived; until then it counts as sent this moment.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
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
"""s added to every window for two clocks that run differently, and for what a network does to the next request."""
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
    """A request for small bars that has surely arrived by `at`."""

    at: float
    key: Hashable
    group: Hashable
    weight: int


class Violation(Struct, frozen=True):
    """A request for large bars that IBKR called a violation `at`."""

    at: float
    key: Hashable
    group: Hashable


class Budget(Struct, frozen=True, kw_only=True):
    """`sent`: in the last ten minutes, by `at`. `pending`: not answered yet. `open`: those, and the open streams."""

    sent: tuple[Sent, ...] = ()
    violations: tuple[Violation, ...] = ()
    pending: tuple[Request, ...] = ()
    open: int = 0


class Go(Struct, frozen=True):
    """Send it now."""


class Wait(Struct, frozen=True):
    """Not before `until` (monotonic s); ask again then, and whenever a request is answered or closes."""

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


def decide(budget: Budget, request: Request, now: float, ahead: int = 0) -> Decision:
    """Whether `request` may be sent. `ahead`: units of the ten minutes' allowance reserved for requests before it."""
    sent = _sent(budget, now)
    until = max(now, _violated(budget.violations, request))
    if request.small:
        until = max(
            until, _identical(sent, request), _burst(sent, request), _allowance(sent, ahead + request.weight, now)
        )
    if until > request.deadline:
        return Refuse(until - now)
    if until > now:
        return Wait(until)
    if budget.open < OPEN:
        return Go()
    return Wait(request.deadline) if now < request.deadline else Refuse(OPEN_RETRY)


def opened(budget: Budget, request: Request) -> Budget:
    """The budget after `request` was handed to the session."""
    return replace(budget, pending=(*budget.pending, request), open=budget.open + 1)


def answered(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after the first answer to `request`, or its end; what no rule needs any more is dropped."""
    if request not in budget.pending:
        return budget
    kept = tuple(sent for sent in budget.sent if now < sent.at + WINDOW + SLACK)
    entry = (Sent(now, request.key, request.group, request.weight),) if request.small else ()
    violations = tuple(each for each in budget.violations if now < each.at + IDENTICAL + SLACK)
    return replace(budget, sent=(*kept, *entry), violations=violations, pending=_without(budget.pending, request))


def closed(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after `request` is over: answered, refused, cancelled, or its stream ended."""
    return replace(answered(budget, request, now), open=budget.open - 1)


def unsent(budget: Budget, request: Request) -> Budget:
    """The budget after `request` was opened and given up before it was sent."""
    return replace(budget, pending=_without(budget.pending, request), open=budget.open - 1)


def lost(budget: Budget, now: float) -> Budget:
    """The budget after the session is over: nothing is open, and what was sent has counted."""
    for request in budget.pending:
        budget = answered(budget, request, now)
    return replace(budget, open=0)


def violated(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after IBKR called `request` a violation, as it does for another client's too (a chart in TWS).

    For small bars, the rest of the ten minutes' allowance counts as used by that client now.
    """
    budget = answered(budget, request, now)
    if not request.small:
        return replace(budget, violations=(*budget.violations, Violation(now, request.key, request.group)))
    unknown = LIMIT - _used(_sent(budget, now), now)
    return replace(budget, sent=(*budget.sent, Sent(now, None, None, unknown))) if unknown > 0 else budget


def figures(budget: Budget, now: float) -> Figures:
    sent = _sent(budget, now)
    back = next((at - now for at, _ in _expiries(sent, now)), None)
    return Figures(used=_used(sent, now), limit=LIMIT, resetsIn=back)


def _sent(budget: Budget, now: float) -> tuple[Sent, ...]:
    """Requests for small bars, oldest first; those not answered yet count as sent now."""
    pending = (Sent(now, each.key, each.group, each.weight) for each in budget.pending if each.small)
    return (*budget.sent, *pending)


def _without(pending: tuple[Request, ...], request: Request) -> tuple[Request, ...]:
    """Less one of those that are equal to `request`: large bars may be requested twice at once."""
    at = pending.index(request)
    return (*pending[:at], *pending[at + 1 :])


def _used(sent: Iterable[Sent], now: float) -> int:
    return sum(weight for _, weight in _expiries(sent, now))


def _expiries(sent: Iterable[Sent], now: float) -> list[tuple[float, int]]:
    """When how many units of the allowance come back, soonest first."""
    back = ((each.at + WINDOW + SLACK, each.weight) for each in sent)
    return [(at, weight) for at, weight in back if at > now]


def _allowance(sent: Iterable[Sent], units: int, now: float) -> float:
    """When the `units`-th unit from now is free: those that are, then those that come back, then these once more."""
    expiries = _expiries(sent, now)
    free = LIMIT - sum(weight for _, weight in expiries)
    slots = list(chain(repeat(now, free), *(repeat(at, weight) for at, weight in expiries)))
    rounds, slot = divmod(units - 1, LIMIT)
    return slots[slot] + rounds * (WINDOW + SLACK)


def _violated(violations: Iterable[Violation], request: Request) -> float:
    """When a violation by an equal request, or by one of its group, is over."""
    by_key = (each.at + IDENTICAL for each in violations if each.key == request.key)
    by_group = (each.at + BURST_WINDOW for each in violations if each.group == request.group)
    return max(chain(by_key, by_group), default=-math.inf) + SLACK


def _identical(sent: Iterable[Sent], request: Request) -> float:
    return max((each.at + IDENTICAL + SLACK for each in sent if each.key == request.key), default=-math.inf)


def _burst(sent: Iterable[Sent], request: Request) -> float:
    """When fewer than six of the group lie within 2 s."""
    back = [at for each in sent if each.group == request.group for at in repeat(each.at, each.weight)]
    at = len(back) + request.weight - BURST - 1
    return back[at] + BURST_WINDOW + SLACK if at >= 0 else -math.inf
