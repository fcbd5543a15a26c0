"""What IBKR lets one session ask of its history servers, as pure arithmetic on what was asked before.

Source of the rules: FAULTS 44. Never asks anything, never waits, reads no clock: `history.py` does.

* bars of 30 s or less: 60 requests in any ten minutes, BID_ASK counting twice
* no identical request within 15 s
* fewer than six requests for one contract, exchange and type of data within 2 s
* at most 50 requests open at once

IBKR states the second and third for small bars only; they are kept for all, since they cost a large bar little.

IBKR counts a request when it arrives, which we do not see: it may stand in a send queue first. So its windows are
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
    """A request that has surely arrived by `at`. `counted`: against the ten minutes."""

    at: float
    key: Hashable
    group: Hashable
    weight: int
    counted: bool


class Budget(Struct, frozen=True, kw_only=True):
    """`sent`: lately, by `at`. `pending`: not answered yet. `open`: those, and the streams that stay open.

    `strictUntil`: until then large bars count too.
    """

    sent: tuple[Sent, ...] = ()
    pending: tuple[Request, ...] = ()
    open: int = 0
    strictUntil: float = -math.inf


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


def counts(budget: Budget, request: Request, now: float) -> bool:
    """Whether the request uses up the ten minutes' allowance."""
    return request.small or now < budget.strictUntil


def decide(budget: Budget, request: Request, now: float, ahead: int = 0) -> Decision:
    """Whether `request` may be sent. `ahead`: units of the ten minutes' allowance promised to requests before it."""
    sent = _sent(budget, now)
    until = max(now, _identical(sent, request), _burst(sent, request))
    if counts(budget, request, now):
        until = max(until, _allowance(sent, ahead + request.weight, now))
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
    """The budget after the first answer to `request`, or its end; what no rule looks at any more is dropped."""
    if request not in budget.pending:
        return budget
    entry = Sent(now, request.key, request.group, request.weight, counts(budget, request, now))
    kept = tuple(sent for sent in budget.sent if now < sent.at + (WINDOW if sent.counted else IDENTICAL) + SLACK)
    pending = tuple(each for each in budget.pending if each != request)
    return replace(budget, sent=(*kept, entry), pending=pending)


def closed(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after `request` is over: answered, refused, cancelled, or its stream ended."""
    return replace(answered(budget, request, now), open=budget.open - 1)


def unsent(budget: Budget, request: Request) -> Budget:
    """The budget after nobody wanted `request` any more by the time it could be sent."""
    pending = list(budget.pending)
    pending.remove(request)
    return replace(budget, pending=tuple(pending), open=budget.open - 1)


def lost(budget: Budget, now: float) -> Budget:
    """The budget after the session is over: nothing is open, and what was sent has counted."""
    for request in budget.pending:
        budget = answered(budget, request, now)
    return replace(budget, open=0)


def spent(budget: Budget, request: Request, now: float) -> Budget:
    """The budget after IBKR called `request` a violation: somebody else asks too (a chart in TWS, an earlier daemon).

    What is not known to be used counts as used now. If the bars were large, large ones count for the next ten minutes.
    """
    unknown = LIMIT - _used(_sent(budget, now), now)
    sent = (*budget.sent, Sent(now, None, None, unknown, True)) if unknown > 0 else budget.sent
    return replace(budget, sent=sent, strictUntil=budget.strictUntil if request.small else now + WINDOW)


def figures(budget: Budget, now: float) -> Figures:
    sent = _sent(budget, now)
    back = next((at - now for at, _ in _expiries(sent, now)), None)
    return Figures(used=_used(sent, now), limit=LIMIT, resetsIn=back)


def _sent(budget: Budget, now: float) -> tuple[Sent, ...]:
    """What counts, oldest first: what is not answered yet counts as sent now."""
    if not budget.pending:
        return budget.sent
    pending = (Sent(now, each.key, each.group, each.weight, counts(budget, each, now)) for each in budget.pending)
    return (*budget.sent, *pending)


def _used(sent: Iterable[Sent], now: float) -> int:
    return sum(weight for _, weight in _expiries(sent, now))


def _expiries(sent: Iterable[Sent], now: float) -> list[tuple[float, int]]:
    """When how many units of the allowance come back, soonest first."""
    back = ((each.at + WINDOW + SLACK, each.weight) for each in sent if each.counted)
    return [(at, weight) for at, weight in back if at > now]


def _allowance(sent: Iterable[Sent], units: int, now: float) -> float:
    """When the `units`-th unit from now is free: those that are, then those that come back, then these once more."""
    expiries = _expiries(sent, now)
    free = LIMIT - sum(weight for _, weight in expiries)
    slots = list(chain(repeat(now, free), *(repeat(at, weight) for at, weight in expiries)))
    rounds, slot = divmod(units - 1, LIMIT)
    return slots[slot] + rounds * (WINDOW + SLACK)


def _identical(sent: Iterable[Sent], request: Request) -> float:
    return max((each.at + IDENTICAL + SLACK for each in sent if each.key == request.key), default=-math.inf)


def _burst(sent: Iterable[Sent], request: Request) -> float:
    """When fewer than six of the group lie within 2 s."""
    back = [at for each in sent if each.group == request.group for at in repeat(each.at, each.weight)]
    at = len(back) + request.weight - BURST - 1
    return back[at] + BURST_WINDOW + SLACK if at >= 0 else -math.inf
