"""Ticks: their number, their marks, and that one line costs one line."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from daemon.simulator import Gateway, ManualClock, World
from tests.daemon.simulator.waiting import APPLE, Connect, quote, ready
from tests.waiting import until


async def ticks(gateway: Gateway, clock: ManualClock, seconds: float) -> int:
    """How many ticks a gateway sends while its clock moves on."""
    before = gateway.quotes.sent
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)
        await asyncio.sleep(0)
    return gateway.quotes.sent - before


async def test_the_tick_rate_holds_for_each_line(clock: ManualClock) -> None:
    async with Gateway(World(), clock=clock, tick_rate=5) as gateway:
        client = await ready(gateway)
        quote(client, 1)
        quote(client, 2)
        await until(lambda: len(gateway.quotes.lines) == 2)
        assert await ticks(gateway, clock, 10) == pytest.approx(100, abs=2)
        gateway.flood(5000, 2)
        assert await ticks(gateway, clock, 2) == pytest.approx(10_000, rel=0.02)
        assert await ticks(gateway, clock, 10) == pytest.approx(100, abs=100)
        gateway.quiet()
        assert await ticks(gateway, clock, 10) == 0


async def test_marked_ticks_carry_their_time_and_number(clocked: Gateway, clock: ManualClock) -> None:
    """The price of a marked tick is the clock at sending, its size counts."""
    client = await ready(clocked)
    quote(client, 1)
    await client.until("45", "6", "1")
    clocked.mark()
    clock.advance(3)
    found = [await client.until("1", "6", "1", "4") for _ in range(4)]

    assert [int(f[5]) for f in found] == [1, 2, 3, 4]
    assert [float(f[4]) for f in found] == pytest.approx([0.5, 1.0, 1.5, 2.0], abs=0.11)


async def test_the_day_of_a_line_follows_its_trades(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    quote(client, 1)
    day = {kind: float((await client.until("1", "6", "1", kind))[4]) for kind in ("6", "7")}
    volume = clocked.world.quote(clocked.world.catalogue.named("AAPL"), clock.time()).volume
    for price in (500.0, 50.0):
        clocked.pin("AAPL", price)
        clock.advance(8)
    client.send(49, 1)
    trades, volumes = [], []
    while (fields := await client.read())[0] != "49":
        if fields[0] == "1" and fields[3] in day:
            day[fields[3]] = float(fields[4])
        elif fields[0] == "1" and fields[3] == "4":
            trades.append(float(fields[4]))
        elif fields[0] == "2" and fields[3] == "8":
            volumes.append(int(fields[4]))

    assert min(trades) < 51 < 499 < max(trades)
    assert (day["7"], day["6"]) == (min(trades), max(trades))
    assert volume < volumes[0] < volumes[-1]
    assert volumes == sorted(volumes)


async def test_a_new_day_has_its_own_high_and_low() -> None:
    clock = ManualClock(start=1_763_423_990)  # ten seconds to midnight, UTC
    async with Gateway(World(), clock=clock) as gateway:
        client = await ready(gateway)
        quote(client, 1)
        await client.until("45", "6", "1")
        gateway.pin("AAPL", 100.0)
        clock.advance(9)
        gateway.quiet()
        client.send(49, 1)
        await client.until("49")
        clock.advance(2)
        gateway.quiet(on=False)
        clock.advance(8)

        trade = (await client.until("1", "6", "1", "4"))[4]
        assert (await client.read())[3:5] == ["6", trade]
        assert (await client.read())[3:5] == ["7", trade]


async def test_lines_end_with_their_client(gateway: Gateway, connect: Connect) -> None:
    ib = await connect()
    [contract] = await ib.qualifyContractsAsync(ib.positions()[0].contract)
    ib.reqMktData(contract)
    await until(lambda: gateway.quotes.by_contract())
    ib.disconnect()
    await until(lambda: not gateway.sessions)

    assert gateway.quotes.by_contract() == {}


async def test_bars_that_are_kept_up_to_date_move_and_begin_again(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    client.send(20, 1, *APPLE, 0, "", "5 secs", "60 S", 0, "TRADES", 2, 1, "")
    client.send(50, 3, 2, *APPLE, 5, "TRADES", 0, "")
    last = (await client.until("17", "1"))[-8]
    await until(lambda: len(clocked.ready_sessions()[0].subscriptions.bars) == 2)
    updates, real_time = [], []
    for _ in range(12):
        clock.advance(1)
        while (fields := await client.read())[0] != "90":
            real_time.append(int(fields[3]))
        updates.append(int(fields[3]))

    assert updates == sorted(updates)
    assert updates[0] - int(last) in (0, 5)
    assert len(set(updates)) in (3, 4)
    assert [b - a for a, b in itertools.pairwise(real_time)] == [5] * (len(real_time) - 1)
    assert len(real_time) >= 2
