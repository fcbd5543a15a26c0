"""A session over a real NATS server: a remote replica has exactly the daemon's rows, or says that it is stale."""

from __future__ import annotations

import asyncio
import signal

import msgspec
import pytest
from structlog.testing import capture_logs

from daemon.process import Daemon
from shared.messages import Account, Bar, Position, Quote
from shared.reasons import Problem
from shared.scaleout import ALIVE_INTERVAL, LEASE, Subjects
from tests.scaleout.conftest import FastClock, NatsServer, equal, published, remote, settled
from tests.waiting import until


def position(number: int, amount: float = 1.0) -> Position:
    return Position(account="DU1", conId=number, position=amount)


async def test_a_remote_replica_is_the_daemons(nats_server: NatsServer, daemon: Daemon) -> None:
    """A snapshot of many pages, then every change."""
    daemon.store.replace("positions", {f"DU1:{n}": position(n) for n in range(5000)})
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        for number in range(50):
            daemon.store.put({"positions": {f"DU1:{number}": position(number, 7.0), f"DU1:{number + 100}": None}})
            await asyncio.sleep(0)
        await settled(mirror, daemon)


async def test_a_call_is_answered_and_its_step_arrives(nats_server: NatsServer, daemon: Daemon) -> None:
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        info = msgspec.json.decode(await mirror.call("daemon.info", {}, 30.0))
        assert info["epoch"] == daemon.store.epoch
        await mirror.state.wait_for_seq(info["seq"], 30.0)

        with pytest.raises(Problem) as refused:
            await mirror.call("bars.fetch", {"conId": 0}, 30.0)
        assert refused.value.reason == "invalidParameters"
        with pytest.raises(Problem) as missing:
            await mirror.call("contracts.get", {"conId": 1}, 30.0)
        assert missing.value.reason == "notConnected"


async def test_a_command_reaches_the_daemon(nats_server: NatsServer, daemon: Daemon) -> None:
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        done = msgspec.json.decode(await mirror.call("link.disconnect", {}, 30.0))
        await mirror.state.wait_for_seq(done["seq"], 30.0)
        assert mirror.state.link is not None
        assert mirror.state.link.phase == "held"


async def test_quotes_and_bars_are_leased_while_they_are_watched(nats_server: NatsServer, daemon: Daemon) -> None:
    """Two facades share a line; each has the topic's whole rows, and the last release frees it."""
    bars = {
        f"2026-01-0{day}": Bar(date=f"2026-01-0{day}", open=1.0, high=1.0, low=1.0, close=1.0) for day in range(1, 9)
    }
    daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}, "bars:1:1day": bars})
    topics = ("quotes:1", "bars:1:1day")
    async with remote(nats_server) as first, remote(nats_server) as second:
        for mirror in (first, second):
            await settled(mirror, daemon)
            mirror.subscribe(topics)
            await until(lambda mirror=mirror: equal(mirror, daemon, topics))
        assert daemon.market.streams().wanted == 2
        first.unsubscribe(topics)
        await until(lambda: not first.state.has_topics(["quotes:1"]))
        daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.0)}})
        await until(lambda: equal(second, daemon, topics))
        assert not first.state.has_topics(["quotes:1"])


async def test_a_facade_that_vanishes_frees_its_lines_with_its_lease(nats_server: NatsServer) -> None:
    clock = FastClock()
    async with published(nats_server, clock=clock) as daemon:
        daemon.store.put({"quotes:1": {"1": Quote(conId=1)}})
        async with remote(nats_server, clock=clock) as mirror:
            await settled(mirror, daemon)
            mirror.subscribe(["quotes:1"])
            await until(lambda: mirror.state.has_topics(["quotes:1"]))
        assert daemon.market.streams().wanted == 1
        clock.jump(LEASE)
        await until(lambda: daemon.market.streams().wanted == 0)


async def test_a_server_that_refuses_connections_is_logged_at_once(nats_server: NatsServer) -> None:
    """With the reason, by both sides; nats-py itself would try again for two minutes first."""
    nats_server.kill()
    with capture_logs() as logs:
        async with published(nats_server) as daemon, remote(nats_server) as mirror:
            for event, field in (("scaleout.away", "message"), ("mirror.away", "error")):
                await until(lambda event=event: [line for line in logs if line["event"] == event], limit=20)
                (line,) = [line for line in logs if line["event"] == event]
                assert "Connect call failed" in line[field]
            nats_server.start()
            await settled(mirror, daemon)


async def test_nothing_is_reachable_without_a_daemon(nats_server: NatsServer) -> None:
    async with remote(nats_server) as mirror:
        await mirror.first_attempt_done.wait()
        assert not mirror.state.reachable


async def test_a_server_that_is_killed_and_back_is_resumed(nats_server: NatsServer, daemon: Daemon) -> None:
    """The stream is on disk: what changed meanwhile arrives by it, and the replica object stays."""
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        nats_server.kill()
        await until(lambda: not mirror.state.reachable)
        daemon.store.put({"accounts": {"DU2": Account(account="DU2", paper=True)}})
        replica = mirror.state.replica
        nats_server.start()
        await settled(mirror, daemon)
        assert mirror.state.replica is replica


async def test_a_server_that_lost_its_stream_is_a_reset(nats_server: NatsServer, daemon: Daemon) -> None:
    async with remote(nats_server) as mirror:
        for number in range(20):
            daemon.store.put({"positions": {f"DU1:{number}": position(number)}})
            await asyncio.sleep(0)
        await settled(mirror, daemon)
        nats_server.kill()
        await until(lambda: not mirror.state.reachable)
        nats_server.forget()
        daemon.store.put({"positions": {"DU1:1": None}})
        nats_server.start()
        await settled(mirror, daemon)


async def test_a_server_that_stops_makes_remote_readers_stale_and_delays_no_other_reader(
    nats_server: NatsServer, daemon: Daemon
) -> None:
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        nats_server.signal(signal.SIGSTOP)
        await until(lambda: not mirror.state.reachable)
        seq = daemon.store.seq
        for number in range(200):
            daemon.store.put({"positions": {f"DU1:{number}": position(number)}})
            await asyncio.sleep(0)
        assert daemon.store.seq >= seq + 200
        nats_server.signal(signal.SIGCONT)
        await settled(mirror, daemon)


async def test_another_epoch_is_a_reset(nats_server: NatsServer) -> None:
    async with remote(nats_server) as mirror:
        async with published(nats_server) as first:
            first.store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
            await settled(mirror, first)
        await until(lambda: not mirror.state.reachable)
        async with published(nats_server) as second:
            await settled(mirror, second)
            assert mirror.state.row("accounts", "DU1") is None


async def test_a_second_daemon_of_the_name_publishes_nothing(nats_server: NatsServer, daemon: Daemon) -> None:
    """It serves its local socket; the first one's facade does not notice it."""
    async with remote(nats_server) as mirror:
        await settled(mirror, daemon)
        resyncs = mirror.state.resync_count
        with capture_logs() as logs:
            async with published(nats_server) as second:
                second.store.put({"accounts": {"DU9": Account(account="DU9", paper=True)}})
                await until(lambda: any(line["event"] == "scaleout.name_taken" for line in logs))
                daemon.store.put({"positions": {"DU1:1": position(1)}})
                await settled(mirror, daemon)
        assert mirror.state.row("accounts", "DU9") is None
        assert mirror.state.resync_count == resyncs


async def test_a_name_that_a_daemon_of_another_version_has_is_taken(nats_server: NatsServer) -> None:
    """Of its sign of life no more than the epoch is needed."""
    import nats

    clock, subject = FastClock(), Subjects("ibkr", "default").alive
    client = await nats.connect(nats_server.url)

    async def live() -> None:
        while True:
            await client.publish(subject, b'{"epoch":"0older","seq":1,"daemon":"ibkr/0"}')
            await clock.sleep(ALIVE_INTERVAL)

    older = asyncio.create_task(live())
    with capture_logs() as logs:
        async with published(nats_server):
            await until(lambda: any(str(line["event"]).startswith("scaleout.") for line in logs))
    older.cancel()
    await client.close()

    assert [line["event"] for line in logs if str(line["event"]).startswith("scaleout.")] == ["scaleout.name_taken"]


async def test_of_two_daemons_that_start_together_one_publishes(nats_server: NatsServer) -> None:
    """Whichever stays, a replica is that one's alone."""
    with capture_logs() as logs:
        async with published(nats_server) as first, published(nats_server) as second, remote(nats_server) as mirror:
            for number, one in enumerate((first, second)):
                one.store.put({"accounts": {f"DU{number}": Account(account=f"DU{number}", paper=True)}})
            await until(lambda: any(line["event"] == "scaleout.name_taken" for line in logs))
            await until(lambda: equal(mirror, first) or equal(mirror, second))


async def test_two_sessions_on_one_server_do_not_mix(nats_server: NatsServer) -> None:
    async with (
        published(nats_server, "live") as live,
        published(nats_server, "paper") as paper,
        remote(nats_server, "live") as of_live,
        remote(nats_server, "paper") as of_paper,
    ):
        live.store.put({"accounts": {"U1": Account(account="U1", paper=False)}})
        paper.store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
        await settled(of_live, live)
        await settled(of_paper, paper)
        assert set(of_live.state.replica.rows("accounts") if of_live.state.replica else ()) == {"U1"}
