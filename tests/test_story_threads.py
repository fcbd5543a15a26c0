"""Faults that users of other clients reported in public, played on this one: each is named for its thread."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from daemon.link.windows import calendar
from daemon.simulator import Gateway, World, messages, trading
from shared.messages import Fill, Order, Position, Quote
from shared.reasons import Problem
from tests.stories import Story, story
from tests.waiting import until

AAPL, IBM, SPY, BITCOIN = 265598, 8314, 756733, 479_624_278
ACCOUNT = "DU1234567"


def orders(told: Story) -> dict[int, Order]:
    return {row.permId: row for row in told.store.rows("orders").values() if isinstance(row, Order)}


def fills(told: Story) -> dict[str, Fill]:
    return {key: row for key, row in told.store.rows("fills").items() if isinstance(row, Fill)}


def quote(told: Story, con_id: int) -> Quote | None:
    row = told.store.row(f"quotes:{con_id}", str(con_id))
    return row if isinstance(row, Quote) else None


async def test_ib_async_207_one_end_of_the_socket_is_one_loss() -> None:
    async with story() as told:
        told.gateway.drop()
        await until(lambda: told.row.session == 2 and told.says("ready"))

        assert told.link.counters.losses == {"socketLost": 1}
        assert [gap.cause for gap in told.gaps] == ["socketLost"]


async def test_ib_async_217_a_warning_with_an_orders_id_cancels_nothing() -> None:
    """10349 comes with the id of an order that lives on and is filled."""
    async with story() as told:
        perm_id = told.gateway.place("AAPL", 10, 100.0, client_id=1)
        await until(lambda: perm_id in orders(told))
        order_id = orders(told)[perm_id].orderId
        told.gateway.say(10349, "Order TIF was set to DAY based on order preset.", req_id=order_id or 0)
        told.gateway.say(10349, "Order TIF was set to DAY based on order preset.", req_id=order_id or 0)
        await until(lambda: any(getattr(row, "code", 0) == 10349 for row in told.store.rows("notices").values()))
        assert (orders(told)[perm_id].status, orders(told)[perm_id].done) == ("Submitted", False)

        told.gateway.pin("AAPL", 90.0)
        trading.publish(told.gateway, told.gateway.world.meet_market(told.gateway.clock.time()))
        await until(lambda: orders(told)[perm_id].done)

        assert (orders(told)[perm_id].status, orders(told)[perm_id].filled) == ("Filled", 10)
        assert sum(getattr(row, "code", 0) == 10349 for row in told.store.rows("notices").values()) == 1


async def test_ib_async_223_a_new_line_shows_nothing_of_the_old_one() -> None:
    async with story() as told:
        told.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: (shown := quote(told, AAPL)) is not None and shown.last is not None)
        told.market.unwatch(f"quotes:{AAPL}", "a reader")
        await told.clock.pass_(60)
        await until(lambda: not told.gateway.quotes.by_contract())
        told.gateway.no_prices(AAPL)
        told.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: told.gateway.quotes.by_contract() == {AAPL: 1})
        told.gateway.tick(AAPL, bid=200.0, size=3)
        await until(lambda: (shown := quote(told, AAPL)) is not None and shown.bid == 200.0)

        shown = quote(told, AAPL)
        assert shown is not None
        assert (shown.last, shown.ask, shown.open, shown.high, shown.low, shown.close) == (None,) * 6


async def test_lean_ib_258_1100_in_the_reset_window_and_no_end_of_it() -> None:
    """833 repeats over 15 hours: one gap under way, a handful of lines, and after the window it is not expected."""
    night = datetime(2025, 11, 18, 5, 0, tzinfo=UTC)  # 00:00 in New York
    async with story(wall=night, calendar=calendar()) as told:
        before = len(told.lines)
        told.gateway.lose_upstream()
        await told.becomes("upstreamLost", "upstreamLost")
        for _ in range(833):
            told.gateway.say(1100)
        await told.clock.pass_(60)
        for _ in range(15):
            told.clock.asleep(3600)
            told.gateway.say(1100)
            await told.clock.pass_(6)

        assert told.says("upstreamLost", "upstreamLost")
        assert not told.row.expected.active
        assert told.dials == 1
        assert sum("seconds=3600" not in line for line in told.lines[before:]) <= 10  # those are of the clock's leaps
        told.gateway.restore_upstream()
        await until(lambda: told.gaps)
        assert len(told.gaps) == 1


async def test_nautilus_4412_sixty_farm_flaps_leave_one_session_and_live_streams() -> None:
    async with story() as told:
        told.market.watch(f"bars:{AAPL}:1min", "a reader")
        told.market.watch(f"quotes:{SPY}", "a reader")
        await until(lambda: told.market.streams().live == 2)
        for _ in range(60):
            told.gateway.farm_blip()
            await told.clock.pass_(5)
        await told.clock.pass_(30)
        await until(lambda: told.market.streams().live == 2)

        assert told.dials == 1
        assert told.phases == [("connecting", None), ("syncing", None), ("ready", None)]


async def test_nautilus_4455_a_drop_inside_an_answer_is_not_remembered() -> None:
    async with story() as told:
        told.gateway.close_during("contractDetails", after=0)
        with pytest.raises(Problem) as caught:
            await told.market.contracts.details(IBM)
        assert caught.value.reason in ("upstreamLost", "notConnected", "socketLost")
        await until(lambda: told.row.session == 2 and told.says("ready"))

        found = await told.market.contracts.details(IBM)
        assert [row.conId for row in found.rows] == [IBM]


async def test_nautilus_3465_orders_by_hand_are_told_apart_by_their_perm_ids() -> None:
    async with story() as told:
        placed = {told.gateway.place("MSFT", number, 50.0 + number, client_id=0) for number in (1, 2, 3)}
        await told.clock.pass_(31)
        await until(lambda: placed <= set(orders(told)))

        assert [orders(told)[perm_id].orderId for perm_id in sorted(placed)] == [0, 0, 0]
        assert [orders(told)[perm_id].totalQuantity for perm_id in sorted(placed)] == [1, 2, 3]


async def test_nautilus_4276_an_order_id_used_again_leaves_each_fill_with_its_order() -> None:
    async with story() as told:
        told.gateway.world.next_order_id = 500
        first = told.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: first.execId in fills(told))
        told.gateway.drop()
        await until(lambda: told.row.session == 2 and told.says("ready"))
        told.gateway.world.next_order_id = 500
        second = told.gateway.fill("MSFT", 20, client_id=1)
        await until(lambda: second.execId in fills(told))

        for fill in (first, second):
            assert fills(told)[fill.execId].orderId == 500
            assert fills(told)[fill.execId].permId == fill.permId
            assert orders(told)[fill.permId].filled == fill.shares


async def test_ibx_128_positions_before_the_account_list_are_not_lost() -> None:
    async with story(before=Gateway.no_accounts, connected=False) as told:
        await until(lambda: told.gateway.ready_sessions())
        for held in told.gateway.world.held():
            told.gateway.raw(messages.position(held))
        told.gateway.behave()
        told.gateway.raw(messages.managed_accounts(told.gateway.world.managed))
        await told.becomes("ready")

        assert len(told.store.rows("positions")) == len(told.gateway.world.held()) == 25


async def test_ibx_166_profit_and_loss_that_does_not_come_is_unknown() -> None:
    """IBKR sends none until there is a position; that is not a profit of 0."""
    async with story(world=World(positions=0), before=lambda it: it.mute("pnL"), connected=False, timeout=0.4) as told:
        await told.becomes("ready")
        assert not told.sync("pnl").known
        assert not told.store.rows("pnl")


@pytest.mark.parametrize("currencies", list(itertools.permutations(("HKD", "USD", "BASE"))))
async def test_openalice_295_one_tag_in_three_currencies_is_three_rows(currencies: tuple[str, ...]) -> None:
    async with story(world=World(positions=1)) as told:
        for number, currency in enumerate(currencies, start=1):
            told.gateway.raw(messages.account_value(ACCOUNT, "NetDividend", f"{number}.00", currency))
        told.gateway.farm(2104, "theend")
        await until(lambda: "theend" in told.row.farms)

        shown = {currency: told.store.row("summary", f"{ACCOUNT}:NetDividend:{currency}") for currency in currencies}
        assert [getattr(shown[currency], "value", None) for currency in currencies] == ["1.00", "2.00", "3.00"]


async def test_rust_ibapi_716_half_a_bitcoin_is_half_a_bitcoin() -> None:
    async with story() as told:
        told.market.watch(f"quotes:{BITCOIN}", "a reader")
        await until(lambda: told.gateway.quotes.by_contract() == {BITCOIN: 1})
        told.gateway.tick(BITCOIN, bid=67_000.0, size=0.5)
        await until(lambda: (shown := quote(told, BITCOIN)) is not None and shown.bid == 67_000.0)

        shown = quote(told, BITCOIN)
        assert shown is not None
        assert shown.bidSize == 0.5


async def test_thetagang_470_positions_of_two_accounts_are_two_rows() -> None:
    async with story(world=World(accounts=2, positions=0)) as told:
        first, second = told.gateway.world.accounts
        for account, quantity in ((first, 10), (second, -5)):
            told.gateway.fill("AAPL", quantity, 200.0, account=account)
        await until(lambda: len(told.store.rows("positions")) == 2)

        held = [row for row in told.store.rows("positions").values() if isinstance(row, Position)]
        assert {(row.account, row.position) for row in held} == {(first, 10.0), (second, -5.0)}
