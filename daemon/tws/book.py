"""What the accounts hold: account values, PnL, positions, orders and fills, as this session is told them.

Makes rows of what comes and hands them to `Snapshots`. Never asks for anything, and never believes an error code about
an order: what an order is, openOrder, orderStatus and completedOrder say (FAULTS 11).
"""

from __future__ import annotations

import ib_async as ib
from msgspec import Struct
from msgspec.structs import replace

from daemon.state.fills import identity
from daemon.state.sink import Sink
from daemon.tws import rows
from daemon.tws.snapshot import Snapshots
from shared.messages import Fill, Order, Position

EARLY = 1000
"""Commission reports kept for executions that have not come yet: one packet's worth is usual."""

FILLS = 20_000
"""Fills remembered for their commission and their corrections: as many as the store holds."""


class Book:
    def __init__(self, snapshots: Snapshots, store: Sink, client_id: int) -> None:
        self._snapshots = snapshots
        self._store = store
        self._client_id = client_id
        self._positions: dict[str, Position] = {}
        self._marks: dict[str, rows.Marks] = {}
        self._orders: dict[int, Order] = {}
        self._fills: dict[str, Fill] = {}  # by what an execution and its corrections have in common
        self._early: dict[str, ib.CommissionReport] = {}
        self.learnt: dict[str, None] = {}
        """execIds first learnt by asking, in order; whoever compares empties it before."""
        snapshots.settle["positions"] = self._settle_positions
        snapshots.settle["orders"] = self._settle_orders

    # --- accounts ---------------------------------------------------------------------------------------------------

    def value(self, account: str, tag: str, value: str, currency: str) -> None:
        key = rows.value_key(account, tag, currency)
        self._snapshots.put("summary", key, rows.value_row(account, tag, value, currency))

    def pnl(self, account: str, daily: float, unrealized: float, realized: float) -> None:
        self._snapshots.put("pnl", account, rows.pnl_row(account, daily, unrealized, realized))

    # --- positions --------------------------------------------------------------------------------------------------

    def position(self, account: str, contract: ib.Contract, units: float, cost: float) -> None:
        key = rows.position_key(account, contract.conId)
        if units == 0:
            self._positions.pop(key, None)
            self._marks.pop(key, None)
            self._snapshots.put("positions", key, None)
            return
        row = rows.position_row(account, contract, units, cost, self._marks.get(key, rows.NO_MARKS))
        self._positions[key] = row
        self._snapshots.put("positions", key, row)

    def marks(self, account: str, con_id: int, marks: rows.Marks) -> None:
        """Market figures of a position; they may come before the position itself."""
        key = rows.position_key(account, con_id)
        self._marks[key] = marks
        row = self._positions.get(key)
        if row is not None and (marked := rows.marked(row, marks)) is not row:
            self._positions[key] = marked
            self._snapshots.amend("positions", key, marked)

    def _settle_positions(self, told: dict[str, Struct]) -> None:
        """What is told no more is gone, and no late market figure brings it back."""
        self._positions = {key: row for key, row in told.items() if isinstance(row, Position)}
        self._marks = {key: marks for key, marks in self._marks.items() if key in told}

    # --- orders -----------------------------------------------------------------------------------------------------

    def open_order(self, contract: ib.Contract, order: ib.Order, status: str) -> None:
        if not order.permId or order.whatIf:
            return  # not yet an order of IBKR's, or a question that looks like one
        known = self._orders.get(order.permId)
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
        known = self._orders.get(perm_id)
        if known is None:
            return  # its openOrder will say all of this again
        traded = filled > 0  # before that, IBKR's prices of 0 are no prices
        self._order(
            replace(
                known,
                status=status,
                filled=rows.number(filled),
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

    def _known_order(self, perm_id: int) -> Order | None:
        """From this session, else from an earlier one."""
        known = self._orders.get(perm_id) or self._store.rows("orders").get(str(perm_id))
        return known if isinstance(known, Order) else None

    def _order(self, row: Order) -> None:
        self._orders[row.permId] = row
        self._snapshots.put("orders", str(row.permId), row)

    def _settle_orders(self, told: dict[str, Struct]) -> None:
        """Those known only as completed take from their fills what these can say; what is told no more is forgotten."""
        self._orders = {row.permId: row for row in told.values() if isinstance(row, Order)}
        bare = {
            row.permId for row in self._orders.values() if row.done and (row.clientId is None or not row.avgFillPrice)
        }
        executions: dict[int, list[Fill]] = {}
        for fill in self._store.rows("fills").values() if bare else ():
            if isinstance(fill, Fill) and fill.permId in bare:
                executions.setdefault(fill.permId, []).append(fill)
        for perm_id, fills in executions.items():
            told[str(perm_id)] = self._orders[perm_id] = rows.with_fills(self._orders[perm_id], fills, self._client_id)

    # --- fills ------------------------------------------------------------------------------------------------------

    def remember_fills(self) -> None:
        """What the store knows from earlier sessions: none of it is new, however it is told now."""
        for fill in self._store.rows("fills").values():
            if isinstance(fill, Fill):
                self._fills.setdefault(identity(fill.execId)[0], fill)

    def execution(self, contract: ib.Contract, execution: ib.Execution, *, asked: bool) -> None:
        row = rows.fill_row(contract, execution, asked=asked)
        base, revision = identity(row.execId)
        known = self._fills.get(base)
        if known is not None and identity(known.execId)[1] >= revision:
            return  # it was told before, or corrected since
        if known is not None:
            row = replace(row, recovered=known.recovered)
        elif asked:
            self.learnt[row.execId] = None
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
