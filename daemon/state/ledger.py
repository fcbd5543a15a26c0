"""What must outlive the daemon: fills, changes of the link's phase, the `held` flag, the epochs. SQLite, one writer.

Durable against kill -9 at any moment: a commit is in the system's cache (WAL, `synchronous=NORMAL`: no fsync a commit).
A power cut can cost the last seconds, never the file. Never decides what is shown; how a disk fails is in `writer.py`.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from msgspec.structs import asdict, replace

from daemon.state import uptime
from daemon.state.fills import Position, cursor, identity, newer, read_cursor
from daemon.state.writer import MAX_PAGES, Job, Work, Writer
from shared.clock import Clock
from shared.messages import Fill, LinkEvent, Uptime

log = structlog.get_logger(__name__)

T = TypeVar("T")
Key = TypeVar("Key")

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
PAGE = 512 * 1024
"""Bytes of rows in one page: half of what a line may hold, the rest is for what stands around them."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS flags (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (epoch TEXT PRIMARY KEY, started REAL NOT NULL, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (epoch TEXT PRIMARY KEY, monotonic REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fills (base TEXT PRIMARY KEY, time REAL NOT NULL, row BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fills_by_time ON fills (time, base);
CREATE TABLE IF NOT EXISTS events (number INTEGER PRIMARY KEY, at REAL NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (at);
CREATE TABLE IF NOT EXISTS pnl (account TEXT, at REAL, daily REAL, unrealized REAL, realized REAL,
    PRIMARY KEY (account, at)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (id TEXT, sink TEXT, body BLOB NOT NULL, created REAL NOT NULL, UNIQUE (id, sink));
CREATE TABLE IF NOT EXISTS alerted (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
VERSION = 3

_PENDING = 2**62
"""The number of an attempt that is not written yet: behind all that are."""
_LONGEST = max(uptime.PERIODS.values())

_encode = msgspec.json.Encoder().encode
_fill = msgspec.json.Decoder(Fill)
_event = msgspec.json.Decoder(uptime.Recorded)


class Slice(NamedTuple):
    """A part of a list: at most `limit` rows, from the `next` of the part before (empty: from the beginning)."""

    limit: int = 1000
    cursor: str = ""


class RowsPage(NamedTuple):
    """`rows`: encoded. `next`: the cursor of the next page, `None` at the end."""

    rows: list[bytes]
    next: str | None


class EventsPage(NamedTuple):
    """`rows`: encoded changes of phase, oldest first. `next`: see `RowsPage`. `uptime`: empty on a further page."""

    rows: list[bytes]
    next: str | None
    uptime: dict[str, Uptime]


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
        self._last: uptime.Recorded | None = None
        self._attempt: uptime.Recorded | None = None

    @classmethod
    async def open(cls, directory: Path, clock: Clock, *, max_pages: int = MAX_PAGES) -> Ledger:
        """A ledger with a new epoch. A file that cannot be used is moved aside; without any, nothing is remembered."""
        self = cls(directory, clock, max_pages=max_pages)
        self._writer.start()
        self._note(tidy=True)
        try:
            self.held = await self.read(lambda db: flag(db, "held") == "true")
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
        self.write(lambda db: _write_fills(db, kept), once)

    def phase(self, reported: LinkEvent) -> None:
        """A change of phase, of this epoch.

        An attempt that ends where it began is part of the wait around it and leaves no trace: a gateway that is off
        for a night is one event, and costs the disk nothing.
        """
        event = self._recorded(replace(reported, durationS=None))
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

    def remedy(self, event: LinkEvent) -> None:
        """The outcome of a run of `IBKR_REMEDY`, beside the changes of phase."""
        if self._attempt is not None:
            self._last, self._attempt = self._attempt, None
            self._write_event(self._last)
        self._write_event(self._recorded(event))

    def _recorded(self, event: LinkEvent) -> uptime.Recorded:
        fields = asdict(event) | {"epoch": self.epoch}
        return uptime.Recorded(**fields, monotonic=self._clock.monotonic())

    async def remedies(self, seconds: float) -> int:
        """Runs of `IBKR_REMEDY` in the last `seconds`; those that cannot be read count as none."""
        since = self._clock.now().timestamp() - seconds
        sql = 'SELECT count(*) FROM events WHERE at >= ? AND CAST(row AS TEXT) LIKE \'%"remedy":"%\''
        try:
            return await self.read(lambda db: int(db.execute(sql, (since,)).fetchone()[0]))
        except (OSError, sqlite3.Error):
            return 0

    def fills_complete(self, at: datetime) -> None:
        """The list of fills was read to its end at `at`."""
        self.write(lambda db: set_flag(db, "fillsComplete", at.isoformat()))

    async def set_held(self, held: bool) -> None:
        """Remember whether the link is held down. Returns when that is written, or the disk is in trouble."""
        self.held, self._held_known = held, True
        await self.commit(lambda db: set_flag(db, "held", _text(held)))

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
        start = since.timestamp(), ""
        return await self.read(lambda db: [_fill.decode(row) for _, _, row in _select_fills(db, start)])

    async def complete(self) -> datetime | None:
        """When a daemon last read the list of fills to its end; `None`: none ever did."""
        text = await self.read(lambda db: flag(db, "fillsComplete"))
        return None if text is None else datetime.fromisoformat(text)

    async def fills(self, since: datetime, part: Slice = Slice(), account: str = "") -> RowsPage:  # noqa: B008
        """Fills from `since` on (execution time, inclusive), by time; of one `account` where it is given.

        Raises `ValueError` for a cursor that no page gave.
        """
        start = read_cursor(part.cursor) if part.cursor else (since.timestamp(), "")
        rows, last = await self.read(
            lambda db: cut(_keyed(_select_fills(db, start, account, part.limit + 1)), part.limit)
        )
        return RowsPage(rows, None if last is None else cursor(last))

    async def history(
        self,
        since: datetime,
        now: datetime,
        planned: Sequence[uptime.Span] = (),
        part: Slice = Slice(),  # noqa: B008 - frozen
    ) -> EventsPage:
        """Changes of phase from `since` on, and the uptime up to `now` with `planned` windows apart.

        An event that began before `since` and lasts into it belongs to it. Raises `ValueError` as `fills` does.
        """
        attempt, after = self._attempt, _read_number(part.cursor)
        moment = uptime.Moment(now, self._clock.monotonic())

        def read(db: sqlite3.Connection) -> EventsPage:
            ends = _select_ends(db)
            events = _events_since(db, since, after, part.limit + 2)
            if len(events) < part.limit + 2 and attempt is not None:
                events.append((_PENDING, attempt))
            timed = list(uptime.timed((event for _, event in events), ends, self.epoch))
            numbered = list(zip((number for number, _ in events), timed, strict=True))
            if after is None and numbered and numbered[0][1].at < since:
                numbered = numbered[not uptime.lasts_into(timed[0], since, now) :]
            rows, last = cut(((number, _encode(event)) for number, event in numbered), part.limit)
            figures: dict[str, Uptime] = {}
            if not part.cursor:
                recent = chain(_recent_events(db, now - _LONGEST), [attempt] if attempt is not None else [])
                figures = uptime.uptimes(uptime.placed(recent, ends, self.epoch, moment), now, planned)
            return EventsPage(rows, None if last is None else str(last), figures)

        return await self.read(read)

    # --- the writer's queue ------------------------------------------------------------------------------------------

    def _write_event(self, event: LinkEvent) -> None:
        at, row = event.at.timestamp(), _encode(event)
        self.write(lambda db: db.execute("INSERT INTO events (at, row) VALUES (?, ?)", (at, row)))

    def _note(self, *, tidy: bool = False) -> None:
        """That this epoch lives; and `held` with it, so that it is there again after a broken file was moved aside."""
        now, held = self._clock.now(), self.held if self._held_known else None
        monotonic = self._clock.monotonic()

        def note(db: sqlite3.Connection) -> None:
            _set_seen(db, self.epoch, self._started, now, monotonic)
            if held is not None:
                set_flag(db, "held", _text(held))
            if tidy:
                _tidy(db, now)

        self.write(note)

    async def commit(self, work: Work) -> None:
        """Write and wait until that is done, has failed, or takes too long; it is queued then, and owed."""
        written = asyncio.Event()
        self.write(work, written.set)
        try:
            async with asyncio.timeout(SHOWN_ANYWAY):
                await written.wait()
        except TimeoutError:
            pass  # the writer warns

    def write(self, work: Work, then: Callable[[], object] | None = None) -> None:
        queued = self._writer.offer(Job(work, True, lambda _result, _error: self._call_in_loop(then)))
        if not queued and then is not None:
            self._loop.call_soon(then)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        answer: asyncio.Future[T] = self._loop.create_future()

        def settle(result: Any, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(result)

        job = Job(work, False, lambda result, error: self._call_in_loop(lambda: settle(result, error)))
        if not self._writer.offer(job):
            raise sqlite3.OperationalError(SLOW)
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError as error:  # else it would pass for a time-out of the gateway
            raise sqlite3.OperationalError(SLOW) from error

    def _call_in_loop(self, callback: Callable[[], object] | None) -> None:
        if callback is not None:
            try:
                self._loop.call_soon_threadsafe(callback)
            except RuntimeError:
                pass  # the loop has ended


def cut(rows: Iterable[tuple[Key, bytes]], limit: int, size: int = PAGE) -> tuple[list[bytes], Key | None]:
    """The first `limit` rows, or as many as `size` bytes hold (at least one); the key of the last if more follow."""
    page: list[bytes] = []
    last: Key | None = None
    for key, row in rows:
        size -= len(row) + 1
        if page and (len(page) == limit or size < 0):
            return page, last
        page.append(row)
        last = key
    return page, None


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
    db: sqlite3.Connection, start: Position, account: str = "", limit: int = -1
) -> Iterator[tuple[str, float, bytes]]:
    # inside a JSON text a quote is escaped: these bytes are found only as the member itself
    member = b'"account":' + msgspec.json.encode(account) if account else b""
    yield from db.execute(
        "SELECT base, time, row FROM fills WHERE (time, base) > (?, ?) AND (? = x'' OR instr(row, ?))"
        " ORDER BY time, base LIMIT ?",
        (*start, member, member, limit),
    )


def _keyed(fills: Iterable[tuple[str, float, bytes]]) -> Iterator[tuple[Position, bytes]]:
    return (((time, base), row) for base, time, row in fills)


def _events_since(
    db: sqlite3.Connection, since: datetime, after: int | None, limit: int
) -> list[tuple[int, uptime.Recorded]]:
    """Numbered events, oldest first: those after number `after`, else the last one before `since` and what follows."""
    start = since.timestamp()
    if after is None:
        found = db.execute("SELECT max(number) FROM events WHERE at < ?", (start,)).fetchone()[0]
        after = (found or 0) - 1
    query = "SELECT number, row FROM events WHERE number > ? ORDER BY number LIMIT ?"
    return [(number, _event.decode(row)) for number, row in db.execute(query, (after, limit))]


def _recent_events(db: sqlite3.Connection, since: datetime) -> Iterator[uptime.Recorded]:
    """The last event before `since` and those after it, oldest first, one at a time: there may be tens of thousands."""
    first = (
        "SELECT max(coalesce((SELECT max(number) FROM events WHERE at < ?), 0), (SELECT max(number) FROM events) - ?)"
    )
    query = f"SELECT row FROM events WHERE number >= ({first}) ORDER BY number"  # noqa: S608 - constants
    for (row,) in db.execute(query, (since.timestamp(), EVENTS_READ)):
        yield _event.decode(row)


def _select_ends(db: sqlite3.Connection) -> dict[str, uptime.Moment]:
    """When each epoch was last seen alive."""
    found = db.execute("SELECT epoch, epochs.seen, monotonic FROM epochs LEFT JOIN seen USING (epoch)")
    return {epoch: uptime.Moment(datetime.fromtimestamp(wall, UTC), monotonic) for epoch, wall, monotonic in found}


def _tidy(db: sqlite3.Connection, now: datetime) -> None:
    """Delete what is too old, seen from `now` and from the newest row: a clock may be years ahead for a while."""
    at, fills, events = now.timestamp(), FILLS_KEPT.total_seconds(), EVENTS_KEPT.total_seconds()
    db.execute("DELETE FROM fills WHERE time < (SELECT min(?, max(time)) FROM fills) - ?", (at, fills))
    db.execute("DELETE FROM events WHERE at < (SELECT min(?, max(at)) FROM events) - ?", (at, events))
    db.execute("DELETE FROM events WHERE number <= (SELECT max(number) FROM events) - ?", (EVENTS_HELD,))
    db.execute("DELETE FROM epochs WHERE seen < (SELECT min(?, max(at)) FROM events) - ?", (at, events))
    db.execute("DELETE FROM seen WHERE epoch NOT IN (SELECT epoch FROM epochs)")


def _set_seen(db: sqlite3.Connection, epoch: str, started: datetime, now: datetime, monotonic: float) -> None:
    db.execute(
        "INSERT INTO epochs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen",
        (epoch, started.timestamp(), now.timestamp()),
    )
    db.execute("REPLACE INTO seen VALUES (?, ?)", (epoch, monotonic))


def flag(db: sqlite3.Connection, name: str) -> str | None:
    found = db.execute("SELECT value FROM flags WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def set_flag(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("REPLACE INTO flags VALUES (?, ?)", (name, value))


def _text(flag: bool) -> str:
    return "true" if flag else "false"


def _read_number(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError("not a cursor")
    return int(text)
