"""What is known after a gap, and what is not: unknown is never empty, stale is never current (FAULTS 31–43)."""

from __future__ import annotations

import pytest

from daemon.simulator import Gateway, World
from shared.messages import BROKER_TOPICS, Fill, Order
from tests.stories import Story, story
from tests.waiting import until

AAPL, MSFT, SPY = 265598, 272093, 756733


def fills(told: Story) -> dict[str, Fill]:
    return {key: row for key, row in told.store.rows("fills").items() if isinstance(row, Fill)}


def orders(told: Story) -> dict[str, Order]:
    return {key: row for key, row in told.store.rows("orders").items() if isinstance(row, Order)}


# --- 31 -------------------------------------------------------------------------------------------------------------


async def test_31_fills_of_an_outage_of_the_socket_are_recovered_and_named_in_the_gap() -> None:
    """In the order of their execution, marked for ever, and only those."""
    async with story() as told:
        known = set(fills(told))
        told.gateway.fill("MSFT", 10)
        await until(lambda: len(fills(told)) == len(known) + 1)
        live = set(fills(told)) - known
        told.gateway.refuse()
        told.gateway.drop()
        await told.becomes("waiting", "portClosed")
        first, second = told.gateway.fill("AAPL", 100), told.gateway.fill("AAPL", -40)
        await told.gateway.listen()
        await told.clock.pass_(0.6)
        await told.becomes("ready")
        await until(lambda: told.gaps)

        assert told.gaps[0].recovered.fills == (first.execId, second.execId)
        assert [fills(told)[fill.execId].recovered for fill in (first, second)] == [True, True]
        assert not any(fills(told)[key].recovered for key in live), "what was seen as it happened stays so"


async def test_31_fills_that_ibkr_holds_back_while_upstream_is_lost_are_recovered_after_1102() -> None:
    async with story() as told:
        told.gateway.lose_upstream(1100)
        await told.becomes("upstreamLost", "upstreamLost")
        fill = told.gateway.fill("AAPL", 100)
        assert fill.execId not in fills(told)
        told.gateway.restore_upstream()
        await until(lambda: told.gaps)

        assert told.gaps[0].recovered.fills == (fill.execId,)
        assert fills(told)[fill.execId].recovered


# --- 32, 34, 40: lists that are not told to their end ---------------------------------------------------------------


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
async def test_32_and_40_a_list_without_its_end_is_unknown_and_asked_again(
    fault: object, kind: str, topic: str
) -> None:
    """The link becomes ready without it, says so, and asks again every 10 s until it is told."""
    async with story(before=lambda gateway: fault(gateway, kind), connected=False, timeout=0.4) as told:  # type: ignore[operator]
        await told.becomes("ready")
        assert not told.sync(topic).known
        assert all(told.sync(other).known for other in BROKER_TOPICS if other != topic)
        told.gateway.unmute(kind)
        await told.clock.pass_(10.2)
        await until(lambda: told.sync(topic).known)

        assert told.says("ready")
        assert told.dials == 1
        assert told.store.rows(topic)


async def test_32_after_a_gap_a_list_that_does_not_come_stays_stale_and_is_named() -> None:
    """The rows from before are kept, marked old, never shown as current and never emptied."""
    async with story(timeout=0.4) as told:
        before = dict(told.store.rows("positions"))
        assert len(before) == 25
        told.gateway.mute("positions")
        told.gateway.drop()
        await until(lambda: told.gaps)

        assert dict(told.store.rows("positions")) == before
        assert (told.sync("positions").known, told.sync("positions").stale) == (True, True)
        assert told.gaps[0].unrecovered == ("positions",)
        told.gateway.unmute("positions")
        await told.clock.pass_(10.2)
        await until(lambda: not told.sync("positions").stale)


async def test_34_a_snapshot_cut_off_by_a_loss_is_thrown_away() -> None:
    """Half a list is nobody's list."""
    async with story(before=lambda it: it.close_during("positions", after=7), connected=False) as told:
        seen: set[int] = set()
        told.store.on_step.append(lambda: seen.add(len(told.store.rows("positions"))))
        await until(lambda: told.dials == 2)
        await told.becomes("ready")

        assert len(told.store.rows("positions")) == 25
        assert seen == {0, 25}


async def test_34_after_a_loss_in_the_second_snapshot_the_first_one_stays_whole() -> None:
    async with story(timeout=0.4) as told:
        told.gateway.close_during("positions", after=7, times=1)
        seen: set[int] = set()
        told.store.on_step.append(lambda: seen.add(len(told.store.rows("positions"))))
        told.gateway.drop()
        await until(lambda: told.row.session >= 3)
        await told.clock.pass_(2)
        await told.becomes("ready")

        assert seen == {25}


# --- 33 -------------------------------------------------------------------------------------------------------------


async def test_33_rows_survive_a_loss_marked_stale_and_are_swapped_when_read_again() -> None:
    async with story() as told:
        before = dict(told.store.rows("positions"))
        told.gateway.refuse()
        told.gateway.drop()
        await told.becomes("waiting", "portClosed")
        assert dict(told.store.rows("positions")) == before
        assert all(told.sync(topic).stale for topic in BROKER_TOPICS)
        told.gateway.fill("AAPL", 1000)
        await told.gateway.listen()
        await told.clock.pass_(0.6)
        await told.becomes("ready")

        assert not any(told.sync(topic).stale for topic in BROKER_TOPICS)
        assert dict(told.store.rows("positions")) != before


# --- 37 and 39 ------------------------------------------------------------------------------------------------------


async def test_37_orders_of_other_clients_and_by_hand_are_seen_and_seen_again() -> None:
    """All clients' orders from the start; one that another client places later within 30 s, without a word to us."""
    async with story() as told:
        placed = {order.placedBy for order in orders(told).values() if not order.done}
        assert placed == {"thisClient", "otherClient", "manual"}
        perm_id = told.gateway.place("MSFT", 5, 100.0, client_id=9)
        assert str(perm_id) not in orders(told)
        await told.clock.pass_(31)
        await until(lambda: str(perm_id) in orders(told))

        assert orders(told)[str(perm_id)].placedBy == "otherClient"


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
    async with story() as told:
        own = next(order for order in orders(told).values() if order.placedBy == "thisClient" and not order.done)
        before = orders(told)
        told.gateway.say(code, text, req_id=own.orderId)
        await until(lambda: any(row.code == code for row in told.store.rows("notices").values()))  # type: ignore[attr-defined]

        assert orders(told) == before
        assert told.says("ready")


# --- 41 -------------------------------------------------------------------------------------------------------------


async def test_41_a_session_without_accounts_comes_by_itself_once_they_are_there() -> None:
    async with story(before=Gateway.no_accounts, connected=False, timeout=0.3) as told:
        await told.becomes("waiting", "sessionIncomplete")
        told.gateway.behave()

        await told.becomes("ready")
        assert told.dials == 1


# --- 42 -------------------------------------------------------------------------------------------------------------


async def test_42_after_many_reconnects_each_stream_is_there_once_and_each_tick_comes_once() -> None:
    async with story() as told:
        told.market.watch(f"quotes:{AAPL}", "one reader")
        told.market.watch(f"quotes:{AAPL}", "another")
        told.market.watch(f"quotes:{SPY}", "one reader")
        await until(lambda: told.gateway.quotes.by_contract() == {AAPL: 1, SPY: 1})
        for number in range(2, 6):
            await told.clock.pass_(40)
            told.gateway.drop()
            await until(lambda wanted=number: told.row.session == wanted and told.says("ready"))
            await until(lambda: told.gateway.quotes.by_contract() == {AAPL: 1, SPY: 1})

        assert told.asked("reqMktData") == 10
        await until(lambda: told.market.streams().live == 2)
        assert [gap.recovered.streams for gap in told.gaps] == [2] * 4
        told.gateway.tick(AAPL, last=123.0, size=1)
        await until(lambda: getattr(told.store.row(f"quotes:{AAPL}", str(AAPL)), "last", None) == 123.0)


# --- 43 -------------------------------------------------------------------------------------------------------------


async def test_43_there_is_never_a_second_connection() -> None:
    """One client id, one socket, whatever is asked for."""
    async with story(world=World(accounts=3)) as told:
        told.market.watch(f"bars:{AAPL}:1min", "a reader")
        told.market.watch(f"quotes:{MSFT}", "a reader")
        await until(lambda: told.market.streams().live == 2)

        assert set(told.gateway.client_ids) == {1}
        assert told.gateway.connections.now == 1
