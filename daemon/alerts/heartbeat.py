"""The dead man's switch: a URL that is requested each minute while the link is ready; a service elsewhere misses it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from shared.alerts.delivery import Outcome
from shared.alerts.queue import TICK
from shared.alerts.sinks import Sink
from shared.clock import Clock
from shared.messages import Link

log = structlog.get_logger("daemon.alerts")

INTERVAL: Final = 60.0
"""s between requests."""


class Ping(Protocol):
    async def ping(self, sink: Sink) -> Outcome: ...


class Rows(Protocol):
    def row(self, topic: str, key: str) -> Struct | None: ...


class Heartbeat:
    """`sent`, `failed`: since the start; `last_at`: of the last that was accepted. `last_error` is empty after one."""

    def __init__(self, sink: Sink, store: Rows, sender: Ping, clock: Clock) -> None:
        self.sent = self.failed = 0
        self.last_at: datetime | None = None
        self.failed_at: datetime | None = None
        self.last_error = ""
        self._sink = sink
        self._store = store
        self._sender = sender
        self._clock = clock

    def health(self) -> dict[str, Any]:
        return {
            "receiver": self._sink.label,
            "sent": self.sent,
            "failed": self.failed,
            "lastAt": self.last_at,
            "failedAt": self.failed_at,
            "lastError": self.last_error,
        }

    async def run(self) -> None:
        """Runs until cancelled. The first request is sent as soon as the link is ready."""
        due = self._clock.monotonic()
        while True:
            link, now = self._store.row("link", "link"), self._clock.monotonic()
            if isinstance(link, Link) and link.connected and now >= due:
                due = now + INTERVAL
                await self._beat()
            await self._clock.sleep(TICK)

    async def _beat(self) -> None:
        outcome = await self._sender.ping(self._sink)
        if outcome.delivered:
            self.sent, self.last_at = self.sent + 1, self._clock.now()
        else:
            self.failed, self.failed_at = self.failed + 1, self._clock.now()
            if not self.last_error:
                log.warning(
                    "heartbeat.failed",
                    message="The heartbeat was not accepted; it is sent again each minute.",
                    receiver=self._sink.label,
                    error=outcome.detail,
                )
        self.last_error = outcome.detail
