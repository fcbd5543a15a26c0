"""The mirror: what it holds of the daemon, and when that is current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw

from facade.replica.conversation import Watched
from facade.replica.local import local_connector
from facade.replica.mirror import Mirror
from facade.replica.state import ReplicaState
from shared.clock import SystemClock
from shared.jsonrpc.client import ConnectionLost
from shared.jsonrpc.codec import APPLICATION_ERROR, MAX_CALLS, RpcError
from shared.jsonrpc.server import ServerConnection
from shared.messages import Account, Proof, Quote
from shared.reasons import Problem
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import LIMIT, refused, until


@asynccontextmanager
async def mirroring(path: str, proof_limit: float = 10.0) -> AsyncIterator[Mirror]:
    mirror = Mirror(local_connector(path, SystemClock()), ReplicaState(proof_limit, SystemClock()))
    task = asyncio.create_task(mirror.run(), name="mirror")
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def row(mirror: Mirror, topic: str, key: str) -> bytes | None:
    return mirror.state.row(topic, key)


async def test_listeners_are_called_once_for_all_that_came_in_one_piece(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        rows: list[bytes | None] = []
        mirror.state.add_listener(lambda: rows.append(mirror.state.row("accounts", "DU1")))
        (speaker,) = daemon.service.connections
        written: list[bytes] = []
        write, speaker.write = speaker.write, written.append  # type: ignore[method-assign]
        for paper in (True, False, True):
            daemon.feed.put({"accounts": {"DU1": Account(account="DU1", paper=paper)}})
        assert len(written) == 3
        speaker.write = write  # type: ignore[method-assign]
        speaker.write(b"".join(written))
        await until(lambda: rows)

        assert rows == [daemon.store.replica.row("accounts", "DU1")]


async def test_a_daemon_that_was_never_there_is_unreachable(socket_path: str) -> None:
    async with mirroring(socket_path) as mirror:
        await mirror.first_attempt_done.wait()

        assert not mirror.state.reachable
        assert not mirror.state.connected
        with pytest.raises(Problem, match="daemon"):
            await mirror.call("ping", {}, 1.0)


async def test_it_finds_the_daemon_again_and_resumes(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.connected)
        replica = mirror.state.replica
        await daemon.stop()
        await until(lambda: not mirror.state.reachable)
        assert not mirror.state.connected
        assert mirror.state.replica is replica

        daemon.set_rows("accounts", {"DU3": Account(account="DU3", paper=False)})
        await daemon.start()
        await until(lambda: mirror.state.connected)
        assert mirror.state.replica is replica
        assert mirror.state.row("accounts", "DU3") is not None


class OpenConversation:
    """A conversation that stays open and silent until `lost` is set; then its ping fails."""

    daemon, epoch = "ibkr/1.0", "e1"

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.pinged = asyncio.Event()

    async def call(self, _method: str, _params: Any, _timeout: float | None) -> Raw:
        return Raw(b"{}")

    async def watch(self, _topics: Collection[str], _epoch: str | None, _since: int | None, _timeout: float) -> Watched:
        return Watched(epoch="e1", seq=1, reset=True)

    async def unwatch(self, _topics: Collection[str], _timeout: float) -> None: ...

    async def ping(self) -> None:
        self.pinged.set()
        await self.lost.wait()
        raise ConnectionLost("lost")

    def daemon_time(self) -> datetime:
        return datetime.now(UTC)

    def abort(self, _reason: str = "aborted") -> None: ...


async def test_a_cancellation_that_coincides_with_a_lost_connection_ends_the_mirror() -> None:
    """A TaskGroup would raise the error alone, and the mirror would reconnect instead of ending."""
    conversation = OpenConversation()

    async def connect(*_: Any) -> OpenConversation:
        return conversation

    task = asyncio.create_task(Mirror(connect, ReplicaState(10.0, SystemClock())).run(), name="mirror")
    await conversation.pinged.wait()
    conversation.lost.set()
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT)

    assert task.cancelled()


async def test_another_epoch_replaces_everything(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        daemon.set_rows("accounts", {"DU1": Account(account="DU1", paper=True)})
        await until(lambda: mirror.state.row("accounts", "DU1"))
        await daemon.stop()

        async with FakeDaemon(daemon.path, "e2") as successor:
            successor.link()
            await until(lambda: mirror.state.connected and mirror.state.replica and mirror.state.replica.epoch == "e2")
            assert mirror.state.row("accounts", "DU1") is None
            known = mirror.state.sync("accounts")
            assert known is not None
            assert not known.known


@pytest.mark.parametrize(
    "page",
    [
        {"asOf": None, "seq": 99, "rows": {"positions": {"known": "yes"}}, "seqs": [99]},
        {"asOf": None, "seq": 99, "rows": {"positions": {"known": True}}, "seqs": []},
    ],
)
async def test_a_delta_that_cannot_be_read_ends_the_conversation_and_the_next_one_is_whole(
    daemon: FakeDaemon, page: dict[str, Any]
) -> None:
    """As after an update of one of the two processes alone: one line, no error of the event loop."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        (peer,) = daemon.service.connections
        peer.notify("delta", {"epoch": "e1", "topics": {"sync": page}, "seq": 99})
        await until(lambda: peer not in daemon.service.connections)
        await until(
            lambda: (
                mirror.state.complete
                and row(mirror, "sync", "positions") == daemon.store.replica.row("sync", "positions")
            )
        )
    assert errors == []


async def test_a_silent_daemon_is_unreachable_though_its_socket_is_open(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.connected)
        daemon.silent = True
        await until(lambda: not mirror.state.reachable)
        daemon.silent = False
        await until(lambda: mirror.state.connected)


async def test_a_proof_that_grows_old_ends_connected_without_a_word_from_the_daemon(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path, proof_limit=3600.0) as mirror:
        await until(lambda: mirror.state.connected)
        daemon.link(proof=Proof(ageMs=3_600_000))
        await until(lambda: not mirror.state.connected)
        assert mirror.state.reachable
        daemon.link(proof=Proof(ageMs=3_000_000))
        await until(lambda: mirror.state.connected)


async def test_a_proof_that_was_sent_long_after_it_was_written_is_as_old_as_it_is(daemon: FakeDaemon) -> None:
    """A daemon that was stopped sends its last row as it was written: connected, proof 0 ms old."""
    async with mirroring(daemon.path, proof_limit=3600.0) as mirror:
        await until(lambda: mirror.state.connected)
        daemon.link(proof=Proof(at=datetime.now(UTC) - timedelta(hours=2), ageMs=0))
        await until(lambda: not mirror.state.connected)
        daemon.link(proof=Proof(at=datetime.now(UTC), ageMs=0))
        await until(lambda: mirror.state.connected)


async def test_a_line_that_is_refused_costs_the_others_nothing(daemon: FakeDaemon) -> None:
    daemon.refuses.add("quotes:9")
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        mirror.subscribe(["quotes:7", "quotes:8", "quotes:9"])
        await mirror.wait_for_topics(["quotes:7", "quotes:8"])
        assert (await refused(mirror.wait_for_topics(["quotes:9"]))).reason == "tooManySubscriptions"
        assert mirror.state.has_topics(["quotes:7", "quotes:8"])


async def test_what_changes_while_a_line_is_refused_is_not_lost(daemon: FakeDaemon) -> None:
    """A delta that comes before the refusal is about topics that were watched before."""

    async def change_and_refuse(_peer: ServerConnection, _params: Raw) -> None:
        daemon.feed.put({"accounts": {"DU5": Account(account="DU5", paper=True)}})
        raise RpcError(APPLICATION_ERROR, "no line left", {"reason": "tooManySubscriptions"})

    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        daemon.service.methods = {**daemon.service.methods, "watch": change_and_refuse}
        mirror.subscribe(["quotes:9"])
        with pytest.raises(Problem):
            await mirror.wait_for_topics(["quotes:9"])

        assert mirror.state.row("accounts", "DU5") is not None


async def test_wanted_topics_are_watched_again_after_the_daemon_was_away(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        mirror.subscribe(["quotes:7"])
        await until(lambda: mirror.state.has_topics(["quotes:7"]))
        await daemon.stop()
        await until(lambda: not mirror.state.reachable)
        mirror.subscribe(["quotes:8"])
        await daemon.start()
        daemon.store.put({"quotes:7": {"7": Quote(conId=7)}, "quotes:8": {"8": Quote(conId=8)}})
        await until(lambda: mirror.state.row("quotes:7", "7") and mirror.state.row("quotes:8", "8"))


async def test_a_line_that_was_let_go_while_the_daemon_was_away_is_had_whole_again(daemon: FakeDaemon) -> None:
    """Its changes in between were not sent, and the replica's own step has passed them."""
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        mirror.subscribe(["quotes:7"])
        await until(lambda: mirror.state.has_topics(["quotes:7"]))
        await daemon.stop()
        await until(lambda: not mirror.state.reachable)
        mirror.unsubscribe(["quotes:7"])
        await daemon.start()
        await until(lambda: mirror.state.reachable)
        daemon.store.put({"quotes:7": {"7": Quote(conId=7, bid=1.0)}})
        daemon.store.put({"accounts": {"DU4": Account(account="DU4", paper=True)}})
        await until(lambda: mirror.state.row("accounts", "DU4"))
        mirror.subscribe(["quotes:7"])
        await until(lambda: mirror.state.row("quotes:7", "7"))


async def test_a_line_that_is_let_go_and_wanted_at_once_misses_nothing(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        for price in range(1, 20):
            mirror.subscribe(["quotes:7"])
            await until(lambda: mirror.state.has_topics(["quotes:7"]))
            mirror.unsubscribe(["quotes:7"])
            await asyncio.sleep(0)
            daemon.store.put({"quotes:7": {"7": Quote(conId=7, bid=float(price))}})
            daemon.store.put({"accounts": {f"DU{price}": Account(account=f"DU{price}", paper=True)}})
            mirror.subscribe(["quotes:7"])
            wanted = f'"bid":{float(price)}'.encode()
            await until(lambda wanted=wanted: wanted in (mirror.state.row("quotes:7", "7") or b""))
            mirror.unsubscribe(["quotes:7"])


async def test_an_answer_is_followed_by_its_effect(daemon: FakeDaemon) -> None:
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        daemon.store.put({"quotes:1": {"1": Quote(conId=1)}})  # a step of a topic that is not watched here
        answer = await mirror.call("link.reconnect", {}, 5.0)
        assert b'"seq"' in bytes(answer)
        await mirror.state.wait_for_seq(daemon.store.seq, 5.0)
        assert mirror.state.replica is not None
        assert mirror.state.replica.seq >= daemon.store.seq


async def test_however_many_requests_wait_the_daemon_stays_reachable(daemon: FakeDaemon) -> None:
    """Pings and watches need calls too; without room for them the conversation would end."""
    answered = asyncio.Event()

    async def wait(_params: Any) -> None:
        await answered.wait()

    daemon.replies["bars.fetch"] = wait
    async with mirroring(daemon.path) as mirror:
        await until(lambda: mirror.state.complete)
        calls = [asyncio.create_task(mirror.call("bars.fetch", {}, LIMIT)) for _ in range(MAX_CALLS + 1)]
        await until(lambda: any(call.done() for call in calls))
        mirror.subscribe(["quotes:7"])
        await mirror.wait_for_topics(["quotes:7"])
        assert mirror.state.has_topics(["quotes:7"])
        answered.set()
        results = await asyncio.gather(*calls, return_exceptions=True)

    refused = [result for result in results if isinstance(result, Problem)]
    assert {problem.reason for problem in refused} == {"pacingBudget"}
    assert len(refused) < len(results) / 2


async def test_ten_thousand_rows_come_in_pages_and_are_folded_once(daemon: FakeDaemon) -> None:
    seen: list[int] = []
    many = {f"DU{n}": Account(account=f"DU{n}", paper=True) for n in range(10_000)}
    daemon.set_rows("accounts", many)
    async with mirroring(daemon.path) as mirror:
        mirror.state.add_listener(
            lambda: seen.append(0 if mirror.state.replica is None else len(mirror.state.replica.rows("accounts")))
        )
        await until(lambda: mirror.state.complete)
        await until(lambda: seen)
        assert set(seen) == {10_000}


async def test_a_call_without_a_limit_of_its_own_that_times_out_is_a_problem() -> None:
    class SlowConversation(OpenConversation):
        async def call(self, _method: str, _params: Any, _timeout: float | None) -> Raw:
            raise TimeoutError

    conversation = SlowConversation()

    async def connect(*_: Any) -> SlowConversation:
        return conversation

    mirror = Mirror(connect, ReplicaState(10.0, SystemClock()))
    task = asyncio.create_task(mirror.run(), name="mirror")
    await conversation.pinged.wait()
    mirror.state.reachable = True
    with pytest.raises(Problem, match="in time"):
        await mirror.call("link.connect", {}, None)
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT)
