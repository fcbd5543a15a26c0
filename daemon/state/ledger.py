"""What must outlive the daemon: fills, changes of the link's phase, the `held` flag, the epochs. SQLite, one writer.

Durable against kill -9 at any moment: a commit is in the system's cache (WAL, `synchronous=NORMAL`: no fsync a commit).
A power cut can cost the last seconds, never the file. Never decides what is shown; how a disk fails is in `writer.py`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from daemon.state import uptime
from daemon.state.fills import identity, newer
from daemon.state.writer import MAX_PAGES, Job, Work, Writer
from shared.clock import Clock
from shared.messages import Fill, LinkEvent, LinkHistory

log = structlog.get_logger(__name__)

T = TypeVar("T")

FILE = "ledger.sqlite"
SHOWN_ANYWAY = 1.0
"""s after which a fill is shown though it is not written: a commit takes well under 1 ms, so by then the disk hangs."""
PATIENCE = 5.0
"""s that a reader waits for the disk: a page of fills takes milliseconds."""
SLOW = "the disk does not keep up"
CLOSE_LIMIT = 1.0
"""s that the end of the daemon waits for the disk, out of the 5 s it has."""
SEEN = 15.0
"""s between notes that the daemon lives: by so much the end of a killed daemon's last phase is uncertain."""
TIDY = 240
"""Notes between looks for what is too old: hourly."""
FILLS_KEPT = timedelta(days=800)
"""Two tax years and the time to file the second."""
EVENTS_KEPT = timedelta(days=90)
"""Three times the longest uptime that is computed; what happened before is in no question."""
EVENTS_HELD = 200_000
"""Changes of phase in the file, 40 MB: two a minute for the whole of `EVENTS_KEPT`."""
EVENTS_READ = 20_000
"""Changes of phase in one answer's arithmetic: a day of a link that flaps every four seconds."""
ROWS = 1_000
"""Fills of one page, about half of what a line may hold."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS flags (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (epoch TEXT PRIMARY KEY, started REAL NOT NULL, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fills (base TEXT PRIMARY KEY, time REAL NOT NULL, row BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fills_by_time ON fills (time, base);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, at REAL NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (at);
"""
VERSION = 1

_encode = msgspec.json.Encoder().encode
_fill = msgspec.json.Decoder(Fill)
_event = msgspec.json.Decoder(LinkEvent)


class FillsPage(NamedTuple):
    """`rows`: encoded fills by time. `next`: where the next page begins, `None` at the end."""

    rows: list[bytes]
    next: str | None


class Ledger:
    """For the event loop. Writing never waits and never raises; reading raises `sqlite3.Error`."""

    def __init__(self, directory: Path, clock: Clock, *, max_pages: int = MAX_PAGES) -> None:
        self.epoch = new_epoch(clock.now())
        self.held = False
        self._held_known = False  # what could not be read is not written over by itself
        self._clock = clock
        self._started = clock.now()
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(directory / FILE, SCHEMA, VERSION, max_pages=max_pages)
        self._last: LinkEvent | None = None
        self._attempt: LinkEvent | None = None

    @classmethod
    async def open(cls, directory: Path, clock: Clock, *, max_pages: int = MAX_PAGES) -> Ledger:
        """A ledger with a new epoch. A file that cannot be used is moved aside; without any, nothing is remembered."""
        self = cls(directory, clock, max_pages=max_pages)
        self._writer.start()
        self._note(tidy=True)
        try:
            self.held = await self._read(lambda db: _flag(db, "held") == "true")
            self._held_known = True
        except (OSError, sqlite3.Error) as error:
            log.warning(
                "ledger.unread",
                message="The ledger cannot be read: whether the link was held, and earlier fills, are not known.",
                error=str(error),
            )
        return self

    @property
    def failed(self) -> int:
        """Writes that failed at first or for good, since the start."""
        return self._writer.failed

    # --- writing ----------------------------------------------------------------------------------------------------

    def fill(self, fill: Fill) -> None:
        self.keep([fill], lambda: None)

    def keep(self, fills: Sequence[Fill], then: Callable[[], object]) -> None:
        """Write fills; then, or when that has failed or takes too long, call `then` once, not within this call."""
        kept = tuple(fills)
        waiting = [then]

        def once() -> None:
            timer.cancel()
            if waiting:
                waiting.pop()()

        timer = self._loop.call_later(SHOWN_ANYWAY, once)
        self._write(lambda db: _write_fills(db, kept), once)

    def phase(self, event: LinkEvent) -> None:
        """A change of phase, of this epoch.

        An attempt that ends where it began is part of the wait around it and leaves no trace: a gateway that is off
        for a night is one event, and costs the disk nothing.
        """
        event = replace(event, epoch=self.epoch, durationS=None)
        if self._attempt is not None and self._last is not None:
            attempt, self._attempt = self._attempt, None
            if uptime.same(event, self._last):
                return
            self._write_event(attempt)
        if event.phase == "connecting" and self._last is not None and self._last.phase in {"waiting", "blocked"}:
            self._attempt = event
        else:
            self._last = event
            self._write_event(event)

    async def set_held(self, held: bool) -> None:
        """Remember whether somebody holds the link down. Returns when that is written, or the disk is in trouble."""
        self.held, self._held_known = held, True
        written = asyncio.Event()
        self._write(lambda db: _set_flag(db, "held", _text(held)), written.set)
        try:
            async with asyncio.timeout(SHOWN_ANYWAY):
                await written.wait()
        except TimeoutError:
            pass  # it is queued, and the writer has its own way to complain

    async def run(self) -> None:
        """Note every now and then that the daemon lives, and forget what is too old. Runs until cancelled."""
        notes = 0
        while True:
            await self._clock.sleep(SEEN)
            notes += 1
            self._note(tidy=notes % TIDY == 0)

    async def close(self) -> None:
        """Write what is queued and end the thread; a disk that hangs is left to itself after `CLOSE_LIMIT`."""
        if self._attempt is not None:
            self._write_event(self._attempt)
        self._note()
        await asyncio.to_thread(self._writer.close, CLOSE_LIMIT)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def recent(self, since: datetime) -> list[Fill]:
        """Every fill from `since` on, by execution time."""
        return await self._read(lambda db: [_fill.decode(row) for _, _, row in _select_fills(db, since, "", -1)])

    async def fills(self, since: datetime, after: str = "", limit: int = ROWS) -> FillsPage:
        """A page of fills from `since` on (execution time, inclusive), or from where the page before said.

        Raises `ValueError` for an `after` that no page gave.
        """
        if after:
            _cursor(after)
        found = await self._read(lambda db: list(_select_fills(db, since, after, limit + 1)))
        rows = [row for _, _, row in found[:limit]]
        base, time, _ = found[limit - 1] if len(found) > limit else ("", 0.0, b"")
        return FillsPage(rows, f"{time!r} {base}" if base else None)

    async def history(self, since: datetime, now: datetime, planned: Sequence[uptime.Span] = ()) -> LinkHistory:
        """Changes of phase from `since` on, and the uptime up to `now` with `planned` windows apart."""
        attempt = self._attempt

        def read(db: sqlite3.Connection) -> LinkHistory:
            events, ends = _select_events(db, min(since, now - max(uptime.PERIODS.values())))
            events += [attempt] if attempt is not None else []
            return uptime.history(uptime.timed(events, ends, self.epoch), since, now, planned)

        return await self._read(read)

    # --- the writer's letterbox -------------------------------------------------------------------------------------

    def _write_event(self, event: LinkEvent) -> None:
        at, row = event.at.timestamp(), _encode(event)
        self._write(lambda db: db.execute("INSERT INTO events (at, row) VALUES (?, ?)", (at, row)))

    def _note(self, *, tidy: bool = False) -> None:
        """That this epoch lives; and `held` with it, so that it is there again after a broken file was moved aside."""
        now, held = self._clock.now(), self.held if self._held_known else None

        def note(db: sqlite3.Connection) -> None:
            _set_seen(db, self.epoch, self._started, now)
            if held is not None:
                _set_flag(db, "held", _text(held))
            if tidy:
                _tidy(db, now)

        self._write(note)

    def _write(self, work: Work, then: Callable[[], object] | None = None) -> None:
        queued = self._writer.offer(Job(work, True, lambda _result, _error: self._tell_loop(then)))
        if not queued and then is not None:
            self._loop.call_soon(then)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(result)

        job = Job(work, False, lambda result, error: self._tell_loop(lambda: settle(result, error)))
        if not self._writer.offer(job):
            raise sqlite3.OperationalError(SLOW)
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError as error:  # named as what it is: who waits for the gateway has timeouts of their own
            raise sqlite3.OperationalError(SLOW) from error

    def _tell_loop(self, callback: Callable[[], object] | None) -> None:
        if callback is not None:
            try:
                self._loop.call_soon_threadsafe(callback)
            except RuntimeError:
                pass  # the loop has ended; nobody waits any more


def new_epoch(now: datetime) -> str:
    """Never the same twice, without `-`, and ascending for people's eyes."""
    return f"{int(now.timestamp()):x}{secrets.token_hex(4)}"


# --- the tables, in the writer's thread -----------------------------------------------------------------------------


def _write_fills(db: sqlite3.Connection, fills: Sequence[Fill]) -> None:
    for fill in fills:
        base, _ = identity(fill.execId)
        held = db.execute("SELECT row FROM fills WHERE base = ?", (base,)).fetchone()
        kept = newer(None if held is None else _fill.decode(held[0]), fill)
        if kept is not None:
            db.execute("REPLACE INTO fills VALUES (?, ?, ?)", (base, kept.time.timestamp(), _encode(kept)))


def _select_fills(
    db: sqlite3.Connection, since: datetime, after: str, limit: int
) -> Iterator[tuple[str, float, bytes]]:
    time, base = _cursor(after) if after else (since.timestamp(), "")
    yield from db.execute(
        "SELECT base, time, row FROM fills WHERE (time, base) > (?, ?) ORDER BY time, base LIMIT ?", (time, base, limit)
    )


def _select_events(db: sqlite3.Connection, since: datetime) -> tuple[list[LinkEvent], dict[str, datetime]]:
    """Events from `since` on with the one before, oldest first; and when each epoch was last seen."""
    start = since.timestamp()
    query = "SELECT row FROM events WHERE at {} ? ORDER BY number DESC LIMIT ?"
    found = db.execute(query.format(">="), (start, EVENTS_READ)).fetchall()
    found += db.execute(query.format("<"), (start, 1)).fetchall() if len(found) < EVENTS_READ else []
    seen = db.execute("SELECT epoch, seen FROM epochs")
    return (
        [_event.decode(row) for (row,) in reversed(found)],
        {epoch: datetime.fromtimestamp(moment, UTC) for epoch, moment in seen},
    )


def _tidy(db: sqlite3.Connection, now: datetime) -> None:
    db.execute("DELETE FROM fills WHERE time < ?", ((now - FILLS_KEPT).timestamp(),))
    db.execute("DELETE FROM events WHERE at < ?", ((now - EVENTS_KEPT).timestamp(),))
    db.execute("DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", (EVENTS_HELD,))
    db.execute("DELETE FROM epochs WHERE seen < ?", ((now - EVENTS_KEPT).timestamp(),))


def _set_seen(db: sqlite3.Connection, epoch: str, started: datetime, now: datetime) -> None:
    db.execute(
        "INSERT INTO epochs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen",
        (epoch, started.timestamp(), now.timestamp()),
    )


def _flag(db: sqlite3.Connection, name: str) -> str | None:
    found = db.execute("SELECT value FROM flags WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def _set_flag(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("REPLACE INTO flags VALUES (?, ?)", (name, value))


def _text(flag: bool) -> str:
    return "true" if flag else "false"


def _cursor(text: str) -> tuple[float, str]:
    time, _, base = text.partition(" ")
    if not math.isfinite(at := float(time)):
        raise ValueError("no page gave it")
    return at, base
