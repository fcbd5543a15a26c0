"""ib_async's decoder calls here. Each method hands one fact to its owner; none keeps or decides anything.

Stands in the place of ib_async's own `Wrapper`, whose bookkeeping is not ours: it invents order states from error
codes, hides openOrder while a question is open, drops executions of orders it has not seen, and formats a line for
each row.
"""

# ruff: noqa: N802, ARG002 - the names and signatures are the decoder's
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from typing import TYPE_CHECKING

import ib_async as ib
from ib_async.ib import IB
from ib_async.wrapper import Wrapper

from daemon.tws import codes, rows
from daemon.tws.startup import COMPLETED, OPEN, OWN, POSITIONS

if TYPE_CHECKING:
    from daemon.tws.session import Tws


class Callbacks(Wrapper):
    """One session's ears."""

    def __init__(self, ib: IB, tws: Tws) -> None:
        super().__init__(ib)
        self._tws = tws
        self._book = tws.book
        self._snapshots = tws.snapshots

    # --- the session ------------------------------------------------------------------------------------------------

    def nextValidId(self, reqId: int) -> None:
        self._tws.on_next_id()

    def managedAccounts(self, accountsList: str) -> None:
        self._tws.on_accounts([name for part in accountsList.split(",") if (name := part.strip())])

    def currentTime(self, time: int) -> None:
        self._tws.on_time()

    def error(self, reqId: int, errorCode: int, errorString: str, advancedOrderRejectJson: str) -> None:
        self._tws.on_error(reqId, errorCode, codes.clean(errorString))

    # --- account values ---------------------------------------------------------------------------------------------

    def updateAccountValue(self, tag: str, val: str, currency: str, account: str) -> None:
        self._book.value(account, tag, val, currency)

    def accountDownloadEnd(self, _account: str) -> None:
        self._snapshots.end(OWN)

    def accountUpdateMulti(self, reqId: int, account: str, modelCode: str, tag: str, val: str, currency: str) -> None:
        self._book.value(account, tag, val, currency)

    def accountUpdateMultiEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def accountSummary(self, _reqId: int, account: str, tag: str, value: str, currency: str) -> None:
        self._book.value(account, tag, value, currency)

    def accountSummaryEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def pnl(self, reqId: int, dailyPnL: float, unrealizedPnL: float, realizedPnL: float) -> None:
        self._tws.on_pnl(reqId, dailyPnL, unrealizedPnL, realizedPnL)

    # --- positions --------------------------------------------------------------------------------------------------

    def position(self, account: str, contract: ib.Contract, posSize: float, avgCost: float) -> None:
        self._book.position(account, contract, posSize, avgCost)
        self._tws.on_position(account, contract.conId, gone=posSize == 0)

    def positionEnd(self) -> None:
        self._snapshots.end(POSITIONS)

    def positionMulti(
        self, reqId: int, account: str, modelCode: str, contract: ib.Contract, pos: float, avgCost: float
    ) -> None:
        self._book.position(account, contract, pos, avgCost)
        self._tws.on_position(account, contract.conId, gone=pos == 0)

    def positionMultiEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def updatePortfolio(
        self,
        contract: ib.Contract,
        posSize: float,
        marketPrice: float,
        marketValue: float,
        averageCost: float,
        unrealizedPNL: float,
        realizedPNL: float,
        account: str,
    ) -> None:
        if posSize == 0:
            return  # the position says so itself
        number = rows.number
        marks = (number(marketPrice), number(marketValue), number(unrealizedPNL), number(realizedPNL))
        self._book.marks(account, contract.conId, marks)

    def pnlSingle(
        self, reqId: int, pos: int, dailyPnL: float, unrealizedPnL: float, realizedPnL: float, value: float
    ) -> None:
        position = self._tws.singles.position(reqId)
        if position is not None:
            number = rows.number
            self._book.marks(*position, (None, number(value), number(unrealizedPnL), number(realizedPnL)))

    # --- orders and executions --------------------------------------------------------------------------------------

    def openOrder(self, orderId: int, contract: ib.Contract, order: ib.Order, orderState: ib.OrderState) -> None:
        self._book.open_order(contract, order, orderState.status)

    def openOrderEnd(self) -> None:
        self._snapshots.end(OPEN)

    def orderStatus(
        self,
        orderId: int,
        status: str,
        filled: float,
        remaining: float,
        avgFillPrice: float,
        permId: int,
        parentId: int,
        lastFillPrice: float,
        clientId: int,
        whyHeld: str,
        mktCapPrice: float = 0.0,
    ) -> None:
        self._book.order_status(permId, status, filled, remaining, avgFillPrice, lastFillPrice, parentId, whyHeld)

    def completedOrder(self, contract: ib.Contract, order: ib.Order, orderState: ib.OrderState) -> None:
        self._book.completed_order(contract, order, orderState.status)

    def completedOrdersEnd(self) -> None:
        self._snapshots.end(COMPLETED)

    def execDetails(self, reqId: int, contract: ib.Contract, execution: ib.Execution) -> None:
        self._book.execution(contract, execution, asked=reqId not in codes.NO_REQUEST)

    def execDetailsEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def commissionReport(self, commissionReport: ib.CommissionReport) -> None:
        self._book.commission(commissionReport)

    # --- market data ------------------------------------------------------------------------------------------------

    def priceSizeTick(self, reqId: int, tickType: int, price: float, size: float) -> None:
        self._tws.ticks.price(reqId, tickType, price, size)

    def tickSize(self, reqId: int, tickType: int, size: float) -> None:
        self._tws.ticks.size(reqId, tickType, size)

    def marketDataType(self, reqId: int, marketDataId: int) -> None:
        self._tws.ticks.market_data_type(reqId, marketDataId)

    def tickString(self, reqId: int, tickType: int, value: str) -> None:
        """Exchanges and times of ticks, which no row holds."""

    def tickGeneric(self, reqId: int, tickType: int, value: float) -> None:
        """Nor these."""

    def tickReqParams(self, reqId: int, minTick: float, bboExchange: str, snapshotPermissions: int) -> None:
        """Nor these."""

    def historicalData(self, reqId: int, bar: ib.BarData) -> None:
        if reqId in self._tws.bars:
            self._tws.bars.bar(reqId, bar)
        else:
            super().historicalData(reqId, bar)

    def historicalDataEnd(self, reqId: int, _start: str, _end: str) -> None:
        self._tws.bars.end(reqId)
        self._endReq(reqId)

    def historicalDataUpdate(self, reqId: int, bar: ib.BarData) -> None:
        self._tws.bars.update(reqId, bar)

    # --- answers: a late one, after its question was given up, is nobody's -------------------------------------------

    def contractDetails(self, reqId: int, contractDetails: ib.ContractDetails) -> None:
        self._collect(reqId, contractDetails)

    bondContractDetails = contractDetails

    def securityDefinitionOptionParameter(
        self,
        reqId: int,
        exchange: str,
        underlyingConId: int,
        tradingClass: str,
        multiplier: str,
        expirations: list[str],
        strikes: list[float],
    ) -> None:
        chain = ib.OptionChain(exchange, underlyingConId, tradingClass, multiplier, expirations, strikes)
        self._collect(reqId, chain)

    def _collect(self, reqId: int, answer: object) -> None:
        results = self._results.get(reqId)
        if results is not None:
            results.append(answer)
