"""What a remote replica makes of the stream's messages: gaps, repetitions, any order, another epoch, other clocks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from daemon.process import Daemon
from facade.replica.mirror import Mirror
from shared.messages import STATE_TOPICS, Link, Proof
from tests.scaleout.conftest import FastClock, NatsServer, published, remote
from tests.scaleout.scripted import ScriptedDaemon, part, scripted
from tests.waiting import until


@pytest.fixture
async def script(nats_server: NatsServer) -> AsyncIterator[ScriptedDaemon]:
    async with scripted(nats_server, FastClock(rate=1.0)) as daemon:
        yield daemon


def same(mirror: Mirror, daemon: ScriptedDaemon) -> bool:
    """Whether the replica is reachable, and at the daemon's step with its rows."""
    replica, theirs = mirror.state.replica, daemon.replica
    return (
        mirror.state.reachable
        and replica is not None
        and (replica.epoch, replica.seq) == (theirs.epoch, theirs.seq)
        and all(replica.rows(topic) == theirs.rows(topic) for topic in STATE_TOPICS)
    )


async def come_to(mirror: Mirror, daemon: ScriptedDaemon) -> None:
    await until(lambda: same(mirror, daemon), "the replica did not come to the daemon's state")


async def test_a_message_that_the_stream_lacks_is_a_reset(nats_server: NatsServer, script: ScriptedDaemon) -> None:
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        script.accounts("DU1")
        lost = script.accounts("DU2")
        script.accounts("DU3")
        await script.publish(lost)
        await come_to(mirror, script)
        assert script.snapshots == 2


async def test_messages_in_the_wrong_order_are_a_reset(nats_server: NatsServer, script: ScriptedDaemon) -> None:
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        first = script.accounts("DU1")
        script.put({"accounts": {"DU1": None}})
        await script.publish(first, number=2)
        await script.publish(first - 1, first, number=1)
        await come_to(mirror, script)
        assert script.snapshots == 2
        assert mirror.state.row("accounts", "DU1") is None


async def test_a_message_that_is_stored_twice_changes_nothing(nats_server: NatsServer, script: ScriptedDaemon) -> None:
    """Also one whose page is the last of several, with the whole rows of a topic that is awaited by now."""
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        seq = script.put({"bars:1:1day": {"a": b"1", "b": b"2"}})
        await script.publish_page({"bars:1:1day": part(seq, a=b"1")}, seq - 1, seq, last=False, fresh=["bars:1:1day"])
        message = await script.publish_page({"bars:1:1day": part(seq, b=b"2")}, seq - 1, seq, fresh=["bars:1:1day"])
        await until(lambda: mirror.state.replica is not None and mirror.state.replica.seq == seq)
        resyncs = mirror.state.resync_count
        mirror.subscribe(["bars:1:1day"])
        await until(lambda: script.leases)
        await script.repeat(message)
        after = script.accounts("DU1")
        await script.publish(after - 1)
        await come_to(mirror, script)
        assert not mirror.state.has_topics(["bars:1:1day"])
        assert (script.snapshots, mirror.state.resync_count) == (1, resyncs)


async def test_a_topic_is_whole_only_from_a_deltas_first_page_on(
    nats_server: NatsServer, script: ScriptedDaemon
) -> None:
    """Another facade's whole rows are under way when this one begins to wait for its own."""
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        seq = script.put({"bars:1:1day": {"a": b"1", "b": b"2"}})
        await script.publish_page({"bars:1:1day": part(seq, a=b"1")}, seq - 1, seq, last=False, fresh=["bars:1:1day"])
        mirror.subscribe(["bars:1:1day"])
        await until(lambda: script.leases)
        await script.publish_page({"bars:1:1day": part(seq, b=b"2")}, seq - 1, seq, fresh=["bars:1:1day"])
        await come_to(mirror, script)
        assert not mirror.state.has_topics(["bars:1:1day"])
        await script.publish_page({"bars:1:1day": part(seq, a=b"1", b=b"2")}, seq, seq, fresh=["bars:1:1day"])
        await until(lambda: mirror.state.has_topics(["bars:1:1day"]))
        assert mirror.state.replica is not None
        assert mirror.state.replica.rows("bars:1:1day") == {"a": b"1", "b": b"2"}
        assert script.snapshots == 1


@pytest.mark.parametrize("lacking", [2, 3])
async def test_a_page_that_is_missing_within_a_delta_is_a_reset(
    nats_server: NatsServer, script: ScriptedDaemon, lacking: int
) -> None:
    """The second of three, or the last one, after which the next delta would pass for its end."""
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        seq = script.accounts("DU1", "DU2", "DU3")
        rows = script.replica.rows("accounts")
        for number, (name, row) in enumerate(rows.items(), 1):
            page = {"accounts": part(seq, **{name: row})}
            if number != lacking:
                await script.publish_page(page, seq - 1, seq, last=number == 3, number=number)
        if lacking == 3:
            script.accounts("DU4")
            await script.publish_page({"accounts": part(seq + 1, DU4=b"{}")}, seq, seq + 1, number=4)
        await come_to(mirror, script)
        assert script.snapshots == 2


async def test_messages_that_overlap_the_snapshot_are_joined_to_it(
    nats_server: NatsServer, script: ScriptedDaemon
) -> None:
    """While the snapshot is under way: older steps, its own, and a delta that begins before it and ends after it."""
    script.snapshot_allowed.clear()
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await until(lambda: script.snapshots)  # of step 1: what follows is from the stream alone
        first = script.accounts("DU1")
        await script.publish(first - 1)
        second = script.accounts("DU2")
        script.put({"accounts": {"DU1": None}})
        await script.publish(first)
        script.snapshot_allowed.set()
        await come_to(mirror, script)
        assert (script.snapshots, second) == (1, first + 1)


async def test_a_delta_that_began_before_the_snapshot_changes_nothing(
    nats_server: NatsServer, script: ScriptedDaemon
) -> None:
    """Its last page alone is in the part of the stream that is read."""
    seq = script.accounts("DU1", "DU2")
    rows = script.replica.rows("accounts")
    await script.publish_page({"accounts": part(seq, DU1=rows["DU1"])}, seq - 1, seq, last=False)
    script.snapshot_allowed.clear()
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await until(lambda: script.snapshots)
        await script.publish_page({"accounts": part(seq, DU2=rows["DU2"])}, seq - 1, seq)
        script.snapshot_allowed.set()
        await come_to(mirror, script)
        script.accounts("DU3")
        await script.publish(seq)
        await come_to(mirror, script)
        assert script.snapshots == 1


async def test_another_epoch_while_the_snapshot_is_under_way_is_a_new_beginning(
    nats_server: NatsServer, script: ScriptedDaemon
) -> None:
    script.accounts("DU1")
    script.snapshot_allowed.clear()
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await until(lambda: script.snapshots)
        script.restart("e2")
        script.accounts("DU2")
        await until(lambda: script.snapshots > 1, "no snapshot of the new epoch was requested")
        script.snapshot_allowed.set()
        await come_to(mirror, script)
        assert set(mirror.state.replica.rows("accounts") if mirror.state.replica else ()) == {"DU2"}


async def test_a_sign_of_life_that_was_long_under_way_is_none(nats_server: NatsServer, script: ScriptedDaemon) -> None:
    async with remote(nats_server, clock=FastClock(rate=1.0)) as mirror:
        await come_to(mirror, script)
        script.alive_late = 10.0
        await until(lambda: not mirror.state.reachable, "an old sign of life kept the daemon reachable")
        script.alive_late = 0.0
        await come_to(mirror, script)


async def test_a_response_that_cannot_be_read_ends_the_conversation_not_its_leases(nats_server: NatsServer) -> None:
    """The lease of quotes is renewed by the task that also measures the clock: it must not end unnoticed."""
    async with scripted(nats_server, FastClock()) as script, remote(nats_server) as mirror:
        await come_to(mirror, script)
        script.clock_readable = False
        await until(lambda: not mirror.state.reachable, "the conversation goes on without its renewals")
        script.clock_readable = True
        await come_to(mirror, script)


def prove(daemon: Daemon, clock: FastClock) -> None:
    link = daemon.store.row("link", "link")
    assert isinstance(link, Link)
    proof = Proof(at=clock.now(), ageMs=0)
    daemon.store.put({"link": {"link": msgspec.structs.replace(link, connected=True, proof=proof)}})


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
async def test_a_wall_clock_that_differs_from_the_daemons_changes_nothing(
    nats_server: NatsServer, ahead: float
) -> None:
    """`connected` is so after each proof and ends with it, also in a replica that begins when the proof is old."""
    clock = FastClock()
    async with published(nats_server, clock=clock) as daemon:
        await until(lambda: daemon.store.row("link", "link"))
        async with remote(nats_server, clock=FastClock(ahead), proof_limit=10.0) as mirror:

            def connected() -> bool:
                prove(daemon, clock)
                return mirror.state.connected

            await until(connected)
            await until(lambda: mirror.state.reachable and not mirror.state.connected)
        async with remote(nats_server, clock=FastClock(ahead), proof_limit=10.0) as late:
            await until(lambda: late.state.reachable)
            assert not late.state.connected
            assert late.state.proof_age is not None
            assert late.state.proof_age >= 10.0


@pytest.mark.parametrize("seconds", [-30.0, 30.0])
async def test_a_daemons_wall_clock_that_is_set_makes_no_proof_younger(nats_server: NatsServer, seconds: float) -> None:
    clock = FastClock()
    async with published(nats_server, clock=clock) as daemon:
        await until(lambda: daemon.store.row("link", "link"))
        async with remote(nats_server, clock=FastClock(), proof_limit=10.0) as mirror:
            await until(lambda: mirror.state.reachable)
            clock.ahead += seconds

            def connected() -> bool:
                prove(daemon, clock)
                return mirror.state.connected

            await until(connected, "not connected again after the clock was measured again")
            await until(lambda: mirror.state.reachable and not mirror.state.connected)
