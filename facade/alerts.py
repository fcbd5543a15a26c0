"""The alert that a daemon cannot send itself: that it does not answer. Signed with the daemon's own secret."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from shared.alerts.delivery import Sender
from shared.alerts.messages import AlertData, body
from shared.alerts.queue import TICK, Queue, Send, Stored
from shared.alerts.signing import FILE, secret_of
from shared.clock import Clock
from shared.reasons import describe
from shared.settings import Settings, SettingsError


class Absence(Struct, frozen=True, kw_only=True):
    """A daemon that does not answer. Seconds: `lasted` so far; `back`: it has answered again for so long."""

    id: str
    since: datetime
    reported: bool = False
    lasted: float = 0.0
    back: float = 0.0


def sender(settings: Settings) -> Sender | None:
    """`None` where this alert is not wanted. Raises `SettingsError`."""
    if not settings.alerts or "daemon" not in settings.alerts_on:
        return None
    try:
        return Sender(secret_of(settings.alerts_secret_file or settings.state_dir / FILE))
    except ValueError as error:
        raise SettingsError(str(error)) from error


class DaemonAlerts:
    """Watches one session's daemon. `reachable`: whether it answers now."""

    def __init__(
        self,
        session: str,
        settings: Settings,
        send: Send,
        reachable: Callable[[], bool],
        clock: Clock,
        name: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self._session = session
        self._after = settings.alerts_after
        self._reachable = reachable
        self._clock = clock
        self._name = name
        self._queues = [Queue(sink, lambda _alert: None, send, clock) for sink in settings.alerts]
        self._absence: Absence | None = None
        self._stepped = clock.monotonic()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues:
                tasks.create_task(queue.run(), name=f"alerts to {queue.sink.label}")
            while True:
                self.step()
                await self._clock.sleep(TICK)

    def step(self) -> None:
        """One step in time; what is due is queued. A short return is part of the same absence."""
        monotonic = self._clock.monotonic()
        elapsed, self._stepped = monotonic - self._stepped, monotonic
        absence = self._absence
        if self._reachable():
            if absence is not None:
                absence = replace(absence, back=absence.back + elapsed)
        elif absence is None:
            absence = Absence(id=self._name(), since=self._clock.now())
        else:
            absence = replace(absence, lasted=absence.lasted + elapsed + absence.back, back=0.0)
        if absence is not None and absence.lasted >= self._after and not absence.reported:
            absence = replace(absence, reported=True)
            self._queue(absence, over=False)
        if absence is not None and absence.back >= self._after:
            if absence.reported:
                self._queue(absence, over=True)
            absence = None
        self._absence = absence

    def _queue(self, absence: Absence, *, over: bool) -> None:
        now = self._clock.now()
        sentence, advice = describe("daemonUnreachable")
        data = AlertData(
            incident=absence.id,
            state="resolved" if over else "firing",
            session=self._session,
            reason="daemonUnreachable",
            sentence="The daemon answers again." if over else sentence,
            advice=() if over else advice,
            since=absence.since,
            durationS=round(absence.lasted, 1) if over else None,
        )
        encoded, message = body("daemon", now, data), f"msg_{absence.id}-{data.state}"
        for queue in self._queues:
            queue.add(Stored(message, queue.sink.key, encoded, now.timestamp()))
