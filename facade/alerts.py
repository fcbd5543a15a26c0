"""The alert that a daemon cannot send itself: that it does not answer. Signed with the daemon's own secret.

An absence under way and the alerts about it are in a file before they are sent: a facade that is restarted or killed
meanwhile sends them again, with the same ids, and sends no second alert about the same absence.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
import structlog
from msgspec import Meta, Struct
from msgspec.structs import replace

from facade.keeper.state_file import locked, write_whole
from shared.alerts.delivery import Sender
from shared.alerts.messages import AlertData, body
from shared.alerts.queue import TICK, Health, Queue, Send, Stored
from shared.alerts.signing import FILE, secret_of
from shared.clock import Clock
from shared.reasons import describe
from shared.settings import Settings, SettingsError

log = structlog.get_logger("facade.alerts")

LOCK: Final = "facade-alerts.lock"
WORTH_SAVING: Final = 60.0
"""s between saved states of an absence under way."""


Moment = Annotated[datetime, Meta(tz=True)]


class Absence(Struct, frozen=True, kw_only=True):
    """A daemon that does not answer. Seconds: `lasted` since it began; `away`: as far as it was observed, which decides
    when it is reported; `back`: it has answered again for so long.
    """

    id: str
    since: Moment
    reported: bool = False
    lasted: float = 0.0
    away: float = 0.0
    back: float = 0.0


class Saved(Struct, frozen=True, kw_only=True):
    """Content of the file."""

    at: Moment
    absence: Absence | None
    waiting: tuple[Stored, ...]


def sender(settings: Settings) -> Sender | None:
    """`None` where this alert is not wanted. Raises `SettingsError`."""
    if not settings.alerts or "daemon" not in settings.alerts_on:
        return None
    try:
        return Sender(secret_of(settings.alerts_secret_file or settings.state_dir / FILE))
    except ValueError as error:
        raise SettingsError(str(error)) from error


async def run_alone(watches: Sequence[DaemonAlerts], directory: Path, clock: Clock) -> None:
    """Run `watches` in the one process that holds the lock in `directory`. Runs until cancelled.

    A process that is being replaced holds the lock until it ends; then its successor goes on with what it has saved.
    """
    if not watches:
        return
    async with _lock(directory / LOCK, clock), asyncio.TaskGroup() as tasks:
        for watch in watches:
            tasks.create_task(watch.run(), name="daemon alerts")


@contextlib.asynccontextmanager
async def _lock(path: Path, clock: Clock) -> AsyncIterator[None]:
    warned = False
    while True:
        try:
            held = locked(path)
        except OSError as error:
            held = None
            if not warned:
                warned = True
                log.warning(
                    "alerts.unlocked",
                    message=f"{path} cannot be opened: no alert is sent about a daemon that is away. Trying on.",
                    error=error.strerror,
                )
        if held is not None:
            break
        await clock.sleep(TICK)
    try:
        yield
    finally:
        os.close(held)


class File(Protocol):
    """Keeps what is saved across restarts. Raises `OSError`."""

    async def load(self) -> bytes:
        """What was saved last, empty where nothing was."""

    async def save(self, content: bytes) -> None:
        """Replace it. A reader sees the old content or the new one, also after a kill."""


class SavedFile:
    """A file on disk, read and written in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    async def load(self) -> bytes:
        try:
            return await asyncio.to_thread(self._path.read_bytes)
        except FileNotFoundError:
            return b""

    async def save(self, content: bytes) -> None:
        work = asyncio.to_thread(write_whole, self._path, content, durable=True)
        writing = asyncio.create_task(work, name="alerts file")
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # the successor must not read what is about to be replaced
            await asyncio.wait([writing])
            raise


class DaemonAlerts:
    """Watches one session's daemon. `reachable`: whether it answers now. `file`: where the state is saved."""

    def __init__(
        self,
        session: str,
        settings: Settings,
        send: Send,
        reachable: Callable[[], bool],
        clock: Clock,
        file: File,
        name: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:
        self.session = session
        self._after = settings.alerts_after
        self._reachable = reachable
        self._clock = clock
        self._file = file
        self._name = name
        self._queues = [Queue(sink, self._settled, send, clock) for sink in settings.alerts]
        self._absence: Absence | None = None
        self._waiting: list[Stored] = []
        self._unsaved = False
        self._unwritable = False
        self._stepped = self._saved_at = clock.monotonic()

    @property
    def absence(self) -> Absence | None:
        """The one under way."""
        return self._absence

    def health(self) -> list[Health]:
        return [queue.health() for queue in self._queues]

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._load()
        self._stepped = self._clock.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues:
                tasks.create_task(queue.run(), name=f"alerts to {queue.sink.label}")
            while True:
                await self.step()
                await self._clock.sleep(TICK)

    async def step(self) -> None:
        """One step in time; what is due is saved, then queued. A short return is part of the same absence."""
        monotonic = self._clock.monotonic()
        elapsed, self._stepped = monotonic - self._stepped, monotonic
        before, alerts = self._absence, []
        absence = self._passed(elapsed)
        if absence is not None and absence.away >= self._after and not absence.reported:
            absence = replace(absence, reported=True)
            alerts += self._stored(absence, over=False)
        if absence is not None and absence.back >= self._after:
            if absence.reported:
                alerts += self._stored(absence, over=True)
            absence = None
        self._absence = absence
        self._waiting += alerts
        changed = (before is None) != (absence is None) or bool(before and before.back) != bool(
            absence and absence.back
        )
        if alerts or changed or self._unsaved or (absence and monotonic - self._saved_at >= WORTH_SAVING):
            await self._save()
        queues = {queue.sink.key: queue for queue in self._queues}
        for alert in alerts:
            queues[alert.sink].add(alert)

    def _passed(self, elapsed: float) -> Absence | None:
        absence = self._absence
        if self._reachable():
            return None if absence is None else replace(absence, back=absence.back + elapsed)
        if absence is None:
            return Absence(id=self._name(), since=self._clock.now())
        gone = elapsed + absence.back
        return replace(absence, lasted=absence.lasted + gone, away=absence.away + gone, back=0.0)

    def _stored(self, absence: Absence, *, over: bool) -> list[Stored]:
        now = self._clock.now()
        sentence, advice = describe("daemonUnreachable")
        data = AlertData(
            incident=absence.id,
            state="resolved" if over else "firing",
            session=self.session,
            reason="daemonUnreachable",
            sentence="The daemon answers again." if over else sentence,
            advice=() if over else advice,
            since=absence.since,
            durationS=round(absence.lasted, 1) if over else None,
        )
        encoded, message = body("daemon", now, data), f"msg_{absence.id}-{data.state}"
        return [Stored(message, queue.sink.key, encoded, now.timestamp()) for queue in self._queues]

    # --- the file -----------------------------------------------------------------------------------------------------

    def _settled(self, alert: Stored) -> None:
        """It was delivered or is given up; the file follows with the next step."""
        self._waiting.remove(alert)
        self._unsaved = True

    async def _load(self) -> None:
        try:
            content = await self._file.load()
            if not content:
                return
            saved = msgspec.json.decode(content, type=Saved)
        except (OSError, ValueError) as error:  # also of bytes that are no UTF-8
            log.warning(
                "alerts.unread",
                message=f"{self._file} cannot be read: alerts of before the start are not known.",
                error=str(error),
            )
            return
        queues = {queue.sink.key: queue for queue in self._queues}
        self._waiting = [alert for alert in saved.waiting if alert.sink in queues]  # the settings may name it no more
        for alert in tuple(self._waiting):
            queues[alert.sink].add(alert)
        absence = saved.absence
        if absence is not None:  # whether the daemon answered meanwhile is not known
            meanwhile = 0.0 if absence.back else max(0.0, (self._clock.now() - saved.at).total_seconds())
            self._absence = replace(absence, lasted=absence.lasted + meanwhile, back=0.0)

    async def _save(self) -> None:
        """A disk in trouble does not stop the alerts, which are in memory too."""
        self._unsaved, self._saved_at = False, self._clock.monotonic()
        saved = Saved(at=self._clock.now(), absence=self._absence, waiting=tuple(self._waiting))
        try:
            await self._file.save(msgspec.json.encode(saved))
        except OSError as error:
            self._unsaved = True
            if not self._unwritable:
                log.warning(
                    "alerts.unsaved",
                    message=f"{self._file} cannot be written: a restart of the facade now loses or repeats alerts.",
                    error=error.strerror,
                )
            self._unwritable = True
        else:
            self._unwritable = False
