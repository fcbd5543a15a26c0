"""Requests for account data: at the start of a session, after a gap, and again where no end marker came.

One request a topic, all at once, each through the send queue; one deadline over all.

IBKR reports account values with portfolio figures for one account at a time: that is the session's own account. The
values of others come by reqAccountUpdatesMulti, up to 50 accounts; beyond, by one account summary for all. Positions
come for all accounts by reqPositions, beyond 50 accounts by reqPositionsMulti for each. So market price, value and PnL
of a position are reported for the session's own account, however many positions it has; for those of others
reqPnLSingle is subscribed (`pnl_single.py`), whose values give the price.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any

import ib_async as ib

from daemon.state.sink import Sink
from daemon.tws.account_requests import AccountRequests
from daemon.tws.book import Book
from daemon.tws.client import GatewayClient
from daemon.tws.errors import TwsError
from daemon.tws.rows import account_row
from daemon.tws.send_queue import Lane, SendQueue
from daemon.tws.snapshot import Snapshots
from shared.messages import BROKER_TOPICS, AccountValue, Recovered

MULTI = 50
"""Accounts up to which IBKR answers for each (and reqPositions at all); its own limit for advisors."""

SUMMARY_TAGS = (
    "AccountType,NetLiquidation,TotalCashValue,SettledCash,AccruedCash,BuyingPower,EquityWithLoanValue,"
    "PreviousDayEquityWithLoanValue,GrossPositionValue,RegTEquity,RegTMargin,SMA,InitMarginReq,MaintMarginReq,"
    "AvailableFunds,ExcessLiquidity,Cushion,FullInitMarginReq,FullMaintMarginReq,FullAvailableFunds,"
    "FullExcessLiquidity,LookAheadNextChange,LookAheadInitMarginReq,LookAheadMaintMarginReq,"
    "LookAheadAvailableFunds,LookAheadExcessLiquidity,HighestSeverity,DayTradesRemaining,Leverage,$LEDGER:ALL"
)

OWN, POSITIONS, OPEN, COMPLETED = "accountValues", "positions", "openOrders", "completedOrders"
"""The end markers without a request id."""

REQUESTED = tuple(topic for topic in BROKER_TOPICS if topic != "accounts")

REFRESH = 1.0
"""s at least between two readings of all orders for an execution that does not fit: partial fills come in bursts."""


class Startup:
    """Requests one session's account data. `own` is the account whose values and portfolio are subscribed."""

    def __init__(
        self, client: GatewayClient, queue: SendQueue, book: Book, snapshots: Snapshots, store: Sink, account: str
    ) -> None:
        self._client = client
        self._queue = queue
        self._book = book
        self._snapshots = snapshots
        self._store = store
        self._account = account
        self._locks = {topic: asyncio.Lock() for topic in REQUESTED}
        self._read: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "summary": self._read_summary,
            "pnl": self._read_pnl,
            "positions": self._read_positions,
            "orders": self._read_orders,
            "fills": self._read_fills,
        }
        self.values = AccountRequests("summary", client, queue, snapshots, self._send_values, self._cancel_values)
        """Of one account each, or one request, for no account, of all."""
        self.pnl = AccountRequests(
            "pnl",
            client,
            queue,
            snapshots,
            lambda request, account: client.reqPnL(request, account=account, modelCode=""),
            lambda request, _account: client.cancelPnL(request),
        )
        self._positions = AccountRequests(
            "positions",
            client,
            queue,
            snapshots,
            lambda request, account: client.reqPositionsMulti(request, account=account, modelCode=""),
            lambda request, _account: client.cancelPositionsMulti(request),
        )
        self._fills_request = -1
        self._own_requested = False
        self._positions_requested = False
        self._refreshed = -REFRESH
        self.accounts: tuple[str, ...] = ()
        """As the handshake reported them."""
        self.own = ""
        self.read_only = False
        self.upstream_lost = False
        self.unknown: frozenset[str] = frozenset()
        """Topics whose latest request was not answered to its end."""

    # --- all of it --------------------------------------------------------------------------------------------------

    def manage(self, accounts: Sequence[str]) -> None:
        """The account list has come, with at least one."""
        self.accounts = tuple(accounts)
        self.own = self._account if self._account in accounts else own_account(accounts)

    def publish_accounts(self) -> None:
        """The account list, which came with the handshake."""
        if self.accounts:
            self._store.replace("accounts", {name: account_row(name) for name in self.accounts}, known=True)

    async def recover(self, timeout: float) -> Recovered:
        """Everything again; which fills were first learnt by that."""
        self.publish_accounts()
        self._book.recovered.clear()
        await self.read(REQUESTED, timeout)
        return Recovered(fills=tuple(self._book.recovered))

    async def read(self, topics: Collection[str], timeout: float) -> frozenset[str]:
        """Request these topics; those whose end did not come within `timeout` s."""
        wanted = frozenset(topics)
        complete = {"accounts"}

        async def read_one(topic: str) -> None:
            async with self._locks[topic]:
                try:
                    await self._read[topic]()
                    complete.add(topic)
                except (TwsError, ConnectionError):
                    pass  # it stays what it was, which is what this method reports

        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
                for topic in REQUESTED:
                    if topic in wanted and self._may_read(topic):
                        tasks.create_task(read_one(topic), name=f"read {topic}")
        except TimeoutError:
            pass
        finally:  # also where the caller was cancelled
            self.unknown = (self.unknown - wanted) | (wanted - complete)
            if wanted - complete:
                self._store.stale(wanted - complete)
        return wanted - complete

    def _may_read(self, topic: str) -> bool:
        """Not while IBKR is away: an empty list would be ended all the same."""
        return not self.upstream_lost and not (topic == "orders" and self.read_only)

    # --- account values ---------------------------------------------------------------------------------------------

    async def _read_summary(self) -> None:
        names = [""] if len(self.accounts) > MULTI else [name for name in self.accounts if name != self.own]
        builder = self.values.begin(names, [OWN])
        if OWN in builder.missing:
            await self._read_own()
        await self.values.read(builder)

    def _send_values(self, request: int, account: str) -> None:
        if account:
            self._client.reqAccountUpdatesMulti(request, account=account, modelCode="", ledgerAndNLV=False)
        else:
            self._client.reqAccountSummary(request, groupName="All", tags=SUMMARY_TAGS)

    def _cancel_values(self, request: int, account: str) -> None:
        if account:
            self._client.cancelAccountUpdatesMulti(request)
        else:
            self._client.cancelAccountSummary(request)

    async def _read_own(self) -> None:
        """Values and portfolio of the session's own account. A standing subscription would not send all of it again."""
        if self._own_requested:
            await self._queue.admit(Lane.READ)
            self._client.reqAccountUpdates(False, self.own)
        await self._queue.admit(Lane.READ)
        self._client.reqAccountUpdates(True, self.own)
        self._own_requested = True

    def renew_own(self) -> None:
        """TWS has ended the subscription: subscribe once more. What was received of other accounts stands."""
        builder = self._snapshots.begin("summary", [OWN])
        for key, row in self._store.rows("summary").items():
            if isinstance(row, AccountValue) and row.account != self.own:
                builder.rows[key] = row
        self._queue.send(Lane.READ, lambda: self._client.reqAccountUpdates(True, self.own))

    # --- PnL --------------------------------------------------------------------------------------------------------

    async def _read_pnl(self) -> None:
        """There is no end marker: each account's first figures are its answer."""
        await self.pnl.read(self.pnl.begin(self.accounts))

    # --- positions --------------------------------------------------------------------------------------------------

    async def _read_positions(self) -> None:
        client = self._client
        if len(self.accounts) > MULTI:
            await self._positions.read(self._positions.begin(self.accounts))
            return
        if self._positions_requested:
            await self._queue.admit(Lane.READ)
            client.cancelPositions()
        builder = self._snapshots.begin("positions", [POSITIONS])
        await self._queue.admit(Lane.READ)
        client.reqPositions()
        self._positions_requested = True
        await self._snapshots.ended(builder, POSITIONS)

    # --- orders and executions --------------------------------------------------------------------------------------

    async def _read_orders(self) -> None:
        """Open ones of all clients, then completed ones: one after the other, since a read-only API answers each with
        a dialog on TWS's screen."""
        client = self._client
        builder = self._snapshots.begin("orders", [OPEN, COMPLETED])
        await self._queue.admit(Lane.READ)
        client.reqAllOpenOrders()
        await self._snapshots.ended(builder, OPEN)
        await self._queue.admit(Lane.READ)
        client.reqCompletedOrders(False)
        await self._snapshots.ended(builder, COMPLETED)

    def refresh_orders(self, now: float) -> None:
        """Read them again now, unless that has just been done. `now`: monotonic s."""
        if self.is_reading_orders() or not self._may_read("orders") or not self._snapshots.is_live("orders"):
            return
        if now - self._refreshed >= REFRESH:
            self._refreshed, self._book.orders_outdated = now, False
            self._snapshots.begin("orders", [OPEN, COMPLETED])
            self._queue.send(Lane.READ, self._client.reqAllOpenOrders)
            self._queue.send(Lane.READ, lambda: self._client.reqCompletedOrders(False))

    def __contains__(self, request: int) -> bool:
        """Whether the request is one of these."""
        return self.subscription(request) is not None or request == self._fills_request

    def subscription(self, request: int) -> AccountRequests | None:
        """The subscriptions to which the request belongs."""
        return next((each for each in (self.values, self.pnl, self._positions) if request in each), None)

    def is_reading_orders(self) -> bool:
        """Whether a request for orders is open."""
        return self._locks["orders"].locked()

    def refuse_orders(self, error: TwsError) -> None:
        """The API is read-only: no more requests for orders in this session."""
        self.read_only = True
        self._snapshots.drop("orders", error)

    async def _read_fills(self) -> None:
        self._book.remember_fills()
        client = self._client
        self._fills_request = request = client.getReqId()
        builder = self._snapshots.begin("fills", [request])
        await self._queue.admit(Lane.READ)
        client.reqExecutions(request, ib.ExecutionFilter())
        await self._snapshots.ended(builder, request)


def own_account(accounts: Sequence[str]) -> str:
    """The account to subscribe where none is named: the first that is not an advisor's (`F…`), which holds nothing."""
    return next((name for name in accounts if not name.removeprefix("D").startswith("F")), accounts[0])
