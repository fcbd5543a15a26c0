"""What the accounts hold: account values, PnL, positions, orders and fills, as this session's gateway reports them.

Makes rows of what is received and passes them to `Snapshots`. An error code changes no order: what an order is,
openOrder, orderStatus and completedOrder report (FAULTS 11).
"""

from __future__ import annotations

import ib_async as ib
from msgspec import Struct
from msgspec.structs import replace

from daemon.state.fills import identity
from daemon.state.sink import Sink
from daemon.tws import rows
from daemon.tws.snapshot import Snapshots
from shared.clock import Clock
from shared.messages import Fill, Notice, Order, Position

EARLY = 1000
"""Commission reports kept for executions that have not come yet: one packet's worth is usual."""

FILLS = 20_000
"""Fills kept for their commission and their corrections: as many as the store holds."""

OUR_NOTICE = 0
"""The code of a notice that is ours and not IBKR's."""

UNKNOWN_TAG = "NetLiquidation"
"""Of the one row, without a value, of an account whose values IBKR has refused."""


class Book:
    def __init__(self, snapshots: Snapshots, store: Sink, clock: Clock, client_id: int) -> None:
        self._snapshots = snapshots
        self._store = store
        self._clock = clock
        self._client_id = client_id
        self._plain: dict[str, str] = {}  # key of an account value → its text
        self._prefixed: dict[str, str] = {}  # the same, of values whose tag came with a prefix
        self._respelled: dict[str, None] = {}  # keys of which this packet changed one, where there are both
        self._noticed: set[str] = set()
        self._positions: dict[str, Position] = {}
        self._marks: dict[str, rows.Marks] = {}
        self._holders: dict[int, set[str]] = {}  # contract → keys of its positions
        self._prices: dict[int, float] = {}  # of a contract, from the position whose figures came last
        self._orders: dict[int, Order] = {}
        self._traded: dict[int, float] = {}  # order → units it has filled, by this packet's executions
        self._fills: dict[str, Fill] = {}  # by what an execution and its corrections have in common
        self._early: dict[str, ib.CommissionReport] = {}
        self.recovered: dict[str, None] = {}
        """execIds first learnt from the answer to a request, in order; cleared before a comparison."""
        self.orders_outdated = False
        """An execution does not fit the row of its order: orders are to be read again."""
        snapshots.settle["positions"] = self._settle_positions
        snapshots.settle["orders"] = self._settle_orders

    def flush(self) -> None:
        """The packet is over, before its rows are published."""
        if self._traded:
            self._check_orders()
        if self._respelled:
            self._check_spellings()

    # --- accounts ---------------------------------------------------------------------------------------------------

    def value(self, account: str, tag: str, value: str, currency: str, model: str = "") -> None:
        plain = tag.removeprefix(rows.LEDGER)
        key = rows.value_key(account, plain, currency, model)
        (self._plain if plain == tag else self._prefixed)[key] = value
        if key in self._prefixed:
            self._respelled[key] = None
        self._snapshots.put("summary", key, rows.value_row(account, plain, value, currency, model))

    def value_unknown(self, account: str) -> None:
        """IBKR has refused the values of this account."""
        key = rows.value_key(account, UNKNOWN_TAG, "")
        self._snapshots.put("summary", key, rows.value_row(account, UNKNOWN_TAG, None, ""))

    def _check_spellings(self) -> None:
        """TWS 10.47 reports cash balances under two tags: the row bears the plain one and the newest value."""
        changed, self._respelled = self._respelled, {}
        for key in changed:
            plain, prefixed = self._plain.get(key), self._prefixed[key]
            if plain is None or plain == prefixed or key in self._noticed:
                continue
            self._noticed.add(key)
            account, tag, currency, *_ = key.split(":")
            text = f"{tag} {currency} of {account}: {plain}, but {rows.LEDGER}{tag}: {prefixed}; the newest is shown"
            self._store.notice(Notice(at=self._clock.now(), code=OUR_NOTICE, text=text))

    def pnl(self, account: str, daily: float, unrealized: float, realized: float) -> None:
        self._snapshots.put("pnl", account, rows.pnl_row(account, daily, unrealized, realized))

    # --- positions --------------------------------------------------------------------------------------------------

    def position(self, account: str, contract: ib.Contract, units: float, cost: float, model: str = "") -> None:
        key = rows.position_key(account, contract.conId, model)
        if units == 0:
            self._close(key)
            return
        row = rows.position_row(account, contract, units, cost, model)
        self._positions[key] = row = self._marked(row, self._marks.get(key, rows.NO_MARKS))
        self._holders.setdefault(row.conId, set()).add(key)
        self._snapshots.put("positions", key, row)

    def _close(self, key: str) -> None:
        row = self._positions.pop(key, None)
        self._marks.pop(key, None)
        self._snapshots.put("positions", key, None)
        if row is not None:
            self._holders[row.conId].discard(key)
            self._unmark(row.conId)

    def marks_unknown(self, account: str, con_id: int) -> None:
        """The market figures of a position do not come any more."""
        key = rows.position_key(account, con_id)
        self._marks.pop(key, None)
        self._unmark(con_id)
        if (row := self._positions.get(key)) is not None:
            self._amend(key, row, rows.NO_MARKS)

    def _unmark(self, con_id: int) -> None:
        """The price may have been that of a position whose figures have ended."""
        if self._prices.pop(con_id, None) is not None:
            self._mark(con_id)

    def marks(self, account: str, con_id: int, marks: rows.Marks) -> None:
        """Market figures of a position; they may come before the position itself."""
        key = rows.position_key(account, con_id)
        self._marks[key] = marks
        row = self._positions.get(key)
        price = marks[0] if marks[0] is not None or row is None else rows.derived_price(row, marks[1])
        if price is not None and price != self._prices.get(con_id):
            self._prices[con_id] = price
            self._mark(con_id)
        elif row is not None:
            self._amend(key, row, marks)

    def _mark(self, con_id: int) -> None:
        """All positions in this contract."""
        for key in self._holders.get(con_id, ()):
            self._amend(key, self._positions[key], self._marks.get(key, rows.NO_MARKS))

    def _amend(self, key: str, row: Position, marks: rows.Marks) -> None:
        marked = self._marked(row, marks)
        if marked is not row:
            self._positions[key] = marked
            self._snapshots.amend("positions", key, marked)

    def _marked(self, row: Position, marks: rows.Marks) -> Position:
        """With its figures. A price that IBKR does not report is what its value gives, else that of another account."""
        price, value, unrealized, realized = marks
        if price is None:
            price = rows.derived_price(row, value)
        if price is None:
            price = self._prices.get(row.conId)
        return rows.marked(row, (price, value, unrealized, realized))

    def _settle_positions(self, reported: dict[str, Struct]) -> None:
        """What is not reported any more is gone, and no late market figure brings it back."""
        self._positions = {key: row for key, row in reported.items() if isinstance(row, Position)}
        self._marks = {key: marks for key, marks in self._marks.items() if key in reported}
        self._holders = {}
        for key, row in self._positions.items():
            self._holders.setdefault(row.conId, set()).add(key)
        self._prices = {con_id: price for con_id, price in self._prices.items() if con_id in self._holders}

    # --- orders -----------------------------------------------------------------------------------------------------

    def open_order(self, contract: ib.Contract, order: ib.Order, status: str) -> None:
        if not order.permId or order.whatIf:
            return  # not yet an order of IBKR's, or a question that looks like one
        known = self._reported_order(order.permId)
        self._order(rows.open_order_row(contract, order, status, self._client_id, known))

    def order_status(
        self,
        perm_id: int,
        status: str,
        filled: float,
        remaining: float,
        average: float,
        last: float,
        parent: int,
        why_held: str,
    ) -> None:
        known = self._reported_order(perm_id)
        if known is None:
            return  # its openOrder will report all of this again
        units = rows.number(filled)
        traded = units is not None and units > 0  # before that, IBKR's prices of 0 are no prices
        self._order(
            replace(
                known,
                status=status,
                filled=units,
                remaining=rows.number(remaining),
                avgFillPrice=rows.number(average) if traded else None,
                lastFillPrice=rows.number(last) if traded else None,
                parentId=parent or known.parentId,
                whyHeld=why_held,
                done=status in rows.DONE,
            )
        )

    def completed_order(self, contract: ib.Contract, order: ib.Order, status: str) -> None:
        if order.permId:
            self._order(rows.completed_order_row(contract, order, status, self._known_order(order.permId)))

    def _reported_order(self, perm_id: int) -> Order | None:
        """What has been reported of it in this session, and in the list that is being read in the first place."""
        row = self._snapshots.collected("orders", str(perm_id)) or self._orders.get(perm_id)
        return row if isinstance(row, Order) else None

    def _known_order(self, perm_id: int) -> Order | None:
        """From this session, else from an earlier one."""
        known = self._orders.get(perm_id) or self._store.rows("orders").get(str(perm_id))
        return known if isinstance(known, Order) else None

    def _order(self, row: Order) -> None:
        known, key = self._orders.get(row.permId), str(row.permId)
        if known is not None and known.done and not row.done:
            # a late message about an order that has ended; in a list that is being read, it may be open after all
            self._snapshots.collect("orders", key, row)
            return
        self._orders[row.permId] = row
        self._snapshots.put("orders", key, row)

    def _check_orders(self) -> None:
        """IBKR may report an execution without its order's new state: then all orders are to be read again."""
        traded, self._traded = self._traded, {}
        for perm_id, units in traded.items():
            row = self._orders.get(perm_id)
            if row is None or not (row.done or (row.filled is not None and row.filled >= units)):
                self.orders_outdated = True

    def _settle_orders(self, reported: dict[str, Struct]) -> None:
        """Those known only as completed take from their fills what these can show; what is not reported any more is
        dropped."""
        self._orders = {row.permId: row for row in reported.values() if isinstance(row, Order)}
        bare = {
            row.permId for row in self._orders.values() if row.done and (row.clientId is None or not row.avgFillPrice)
        }
        executions: dict[int, list[Fill]] = {}
        for fill in self._store.rows("fills").values() if bare else ():
            if isinstance(fill, Fill) and fill.permId in bare:
                executions.setdefault(fill.permId, []).append(fill)
        for perm_id, fills in executions.items():
            row = rows.with_fills(self._orders[perm_id], fills, self._client_id)
            reported[str(perm_id)] = self._orders[perm_id] = row

    # --- fills ------------------------------------------------------------------------------------------------------

    def remember_fills(self) -> None:
        """What the store has from earlier sessions: none of it is new, however it is reported now."""
        for fill in self._store.rows("fills").values():
            if isinstance(fill, Fill):
                self._fills.setdefault(identity(fill.execId)[0], fill)

    def execution(self, contract: ib.Contract, execution: ib.Execution, *, requested: bool) -> None:
        row = rows.fill_row(contract, execution, requested=requested)
        base, revision = identity(row.execId)
        known = self._fills.get(base)
        if known is not None and identity(known.execId)[1] >= revision:
            return  # it was reported before, or corrected since
        if requested:
            self.recovered[row.execId] = None
        elif row.permId:
            self._traded[row.permId] = max(row.cumQty or 0.0, self._traded.get(row.permId, 0.0))
        if (report := self._early.pop(row.execId, None)) is not None:
            row = rows.with_commission(row, report)
        self._fill(base, row)

    def commission(self, report: ib.CommissionReport) -> None:
        base, revision = identity(report.execId)
        known = self._fills.get(base)
        if known is not None and known.execId == report.execId:
            self._fill(base, rows.with_commission(known, report))
        elif known is None or identity(known.execId)[1] < revision:
            self._early[report.execId] = report
            if len(self._early) > EARLY:
                del self._early[next(iter(self._early))]

    def _fill(self, base: str, row: Fill) -> None:
        if self._fills.get(base) == row:
            return
        self._fills[base] = row
        if len(self._fills) > FILLS:
            del self._fills[next(iter(self._fills))]
        self._snapshots.publish("fills", row.execId, row)
