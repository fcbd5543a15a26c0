"""An unmodified ib_async 2.1.0 finds in the simulated gateway what it finds in a real one."""

from __future__ import annotations

import logging
from datetime import date, datetime

import ib_async
import pytest

from daemon.simulator import Gateway, World
from tests.daemon.simulator.waiting import Connect
from tests.waiting import until


@pytest.fixture(autouse=True)
def nothing_undecodable(caplog: pytest.LogCaptureFixture) -> object:
    """ib_async logs what it cannot decode and goes on: here that fails the test."""
    yield
    bad = [r for r in caplog.records if r.name == "ib_async.Decoder" and r.levelno >= logging.ERROR]
    assert not bad


async def apple(ib: ib_async.IB) -> ib_async.Contract:
    [contract] = await ib.qualifyContractsAsync(ib_async.Stock("AAPL", "SMART", "USD"))
    assert contract is not None
    return contract


async def test_an_order_is_placed_filled_and_another_cancelled(gateway: Gateway, connect: Connect) -> None:
    ib = await connect()
    contract = await apple(ib)
    before = gateway.world.positions["DU1234567", contract.conId].position

    market = ib.placeOrder(contract, ib_async.MarketOrder("BUY", 300))
    resting = ib.placeOrder(contract, ib_async.LimitOrder("BUY", 10, 100.0))
    await until(lambda: market.isDone() and resting.orderStatus.status == "Submitted")
    ib.cancelOrder(resting.order)
    await until(resting.isDone)

    assert [fill.execution.shares for fill in market.fills] == [100, 200]
    assert market.orderStatus.status == "Filled"
    assert resting.orderStatus.status == "Cancelled"
    await until(lambda: [p.position for p in ib.positions() if p.contract.conId == contract.conId] == [before + 300])


async def test_an_order_comes_back_as_it_was_sent(connect: Connect) -> None:
    ib = await connect()
    contract = await apple(ib)
    order = ib_async.LimitOrder(
        "BUY",
        7,
        101.5,
        tif="GTC",
        orderRef="ref",
        outsideRth=True,
        algoStrategy="Adaptive",
        algoParams=[ib_async.TagValue("adaptivePriority", "Normal")],
        hedgeType="D",
        hedgeParam="5",
        scaleInitLevelSize=2,
        scalePriceIncrement=0.5,
        scaleAutoReset=True,
        conditions=[
            ib_async.PriceCondition(1, "a", True, 90.0, contract.conId, "SMART", 2),
            ib_async.TimeCondition(time="20301231 23:00:00 US/Eastern"),
            ib_async.ExecutionCondition(secType="STK", exch="SMART", symbol="MSFT"),
        ],
        conditionsCancelOrder=True,
        adjustedOrderType="STP",
        triggerPrice=80.0,
        cashQty=0.0,
    )

    placed = ib.placeOrder(contract, order)
    await until(lambda: placed.orderStatus.status == "Submitted")
    other = await connect(client_id=2)
    [seen] = [t for t in await other.reqAllOpenOrdersAsync() if t.order.permId == placed.order.permId]

    names = ["action", "totalQuantity", "lmtPrice", "tif", "orderRef", "outsideRth", "algoStrategy", "algoParams"]
    names += ["hedgeType", "hedgeParam", "scaleInitLevelSize", "scalePriceIncrement", "scaleAutoReset", "conditions"]
    names += ["adjustedOrderType", "triggerPrice"]
    assert {n: getattr(seen.order, n) for n in names} == {n: getattr(order, n) for n in names}
    assert seen.order.conditionsCancelOrder == 1


async def test_a_what_if_order_gives_its_margin_and_is_no_order(gateway: Gateway, connect: Connect) -> None:
    ib = await connect()
    contract = await apple(ib)
    orders = len(gateway.world.orders)

    state = await ib.whatIfOrderAsync(contract, ib_async.MarketOrder("BUY", 100))

    assert float(state.initMarginChange) > 0
    assert len(gateway.world.orders) == orders


async def test_a_line_begins_with_the_whole_picture_and_a_snapshot_leaves_none(
    gateway: Gateway, connect: Connect
) -> None:
    ib = await connect()
    [pair] = await ib.qualifyContractsAsync(ib_async.Forex("EURUSD"))
    [snapshot] = await ib.reqTickersAsync(pair)
    assert 0.5 < snapshot.bid < snapshot.ask < 2
    assert not gateway.quotes.lines

    ticker = ib.reqMktData(await apple(ib), "165,233,236,456")
    await until(lambda: ticker.bid > 0 and ticker.volume > 0 and ticker.close > 0)
    assert ticker.bid < ticker.ask
    assert ticker.low <= ticker.high
    assert (ticker.marketDataType, ticker.shortableShares > 0) == (1, True)


@pytest.mark.parametrize(
    ("span", "size", "count"),
    [
        ("1 D", "1 min", 390),
        ("2 D", "30 mins", 26),
        ("1 D", "1 hour", 7),
        ("3600 S", "5 secs", 720),
        ("1 W", "1 day", 5),
    ],
)
async def test_history_has_the_bars_of_its_sessions(connect: Connect, span: str, size: str, count: int) -> None:
    ib = await connect()

    bars = await ib.reqHistoricalDataAsync(await apple(ib), "20251112 20:00:00 US/Eastern", span, size, "TRADES", True)

    assert len(bars) == count
    assert all(bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high for bar in bars)
    assert [bar.date for bar in bars] == sorted(bar.date for bar in bars)


async def test_daily_bars_have_dates_and_intraday_bars_times(connect: Connect) -> None:
    ib = await connect()
    contract = await apple(ib)
    end = "20251112 20:00:00 US/Eastern"

    daily = await ib.reqHistoricalDataAsync(contract, end, "3 D", "1 day", "TRADES", True)
    local = await ib.reqHistoricalDataAsync(contract, end, "1 D", "1 hour", "TRADES", True)
    epoch = await ib.reqHistoricalDataAsync(contract, end, "1 D", "1 hour", "TRADES", True, formatDate=2)

    assert [bar.date for bar in daily] == [date(2025, 11, 10), date(2025, 11, 11), date(2025, 11, 12)]
    assert all(isinstance(bar.date, datetime) for bar in local)
    assert [bar.date for bar in local] == [bar.date for bar in epoch]


@pytest.mark.parametrize("version", [157, 158, 159, 160, 162, 163, 164, 166, 169, 170, 171, 173, 176, 177])
async def test_every_version_below_the_latest_is_written_as_the_client_reads_it(connect: Connect, version: int) -> None:
    """Orders, executions, contracts, prices and errors at each server version at which a message changed."""
    async with Gateway(World(seed=7), server_version=version) as older:
        ib = await connect(to=older, raiseSyncErrors=True)
        contract = await apple(ib)
        trade = ib.placeOrder(contract, ib_async.MarketOrder("BUY", 10))
        ticker = ib.reqMktData(contract)
        completed = await ib.reqCompletedOrdersAsync(False)
        with pytest.raises(ib_async.wrapper.RequestError):
            await ib.reqContractDetailsAsync(ib_async.Stock("NOSUCH", "SMART", "USD"))
        await until(lambda: trade.fills and ticker.bid > 0)
        found = await ib.reqMatchingSymbolsAsync("AAPL")

        assert ib.client.serverVersion() == version
        assert len(ib.positions()) == 25
        assert len(completed) == len(older.world.completed_orders())
        assert found[0].contract is not None
        ib.disconnect()


@pytest.mark.parametrize(
    ("accounts", "advisor", "positions"), [(1, "", 0), (2, "", 25), (60, "", 1000), (3, "DF1234566", 12)]
)
async def test_worlds_of_any_size_are_fetched_whole(
    connect: Connect, accounts: int, advisor: str, positions: int
) -> None:
    async with Gateway(World(accounts=accounts, positions=positions, advisor=advisor)) as other:
        ib = await connect(to=other, raiseSyncErrors=True)

        assert ib.managedAccounts() == list(other.world.managed)
        assert len(ib.positions()) == positions
        assert len(ib.fills()) == 4
        ib.disconnect()
