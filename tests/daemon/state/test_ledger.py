"""What outlives the daemon, and how a failing disk is borne."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import sqlite3
import stat
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from daemon.state.ledger import EVENTS_KEPT, FILE, FILLS_KEPT, PAGE, SEEN, Ledger, Slice, new_epoch
from daemon.state.writer import Job, Writer
from shared.messages import Fill, LinkEvent
from tests.clock import HandClock

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def clock() -> HandClock:
    return HandClock(NOON)


@pytest.fixture
async def ledger(tmp_path: Path, clock: HandClock) -> AsyncIterator[Ledger]:
    opened = await Ledger.open(tmp_path, clock)
    yield opened
    await opened.close()


def fill(exec_id: str, time: datetime = NOON, **more: object) -> Fill:
    facts = {"account": "DU1", "side": "BOT", "shares": 1.0, "price": 2.0, "permId": 1, "orderId": 1, "clientId": 1}
    return Fill(execId=exec_id, time=time, **(facts | more))


async def kept(ledger: Ledger, *fills: Fill) -> None:
    """Until the ledger says that it has written (or given up for now)."""
    done = asyncio.Event()
    ledger.keep(fills, done.set)
    async with asyncio.timeout(60):
        await done.wait()


def phase(ledger: Ledger, clock: HandClock, seconds: float, name: Any, reason: str | None = None) -> None:
    """The link changes its phase, `seconds` after noon."""
    clock.jump((NOON + timedelta(seconds=seconds) - clock.now()).total_seconds())
    ledger.phase(LinkEvent(at=clock.now(), phase=name, reason=reason))


async def events(ledger: Ledger, since: datetime, now: datetime, limit: int = 1000) -> list[LinkEvent]:
    """Every page."""
    found: list[LinkEvent] = []
    page = await ledger.history(since, now, part=Slice(limit))
    while True:
        assert len(page.rows) <= limit
        found += [msgspec.json.decode(row, type=LinkEvent) for row in page.rows]
        if page.next is None:
            return found
        page = await ledger.history(since, now, part=Slice(limit, page.next))


def aside(directory: Path) -> list[Path]:
    """The files that were moved aside."""
    return list(directory.glob("ledger-broken-*"))


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


async def test_what_was_kept_is_there_after_a_restart(tmp_path: Path, clock: HandClock) -> None:
    first = await Ledger.open(tmp_path, clock)
    await kept(first, fill("a.01"), fill("b.01", recovered=True))
    first.phase(LinkEvent(at=NOON, phase="ready"))
    await first.set_held(True)
    await first.close()
    second = await Ledger.open(tmp_path, clock)

    assert second.epoch != first.epoch
    assert second.held
    assert await second.recent(NOON) == [fill("a.01"), fill("b.01", recovered=True)]
    found = await events(second, NOON, NOON)
    assert [(event.phase, event.epoch) for event in found] == [("ready", first.epoch)]
    await second.close()


async def test_a_correction_replaces_and_a_repetition_adds_nothing(ledger: Ledger) -> None:
    """One execution is one row, whatever IBKR lists, and of one revision `recovered` stays as it was first."""
    await kept(ledger, fill("a.b.01"))
    await kept(ledger, fill("a.b.02", price=3.0, recovered=True), fill("a.b.01", recovered=True))
    await kept(ledger, fill("a.b.02", price=3.0))

    assert await ledger.recent(NOON) == [fill("a.b.02", price=3.0, recovered=True)]


async def test_fills_are_read_by_execution_time_in_pages(ledger: Ledger) -> None:
    await kept(ledger, *(fill(f"{n}.x.01", NOON + timedelta(seconds=n // 2)) for n in range(7)))

    since = NOON + timedelta(seconds=1)
    first = await ledger.fills(since, Slice(3))
    assert first.next is not None
    second = await ledger.fills(since, Slice(3, first.next))
    assert second.next is None
    found = [row.split(b'"execId":"')[1].split(b'"')[0] for row in first.rows + second.rows]
    assert found == [b"2.x.01", b"3.x.01", b"4.x.01", b"5.x.01", b"6.x.01"]


async def test_fills_of_one_account_are_read_alone(ledger: Ledger) -> None:
    await kept(ledger, fill("a.x.01"), fill("b.x.01", account="DU2", orderRef='"account":"DU1"'), fill("c.x.01"))

    page = await ledger.fills(NOON, Slice(1), "DU1")
    assert page.next is not None
    rows = page.rows + (await ledger.fills(NOON, Slice(5, page.next), "DU1")).rows
    assert [msgspec.json.decode(row)["execId"] for row in rows] == ["a.x.01", "c.x.01"]


async def test_a_page_of_long_rows_is_bounded_in_bytes(ledger: Ledger) -> None:
    """5,000 fills do not fit into a line: a page has fewer and says where the next begins."""
    await kept(ledger, *(fill(f"{n}.x.01", orderRef="x" * 900) for n in range(1000)))
    pages = [await ledger.fills(NOON, Slice(5000))]
    while pages[-1].next is not None:
        pages.append(await ledger.fills(NOON, Slice(5000, pages[-1].next)))

    assert all(sum(map(len, page.rows)) <= PAGE for page in pages)
    assert len({row for page in pages for row in page.rows}) == 1000


async def test_events_are_read_in_pages_with_their_durations(ledger: Ledger, clock: HandClock) -> None:
    """Any page size gives the same: first what lasted into the requested time, last an attempt under way."""
    phases = ("ready", "upstreamLost") * 5
    for minute, name in enumerate(phases):
        phase(ledger, clock, minute * 60, name)
    phase(ledger, clock, 600, "waiting", "portClosed")
    phase(ledger, clock, 660, "connecting")
    since, now = NOON + timedelta(minutes=2, seconds=30), NOON + timedelta(minutes=12)
    whole = await events(ledger, since, now)

    assert [event.phase for event in whole] == [*phases[2:], "waiting", "connecting"]
    assert [event.durationS for event in whole] == [60.0] * 9 + [None]
    for limit in (1, 2, 3, 9, 10, 11):
        assert await events(ledger, since, now, limit) == whole


async def test_an_attempt_that_changes_nothing_leaves_no_trace(ledger: Ledger, clock: HandClock) -> None:
    """A gateway that is off for a night is one event; the attempt under way is seen while it lasts."""
    phase(ledger, clock, 0, "connecting")
    phase(ledger, clock, 0, "waiting", "portClosed")
    for second in range(100):
        phase(ledger, clock, second, "connecting")
        phase(ledger, clock, second, "waiting", "portClosed")
    assert [event.phase for event in await events(ledger, NOON, NOON)] == ["connecting", "waiting"]

    phase(ledger, clock, 100, "connecting")
    found = await events(ledger, NOON, NOON + timedelta(seconds=101))
    assert [(event.phase, event.durationS) for event in found] == [
        ("connecting", 0.0),
        ("waiting", 100.0),
        ("connecting", None),
    ]
    phase(ledger, clock, 102, "syncing")
    found = await events(ledger, NOON, NOON + timedelta(seconds=103))
    assert [event.phase for event in found] == ["connecting", "waiting", "connecting", "syncing"]


async def test_a_different_failure_is_an_event_of_its_own(ledger: Ledger, clock: HandClock) -> None:
    for reason in ("portClosed", "portClosed", "handshakeTimeout"):
        phase(ledger, clock, 0, "waiting", reason)
        phase(ledger, clock, 0, "connecting")

    found = await events(ledger, NOON, NOON)
    assert [event.reason or event.phase for event in found] == [
        "portClosed",
        "connecting",
        "handshakeTimeout",
        "connecting",
    ]


async def test_the_uptime_of_a_killed_daemon_ends_where_it_was_last_seen(tmp_path: Path, clock: HandClock) -> None:
    """The next daemon knows within seconds how long the one before it lived, and claims nothing for the gap."""
    first = await Ledger.open(tmp_path, clock)
    beat = asyncio.create_task(first.run(), name="ledger")
    first.phase(LinkEvent(at=NOON, phase="ready"))
    await asyncio.sleep(0)
    for _ in range(4):
        await clock.pass_(SEEN)
        await asyncio.sleep(0)
    await kept(first)
    beat.cancel()
    await asyncio.to_thread(first._writer.close, 5.0)  # as a kill leaves it: no last word
    await clock.pass_(3600)
    second = await Ledger.open(tmp_path, clock)
    history = await second.history(NOON, clock.now())

    assert history.uptime["24h"].upS == history.uptime["24h"].knownS == 4 * SEEN
    await second.close()


async def test_the_uptime_counts_what_follows_the_first_ready(ledger: Ledger, clock: HandClock) -> None:
    """Also the phase that still lasts; not the time before the link was ever ready."""
    for minute, name in ((0, "waiting"), (5, "ready"), (10, "waiting")):
        phase(ledger, clock, minute * 60, name)
    clock.jump(20 * 60)
    figures = (await ledger.history(NOON, clock.now())).uptime["24h"]

    assert (figures.upS, figures.downS, figures.ratio) == (300.0, 1200.0, 0.2)


async def test_the_uptime_comes_with_the_first_page_alone(ledger: Ledger, clock: HandClock) -> None:
    """A long history is read page by page, and its arithmetic done once."""
    for minute in range(3):
        phase(ledger, clock, minute * 60, ("ready", "upstreamLost")[minute % 2])
    clock.jump(60)
    now = clock.now()
    first = await ledger.history(NOON, now, part=Slice(2))
    assert first.next is not None
    further = await ledger.history(NOON, now, part=Slice(2, first.next))

    assert set(first.uptime) == {"24h", "7d", "30d"}
    assert (len(further.rows), further.uptime) == (1, {})


@pytest.mark.parametrize("set_by", [-86_400 * 3, -3600, 86_400 * 3])
async def test_a_clock_that_is_set_changes_neither_durations_nor_uptime(
    tmp_path: Path, clock: HandClock, set_by: int
) -> None:
    """Within one life of the daemon, and for the phase in which it was killed (A25)."""
    first = await Ledger.open(tmp_path, clock)
    phase(first, clock, 0, "ready")
    clock.jump(60, wall=60 + set_by)
    first.phase(LinkEvent(at=clock.now(), phase="waiting"))
    clock.jump(30)
    first.phase(LinkEvent(at=clock.now(), phase="ready"))
    clock.jump(90, wall=90 - 2 * set_by)
    figures = (await first.history(NOON, clock.now())).uptime["24h"]
    assert (figures.upS, figures.downS, figures.knownS) == (150.0, 30.0, 180.0)
    await first.close()

    second = await Ledger.open(tmp_path, clock)
    assert [event.durationS for event in await events(second, NOON - timedelta(days=900), clock.now())] == [60, 30, 90]
    await second.close()


async def test_old_rows_are_deleted(tmp_path: Path, clock: HandClock) -> None:
    ledger = await Ledger.open(tmp_path, clock)
    await kept(ledger, fill("old.01"), fill("new.01", NOON + timedelta(days=1)))
    ledger.phase(LinkEvent(at=NOON, phase="ready"))
    await ledger.close()
    await clock.pass_((FILLS_KEPT + timedelta(days=1)).total_seconds())
    ledger = await Ledger.open(tmp_path, clock)
    assert len(await ledger.recent(NOON)) == 2
    assert len(await events(ledger, NOON - EVENTS_KEPT, clock.now())) == 1

    await kept(ledger, fill("newest.01", clock.now()))
    ledger.phase(LinkEvent(at=clock.now(), phase="ready"))
    await ledger.close()
    ledger = await Ledger.open(tmp_path, clock)
    assert [row.execId for row in await ledger.recent(NOON)] == ["new.01", "newest.01"]
    assert len(await events(ledger, NOON - EVENTS_KEPT, clock.now())) == 1
    await ledger.close()


async def test_a_full_disk_is_one_warning_and_nothing_is_lost(tmp_path: Path, clock: HandClock) -> None:
    """Writes fail, are counted and owed; a fill that waits to be shown is shown; one line when it works again."""
    with structlog.testing.capture_logs() as logs:
        ledger = await Ledger.open(tmp_path, clock, max_pages=30)
        many = [fill(f"{n}.x.01", orderRef="x" * 100) for n in range(2_000)]
        for start in range(0, len(many), 100):
            await kept(ledger, *many[start : start + 100])
        ledger.phase(LinkEvent(at=NOON, phase="ready"))
        assert ledger.failed > 0
        assert len(await ledger.recent(NOON)) < len(many)
        assert [line["event"] for line in logs] == ["ledger.failing"]

        def make_room(db: sqlite3.Connection) -> None:
            db.execute("PRAGMA max_page_count = 100000")

        await ledger.read(make_room)
        await kept(ledger, fill("last.x.01"))
        assert [line["event"] for line in logs] == ["ledger.failing", "ledger.working"]
    assert len(await ledger.recent(NOON)) == len(many) + 1
    assert [event.phase for event in await events(ledger, NOON, NOON)] == ["ready"]
    await ledger.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make a full file system")
async def test_a_file_system_without_room(tmp_path: Path, clock: HandClock) -> None:
    """The real thing: a file system of 512 KiB. The daemon goes on, and writes what it owes once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", str(disk))
    if await mount.wait():
        pytest.skip("this machine allows no mount")
    try:
        ballast = disk / "ballast"
        ledger = await Ledger.open(disk, clock)
        ballast.write_bytes(b"\0" * (330 * 1024))
        many = [fill(f"{n}.x.01") for n in range(500)]
        await kept(ledger, *many)
        assert ledger.failed > 0
        ballast.unlink()
        await kept(ledger, fill("last.x.01"))
        assert len(await ledger.recent(NOON)) == 501
        await ledger.close()
    finally:
        unmount = await asyncio.create_subprocess_exec("umount", str(disk))
        await unmount.wait()


@pytest.mark.parametrize("damage", ["not a database at all" * 100, ""])
async def test_a_broken_file_is_moved_aside_and_logged(tmp_path: Path, clock: HandClock, damage: str) -> None:
    """What cannot be read is kept for whoever can, and a new file begins. An empty file is a new one."""
    (tmp_path / FILE).write_text(damage)
    with structlog.testing.capture_logs() as logs:
        ledger = await Ledger.open(tmp_path, clock)
        await kept(ledger, fill("a.01"))
        assert await ledger.recent(NOON) == [fill("a.01")]
        await ledger.close()

    assert [path.read_text() for path in aside(tmp_path)] == ([damage] if damage else [])
    assert [line["event"] for line in logs] == (["ledger.broken"] if damage else [])


async def test_a_file_that_breaks_under_the_daemon_is_moved_aside(tmp_path: Path, clock: HandClock) -> None:
    ledger = await Ledger.open(tmp_path, clock)
    await ledger.set_held(True)
    await kept(ledger, *(fill(f"{n}.x.01") for n in range(500)))
    ledger._writer._db and ledger._writer._db.close()
    ledger._writer._db = None
    file = tmp_path / FILE
    file.write_bytes(b"\xff" * 8192 + file.read_bytes()[8192:])
    ledger._note()
    await kept(ledger, fill("new.x.01"))
    await kept(ledger, fill("newer.x.01"))

    assert {row.execId for row in await ledger.recent(NOON)} >= {"new.x.01", "newer.x.01"}
    assert aside(tmp_path)
    ledger._note()
    await ledger.close()
    again = await Ledger.open(tmp_path, clock)
    assert again.held
    await again.close()


async def test_a_directory_that_cannot_be_written_leaves_the_daemon_running(tmp_path: Path, clock: HandClock) -> None:
    with structlog.testing.capture_logs() as logs:
        ledger = await Ledger.open(tmp_path / "missing", clock)
        await kept(ledger, fill("a.01"))
        await ledger.close()

    assert not ledger.held
    assert ledger.failed > 0
    assert {line["event"] for line in logs} == {"ledger.failing", "ledger.unread"}


async def test_a_value_that_cannot_be_written_does_not_block_others(ledger: Ledger) -> None:
    with structlog.testing.capture_logs() as logs:
        ledger.keep([fill("lone surrogate \ud800.01")], lambda: None)
        await kept(ledger, fill("b.01"))

    assert [row.execId for row in await ledger.recent(NOON)] == ["b.01"]
    assert ledger.failed == 1
    assert [line["event"] for line in logs] == ["ledger.refused"]


async def test_a_fill_is_shown_though_the_disk_hangs(tmp_path: Path, clock: HandClock) -> None:
    ledger = await Ledger.open(tmp_path, clock)
    hang = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hanging(_db: sqlite3.Connection) -> None:
        asyncio.run_coroutine_threadsafe(hang.wait(), loop).result()

    ledger.write(hanging)
    await kept(ledger, fill("a.01"))
    hang.set()
    assert await ledger.recent(NOON) == [fill("a.01")]
    await ledger.close()


async def test_a_queue_that_is_full_counts_and_reports(tmp_path: Path, clock: HandClock) -> None:
    ledger = Ledger(tmp_path, clock)
    ledger._writer._jobs.maxsize = 1
    ledger._writer._jobs.put_nowait(None)
    await kept(ledger, fill("a.01"))

    assert ledger.failed == 1
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        await ledger.recent(NOON)


async def test_a_slow_disk_is_not_taken_for_a_silent_gateway(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request for old fills is answered with the disk's failure: a timeout would be read as IBKR's."""
    monkeypatch.setattr("daemon.state.ledger.PATIENCE", 0.05)
    go_on = threading.Event()
    ledger._writer.offer(Job(lambda _db: go_on.wait(10), False, lambda _result, _error: None))
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        await ledger.recent(NOON)
    go_on.set()


@pytest.mark.parametrize("text", ["nan a", "inf a", "-inf a", "x a", "a", ""])
async def test_a_cursor_that_no_page_gave_is_refused(ledger: Ledger, text: str) -> None:
    """It would be answered by an empty page, as if there were nothing more."""
    for cursor in (text or "x", base64.urlsafe_b64encode(text.encode()).decode() or "=", "\u20ac"):
        with pytest.raises(ValueError):  # noqa: PT011 - the caller says what it means
            await ledger.fills(NOON, Slice(1, cursor))
        with pytest.raises(ValueError):  # noqa: PT011
            await ledger.history(NOON, NOON, part=Slice(1, cursor))


async def test_the_file_is_the_owners_alone(ledger: Ledger, tmp_path: Path) -> None:
    await kept(ledger, fill("a.01"))
    if os.name != "nt":
        assert modes(tmp_path) == {0o600}


def test_an_epoch_is_new_and_has_no_hyphen() -> None:
    """Ids of events are EPOCH-SEQ, and are taken apart at the hyphen."""
    epochs = {new_epoch(NOON) for _ in range(1_000)}

    assert len(epochs) == 1_000
    assert all("-" not in epoch for epoch in epochs)


@pytest.mark.parametrize("seed", range(6))
async def test_kill_9_loses_no_fill_that_was_shown(tmp_path: Path, seed: int) -> None:
    random_unit = random.Random(seed)
    shown: set[bytes] = set()
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.daemon.state.killed_ledger",
            str(tmp_path),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            for _ in range(random_unit.randrange(1, 400)):
                shown.add((await process.stdout.readline()).strip())
            process.kill()
            rest = (await process.stdout.read()).split(b"\n")
            await process.wait()
        shown.update(line.strip() for line in rest[:-1])  # what stands after the last line end was cut short

    ledger = await Ledger.open(tmp_path, HandClock(datetime.now(UTC)))
    known = {row.execId.encode() for row in await ledger.recent(datetime.now(UTC) - timedelta(days=1))}
    assert not shown - known
    assert shown
    assert not aside(tmp_path)
    await ledger.close()


def test_a_newer_versions_file_is_left_whole(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    writer = Writer(tmp_path / FILE, "CREATE TABLE t (x);", 1)
    writer.start()
    with structlog.testing.capture_logs() as logs:
        writer.offer(Job(lambda db: db.execute("INSERT INTO t VALUES (1)"), True, lambda *_: None))
        writer.close(10.0)

    assert [line["event"] for line in logs] == ["ledger.broken"]
    moved = next(path for path in aside(tmp_path) if path.suffix == ".sqlite")
    with closing(sqlite3.connect(moved)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)


BEFORE_SEEN = """
CREATE TABLE flags (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE epochs (epoch TEXT PRIMARY KEY, started REAL NOT NULL, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE fills (base TEXT PRIMARY KEY, time REAL NOT NULL, row BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX fills_by_time ON fills (time, base);
CREATE TABLE events (number INTEGER PRIMARY KEY, at REAL NOT NULL, row BLOB NOT NULL);
CREATE INDEX events_by_time ON events (at);
CREATE TABLE pnl (account TEXT, at REAL, daily REAL, unrealized REAL, realized REAL,
    PRIMARY KEY (account, at)) WITHOUT ROWID;
CREATE TABLE outbox (id TEXT, sink TEXT, body BLOB NOT NULL, created REAL NOT NULL, UNIQUE (id, sink));
CREATE TABLE alerted (id TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 3;
"""
"""The tables of version 3 before `seen` was added."""


async def test_an_earlier_daemons_file_is_read_and_written_and_stays_readable_for_it(
    tmp_path: Path, clock: HandClock
) -> None:
    """An upgrade, and the way back: no fill, event or `held` is lost, and no file is moved aside."""
    begun = NOON.timestamp()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.executescript(BEFORE_SEEN)
        db.execute("INSERT INTO flags VALUES ('held', 'true')")
        db.execute("INSERT INTO epochs VALUES ('older', ?, ?)", (begun, begun + 90))
        for seconds, name in ((0, "ready"), (60, "waiting")):
            row = msgspec.json.encode(LinkEvent(at=NOON + timedelta(seconds=seconds), phase=name, epoch="older"))
            db.execute("INSERT INTO events (at, row) VALUES (?, ?)", (begun + seconds, row))
        db.commit()
    await clock.pass_(3600)
    ledger = await Ledger.open(tmp_path, clock)
    phase(ledger, clock, 3600, "ready")
    await kept(ledger, fill("new.01"))
    clock.jump(10)
    history = await ledger.history(NOON, clock.now())
    held, failed = ledger.held, ledger.failed
    await ledger.close()

    assert (held, failed, aside(tmp_path)) == (True, 0, [])
    assert [msgspec.json.decode(row)["durationS"] for row in history.rows] == [60.0, 30.0, None]
    assert (history.uptime["24h"].upS, history.uptime["24h"].knownS) == (70.0, 3610.0)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        db.execute("INSERT INTO epochs VALUES ('older2', ?, ?)", (begun, begun))
        assert db.execute("SELECT base FROM fills").fetchall() == [("new",)]


async def test_the_outcome_of_a_remedy_is_a_link_event_and_is_counted_for_a_day(
    ledger: Ledger, clock: HandClock
) -> None:
    """The attempt that was under way comes before it, and a restart of the daemon forgets none."""
    ledger.phase(LinkEvent(at=clock.now(), phase="waiting", reason="handshakeTimeout"))
    ledger.phase(LinkEvent(at=clock.now(), phase="connecting", reason="handshakeTimeout"))
    ledger.remedy(LinkEvent(at=clock.now(), phase="connecting", reason="handshakeTimeout", remedy="exit status 0"))

    found = await events(ledger, clock.now() - timedelta(hours=1), clock.now())
    assert [(event.phase, event.remedy) for event in found] == [
        ("waiting", None),
        ("connecting", None),
        ("connecting", "exit status 0"),
    ]
    assert await ledger.remedies(86_400.0) == 1
    await clock.pass_(86_401)
    assert await ledger.remedies(86_400.0) == 0
