"""IBKR behind the gateway comes and goes: what stays, what is forgotten, and what is never sent twice."""

from __future__ import annotations

import asyncio

import ib_async
import pytest
from ib_async.wrapper import RequestError

from daemon.simulator import Gateway, ManualClock, World
from tests.daemon.simulator.waiting import APPLE, Connect, quote, ready
from tests.waiting import until


async def test_a_lost_upstream_sends_1100_and_lets_ticks_and_requests_hang(
    clocked: Gateway, clock: ManualClock
) -> None:
    client = await ready(clocked)
    quote(client, 1)
    await client.until("46")
    await client.until("45")
    clocked.lose_upstream()
    assert (await client.until("4"))[2:4] == ["-1", "1100"]

    clock.advance(10)
    client.send(9, 8, 2, *APPLE, 0, "", "", "")
    client.send(61, 1)
    client.send(49, 1)

    assert (await client.read())[0] == "49"
    assert await client.silent()


async def test_1102_keeps_streams_and_1101_forgets_them(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    quote(client, 1)
    client.send(50, 3, 2, *APPLE, 5, "TRADES", 0, "")
    await until(lambda: clocked.quotes.lines and len(clocked.ready_sessions()[0].subscriptions.bars) == 1)
    clocked.lose_upstream()
    clocked.restore_upstream()
    assert "All data farms are connected" in (await client.until("4", "2", "-1", "1102"))[4]
    clock.advance(6)
    await client.until("50")

    clocked.lose_upstream()
    clocked.restore_upstream(data_lost=True)
    await client.until("4", "2", "-1", "1101")
    clock.advance(20)
    assert await client.silent()
    assert not clocked.quotes.lines
    quote(client, 1)
    assert (await client.read())[0] == "58"


async def test_an_outage_can_answer_with_nothing_or_with_its_own_code(gateway: Gateway, connect: Connect) -> None:
    """`empty`: lists without rows and 200; `per_request`: 1100 with the request's id, the unanswered ones too."""
    ib = await connect()
    ib.errorEvent -= ib._onError  # it requests the account summary at every 1102 and never looks at the answer
    gateway.lose_upstream(answers="empty")
    assert await ib.reqExecutionsAsync() == []
    assert await ib.reqAllOpenOrdersAsync() == []
    with pytest.raises(RequestError) as refused:
        await ib.reqContractDetailsAsync(ib_async.Stock("AAPL", "SMART", "USD"))
    assert refused.value.code == 200

    gateway.restore_upstream()
    gateway.mute("contractDetails")
    hanging = asyncio.ensure_future(ib.reqContractDetailsAsync(ib_async.Stock("AAPL", "SMART", "USD")))
    await until(lambda: any(s.unanswered for s in gateway.sessions))
    gateway.lose_upstream(per_request=True)
    with pytest.raises(RequestError) as interrupted:
        await hanging
    assert interrupted.value.code == 1100
    with pytest.raises(RequestError) as later:
        await ib.reqHistoricalDataAsync(ib.positions()[0].contract, "", "1 D", "1 hour", "TRADES", True)
    assert later.value.code == 1100


async def test_what_the_gateway_knew_can_still_be_read_during_an_outage(gateway: Gateway, connect: Connect) -> None:
    """`cached`: positions and orders are answered from memory, contracts hang."""
    ib = await connect()
    gateway.lose_upstream(answers="cached")

    assert len(await ib.reqPositionsAsync()) == 25
    assert len(await ib.reqAllOpenOrdersAsync()) == 3


async def test_a_fill_is_sent_live_to_its_client_alone(gateway: Gateway, connect: Connect) -> None:
    mine, other = await connect(client_id=1), await connect(client_id=2)
    received: list[str] = []
    mine.execDetailsEvent += lambda _trade, fill: received.append(fill.execution.execId)

    fill = gateway.fill("TSLA", 50, 321.5)
    await until(lambda: received)
    await until(lambda: any(p.contract.symbol == "TSLA" and p.avgCost for p in other.positions()))

    assert received == [fill.execId]
    assert fill.execId not in {f.execution.execId for f in other.fills()}
    assert fill.execId in {f.execution.execId for f in await other.reqExecutionsAsync()}


async def test_a_correction_has_the_next_number_and_commission_may_come_later() -> None:
    """execId .01 becomes .02; a commission report is its own message at its own time."""
    clock = ManualClock()
    async with Gateway(World(), clock=clock, commission_delay=3) as gateway:
        client = await ready(gateway)
        fill = gateway.fill("AAPL", 10, 200)
        assert (await client.until("11"))[14] == fill.execId
        assert await client.silent()
        clock.advance(3)
        assert (await client.until("59"))[2] == fill.execId

        corrected = gateway.correct_fill(fill.execId, 201)

        assert fill.execId.endswith(".01")
        assert corrected.execId == fill.execId[:-3] + ".02"
        execution = await client.until("11")
        assert (execution[14], execution[20]) == (corrected.execId, "201")


async def test_a_farm_blip_kills_bar_streams_for_good(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    client.send(50, 3, 2, *APPLE, 5, "TRADES", 0, "")
    await until(lambda: clocked.ready_sessions()[0].subscriptions.bars)
    clocked.farm_blip()
    assert [(await client.read())[2:4] for _ in range(3)] == [["-1", "2105"], ["2", "10182"], ["-1", "2106"]]
    clock.advance(60)
    assert await client.silent()


@pytest.mark.parametrize("code", [2103, 2104, 2105, 2106, 2107, 2108, 2119, 2157, 2158])
async def test_farm_notices_name_their_farm_in_the_words_of_the_wire(gateway: Gateway, code: int) -> None:
    client = await ready(gateway)
    gateway.farm(code, "eufarm")

    said = (await client.read())[4]
    assert said.endswith(".eufarm" if code in (2107, 2108) else ":eufarm")


async def test_a_moved_port_is_named_before_the_connection_ends(gateway: Gateway) -> None:
    client = await ready(gateway)
    gateway.move_port(4711)

    said = await client.read()
    assert (said[3], said[4].rsplit(maxsplit=1)[-1]) == ("1300", "4711")
    assert await client.rest() == b""


async def test_the_nightly_reset_repeats_itself_and_ends(clocked: Gateway, clock: ManualClock) -> None:
    client = await ready(clocked)
    clocked.nightly_reset(for_s=15, every_s=5)
    clock.advance(15)
    codes = [(await client.read())[3] for _ in range(10)]

    assert codes == ["1100", "2103", "2105", "2157", "1100", "1100", "1102", "2104", "2106", "2158"]


async def test_farms_that_stay_broken_are_named(gateway: Gateway) -> None:
    """1102 does not have to mean that all is well."""
    client = await ready(gateway)
    gateway.lose_upstream()
    gateway.restore_upstream(broken="eufarm; cashfarm")

    said = await client.until("4", "2", "-1", "1102")
    assert said[4].endswith("data maintained. The following farms are not connected: eufarm; cashfarm.")


async def test_orders_made_by_hand_are_bound_to_client_0_alone(gateway: Gateway) -> None:
    client, other = await ready(gateway, 0), await ready(gateway, 5)
    client.send(15, 1, 1)
    _, perm_id, client_id, order_id = await client.until("100")
    client.send(4, 1, order_id, "")
    await client.until("3", order_id, "Cancelled")
    other.send(15, 1, 1)

    assert (client_id, int(order_id) < 0) == ("0", True)
    assert gateway.world.orders[int(perm_id)].status == "Cancelled"
    assert (await other.until("4"))[3] == "321"


async def test_an_execution_by_hand_has_the_unset_order_id(gateway: Gateway) -> None:
    """TWS writes the largest integer where an order was not placed by an API client."""
    fill = gateway.fill("AAPL", 5, client_id=0)
    client = await ready(gateway)
    client.send(7, 3, 1, 0, "", "", "", "", "", "")
    rows = {row[14]: row for row in [await client.until("11") for _ in gateway.world.fills]}

    assert (rows[fill.execId][2], rows[fill.execId][22]) == ("2147483647", "0")
