"""Every fault is a verb, and what a client meets is what it would meet at a real gateway."""

from __future__ import annotations

import inspect
import logging
import random

import pytest

from daemon.simulator import Gateway, ManualClock, World, faults
from daemon.simulator.behaviour import kind_of
from daemon.simulator.broken import MALFORMED
from daemon.simulator.requests import NAMES
from tests.daemon.simulator.waiting import Raw, quote, ready
from tests.waiting import until


@pytest.mark.parametrize("name", faults.VERBS)
def test_every_verb_exists_and_takes_its_arguments(name: str) -> None:
    verb = faults.VERBS[name]
    taken = list(inspect.signature(getattr(Gateway, verb.method)).parameters.values())[1:]
    plain = [p for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert len(verb.arguments) <= len(plain)
    assert verb.needed == len([p for p in plain if p.default is p.empty])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("explode", "there is no"),
        ("delay", "takes 1 to 2"),
        ("delay=soon", "could not convert"),
        ("drop=1,2", "takes 0"),
    ],
)
def test_a_line_that_is_no_verb_is_explained(line: str, complaint: str) -> None:
    with pytest.raises(faults.UnknownVerbError, match=complaint):
        faults.parse(line)


@pytest.mark.parametrize("name", ["positions", "reqPositions", "POSITIONS"])
def test_a_kind_of_request_may_be_named_in_full_or_in_short(name: str) -> None:
    assert kind_of(name) == "positions"


async def test_a_kind_that_does_not_exist_is_refused(gateway: Gateway) -> None:
    for verb in (gateway.mute, gateway.withhold_end, gateway.unmute, gateway.close_during):
        with pytest.raises(ValueError, match="there is no request 'postions'"):
            verb("postions")
    with pytest.raises(ValueError, match="there is no request"):
        gateway.delay(1, "postions")


# the port and the handshake


async def test_a_refusing_gateway_comes_back_on_the_same_port(gateway: Gateway) -> None:
    standing = await Raw.open(gateway.port)
    await standing.until("9")

    gateway.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Raw.dial(gateway.port)
    await gateway.listen()
    again = await Raw.open(gateway.port, client_id=2)
    await again.until("9")

    standing.send(49, 1)
    assert (await standing.until("49"))[1] == "1"


async def test_a_scheduled_restart_ends_sessions_and_opens_after_its_time(clocked: Gateway, clock: ManualClock) -> None:
    client = await Raw.open(clocked.port)
    await client.until("9")

    clocked.scheduled_restart(down_s=75)
    await client.rest()
    clock.advance(74)
    with pytest.raises(ConnectionRefusedError):
        await Raw.dial(clocked.port)
    clock.advance(1)
    await until(lambda: clocked.listening)

    again = await Raw.open(clocked.port)
    await again.until("9")


async def test_silence_before_and_after_the_version(gateway: Gateway) -> None:
    gateway.accept_silently()
    silent = await Raw.dial(gateway.port)
    await until(lambda: gateway.sessions)
    gateway.silence_after_handshake()
    silent.greet()
    half = await Raw.dial(gateway.port)
    half.greet()
    assert (await half.read())[0] == "178"
    half.send(71, 2, 1, "")

    for client in (silent, half):
        assert await client.silent()
    assert not gateway.client_ids


async def test_accounts_and_next_id_can_be_missing_or_empty(gateway: Gateway) -> None:
    gateway.no_accounts()
    first = await Raw.open(gateway.port, 1)
    await first.until("9")
    gateway.behave()
    gateway.empty_accounts()
    second = await Raw.open(gateway.port, 2)
    assert await second.until("15") == ["15", "1", ""]
    gateway.behave()
    gateway.no_next_id()
    third = await Raw.open(gateway.port, 3)
    assert await third.until("15") == ["15", "1", "DU1234567"]
    assert (await third.read())[:4] == ["4", "2", "-1", "2104"]


async def test_a_client_id_in_use_gets_326_and_the_end(gateway: Gateway) -> None:
    first = await Raw.open(gateway.port, 5)
    await first.until("9")

    second = await Raw.open(gateway.port, 5)
    assert (await second.read())[2:4] == ["-1", "326"]
    assert await second.rest() == b""
    await first.close()
    await until(lambda: not gateway.client_ids)
    third = await Raw.open(gateway.port, 5)
    await third.until("9")

    assert gateway.connections.refused_ids == 1


async def test_a_ghost_holds_its_id_until_its_time_is_over(clocked: Gateway, clock: ManualClock) -> None:
    first = await Raw.open(clocked.port, 1)
    await first.until("9")
    clocked.drop(ghost_s=30)
    await first.rest()

    clock.advance(29)
    second = await Raw.open(clocked.port, 1)
    assert (await second.read())[3] == "326"
    clock.advance(1)
    third = await Raw.open(clocked.port, 1)
    await third.until("9")


# connections that stand


async def test_a_dripping_gateway_sends_so_many_bytes_a_second(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    clocked.slow_drip(100)
    client.send(49, 1)
    await until(lambda: any(seen.name == "reqCurrentTime" for seen in clocked.requests))
    assert await client.silent()
    clock.advance(1)

    assert (await client.read())[0] == "49"


async def test_a_client_that_does_not_read_is_dropped() -> None:
    clock = ManualClock()
    async with Gateway(World(), clock=clock, slow_buffer=1 << 20) as gateway:
        client = await Raw.open(gateway.port)
        await client.until("9")
        quote(client, 1)
        await until(lambda: gateway.quotes.lines)
        gateway.flood(1_000_000, 1000)
        client.stop_reading()
        await until(lambda: clock.advance(0.2) or gateway.connections.slow)

        assert gateway.connections.slow == 1
        await until(lambda: not gateway.sessions)


# answers


async def test_a_delayed_answer_waits_for_its_time(clocked: Gateway, clock: ManualClock) -> None:
    client = await Raw.open(clocked.port)
    await client.until("9")
    clocked.delay(2, "positions")
    client.send(61, 1)
    client.send(49, 1)
    assert (await client.until("49"))[0] == "49"
    clock.advance(2)

    assert (await client.until("62"))[0] == "62"


@pytest.mark.parametrize("how", MALFORMED)
async def test_malformed_bytes_reach_the_client_as_they_are(gateway: Gateway, how: str) -> None:
    client = await ready(gateway)
    gateway.malformed(how)  # type: ignore[arg-type]
    gateway.drop()

    assert await client.rest() == MALFORMED[how]


# what clients send


async def test_an_unknown_message_id_is_fatal_and_a_short_one_is_not(gateway: Gateway) -> None:
    client = await ready(gateway)
    client.send(62, 1)
    assert (await client.read())[3] == "320"
    client.send(4711, 1)
    assert (await client.read())[3] == "505"
    assert await client.rest() == b""

    other = await Raw.open(gateway.port, 2)
    await other.until("4", "2", "-1", "2158")
    other.write(b"\xff\xff\xff\xff")
    assert await other.rest() == b""


async def test_more_than_fifty_messages_a_second_get_an_error_and_then_the_end(
    clocked: Gateway, clock: ManualClock
) -> None:
    client = await ready(clocked)
    for _ in range(40):
        client.send(49, 1)
    await until(lambda: len(clocked.requests) == 41)
    assert clocked.connections.over_rate == 0
    for _ in range(3):
        clock.advance(1.0)
        for _ in range(60):
            client.send(49, 1)
        before = clocked.connections.over_rate
        await until(lambda before=before: clocked.connections.over_rate > before)

    assert clocked.connections.over_rate == 3
    await until(lambda: not clocked.sessions)


NONSENSE = ["", "0", "1", "-1", "x", "1e400", "nan", "AAPL", "STK", "SMART", "USD", "DU1234567", "\u00fc", "9" * 14]


@pytest.mark.parametrize("seed", range(6))
async def test_no_request_whatever_breaks_the_gateway(caplog: pytest.LogCaptureFixture, seed: int) -> None:
    rng = random.Random(seed)
    async with Gateway(World(), message_rate=0) as gateway:
        client = await ready(gateway)
        for turn in range(400):
            number = rng.choice([number for number in NAMES if number != 71])
            client.send(number, *(rng.choice(NONSENSE) for _ in range(rng.choice((2, 3, 14, 18, 25, 120)))))
            if turn % 20 == 19:
                client.send(49, 1)
                await client.until("49")

    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
