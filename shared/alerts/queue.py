"""What waits for one receiver of alerts, and its delivery: retried with growing waits, given up after a day."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from shared.alerts.delivery import Outcome
from shared.alerts.sinks import Sink
from shared.clock import Clock

log = structlog.get_logger("alerts")

TICK: Final = 1.0
"""s between looks at what is due."""
FIRST_RETRY, LAST_RETRY = 5.0, 600.0
"""s until an alert is tried again, doubling."""
EXPIRES: Final = 86_400.0
"""s after which an alert that no attempt delivered is given up."""
PENDING: Final = 500
"""Alerts that wait for one sink; beyond, the oldest are given up. A day of the worst flapping has fewer."""


class Stored(NamedTuple):
    """One alert for one sink. `created`: seconds since 1970."""

    id: str
    sink: str
    body: bytes
    created: float


class Send(Protocol):
    async def send(self, sink: Sink, message_id: str, body: bytes, now: datetime) -> Outcome: ...


class Health(Struct, kw_only=True):
    """Of one sink, since the start of the process. `last…`: of the last attempt; `failure`, `failedAt`: of the last one
    that failed. `ended`: it answered 410.
    """

    sink: str
    delivered: int = 0
    failed: int = 0
    givenUp: int = 0
    pending: int = 0
    lastAt: datetime | None = None
    lastStatus: int | None = None
    lastError: str = ""
    deliveredAt: datetime | None = None
    failedAt: datetime | None = None
    failure: str = ""
    ended: bool = False


class Waiting(Struct):
    """One alert in a sink's queue. Monotonic s. `delay`: until the next try, if this one fails."""

    alert: Stored
    due: float
    expires: float
    delay: float = FIRST_RETRY


class Queue:
    """What waits for one sink, oldest first. `settle` is called with each alert that is delivered or given up."""

    def __init__(self, sink: Sink, settle: Callable[[Stored], object], send: Send, clock: Clock) -> None:
        self.sink = sink
        self._health = Health(sink=sink.label)
        self._settle = settle
        self._send = send
        self._clock = clock
        self._waiting: deque[Waiting] = deque()

    def health(self) -> Health:
        return replace(self._health, pending=len(self._waiting))

    def add(self, alert: Stored) -> None:
        age = max(0.0, self._clock.now().timestamp() - alert.created)
        now = self._clock.monotonic()
        waiting = Waiting(alert, now, now + EXPIRES - age)
        self._waiting.append(waiting)
        self._try_older_first(waiting)
        if len(self._waiting) > PENDING:
            self._give_up(self._waiting[0])

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            while (waiting := self._due()) is not None:
                await self._try(waiting)
            await self._clock.sleep(TICK)

    def _due(self) -> Waiting | None:
        now = self._clock.monotonic()
        for waiting in [each for each in self._waiting if now >= each.expires or self._health.ended]:
            self._give_up(waiting)
        return next((waiting for waiting in self._waiting if now >= waiting.due), None)

    async def _try(self, waiting: Waiting) -> None:
        now = self._clock.now()
        outcome = await self._send.send(self.sink, waiting.alert.id, waiting.alert.body, now)
        health = self._health
        health.lastAt, health.lastStatus, health.lastError = now, outcome.status, outcome.detail
        if outcome.delivered:
            health.delivered, health.deliveredAt = health.delivered + 1, now
            self._remove(waiting)
            for each in self._waiting:  # the sink is back
                each.due = self._clock.monotonic()
            return
        health.failed, health.failedAt, health.failure = health.failed + 1, now, outcome.detail
        if outcome.gone:
            health.ended = True
            text = "A receiver of alerts answered 410: nothing is sent to it until the next start."
            log.warning("alerts.gone", message=text, sink=self.sink.label)
            return
        if health.failed == 1 or waiting.delay == FIRST_RETRY:
            log.warning(
                "alerts.failed", message="An alert was not delivered.", sink=self.sink.label, error=outcome.detail
            )
        waiting.due = self._clock.monotonic() + waiting.delay
        waiting.delay = min(LAST_RETRY, 2 * waiting.delay)
        self._try_older_first(waiting)

    def _try_older_first(self, waiting: Waiting) -> None:
        """An older alert is due no later: the end of an incident must not arrive before its beginning."""
        for each in self._waiting:
            if each is waiting:
                return
            each.due = min(each.due, waiting.due)

    def _give_up(self, waiting: Waiting) -> None:
        self._health.givenUp += 1
        self._remove(waiting)

    def _remove(self, waiting: Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        self._settle(waiting.alert)
