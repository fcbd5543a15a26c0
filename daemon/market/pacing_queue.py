"""The queue in which requests for historical data wait for IBKR's pacing rules, first come first served."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from daemon.market import pacing
from daemon.market.pacing import Go, Refuse, Request, Wait
from shared.clock import Clock
from shared.messages import Pacing
from shared.reasons import Problem

QUEUE: Final = 1000
"""Requests that may wait: more than twenty rounds of the fifty that may be open, which no deadline outlasts."""


class Slot:
    """Permission to have one request open, given back by `leave`."""

    def __init__(self, queue: PacingQueue, request: Request, session: int) -> None:
        self._queue = queue
        self._request = request
        self._session = session
        self._held = True

    def answered(self) -> None:
        """The stream's first bars have arrived."""
        if self._held:
            self._queue.answered(self._request, self._session)

    def leave(self, *, sent: bool = True) -> None:
        """The request was answered, refused or cancelled, or never sent. Idempotent."""
        if self._held:
            self._held = False
            self._queue.left(self._request, self._session, sent=sent)


class _Waiter:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.slot: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()


class PacingQueue:
    """One for the daemon's life: IBKR counts the requests of earlier sessions too.

    `on_refusal` is called before a request is refused, so that the published figures are no older than the refusal.
    """

    def __init__(self, clock: Clock) -> None:
        self.budget = pacing.Budget()
        self.on_refusal: Callable[[], object] = lambda: None
        self._clock = clock
        self._queue: dict[_Waiter, None] = {}  # ordered, and left from anywhere
        self._session = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def figures(self) -> Pacing:
        now = pacing.figures(self.budget, self._clock.monotonic())
        back = None if now.resetsIn is None else self._clock.now() + timedelta(seconds=now.resetsIn)
        return Pacing(used=now.used, limit=now.limit, resetsAt=back)

    async def enter(self, request: Request) -> Slot:
        """Wait until `request` may be sent; it must then be sent at once. Raises `pacingBudget` at its deadline."""
        now = self._clock.monotonic()
        ahead = sum(waiter.request.weight for waiter in self._queue if waiter.request.small)
        decision = pacing.decide(self.budget, request, now, ahead)
        if isinstance(decision, Refuse):
            raise self._refusal(decision)
        if len(self._queue) >= QUEUE:
            self.on_refusal()
            raise Problem("pacingBudget", f"{QUEUE} requests for history are waiting already.", retryAfter=30.0)
        waiter = _Waiter(request)
        self._queue[waiter] = None
        self.admit()
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            if waiter.slot.done() and not waiter.slot.cancelled() and not waiter.slot.exception():
                waiter.slot.result().leave(sent=False)
            raise
        finally:
            self._queue.pop(waiter, None)

    def answered(self, request: Request, session: int) -> None:
        """For `Slot`."""
        if session == self._session:
            self.budget = pacing.answered(self.budget, request, self._clock.monotonic())

    def left(self, request: Request, session: int, *, sent: bool) -> None:
        """For `Slot`."""
        if session == self._session:
            if sent:
                self.budget = pacing.closed(self.budget, request, self._clock.monotonic())
            else:
                self.budget = pacing.unsent(self.budget, request)
            self.admit()

    def violated(self, request: Request) -> float:
        """IBKR called `request` a violation; the seconds after which an equal one may be sent."""
        now = self._clock.monotonic()
        self.budget = pacing.violated(self.budget, request, now)
        self.on_refusal()
        self.admit()
        decision = pacing.decide(self.budget, replace(request, deadline=math.inf), now)
        return decision.until - now if isinstance(decision, Wait) else 0.0

    def lost(self) -> None:
        """The session is over: no request is open any more, and those that wait fail."""
        self._session += 1
        self.budget = pacing.lost(self.budget, self._clock.monotonic())
        for waiter in self._queue:
            if not waiter.slot.done():
                waiter.slot.set_exception(Problem("notConnected", "The link was lost before the request was sent."))
        self._queue.clear()

    def admit(self) -> None:
        """Let through requests that may go now, refuse those that miss their deadline. To be called every second."""
        now, ahead = self._clock.monotonic(), 0
        for waiter in list(self._queue):
            request = waiter.request
            if self.budget.open >= pacing.OPEN and now < request.deadline:
                continue  # nothing can go before one closes
            decision = pacing.decide(self.budget, request, now, ahead)
            if isinstance(decision, Wait):
                ahead += request.weight if request.small else 0
                continue
            del self._queue[waiter]
            if waiter.slot.done():
                continue  # cancelled
            if isinstance(decision, Go):
                self.budget = pacing.opened(self.budget, request)
                waiter.slot.set_result(Slot(self, request, self._session))
            else:
                waiter.slot.set_exception(self._refusal(decision))

    def _refusal(self, refuse: Refuse) -> Problem:
        self.on_refusal()
        now = pacing.figures(self.budget, self._clock.monotonic())
        return Problem(
            "pacingBudget",
            f"{now.used} of IBKR's {now.limit} requests for small bars in ten minutes are used, {self.budget.open} of "
            f"{pacing.OPEN} open requests; this one could be sent in {math.ceil(refuse.retryAfter)} s.",
            retryAfter=refuse.retryAfter,
        )
