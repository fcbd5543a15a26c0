"""What is known after a gap, and what is not: unknown is never empty, stale is never current (FAULTS 31–43)."""

from __future__ import annotations

import pytest

from daemon.simulator import Gateway, World
from shared.messages import BROKER_TOPICS, Fill, Order
from tests.stories import Story, story
from tests.waiting import until

AAPL, MSFT, SPY = 265598, 272093, 756733


def fills(scene: Story) -> dict[str, Fill]:
    return {key: row for key, row in scene.store.rows("fills").items() if isinstance(row, Fill)}


def orders(scene: Story) -> dict[str, Order]:
    return {key: row for key, row in scene.store.rows("orders").items() if isinstance(row, Order)}


# --- 31 -------------------------------------------------------------------------------------------------------------


async def test_31_fills_of_an_outage_of_the_socket_are_recovered_and_named_in_the_gap() -> None:
    """In the order of their execution, marked for ever, and only those."""
    async with story() as scene:
        known = set(fills(scene))
        scene.gateway.fill("MSFT", 10)
        await until(lambda: len(fills(scene)) == len(known) + 1)
        live = set(fills(scene)) - known
        scene.gateway.refuse()
        scene.gateway.drop()
        await scene.becomes("waiting", "portClosed")
        first, second = scene.gateway.fill("AAPL", 100), scene.gateway.fill("AAPL", -40)
        await scene.gateway.listen()
        await scene.clock.pass_(0.6)
        await scene.becomes("ready")
        await until(lambda: scene.gaps)

        assert scene.gaps[0].recovered.fills == (first.execId, second.execId)
        assert [fills(scene)[fill.execId].recovered for fill in (first, second)] == [True, True]
        assert not any(fills(scene)[key].recovered for key in live), "what was seen as it happened stays so"


async def test_31_fills_that_ibkr_holds_back_while_upstream_is_lost_are_recovered_after_1102() -> None:
    async with story() as scene:
        scene.gateway.lose_upstream(1100)
        await scene.becomes("upstreamLost", "upstreamLost")
        fill = scene.gateway.fill("AAPL", 100)
        assert fill.execId not in fills(scene)
        scene.gateway.restore_upstream()
        await until(lambda: scene.gaps)

        assert scene.gaps[0].recovered.fills == (fill.execId,)
        assert fills(scene)[fill.execId].recovered


# --- 32, 34, 40: lists without their end ---------------------------------------------------------------


@pytest.mark.parametrize("fault", [Gateway.mute, Gateway.withhold_end])
@pytest.mark.parametrize(
    ("kind", "topic"),
    [
        ("positions", "positions"),
        ("executions", "fills"),
        ("accountUpdates", "summary"),
        ("allOpenOrders", "orders"),
        ("completedOrders", "orders"),
    ],
)
async def test_32_and_40_a_list_without_its_end_is_unknown_and_requested_again(
    fault: object, kind: str, topic: str
) -> None:
    """The link becomes ready without it, says so, and requests it again every 10 s until it comes."""
    async with story(before=lambda gateway: fault(gateway, kind), connected=False, timeout=0.4) as scene:  # type: ignore[operator]
        await scene.becomes("ready")
        assert not scene.sync(topic).known
        await until(lambda: all(scene.sync(other).known for other in BROKER_TOPICS if other != topic))
        assert not scene.sync(topic).known
        scene.gateway.unmute(kind)
        await scene.clock.pass_(10.2)
        await until(lambda: scene.sync(topic).known)

        assert scene.is_in("ready")
        assert scene.dials == 1
        assert scene.store.rows(topic)


async def test_32_after_a_gap_a_list_that_does_not_come_stays_stale_and_is_named() -> None:
    """The rows from before are kept, marked old, never shown as current and never emptied."""
    async with story(timeout=0.4) as scene:
        before = dict(scene.store.rows("positions"))
        assert len(before) == 25
        scene.gateway.mute("positions")
        scene.gateway.drop()
        await until(lambda: scene.gaps)

        assert dict(scene.store.rows("positions")) == before
        assert (scene.sync("positions").known, scene.sync("positions").stale) == (True, True)
        assert scene.gaps[0].unrecovered == ("positions",)
        scene.gateway.unmute("positions")
        await scene.clock.pass_(10.2)
        await until(lambda: not scene.sync("positions").stale)


async def test_34_a_snapshot_cut_off_by_a_loss_is_thrown_away() -> None:
    """Half a list is not published."""
    async with story(before=lambda it: it.close_during("positions", after=7), connected=False) as scene:
        seen: set[int] = set()
        scene.store.on_step.append(lambda: seen.add(len(scene.store.rows("positions"))))
        await until(lambda: scene.dials == 2)
        await scene.becomes("ready")

        assert len(scene.store.rows("positions")) == 25
        assert seen == {0, 25}


async def test_34_after_a_loss_in_the_second_snapshot_the_first_one_stays_whole() -> None:
    async with story(timeout=0.4) as scene:
        scene.gateway.close_during("positions", after=7, times=1)
        seen: set[int] = set()
        scene.store.on_step.append(lambda: seen.add(len(scene.store.rows("positions"))))
        scene.gateway.drop()
        await until(lambda: scene.row.session >= 3)
        await scene.clock.pass_(2)
        await scene.becomes("ready")

        assert seen == {25}


# --- 33 -------------------------------------------------------------------------------------------------------------


async def test_33_rows_survive_a_loss_marked_stale_and_are_swapped_when_read_again() -> None:
    async with story() as scene:
        before = dict(scene.store.rows("positions"))
        scene.gateway.refuse()
        scene.gateway.drop()
        await scene.becomes("waiting", "portClosed")
        assert dict(scene.store.rows("positions")) == before
        assert all(scene.sync(topic).stale for topic in BROKER_TOPICS)
        scene.gateway.fill("AAPL", 1000)
        await scene.gateway.listen()
        await scene.clock.pass_(0.6)
        await scene.becomes("ready")

        assert not any(scene.sync(topic).stale for topic in BROKER_TOPICS)
        assert dict(scene.store.rows("positions")) != before


# --- 37 and 39 ------------------------------------------------------------------------------------------------------


async def test_37_orders_of_other_clients_and_by_hand_are_seen_and_seen_again() -> None:
    """All clients' orders from the start; one that another client places later within 30 s, without a word to us."""
    async with story() as scene:
        placed = {order.placedBy for order in orders(scene).values() if not order.done}
        assert placed == {"thisClient", "otherClient", "manual"}
        perm_id = scene.gateway.place("MSFT", 5, 100.0, client_id=9)
        assert str(perm_id) not in orders(scene)
        await scene.clock.pass_(31)
        await until(lambda: str(perm_id) in orders(scene))

        assert orders(scene)[str(perm_id)].placedBy == "otherClient"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (202, "Order Canceled - reason:"),
        (10147, "OrderId 100 that needs to be cancelled is not found."),
        (10148, "OrderId 100 that needs to be cancelled can not be cancelled, state: Filled."),
        (201, "Order rejected - reason:"),
        (103, "Duplicate order id"),
        (399, "Order message: warning"),
    ],
)
async def test_39_no_error_code_changes_an_order(code: int, text: str) -> None:
    """An order is what orderStatus and openOrder say; the code is a notice."""
    async with story() as scene:
        own = next(order for order in orders(scene).values() if order.placedBy == "thisClient" and not order.done)
        before = orders(scene)
        scene.gateway.send_error(code, text, req_id=own.orderId)
        await until(lambda: any(row.code == code for row in scene.store.rows("notices").values()))  # type: ignore[attr-defined]

        assert orders(scene) == before
        assert scene.is_in("ready")


# --- 41 -------------------------------------------------------------------------------------------------------------


async def test_41_a_session_without_accounts_comes_by_itself_once_they_are_there() -> None:
    async with story(before=Gateway.no_accounts, connected=False, timeout=0.3) as scene:
        await scene.becomes("waiting", "sessionIncomplete")
        scene.gateway.behave()

        await scene.becomes("ready")
        assert scene.dials == 1


# --- 42 -------------------------------------------------------------------------------------------------------------


async def test_42_after_many_reconnects_each_stream_is_there_once_and_each_tick_comes_once() -> None:
    async with story() as scene:
        scene.market.watch(f"quotes:{AAPL}", "one reader")
        scene.market.watch(f"quotes:{AAPL}", "another")
        scene.market.watch(f"quotes:{SPY}", "one reader")
        await until(lambda: scene.gateway.quotes.by_contract() == {AAPL: 1, SPY: 1})
        for number in range(2, 6):
            await scene.clock.pass_(40)
            scene.gateway.drop()
            await until(lambda wanted=number: scene.row.session == wanted and scene.is_in("ready"))
            await until(lambda: scene.gateway.quotes.by_contract() == {AAPL: 1, SPY: 1})

        assert scene.requested("reqMktData") == 10
        await until(lambda: scene.market.streams().live == 2)
        assert [gap.recovered.streams for gap in scene.gaps] == [2] * 4
        scene.gateway.tick(AAPL, last=123.0, size=1)
        await until(lambda: getattr(scene.store.row(f"quotes:{AAPL}", str(AAPL)), "last", None) == 123.0)


# --- 43 -------------------------------------------------------------------------------------------------------------


async def test_43_there_is_never_a_second_connection() -> None:
    """One client id, one socket, whatever is requested."""
    async with story(world=World(accounts=3)) as scene:
        scene.market.watch(f"bars:{AAPL}:1min", "a reader")
        scene.market.watch(f"quotes:{MSFT}", "a reader")
        await until(lambda: scene.market.streams().live == 2)

        assert set(scene.gateway.client_ids) == {1}
        assert scene.gateway.connections.now == 1
