"""What is asked at the start of a session, after a gap, and again where no end marker came.

One question a topic, all at once, each through the gate; one deadline over all. Never waits longer, never makes rows.

How accounts are asked. IBKR tells account values with portfolio figures for one account at a time: that is the
session's own account. The values of others come by reqAccountUpdatesMulti, up to 50 accounts; beyond, one account
summary speaks for all. Positions come for all accounts by reqPositions, beyond 50 accounts by reqPositionsMulti for
each. So market price, value and PnL of a position are told for the session's own account, however many positions it
has; for the others reqPnLSingle tells value and PnL of the first hundred (`marks.py`), and the rest stays null.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable
from functools import partial
from typing import Any

import ib_async as ib

from daemon.state.sink import Sink
from daemon.tws.api import Api
from daemon.tws.book import Book
from daemon.tws.errors import TwsError
from daemon.tws.gate import Gate, Lane
from daemon.tws.rows import account_row
from daemon.tws.snapshot import Snapshots, Telling
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

ASKED = tuple(topic for topic in BROKER_TOPICS if topic != "accounts")

Send = Callable[[int], object]
"""Writes one message about the request of that number."""


class Startup:
    """Asks for one session's account data. `own` is the account whose values and portfolio are subscribed."""

    def __init__(self, api: Api, gate: Gate, book: Book, snapshots: Snapshots, store: Sink, account: str) -> None:
        self._api = api
        self._gate = gate
        self._book = book
        self._snapshots = snapshots
        self._store = store
        self._account = account
        self._locks = {topic: asyncio.Lock() for topic in ASKED}
        self._ask: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "summary": self._ask_summary,
            "pnl": self._ask_pnl,
            "positions": self._ask_positions,
            "orders": self._ask_orders,
            "fills": self._ask_fills,
        }
        self._subscribed: dict[int, Send] = {}  # request → how to cancel it
        self._values: list[int] = []
        self._position_requests: dict[int, str] = {}
        self._fills_request = -1
        self._own_asked = False
        self._positions_asked = False
        self.pnl_accounts: dict[int, str] = {}
        self.own = ""
        self.read_only = False
        self.upstream_lost = False
        self.unknown: frozenset[str] = frozenset()
        """Topics whose latest question was not answered to its end."""

    @property
    def accounts(self) -> list[str]:
        return list(self._api.client._accounts)

    # --- all of it --------------------------------------------------------------------------------------------------

    def tell_accounts(self) -> None:
        """The account list, which came with the handshake."""
        accounts = self.accounts
        if accounts:
            self.own = self._account if self._account in accounts else own_account(accounts)
            self._store.replace("accounts", {name: account_row(name) for name in accounts}, known=True)

    async def recover(self, timeout: float) -> Recovered:
        """Everything again; which fills were first learnt by that."""
        self.tell_accounts()
        self._book.learnt.clear()
        await self.ask(ASKED, timeout)
        return Recovered(fills=tuple(self._book.learnt))

    async def ask(self, topics: Collection[str], timeout: float) -> frozenset[str]:
        """Ask for these topics; those that were not told to their end within `timeout` s."""
        asked = frozenset(topics)
        told = {"accounts"}

        async def ask_one(topic: str) -> None:
            async with self._locks[topic]:
                try:
                    await self._ask[topic]()
                    told.add(topic)
                except (TwsError, ConnectionError):
                    pass  # it stays what it was, which is what this method reports

        try:
            async with asyncio.timeout(timeout), asyncio.TaskGroup() as tasks:
                for topic in ASKED:
                    if topic in asked and self._may_ask(topic):
                        tasks.create_task(ask_one(topic), name=f"ask for {topic}")
        except TimeoutError:
            pass
        finally:  # also where whoever asked has waited long enough
            self.unknown = (self.unknown - asked) | (asked - told)
            if asked - told:
                self._store.stale(asked - told)
        return asked - told

    def _may_ask(self, topic: str) -> bool:
        """Not while IBKR is away: an empty list would be told to its end all the same."""
        return not self.upstream_lost and not (topic == "orders" and self.read_only)

    # --- account values ---------------------------------------------------------------------------------------------

    async def _ask_summary(self) -> None:
        client = self._api.client
        for request in self._values:
            await self._cancel(request)
        asks: list[tuple[Send, Send]]
        if len(self.accounts) > MULTI:
            asks = [
                (partial(client.reqAccountSummary, groupName="All", tags=SUMMARY_TAGS), client.cancelAccountSummary)
            ]
        else:
            ask, cancel = client.reqAccountUpdatesMulti, client.cancelAccountUpdatesMulti
            asks = [
                (partial(ask, account=name, modelCode="", ledgerAndNLV=False), cancel)
                for name in self.accounts
                if name != self.own
            ]
        self._values = [client.getReqId() for _ in asks]
        telling = self._snapshots.begin("summary", [OWN, *self._values])
        await self._ask_own()
        for request, how in zip(self._values, asks, strict=True):
            await self._subscribe(request, *how)
        await self._all_ended(telling, [OWN, *self._values])

    async def _ask_own(self) -> None:
        """Values and portfolio of the session's own account; a subscription that stands would not tell all again."""
        client = self._api.client
        if self._own_asked:
            await self._gate.admit(Lane.READ)
            client.reqAccountUpdates(False, self.own)
        await self._gate.admit(Lane.READ)
        client.reqAccountUpdates(True, self.own)
        self._own_asked = True

    def renew_own(self) -> None:
        """TWS has ended the subscription: ask once more. What other subscriptions told of other accounts stands."""
        telling = self._snapshots.begin("summary", [OWN])
        for key, row in self._store.rows("summary").items():
            if isinstance(row, AccountValue) and row.account != self.own:
                telling.rows[key] = row
        self._gate.send(Lane.READ, lambda: self._api.client.reqAccountUpdates(True, self.own))

    # --- PnL --------------------------------------------------------------------------------------------------------

    async def _ask_pnl(self) -> None:
        """There is no end marker: each account's first figures are its answer."""
        client = self._api.client
        for request in list(self.pnl_accounts):
            await self._cancel(request)
        self.pnl_accounts = {client.getReqId(): name for name in self.accounts}
        telling = self._snapshots.begin("pnl", self.pnl_accounts)
        for request, name in self.pnl_accounts.items():
            await self._subscribe(request, partial(client.reqPnL, account=name, modelCode=""), client.cancelPnL)
        await self._all_ended(telling, self.pnl_accounts)

    # --- positions --------------------------------------------------------------------------------------------------

    async def _ask_positions(self) -> None:
        client = self._api.client
        if len(self.accounts) > MULTI:
            await self._ask_positions_of_each()
            return
        if self._positions_asked:
            await self._gate.admit(Lane.READ)
            client.cancelPositions()
        telling = self._snapshots.begin("positions", [POSITIONS])
        await self._gate.admit(Lane.READ)
        client.reqPositions()
        self._positions_asked = True
        await self._snapshots.ended(telling, POSITIONS)

    async def _ask_positions_of_each(self) -> None:
        client = self._api.client
        for request in self._position_requests:
            await self._cancel(request)
        self._position_requests = {client.getReqId(): name for name in self.accounts}
        telling = self._snapshots.begin("positions", self._position_requests)
        for request, name in self._position_requests.items():
            ask = partial(client.reqPositionsMulti, account=name, modelCode="")
            await self._subscribe(request, ask, client.cancelPositionsMulti)
        await self._all_ended(telling, self._position_requests)

    # --- orders and executions --------------------------------------------------------------------------------------

    async def _ask_orders(self) -> None:
        """Open ones of all clients, then completed ones: one after the other, since a read-only API answers each with
        a dialog on somebody's screen."""
        client = self._api.client
        telling = self._snapshots.begin("orders", [OPEN, COMPLETED])
        await self._gate.admit(Lane.READ)
        client.reqAllOpenOrders()
        await self._snapshots.ended(telling, OPEN)
        await self._gate.admit(Lane.READ)
        client.reqCompletedOrders(False)
        await self._snapshots.ended(telling, COMPLETED)

    def asks(self, request: int) -> bool:
        """Whether the request is one of these."""
        return request in self._subscribed or request == self._fills_request

    def asks_orders(self) -> bool:
        """Whether a question about orders is open."""
        return self._locks["orders"].locked()

    def refuse_orders(self, error: TwsError) -> None:
        """The API is read-only: no more questions about orders in this session."""
        self.read_only = True
        self._snapshots.drop("orders", error)

    async def _ask_fills(self) -> None:
        self._book.remember_fills()
        client = self._api.client
        self._fills_request = request = client.getReqId()
        telling = self._snapshots.begin("fills", [request])
        await self._gate.admit(Lane.READ)
        client.reqExecutions(request, ib.ExecutionFilter())
        await self._snapshots.ended(telling, request)

    # --- one question -----------------------------------------------------------------------------------------------

    async def _subscribe(self, request: int, ask: Send, cancel: Send) -> None:
        await self._gate.admit(Lane.READ)
        self._subscribed[request] = cancel
        ask(request)

    async def _cancel(self, request: int) -> None:
        cancel = self._subscribed.get(request)
        if cancel is not None:
            await self._gate.admit(Lane.READ)
            del self._subscribed[request]  # not before: a question cut off here must still be cancelled by the next
            cancel(request)

    async def _all_ended(self, telling: Telling, ends: Collection[Hashable]) -> None:
        for end in ends:
            await self._snapshots.ended(telling, end)


def own_account(accounts: list[str]) -> str:
    """The account to subscribe where none is named: the first that is not an advisor's (`F…`), which holds nothing."""
    return next((name for name in accounts if not name.removeprefix("D").startswith("F")), accounts[0])
