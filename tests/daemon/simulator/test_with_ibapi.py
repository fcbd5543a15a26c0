"""IBKR's own client finds in the simulated gateway what it finds in a real one, at every version it can speak."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import ibapi.client
import pytest
from ibapi.client import EClient
from ibapi.common import BarData
from ibapi.contract import Contract
from ibapi.execution import ExecutionFilter
from ibapi.order import Order
from ibapi.order_condition import MarginCondition, PriceCondition
from ibapi.scanner import ScannerSubscription
from ibapi.tag_value import TagValue
from ibapi.wrapper import EWrapper

from daemon.simulator import Gateway, ManualClock, World
from tests.daemon.simulator.waiting import LIMIT
from tests.waiting import until


class Official(EWrapper, EClient):
    """The official client; every callback is recorded by its name."""

    def __init__(self) -> None:
        EClient.__init__(self, self)
        self.recorded: list[tuple[str, tuple[Any, ...]]] = []
        self.loop_thread: threading.Thread | None = None
        self.raised: BaseException | None = None

    def __getattribute__(self, name: str) -> Any:
        if name in CALLBACKS:
            return lambda *args: self.recorded.append((name, args))
        return super().__getattribute__(name)

    def got(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of this callback so far."""
        return [args for callback, args in list(self.recorded) if callback == name]

    def begin(self, port: int, client_id: int) -> None:
        self.connect("127.0.0.1", port, client_id)
        self.loop_thread = threading.Thread(target=self._run, name=f"ibapi {client_id}", daemon=True)
        self.loop_thread.start()

    def _run(self) -> None:
        try:
            self.run()
        except BaseException as error:  # a message it cannot decode ends its loop
            self.raised = error

    def end(self) -> None:
        """Its threads end with the socket; its own `disconnect` would take the connection from under their feet."""
        conn, threads = self.conn, (self.loop_thread, self.reader)
        with contextlib.suppress(AttributeError, OSError):  # gone already
            conn.socket.shutdown(socket.SHUT_RDWR)
        for thread in filter(None, threads):
            thread.join(LIMIT)


CALLBACKS = frozenset(name for name in vars(EWrapper) if not name.startswith("_") and name != "logAnswer")

Open = Callable[..., Any]


@pytest.fixture
async def official(gateway: Gateway) -> AsyncIterator[Open]:
    clients: list[Official] = []

    async def official(client_id: int = 1, to: Gateway = gateway) -> Official:
        client = Official()
        clients.append(client)
        await asyncio.to_thread(client.begin, to.port, client_id)
        await until(lambda: client.got("nextValidId"))
        return client

    yield official
    for client in clients:
        await asyncio.to_thread(client.end)
        assert client.raised is None


@pytest.fixture(params=[136, 145, 150, 151, 156, 157])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The highest version the client offers; 157 is its own."""
    monkeypatch.setattr(ibapi.client, "MAX_CLIENT_VER", request.param)
    return int(request.param)


def stock(symbol: str = "AAPL") -> Contract:
    contract = Contract()
    contract.symbol, contract.secType, contract.exchange, contract.currency = symbol, "STK", "SMART", "USD"
    return contract


def order(action: str, quantity: float, limit: float | None = None) -> Order:
    new = Order()
    new.action, new.totalQuantity, new.orderType = action, quantity, "LMT" if limit else "MKT"
    if limit:
        new.lmtPrice = limit
    return new


async def test_a_session_begins_with_accounts_an_id_and_the_farms(official: Open) -> None:
    client = await official()
    await until(lambda: any(code == 2158 for _, code, _ in client.got("error")))

    assert client.serverVersion() == 157
    assert client.got("managedAccounts") == [("DU1234567",)]
    assert (-1, 2104, "Market data farm connection is OK:usfarm") in client.got("error")


async def test_account_and_positions_are_decoded_at_every_version(
    gateway: Gateway, official: Open, version: int
) -> None:
    client = await official()
    client.reqPositions()
    client.reqAccountUpdates(True, "DU1234567")
    client.reqAccountUpdatesMulti(1, "DU1234567", "", False)
    client.reqAccountSummary(2, "All", "NetLiquidation,BuyingPower")
    client.reqPnL(3, "DU1234567", "")
    client.reqPnLSingle(4, "DU1234567", "", 265598)
    client.reqCurrentTime()
    ends = ["positionEnd", "accountDownloadEnd", "accountUpdateMultiEnd", "accountSummaryEnd"]
    for end in [*ends, "pnl", "pnlSingle", "currentTime"]:
        await until(lambda end=end: client.got(end))

    held = {(p.contract.conId, p.position) for p in gateway.world.held()}
    assert client.serverVersion() == version
    assert {(contract.conId, position) for _, contract, position, _ in client.got("position")} == held
    assert {(contract.conId, position) for contract, position, *_ in client.got("updatePortfolio")} == held
    assert {row[2] for row in client.got("accountSummary")} == {"NetLiquidation", "BuyingPower"}
    assert client.got("pnlSingle")[0][1] == gateway.world.positions["DU1234567", 265598].position


async def test_orders_and_executions_are_decoded_at_every_version(
    gateway: Gateway, official: Open, version: int
) -> None:
    client = await official(client_id=3)
    [(first,)] = client.got("nextValidId")
    resting = order("BUY", 10, 100.0)
    resting.orderRef, resting.tif, resting.hidden = "ref", "GTC", True
    resting.algoStrategy, resting.algoParams = "Adaptive", [TagValue("adaptivePriority", "Normal")]
    resting.conditions = [PriceCondition(1, 265598, "SMART", True, 90.0), MarginCondition(True, 30)]
    for condition in resting.conditions:
        condition.isConjunctionConnection = True
    client.placeOrder(first, stock(), order("BUY", 300))
    client.placeOrder(first + 1, stock(), resting)
    await until(lambda: any(s[:2] == (first, "Filled") for s in client.got("orderStatus")))
    await until(lambda: any(s[:2] == (first + 1, "Submitted") for s in client.got("orderStatus")))
    client.cancelOrder(first + 1)
    await until(lambda: any(s[:2] == (first + 1, "Cancelled") for s in client.got("orderStatus")))
    await until(lambda: len(client.got("commissionReport")) == 2)
    client.reqExecutions(9, ExecutionFilter())
    client.reqAllOpenOrders()
    client.reqOpenOrders()
    await until(lambda: client.got("execDetailsEnd") and len(client.got("openOrderEnd")) == 2)
    if version >= 150:
        client.reqCompletedOrders(False)
        await until(lambda: client.got("completedOrdersEnd"))

    [placed] = [o for i, _, o, _ in client.got("openOrder") if i == first + 1]
    assert (placed.orderRef, placed.tif, placed.hidden, placed.lmtPrice) == ("ref", "GTC", True, 100.0)
    assert placed.algoParams[0].value == "Normal"
    assert [type(c).__name__ for c in placed.conditions] == ["PriceCondition", "MarginCondition"]
    assert [e.shares for i, _, e in client.got("execDetails") if i == -1] == [100, 200]
    assert {e.execId for i, _, e in client.got("execDetails") if i == 9} == {f.execId for f in gateway.world.fills}
    assert any(code == 202 and i == first + 1 for i, code, _ in client.got("error"))
    if version >= 150:
        assert {state.status for _, _, state in client.got("completedOrder")} == {"Filled", "Cancelled"}


async def test_contracts_are_decoded_at_every_version(official: Open, version: int) -> None:
    client = await official()
    client.reqContractDetails(1, stock())
    client.reqContractDetails(2, stock("NOSUCH"))
    client.reqMatchingSymbols(3, "app")
    client.reqSecDefOptParams(4, "AAPL", "", "STK", 265598)
    client.reqMarketRule(26)
    await until(lambda: client.got("contractDetailsEnd") and client.got("symbolSamples") and client.got("marketRule"))
    await until(lambda: client.got("securityDefinitionOptionParameterEnd"))
    await until(lambda: any(i == 2 for i, _, _ in client.got("error")))

    [(_, details)] = client.got("contractDetails")
    assert (details.contract.conId, details.longName, details.minTick) == (265598, "APPLE INC", 0.01)
    assert details.contract.primaryExchange == "NASDAQ"
    assert details.liquidHours
    assert [d.contract.symbol for d in client.got("symbolSamples")[0][1]] == ["AAPL"]
    assert (2, 200, "No security definition has been found for the request") in client.got("error")
    if version >= 152:
        assert details.stockType == "COMMON"


async def test_market_data_and_history_are_decoded_at_every_version(official: Open, version: int) -> None:
    clock = ManualClock()
    running = Gateway(World(seed=7), clock=clock)
    await running.start()
    client = await official(to=running)
    option = stock()
    option.secType, option.right = "OPT", "C"
    client.reqSecDefOptParams(4, "AAPL", "", "STK", 265598)
    await until(lambda: client.got("securityDefinitionOptionParameterEnd"))
    _, _, _, _, _, expirations, strikes = client.got("securityDefinitionOptionParameter")[0]
    option.lastTradeDateOrContractMonth, option.strike = max(expirations), max(strikes)
    client.reqMarketDataType(1)
    client.reqMktData(1, stock(), "233,236", False, False, [])
    client.reqMktData(2, option, "", True, False, [])
    client.reqHistoricalData(3, stock(), "20251112 20:00:00 US/Eastern", "1 D", "1 hour", "TRADES", 1, 1, False, [])
    client.reqHistoricalData(5, stock(), "", "1 D", "5 mins", "MIDPOINT", 1, 2, True, [])
    client.reqRealTimeBars(6, stock(), 5, "TRADES", 0, [])
    client.reqTickByTickData(7, stock(), "BidAsk", 0, True)
    client.reqHistoricalTicks(8, stock(), "", "20251112 15:00:00 US/Eastern", 10, "TRADES", 1, True, [])
    client.reqHeadTimeStamp(9, stock(), "TRADES", 1, 1)
    names = ["tickSnapshotEnd", "historicalDataUpdate", "realtimeBar", "historicalTicksLast", "headTimestamp"]
    for name in [*names, "tickByTickBidAsk"] if version >= 140 else names:
        await until(lambda name=name: clock.advance(1) or client.got(name))
    last = (1, 4)
    await until(lambda: clock.advance(1) or [tick[:2] for tick in client.got("tickPrice")].count(last) > 2)
    await running.stop()

    bars: list[BarData] = [bar for i, bar in client.got("historicalData") if i == 3]
    assert len(bars) == 7
    assert bars[0].date == "20251112 09:30:00 US/Eastern"
    assert {kind for i, kind, *_ in client.got("tickPrice") if i == 1} >= {1, 2, 4, 6, 7, 9, 14}
    assert {kind for i, kind, *_ in client.got("tickSize") if i == 1} >= {0, 3, 5, 8}
    assert client.got("tickOptionComputation")
    assert (1, 1) in client.got("marketDataType")


async def test_a_name_outside_ascii_arrives_whole(gateway: Gateway, official: Open) -> None:
    """From version 153 on text is ASCII with escapes; the client gives the letters back."""
    client = await official()
    gateway.send_error(2104, "Verbindung für Marktdaten ist in Ordnung:usfarm")
    await until(lambda: any("Verbindung" in text for _, _, text in client.got("error")))

    assert (-1, 2104, "Verbindung für Marktdaten ist in Ordnung:usfarm") in client.got("error")


async def test_the_account_list_of_an_advisor_is_sent(official: Open) -> None:
    async with Gateway(World(accounts=60, advisor="DF1234566")) as many:
        client = Official()
        await asyncio.to_thread(client.begin, many.port, 1)
        await until(lambda: client.got("nextValidId"))
        client.requestFA(1)
        await until(lambda: client.got("receiveFA"))
        await asyncio.to_thread(client.end)

    [(accounts,)] = client.got("managedAccounts")
    assert accounts.split(",")[0] == "DF1234566"
    assert len(accounts.split(",")) == 61
    assert "DU1234567" in client.got("receiveFA")[0][1]


QUESTIONS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("reqMktDepthExchanges", (), "mktDepthExchanges"),
    ("reqSmartComponents", (1, "9c0001"), "smartComponents"),
    ("reqSoftDollarTiers", (1,), "softDollarTiers"),
    ("reqFamilyCodes", (), "familyCodes"),
    ("reqNewsProviders", (), "newsProviders"),
    ("reqHistoricalNews", (1, 265598, "BRFG+DJNL", "", "", 3, []), "historicalNewsEnd"),
    ("reqHistoricalNews", (1, 265598, "NONE", "", "", 3, []), "error"),
    ("reqNewsArticle", (1, "BRFG", "BRFG$no-such-article", []), "error"),
    ("reqScannerParameters", (), "scannerParameters"),
    ("reqScannerSubscription", (1, "TOP_PERC_GAIN", [], []), "scannerDataEnd"),
    ("reqScannerSubscription", (1, "NO_SUCH_SCAN", [], []), "error"),
    ("reqMktDepth", (1, "AAPL", 3, False, []), "updateMktDepth"),
    ("reqMktDepth", (1, "AAPL", 3, True, []), "updateMktDepthL2"),
    ("reqFundamentalData", (1, "AAPL", "ReportSnapshot", []), "error"),
    ("reqHistogramData", (1, "AAPL", True, "3 days"), "histogramData"),
    ("reqHeadTimeStamp", (1, "AAPL", "TRADES", 1, 1), "headTimestamp"),
    ("calculateOptionPrice", (1, "AAPL", 0.3, 228.0, []), "error"),
    ("calculateImpliedVolatility", (1, "AAPL", 3.0, 228.0, []), "error"),
    ("exerciseOptions", (1, "AAPL", 1, 1, "", 0), "error"),
    ("queryDisplayGroups", (1,), "displayGroupList"),
    ("subscribeToGroupEvents", (1, 1), "displayGroupUpdated"),
    ("requestFA", (1,), "error"),
    ("replaceFA", (1, 1, "<x/>"), "error"),
    ("reqPositionsMulti", (1, "DU1234567", ""), "positionMultiEnd"),
    ("reqManagedAccts", (), "managedAccounts"),
    ("reqIds", (1,), "nextValidId"),
)
"""The client's requests that no other test here makes, what they are made with, and the callback that answers them."""


async def test_every_question_of_the_official_client_gets_an_answer_or_an_error(official: Open) -> None:
    client = await official()
    for name, arguments, callback in QUESTIONS:
        client.recorded.clear()
        given = [stock(a) if a == "AAPL" else scan(a) if a in SCANS else a for a in arguments]
        getattr(client, name)(*given)
        await until(lambda: client.got(callback), f"{name} is not answered by {callback}")  # noqa: B023
        if name == "reqMktDepth":
            client.cancelMktDepth(1, arguments[3])


SCANS = ("TOP_PERC_GAIN", "NO_SUCH_SCAN")


def scan(code: str) -> ScannerSubscription:
    wanted = ScannerSubscription()
    wanted.instrument, wanted.locationCode, wanted.scanCode = "STK", "STK.US.MAJOR", code
    return wanted
