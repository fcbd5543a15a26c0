"""The decoder's callbacks for one session: each passes one message on to the part that it is about.

In the place of ib_async's own `Wrapper`, whose bookkeeping invents order states from error codes, hides openOrder while
a request is open, drops executions of orders it has not seen, and formats a line for each row.
"""

# ruff: noqa: N802, ARG002 - the names and signatures are the decoder's
from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Protocol

import ib_async as ib

from daemon.tws import rows
from daemon.tws.bars import Bars
from daemon.tws.book import Book
from daemon.tws.error_text import NO_REQUEST, clean
from daemon.tws.pending import PendingRequests
from daemon.tws.snapshot import Snapshots
from daemon.tws.startup import COMPLETED, OPEN, OWN, POSITIONS
from daemon.tws.ticks import Ticks
from shared.messages import Bar


class Session(Protocol):
    """What concerns the session as a whole."""

    def on_next_id(self) -> None: ...
    def on_accounts(self, accounts: list[str]) -> None: ...
    def on_time(self) -> None: ...
    def on_error(self, request: int, code: int, text: str) -> None: ...
    def on_pnl(self, request: int, daily: float, unrealized: float, realized: float) -> None: ...
    def on_position(self, account: str, con_id: int, *, closed: bool) -> None: ...
    def on_pnl_single(self, request: int, value: float, unrealized: float, realized: float) -> None: ...


class Callbacks:
    defaultTimezone = UTC
    """In which the decoder gives times."""

    def __init__(
        self, session: Session, book: Book, snapshots: Snapshots, pending: PendingRequests, ticks: Ticks, bars: Bars
    ) -> None:
        self._session = session
        self._book = book
        self._snapshots = snapshots
        self._pending = pending
        self._bars = bars
        self.priceSizeTick = ticks.price
        self.tickSize = ticks.size
        self.marketDataType = ticks.market_data_type
        self.rerouteMktDataReq = ticks.reroute

    # --- the session ------------------------------------------------------------------------------------------------

    def nextValidId(self, orderId: int) -> None:
        self._session.on_next_id()

    def managedAccounts(self, accountsList: str) -> None:
        self._session.on_accounts([name for part in accountsList.split(",") if (name := part.strip())])

    def currentTime(self, time: int) -> None:
        self._session.on_time()

    def error(self, reqId: int, errorCode: int, errorString: str, advancedOrderRejectJson: str) -> None:
        self._session.on_error(reqId, errorCode, clean(errorString))

    # --- account values ---------------------------------------------------------------------------------------------

    def updateAccountValue(self, tag: str, val: str, currency: str, account: str) -> None:
        self._book.value(account, tag, val, currency)

    def accountDownloadEnd(self, account: str) -> None:
        self._snapshots.end(OWN)

    def accountUpdateMulti(self, reqId: int, account: str, modelCode: str, tag: str, val: str, currency: str) -> None:
        self._book.value(account, tag, val, currency, modelCode)

    def accountUpdateMultiEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def accountSummary(self, reqId: int, account: str, tag: str, value: str, currency: str) -> None:
        self._book.value(account, tag, value, currency)

    def accountSummaryEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def pnl(self, reqId: int, dailyPnL: float, unrealizedPnL: float, realizedPnL: float) -> None:
        self._session.on_pnl(reqId, dailyPnL, unrealizedPnL, realizedPnL)

    # --- positions --------------------------------------------------------------------------------------------------

    def position(self, account: str, contract: ib.Contract, posSize: float, avgCost: float) -> None:
        self._book.position(account, contract, posSize, avgCost)
        self._session.on_position(account, contract.conId, closed=posSize == 0)

    def positionEnd(self) -> None:
        self._snapshots.end(POSITIONS)

    def positionMulti(
        self, reqId: int, account: str, modelCode: str, contract: ib.Contract, pos: float, avgCost: float
    ) -> None:
        self._book.position(account, contract, pos, avgCost, modelCode)
        if not modelCode:
            self._session.on_position(account, contract.conId, closed=pos == 0)

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
            return  # `position` reports the end itself
        number = rows.number
        marks = (number(marketPrice), number(marketValue), number(unrealizedPNL), number(realizedPNL))
        self._book.marks(account, contract.conId, marks)

    def pnlSingle(
        self, reqId: int, pos: float, dailyPnL: float, unrealizedPnL: float, realizedPnL: float, value: float
    ) -> None:
        self._session.on_pnl_single(reqId, value, unrealizedPnL, realizedPnL)

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
        self._book.execution(contract, execution, requested=reqId not in NO_REQUEST)

    def execDetailsEnd(self, reqId: int) -> None:
        self._snapshots.end(reqId)

    def commissionReport(self, commissionReport: ib.CommissionReport) -> None:
        self._book.commission(commissionReport)

    # --- market data (quotes: `__init__`) ---------------------------------------------------------------------------

    def tickOptionComputation(self, *values: float) -> None:
        """No row holds it; decoded so that one that cannot be is counted."""

    def historicalData(self, reqId: int, bars: Sequence[Bar]) -> None:
        """All bars of an answer."""
        if reqId in self._bars:
            self._bars.past(reqId, bars)
            return
        for bar in bars:
            self._pending.add(reqId, bar)
        self._pending.end(reqId)

    def historicalDataUpdate(self, reqId: int, bar: Bar) -> None:
        self._bars.update(reqId, bar)

    # --- answers to look-ups ----------------------------------------------------------------------------------------

    def contractDetails(self, reqId: int, contractDetails: ib.ContractDetails) -> None:
        self._pending.add(reqId, rows.details_row(contractDetails))

    def bondContractDetails(self, reqId: int, contractDetails: ib.ContractDetails) -> None:
        self._pending.add(reqId, rows.details_row(contractDetails))

    def contractDetailsEnd(self, reqId: int) -> None:
        self._pending.end(reqId)

    def symbolSamples(self, reqId: int, contractDescriptions: Sequence[ib.ContractDescription]) -> None:
        for found in contractDescriptions:
            if (row := rows.match_row(found)) is not None:
                self._pending.add(reqId, row)
        self._pending.end(reqId)

    def securityDefinitionOptionParameter(
        self,
        reqId: int,
        exchange: str,
        underlyingConId: str,
        tradingClass: str,
        multiplier: str,
        expirations: list[str],
        strikes: list[float],
    ) -> None:
        row = rows.chain_row(exchange, int(underlyingConId), tradingClass, multiplier, expirations, strikes)
        self._pending.add(reqId, row)

    def securityDefinitionOptionParameterEnd(self, reqId: int) -> None:
        self._pending.end(reqId)
