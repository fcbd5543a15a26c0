"""The dead man's switch: a URL that is requested each minute while the link is ready; a service elsewhere misses it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from shared.alerts.delivery import Outcome
from shared.alerts.sinks import Sink
from shared.clock import Clock
from shared.messages import Link

log = structlog.get_logger("daemon.alerts")

INTERVAL: Final = 60.0


class Ping(Protocol):
    async def ping(self, sink: Sink) -> Outcome: ...


class Rows(Protocol):
    def row(self, topic: str, key: str) -> Struct | None: ...


class Heartbeat:
    """`sent`, `failed`: since the start. `last_error` is empty after a request that succeeded."""

    def __init__(self, sink: Sink, store: Rows, sender: Ping, clock: Clock) -> None:
        self.sent = self.failed = 0
        self.last_at: datetime | None = None
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
            "lastError": self.last_error,
        }

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            link = self._store.row("link", "link")
            if isinstance(link, Link) and link.connected:
                await self._beat()
            await self._clock.sleep(INTERVAL)

    async def _beat(self) -> None:
        outcome = await self._sender.ping(self._sink)
        if outcome.delivered:
            self.sent, self.last_at = self.sent + 1, self._clock.now()
        else:
            self.failed += 1
            if not self.last_error:
                log.warning(
                    "heartbeat.failed",
                    message="The heartbeat was not accepted; it is sent again each minute.",
                    receiver=self._sink.label,
                    error=outcome.detail,
                )
        self.last_error = outcome.detail
