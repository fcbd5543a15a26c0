"""Events: a snapshot, then every change; a client that folds them has the daemon's state, or got a reset."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from facade.events import frames
from facade.events.stream import MAX_PENDING, Reader
from facade.routes.events import topics_of
from shared.messages import STATE_TOPICS, Account, Notice, Position, Quote
from shared.reasons import Problem
from tests.facade.conftest import LIMIT, Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.rows import fill
from tests.waiting import until

EVENTS = "/api/ibkr/events"


@dataclass
class Client:
    """A client that folds events as the contract says."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    state: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[str, Any, str | None]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    comments: int = 0
    complete: bool = False

    async def begin(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:])}

    async def event(self) -> tuple[str, Any, str | None]:
        """The next event, folded. Raises `IncompleteReadError` at the end."""
        while True:
            lines = []
            while line := await self._line():
                if line.startswith(":"):
                    self.comments += 1
                else:
                    lines.append(line)
            fields = dict(line.split(": ", 1) for line in lines)
            if "data" in fields:
                event = (fields["event"], json.loads(fields["data"]), fields.get("id"))
                self._fold(*event)
                return event

    async def _line(self) -> str:
        """One line of the chunked body."""
        while b"\n" not in self.received:
            async with asyncio.timeout(LIMIT):
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                chunk = (await self.reader.readexactly(size + 2))[:-2]
            if not size:
                raise asyncio.IncompleteReadError(b"", None)
            self.received += chunk
        line, _, self.received = self.received.partition(b"\n")
        assert len(line) <= 48 * 1024
        return line.decode()

    def _fold(self, event: str, data: Any, here: str | None) -> None:
        self.events.append((event, data, here))
        if event == "reset":
            assert here is None
            self.state.clear()
            self.complete = False
            return
        rows = self.state.setdefault(data["topic"], {})
        for key, row in data["rows"].items():
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        if event == "snapshot":
            assert not self.complete
            self.complete = data["complete"]
        if here is not None:
            if self.ids and self.ids[-1].split("-")[0] == here.split("-")[0]:
                assert int(self.ids[-1].split("-")[1]) < int(here.split("-")[1])
            self.ids.append(here)

    async def until(self, condition: Any) -> None:
        while not condition():
            await self.event()

    async def snapshot(self) -> None:
        await self.until(lambda: self.complete and self.ids)

    def has(self, topic: str, key: str) -> bool:
        return key in self.state.get(topic, {})

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def reading(
    served: Served, topics: str | None = None, last: str | None = None, *, room: int = 1 << 24
) -> AsyncIterator[Client]:
    """`room`: bytes that the client takes without reading."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=room)
    query = "" if topics is None else f"?topics={topics}"
    resume = "" if last is None else f"Last-Event-ID: {last}\r\n"
    writer.write(f"GET {EVENTS}{query} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n{resume}\r\n".encode())
    client = Client(reader, writer)
    try:
        await client.begin()
        yield client
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass


def daemon_state(daemon: FakeDaemon, topics: Any = STATE_TOPICS) -> dict[str, dict[str, Any]]:
    return {t: {k: json.loads(r) for k, r in daemon.store.replica.rows(t).items()} for t in topics}


def account(name: str) -> dict[str, Account]:
    return {name: Account(account=name, paper=True)}


async def test_a_snapshot_names_every_topic_and_ends_once(served: Served) -> None:
    served.daemon.store.put({"accounts": account("DU1")})
    async with reading(served) as client:
        await client.until(lambda: client.has("accounts", "DU1") and client.ids)
        assert client.status == 200
        assert client.headers["content-type"] == "text/event-stream"
        assert client.headers["cache-control"] == "no-store, no-transform"
        assert client.headers["x-frame-options"] == "DENY"
        assert {data["topic"] for event, data, _ in client.events if event == "snapshot"} == set(STATE_TOPICS)
        assert [data["complete"] for event, data, _ in client.events if event == "snapshot"].count(True) == 1
        assert client.state == daemon_state(served.daemon)


async def test_a_stream_begins_with_how_soon_to_come_back(served: Served) -> None:
    async with reading(served, "link") as client:
        assert await client.reader.readuntil(b"\n\n") == b"d\r\nretry: 1000\n\n"


@pytest.mark.parametrize("last", [None, "e1-0"])
async def test_the_rows_of_one_account(served: Served, last: str | None) -> None:
    daemon = served.daemon
    daemon.store.put({"accounts": account("DU1") | account("DU2")})
    daemon.store.put({"positions": {f"{name}:1": Position(account=name, position=1.0) for name in ("DU1", "DU2")}})
    daemon.store.put({"fills": {name: fill(name, account=f"DU{name}") for name in ("1", "2")}})
    await served.holds("fills", "2")
    async with reading(served, "link,accounts,positions,fills&account=DU2", last) as client:
        await client.until(lambda: client.has("fills", "2"))
        daemon.store.put({"fills": {name: fill(name, account=f"DU{name}"[:3]) for name in ("11", "22")}})
        daemon.store.put({"positions": {"DU1:1": Position(account="DU1", position=2.0), "DU2:1": None}})
        await client.until(lambda: client.has("fills", "22") and not client.has("positions", "DU2:1"))
        assert {topic: set(rows) for topic, rows in client.state.items()} == {
            "link": {"link"},
            "accounts": {"DU2"},
            "positions": set(),
            "fills": {"2", "22"},
        }
    assert (await served.get(f"{EVENTS}?account=DU3"))[1]["reason"] == "notFound"


async def test_a_reader_that_resumes_before_the_facade_has_anything_keeps_its_state_until_the_reset(
    tmp_path: Path, socket_path: str
) -> None:
    """Daemon and facade were both restarted: no page of a snapshot before `reset`."""
    async with running(tmp_path, FakeDaemon(socket_path)) as served, reading(served, "link", "e1-5") as client:
        await client.until(lambda: client.has("link", "link"))
        assert client.state["link"]["link"]["reason"] == "daemonUnreachable"
        async with FakeDaemon(socket_path, "e2") as daemon:
            daemon.set_all()
            await client.until(lambda: client.complete)
        kinds = [event for event, _, _ in client.events]
        assert kinds[: kinds.index("snapshot")] == ["delta", "reset"]


async def test_changes_follow(served: Served) -> None:
    async with reading(served, "accounts,positions") as client:
        await client.snapshot()
        served.daemon.store.put(
            {"accounts": account("DU1"), "positions": {"DU1:1": Position(account="DU1", position=1.0)}}
        )
        await client.until(lambda: client.has("positions", "DU1:1"))
        deltas = client.events[-2:]
        assert [event for event, _, _ in deltas] == ["delta", "delta"]
        assert deltas[0][2] is None
        assert deltas[1][2] == f"e1-{served.daemon.store.seq}"
        served.daemon.store.put({"accounts": {"DU1": None}})
        await client.until(lambda: not client.has("accounts", "DU1"))
        assert client.events[-1][1] == {"topic": "accounts", "rows": {"DU1": None}}


async def test_resuming_brings_what_was_missed_and_nothing_else(served: Served) -> None:
    async with reading(served, "accounts") as client:
        await client.snapshot()
        last = client.ids[-1]
    served.daemon.store.put({"accounts": account("DU1")})
    served.daemon.store.put({"accounts": account("DU2")})
    served.daemon.store.put({"accounts": {"DU1": None}})
    await served.holds("accounts", "DU2")
    async with reading(served, "accounts", last) as client:
        await client.until(lambda: client.ids)
        assert client.events == [
            (
                "delta",
                {"topic": "accounts", "rows": {"DU2": {"account": "DU2", "paper": True}, "DU1": None}},
                client.ids[0],
            )
        ]


async def test_resuming_where_nothing_was_missed_sends_nothing(served: Served) -> None:
    async with reading(served, "accounts") as client:
        await client.snapshot()
        last = client.ids[-1]
    async with reading(served, "accounts", last) as client:
        served.daemon.store.put({"accounts": account("DU9")})
        event, data, _ = await client.event()
        assert (event, set(data["rows"])) == ("delta", {"DU9"})


@pytest.mark.parametrize(
    ("last", "reason"),
    [("x1-5", "epoch"), ("nonsense", "invalid"), ("e1-99999999", "invalid"), ("e1-x", "invalid"), ("e1-", "invalid")],
)
async def test_an_id_that_cannot_be_resumed_is_a_reset_and_a_snapshot(served: Served, last: str, reason: str) -> None:
    async with reading(served, "accounts", last) as client:
        assert await client.event() == ("reset", {"reason": reason}, None)
        await client.snapshot()


async def test_a_step_in_the_moment_of_a_reset_does_not_repeat_its_id(served: Served) -> None:
    """Found by the soak: the snapshot after a reset had the id of a step whose delta followed it."""
    store = served.daemon.store

    async def change() -> None:
        while True:
            store.put({"accounts": account(f"DU{store.seq}")})
            await asyncio.sleep(0)

    changing = asyncio.create_task(change())
    try:
        for _ in range(20):
            async with reading(served, "accounts", "e0-1") as client:
                await client.until(lambda: len(client.ids) == 3)  # each is higher than the one before
    finally:
        changing.cancel()


async def test_an_id_that_is_too_old_is_a_reset_and_a_snapshot(served: Served) -> None:
    async with reading(served, "accounts") as client:
        await client.snapshot()
        last = client.ids[-1]
    served.daemon.store.put({"accounts": account("DU1")})
    served.daemon.store.put({"accounts": {"DU1": None}})
    served.daemon.store.replica.trim("9999")
    served.daemon.store.put({"accounts": account("DU2")})
    await served.holds("accounts", "DU2")
    async with reading(served, "accounts", last) as client:
        assert await client.event() == ("reset", {"reason": "tooOld"}, None)
        await client.until(lambda: client.has("accounts", "DU2"))


async def test_an_id_is_good_in_another_facade_process(tmp_path: Path, served: Served) -> None:
    """Though that one has watched other lines and counts other steps."""
    async with reading(served, "accounts,quotes:1") as other, reading(served, "accounts") as client:
        await other.snapshot()
        await client.snapshot()
        served.daemon.store.put({"accounts": account("DU1")})
        served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
        await client.until(lambda: client.has("accounts", "DU1"))
        await other.until(lambda: other.has("quotes:1", "1"))
        last = client.ids[-1]
    async with running(tmp_path, served.daemon) as second:
        await until(lambda: second.state.complete)
        async with reading(second, "accounts", last) as client:
            served.daemon.store.put({"accounts": account("DU2")})
            assert (await client.event())[0] == "delta"
            assert set(client.state["accounts"]) == {"DU2"}
        async with reading(second, "accounts,quotes:1", other.ids[-1]) as client:
            served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.0)}})
            await client.until(lambda: client.state.get("quotes:1", {}).get("1", {}).get("bid") == 2.0)
            assert "reset" not in [event for event, _, _ in client.events]


async def test_the_id_of_a_snapshot_is_good_in_a_process_that_watches_other_lines(
    tmp_path: Path, served: Served
) -> None:
    async with running(tmp_path, served.daemon) as second, reading(served, "quotes:1") as other:
        await until(lambda: second.state.complete)
        await other.snapshot()
        served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
        await other.until(lambda: other.has("quotes:1", "1"))
        async with reading(served, "accounts") as client:
            await client.snapshot()
        async with reading(second, "accounts", client.ids[-1]) as client:
            served.daemon.store.put({"accounts": account("DU2")})
            assert (await client.event())[0] == "delta"


async def test_another_daemon_is_a_reset(served: Served) -> None:
    async with reading(served) as client:
        await client.snapshot()
        await served.daemon.stop()
        async with FakeDaemon(served.daemon.path, "e2") as successor:
            successor.set_all(accounts=account("DU5"))
            await client.until(
                lambda: client.complete and client.ids[-1].startswith("e2-") and client.has("accounts", "DU5")
            )
            assert ("reset", {"reason": "epoch"}, None) in client.events
            assert client.state == daemon_state(successor)


async def test_readers_receive_that_the_daemon_is_unreachable_and_reachable_again(served: Served) -> None:
    served.daemon.set_rows("accounts", account("DU1"))
    async with reading(served) as client:
        await client.snapshot()
        await served.daemon.stop()
        await client.until(lambda: client.state["link"]["link"]["reason"] == "daemonUnreachable")
        row = client.state["link"]["link"]
        assert (row["connected"], row["stale"], row["phase"]) == (False, True, None)
        await client.until(lambda: client.state["sync"]["accounts"]["stale"])
        assert client.has("accounts", "DU1")

        await served.daemon.start()
        await client.until(
            lambda: client.state["link"]["link"]["connected"] and not client.state["sync"]["accounts"]["stale"]
        )
        assert client.state == daemon_state(served.daemon)
        assert "reset" not in [event for event, _, _ in client.events]


async def test_each_absence_is_published_with_the_last_known_row(served: Served) -> None:
    async with reading(served, "link") as client:
        await client.snapshot()
        for session in (2, 3):
            served.daemon.link(session=session)
            await client.until(lambda session=session: client.state["link"]["link"]["session"] == session)
            await served.daemon.stop()
            await client.until(lambda: client.state["link"]["link"]["reason"] == "daemonUnreachable")
            assert client.state["link"]["link"]["session"] == session
            await served.daemon.start()
            await client.until(lambda: client.state["link"]["link"]["connected"])


async def test_a_reader_that_resumes_after_an_absence_receives_its_end(served: Served) -> None:
    served.daemon.set_all()
    async with reading(served) as client:
        await client.snapshot()
        await client.until(lambda: client.state == daemon_state(served.daemon))
        await served.daemon.stop()
        await client.until(lambda: all(row["stale"] for row in client.state["sync"].values()))
    await served.daemon.start()
    await until(lambda: served.state.connected)
    async with reading(served, last=client.ids[-1]) as again:
        again.state = client.state
        await again.until(lambda: again.state == daemon_state(served.daemon))


async def test_a_topic_that_arrives_late_arrives_whole(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.events.stream.FIRST_ROWS_TIMEOUT", 0.0)
    served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
    served.daemon.link(session=2)
    await until(lambda: served.state.link is not None and served.state.link.session == 2)
    async with reading(served, "link,quotes:1") as client:
        await client.until(lambda: client.has("quotes:1", "1"))


async def test_a_reader_before_any_daemon_receives_that_and_then_everything(tmp_path: Path, socket_path: str) -> None:
    async with running(tmp_path, FakeDaemon(socket_path)) as served, reading(served) as client:
        event, data, here = await client.event()
        assert (event, data["topic"], data["complete"], here) == ("snapshot", "link", False, None)
        assert data["rows"]["link"]["reason"] == "daemonUnreachable"
        async with FakeDaemon(socket_path) as daemon:
            daemon.set_all()
            await client.until(lambda: client.complete and client.state == daemon_state(daemon))


async def test_lines_are_watched_while_they_have_readers(served: Served) -> None:
    daemon = served.daemon

    def watched() -> set[str]:
        return {t for peer in daemon.service.connections for t in daemon.feed.topics(peer) if ":" in t}  # type: ignore[arg-type]

    daemon.store.put({"quotes:265598": {"265598": Quote(conId=265598, bid=1.0)}})
    async with reading(served, "quotes:265598,bars:1:5 mins".replace(" ", "%20")) as client:
        await client.snapshot()
        assert client.has("quotes:265598", "265598")
        assert watched() == {"quotes:265598", "bars:1:5mins"}
        async with reading(served, "quotes:265598") as second:
            await second.snapshot()
        assert watched() == {"quotes:265598", "bars:1:5mins"}
        daemon.store.put({"quotes:265598": {"265598": Quote(conId=265598, bid=2.0)}})
        await client.until(lambda: client.state["quotes:265598"]["265598"]["bid"] == 2.0)
    await until(lambda: not watched())
    assert served.facade.default.streams.slots.used == 0


async def test_a_topic_that_the_daemon_refuses_is_a_problem_for_its_reader_alone(served: Served) -> None:
    async with reading(served, "link,quotes:5") as client:
        await client.snapshot()
        served.daemon.refuses = {"quotes:6"}
        status, body, _ = await served.get(f"{EVENTS}?topics=link,quotes:6")
        assert (status, body["reason"]) == (429, "tooManySubscriptions")
        served.daemon.store.put({"quotes:5": {"5": Quote(conId=5, bid=1.0)}})
        await client.until(lambda: client.has("quotes:5", "5"))
        served.daemon.refuses = set()
    async with reading(served, "link,quotes:6") as client:
        await client.snapshot()


@pytest.mark.parametrize(
    "topics",
    [
        "nothing",
        "",
        "link,,orders",
        "quotes:",
        "quotes:x",
        "quotes:0",
        "quotes:9223372036854775808",
        "bars:1:7 secx",
        "*",
    ],
)
async def test_an_unknown_topic_is_a_problem(served: Served, topics: str) -> None:
    status, body, _ = await served.get(f"{EVENTS}?topics={topics}")
    assert (status, body["reason"]) == (422, "invalidParameters")


def test_topics_are_named_once_in_their_own_spelling() -> None:
    assert topics_of("link, link,bars:1:1 min,bars:1:1min") == ("link", "bars:1:1min")
    with pytest.raises(Problem):
        topics_of(",".join(f"quotes:{n}" for n in range(1, 130)))


async def test_a_reader_that_connects_during_shutdown_reconnects_to_the_next_process(served: Served) -> None:
    """The stream just ends. After an error response, a browser's EventSource would give up for good."""
    served.facade.default.streams.close()
    async with reading(served) as client:
        assert client.status == 200
        with pytest.raises(asyncio.IncompleteReadError):
            await client.event()


async def test_a_reader_that_leaves_is_noticed_at_once(served: Served) -> None:
    async with reading(served) as client:
        await client.snapshot()
        assert len(served.facade.default.streams) == 1
    await until(lambda: not len(served.facade.default.streams))


async def test_every_stream_has_a_heartbeat(served: Served) -> None:
    async with reading(served, "link") as client:
        await client.snapshot()
        served.daemon.link(session=2)
        async with beating(served):
            while not client.comments:
                served.daemon.link(session=served.daemon.store.seq)
                await client.event()


async def test_a_reader_with_unread_bytes_needs_no_heartbeat(served: Served) -> None:
    """Bytes of its own for each would fill its write buffer, and then its write would hold up everybody's."""
    store = served.daemon.store
    async with reading(served, "positions", room=1 << 16) as slow, reading(served, "link") as quick:
        await slow.snapshot()
        await quick.snapshot()
        (reader,) = (each for each in served.facade.default.streams.readers if "positions" in each.choice.names)
        transport = reader.transport
        while transport.get_write_buffer_size() <= MAX_PENDING:
            store.put({"positions": many(100, float(store.seq))})
            await until(lambda: transport.get_write_buffer_size() > MAX_PENDING or reader.since >= store.seq)
        assert reader.keeps_up
        pending = transport.get_write_buffer_size()
        async with beating(served):
            while quick.comments < 5:
                served.daemon.link(session=store.seq)
                await quick.event()
        assert transport.get_write_buffer_size() == pending


def many(count: int, price: float) -> dict[str, Position]:
    return {f"DU1:{n}": Position(account="DU1", conId=n, position=1.0, marketPrice=price) for n in range(count)}


async def test_a_reader_that_does_not_read_costs_a_bounded_buffer_and_loses_nothing(served: Served) -> None:
    daemon = served.daemon
    topics = "positions,fills"
    async with reading(served, topics, room=1 << 18) as slow, reading(served, topics) as quick:
        await quick.snapshot()
        largest = 0
        for price in range(60):
            daemon.store.put({"positions": many(2000, float(price))})
            daemon.store.put({"fills": {f"x{price}.01": fill(f"x{price}.01")}})
            await quick.until(
                lambda price=price: quick.state["positions"].get("DU1:1999", {}).get("marketPrice") == price
            )
            for reader in served.facade.default.streams.readers:
                largest = max(largest, reader.transport.get_write_buffer_size())
        assert served.facade.default.streams.merged > 0
        assert largest < 4 * HIGH_WATER
        await quick.until(lambda: len(quick.state["fills"]) == 60)
        await slow.until(lambda: slow.state == quick.state and len(slow.state["fills"]) == 60)
        assert slow.state == daemon_state(daemon, ("positions", "fills"))
        assert len(slow.events) < len(quick.events)


async def test_a_row_larger_than_a_write_buffer_makes_no_other_reader_wait(served: Served) -> None:
    """A gap names every fill that it recovered."""
    store = served.daemon.store
    async with reading(served, "notices", room=1 << 16), reading(served, "accounts") as quick:
        await quick.snapshot()
        for number in range(40):
            notice = Notice(at=datetime.now(UTC), code=1, text="x" * 500_000)
            store.put({"notices": {f"e1-{number}": notice}, "accounts": account(f"DU{number}")})
            await quick.until(lambda number=number: quick.has("accounts", f"DU{number}"))


HIGH_WATER = 64 * 1024
"""Bytes in a write buffer at which asyncio pauses the writer."""


async def stalled(served: Served, reader: Reader) -> None:
    """Send more to a reader that does not read than its socket takes."""
    store = served.daemon.store
    while reader.transport.get_write_buffer_size() <= HIGH_WATER:
        store.put({"positions": many(2000, float(store.seq))})
        await until(lambda: reader.transport.get_write_buffer_size() > HIGH_WATER or reader.since >= store.seq)


@asynccontextmanager
async def beating(served: Served) -> AsyncIterator[None]:
    """Heartbeats at short intervals."""
    streams = served.facade.default.streams
    usual, streams.heartbeat = streams.heartbeat, 0.005
    beat = asyncio.create_task(streams.run(), name="beat")
    try:
        yield
    finally:
        streams.heartbeat = usual
        beat.cancel()


async def test_a_reader_that_is_stopped_for_good_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.events.stream.STALLED_TIMEOUT", 0.05)
    async with reading(served, "positions", room=1 << 16):
        (reader,) = served.facade.default.streams.readers
        await stalled(served, reader)
        await until(lambda: not served.facade.default.streams.slots.used)


async def test_a_large_snapshot_comes_in_pages(served: Served) -> None:
    served.daemon.store.put({"positions": many(10_000, 1.0)})
    await served.holds("positions", "DU1:9999")
    async with reading(served, "positions,accounts") as client:
        await client.snapshot()
        pages = [data for event, data, _ in client.events if event == "snapshot"]
        assert len(pages) > 5
        assert all(len(json.dumps(page)) < 4 * frames.PAGE for page in pages)
        assert [page["complete"] for page in pages] == [False] * (len(pages) - 1) + [True]
        assert len(client.state["positions"]) == 10_000


async def test_a_snapshot_that_is_overtaken_by_changes_is_right(served: Served) -> None:
    """Rows change, come and go while it is being read; its last page is then no point to go on from, the next id is."""
    daemon = served.daemon
    daemon.store.put({"positions": many(20_000, 1.0)})
    await served.holds("positions", "DU1:19999")
    async with reading(served, "accounts,positions", room=1 << 18) as client:
        (reader,) = served.facade.default.streams.readers
        await until(lambda: reader.transport.get_write_buffer_size() > HIGH_WATER)
        daemon.store.put({"positions": {"DU1:0": None, "DU1:19999": None, "DU1:20001": many(1, 2.0)["DU1:0"]}})
        daemon.store.put({"accounts": account("DU7")})
        await served.holds("accounts", "DU7")
        await client.snapshot()
        assert client.state == daemon_state(daemon, ("accounts", "positions"))
        last_page = next(here for event, data, here in client.events if event == "snapshot" and data["complete"])
        assert last_page is None


@pytest.mark.parametrize("seed", range(8))
async def test_a_reader_that_folds_has_the_daemons_state_through_any_sequence(
    tmp_path: Path, daemon: FakeDaemon, seed: int
) -> None:
    chance = random.Random(seed)
    last: str | None = None
    state: dict[str, dict[str, Any]] = {}
    topics = "accounts,positions,quotes:1"
    for _ in range(4):
        async with running(tmp_path, daemon) as served:
            await until(lambda served=served: served.state.complete)
            for _ in range(3):
                async with reading(served, topics, last) as client:
                    client.state, client.complete = state, False
                    for _ in range(chance.randrange(6)):
                        act(chance, daemon)
                        if chance.random() < 0.2:
                            await daemon.stop()
                            act(chance, daemon)
                            await daemon.start()
                    daemon.store.put({"accounts": account(f"DU{chance.randrange(10**6)}")})
                    newest = next(reversed(daemon.store.replica.rows("accounts")))
                    await client.until(
                        lambda client=client, newest=newest: client.has("accounts", newest) and client.events[-1][2]
                    )
                    assert client.state == daemon_state(daemon, topics.split(","))
                    last, state = client.ids[-1], client.state
                for _ in range(chance.randrange(4)):
                    act(chance, daemon)


def act(chance: random.Random, daemon: FakeDaemon) -> None:
    """One step of a random kind."""
    key = f"DU1:{chance.randrange(5)}"
    match chance.randrange(4):
        case 0:
            daemon.store.put({"positions": {key: Position(account="DU1", position=chance.random())}})
        case 1:
            daemon.store.put({"positions": {key: None}})
        case 2:
            daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=chance.random())}})
        case _:
            daemon.store.put({"quotes:2": {"2": Quote(conId=2, bid=chance.random())}})
