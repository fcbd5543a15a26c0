"""Faults that users of other clients reported in public, played on this one: each is named for its thread."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from daemon.link.windows import calendar
from daemon.simulator import Gateway, World, messages, trading
from shared.messages import Fill, Order, Position, Quote
from tests.stories import Story, story
from tests.waiting import refused, until

AAPL, IBM, BITCOIN = 265598, 8314, 479_624_278
ACCOUNT = "DU1234567"


def orders(scene: Story) -> dict[int, Order]:
    return {row.permId: row for row in scene.store.rows("orders").values() if isinstance(row, Order)}


def fills(scene: Story) -> dict[str, Fill]:
    return {key: row for key, row in scene.store.rows("fills").items() if isinstance(row, Fill)}


def quote(scene: Story, con_id: int) -> Quote | None:
    row = scene.store.row(f"quotes:{con_id}", str(con_id))
    return row if isinstance(row, Quote) else None


async def test_ib_async_207_one_end_of_the_socket_is_one_loss() -> None:
    async with story() as scene:
        scene.gateway.drop()
        await until(lambda: scene.row.session == 2 and scene.is_in("ready"))

        assert scene.link.counters.losses == {"socketLost": 1}
        assert [gap.cause for gap in scene.gaps] == ["socketLost"]


async def test_ib_async_217_a_warning_with_an_orders_id_cancels_nothing() -> None:
    """10349 comes with the id of an order that lives on and is filled."""
    async with story() as scene:
        perm_id = scene.gateway.place("AAPL", 10, 100.0, client_id=1)
        await until(lambda: perm_id in orders(scene))
        order_id = orders(scene)[perm_id].orderId
        scene.gateway.send_error(10349, "Order TIF was set to DAY based on order preset.", req_id=order_id or 0)
        scene.gateway.send_error(10349, "Order TIF was set to DAY based on order preset.", req_id=order_id or 0)
        await until(lambda: any(getattr(row, "code", 0) == 10349 for row in scene.store.rows("notices").values()))
        assert (orders(scene)[perm_id].status, orders(scene)[perm_id].done) == ("Submitted", False)

        scene.gateway.pin("AAPL", 90.0)
        trading.publish(scene.gateway, scene.gateway.world.meet_market(scene.gateway.clock.time()))
        await until(lambda: orders(scene)[perm_id].done)

        assert (orders(scene)[perm_id].status, orders(scene)[perm_id].filled) == ("Filled", 10)
        assert sum(getattr(row, "code", 0) == 10349 for row in scene.store.rows("notices").values()) == 1


async def test_ib_async_223_a_new_line_shows_nothing_of_the_old_one() -> None:
    async with story() as scene:
        scene.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: (shown := quote(scene, AAPL)) is not None and shown.last is not None)
        scene.market.unwatch(f"quotes:{AAPL}", "a reader")
        await scene.clock.pass_(60)
        await until(lambda: not scene.gateway.quotes.by_contract())
        scene.gateway.no_prices(AAPL)
        scene.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: scene.gateway.quotes.by_contract() == {AAPL: 1})
        scene.gateway.tick(AAPL, bid=200.0, size=3)
        await until(lambda: (shown := quote(scene, AAPL)) is not None and shown.bid == 200.0)

        shown = quote(scene, AAPL)
        assert shown is not None
        assert (shown.last, shown.ask, shown.open, shown.high, shown.low, shown.close) == (None,) * 6


async def test_lean_ib_258_1100_in_the_reset_window_and_no_end_of_it() -> None:
    """833 repeats over 15 hours: one gap under way, a handful of lines, and after the window it is not expected."""
    night = datetime(2025, 11, 18, 5, 0, tzinfo=UTC)  # 00:00 in New York
    async with story(wall=night, calendar=calendar()) as scene:
        before = len(scene.lines)
        scene.gateway.lose_upstream()
        await scene.becomes("upstreamLost", "upstreamLost")
        for _ in range(833):
            scene.gateway.send_error(1100)
        await scene.clock.pass_(60)
        for _ in range(15):
            scene.clock.asleep(3600)
            scene.gateway.send_error(1100)
            await scene.clock.pass_(6)

        assert scene.is_in("upstreamLost", "upstreamLost")
        assert not scene.row.expected.active
        assert scene.dials == 1
        assert sum("seconds=3600" not in line for line in scene.lines[before:]) <= 10  # those are of the clock's leaps
        scene.gateway.restore_upstream()
        await until(lambda: scene.gaps)
        assert len(scene.gaps) == 1


async def test_nautilus_4455_a_drop_inside_an_answer_is_not_remembered() -> None:
    async with story() as scene:
        scene.gateway.close_during("contractDetails", after=0)
        caught = await refused(scene.market.contracts.details(IBM))
        assert caught.reason in ("upstreamLost", "notConnected", "socketLost")
        await until(lambda: scene.row.session == 2 and scene.is_in("ready"))

        found = await scene.market.contracts.details(IBM)
        assert [row.conId for row in found.rows] == [IBM]


async def test_nautilus_3465_orders_by_hand_are_distinguished_by_their_perm_ids() -> None:
    async with story() as scene:
        placed = {scene.gateway.place("MSFT", number, 50.0 + number, client_id=0) for number in (1, 2, 3)}
        await scene.clock.pass_(31)
        await until(lambda: placed <= set(orders(scene)))

        assert [orders(scene)[perm_id].orderId for perm_id in sorted(placed)] == [0, 0, 0]
        assert [orders(scene)[perm_id].totalQuantity for perm_id in sorted(placed)] == [1, 2, 3]


async def test_nautilus_4276_an_order_id_used_again_leaves_each_fill_with_its_order() -> None:
    async with story() as scene:
        scene.gateway.world.next_order_id = 500
        first = scene.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: first.execId in fills(scene))
        scene.gateway.drop()
        await until(lambda: scene.row.session == 2 and scene.is_in("ready"))
        scene.gateway.world.next_order_id = 500
        second = scene.gateway.fill("MSFT", 20, client_id=1)
        await until(lambda: second.execId in fills(scene))

        for fill in (first, second):
            assert fills(scene)[fill.execId].orderId == 500
            assert fills(scene)[fill.execId].permId == fill.permId
            assert orders(scene)[fill.permId].filled == fill.shares


async def test_ibx_128_positions_before_the_account_list_are_not_lost() -> None:
    async with story(before=Gateway.no_accounts, connected=False) as scene:
        await until(lambda: scene.gateway.ready_sessions())
        for held in scene.gateway.world.held():
            scene.gateway.raw(messages.position(held))
        scene.gateway.behave()
        scene.gateway.raw(messages.managed_accounts(scene.gateway.world.managed))
        await scene.becomes("ready")

        assert len(scene.store.rows("positions")) == len(scene.gateway.world.held()) == 25


async def test_ibx_166_profit_and_loss_that_does_not_come_is_unknown() -> None:
    """IBKR sends none until there is a position; that is not a profit of 0."""
    async with story(world=World(positions=0), before=lambda it: it.mute("pnL"), connected=False, timeout=0.4) as scene:
        await scene.becomes("ready")
        assert not scene.sync("pnl").known
        assert not scene.store.rows("pnl")


@pytest.mark.parametrize("currencies", list(itertools.permutations(("HKD", "USD", "BASE"))))
async def test_openalice_295_one_tag_in_three_currencies_is_three_rows(currencies: tuple[str, ...]) -> None:
    async with story(world=World(positions=1)) as scene:
        for number, currency in enumerate(currencies, start=1):
            scene.gateway.raw(messages.account_value(ACCOUNT, "NetDividend", f"{number}.00", currency))
        scene.gateway.farm(2104, "theend")
        await until(lambda: "theend" in scene.row.farms)

        shown = {currency: scene.store.row("summary", f"{ACCOUNT}:NetDividend:{currency}") for currency in currencies}
        assert [getattr(shown[currency], "value", None) for currency in currencies] == ["1.00", "2.00", "3.00"]


async def test_rust_ibapi_716_half_a_bitcoin_is_half_a_bitcoin() -> None:
    async with story() as scene:
        scene.market.watch(f"quotes:{BITCOIN}", "a reader")
        await until(lambda: scene.gateway.quotes.by_contract() == {BITCOIN: 1})
        scene.gateway.tick(BITCOIN, bid=67_000.0, size=0.5)
        await until(lambda: (shown := quote(scene, BITCOIN)) is not None and shown.bid == 67_000.0)

        shown = quote(scene, BITCOIN)
        assert shown is not None
        assert shown.bidSize == 0.5


async def test_thetagang_470_positions_of_two_accounts_are_two_rows() -> None:
    async with story(world=World(accounts=2, positions=0)) as scene:
        first, second = scene.gateway.world.accounts
        for account, quantity in ((first, 10), (second, -5)):
            scene.gateway.fill("AAPL", quantity, 200.0, account=account)
        await until(lambda: len(scene.store.rows("positions")) == 2)

        held = [row for row in scene.store.rows("positions").values() if isinstance(row, Position)]
        assert {(row.account, row.position) for row in held} == {(first, 10.0), (second, -5.0)}
