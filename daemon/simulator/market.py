"""The seeded world behind the simulated gateway: accounts, positions, orders, executions, and their values.

Same seed and same requests, same world. No I/O; time is an argument, in seconds
since the epoch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from daemon.simulator.catalogue import Catalogue
from daemon.simulator.contracts import Contract
from daemon.simulator.orders import IMMEDIATE, Fill, Order, Refusal, commission, pieces, price_now, refusal
from daemon.simulator.portfolio import Portfolio, Position
from daemon.simulator.prices import Prices, Quote

FIRST_PERM_ID: Final = 1_518_189_001
OTHER_CLIENT: Final = 9
"""The API client that placed those of the first orders which are neither client 1's nor made by hand."""


@dataclass(frozen=True, slots=True)
class Changed:
    """An order has another status now (or is new)."""

    order: Order


def account_names(count: int) -> tuple[str, ...]:
    """`count` paper accounts: DU1234567 and those after it."""
    return tuple(f"DU{1_234_567 + n}" for n in range(count))


class World(Portfolio):
    """One world.

    `accounts` is a number or the ids themselves; `advisor` is the id of a financial advisor's master account, listed
    before them. `positions` are dealt to the accounts in turn. `orders`, `completed` and `fills` are how many of each
    there are when the gateway opens (the positions are what came of the fills). Of the open orders the first belongs to
    client 1, the second to client 9, the third was made by hand (order id 0), and so on in turn.
    """

    base_currency = "USD"

    def __init__(
        self,
        seed: int = 7,
        accounts: int | Sequence[str] = 1,
        positions: int = 25,
        orders: int = 3,
        completed: int = 2,
        fills: int = 4,
        advisor: str = "",
    ) -> None:
        self.seed = seed
        names = account_names(accounts) if isinstance(accounts, int) else tuple(accounts)
        super().__init__(names, Prices(seed, lambda con_id: self.catalogue.by_con_id[con_id]))
        self.advisor = advisor
        self.next_order_id = 1
        self._wanted = (positions, orders, completed, fills)
        self._next_perm_id = FIRST_PERM_ID
        self._executions = 0
        self._bound = -1
        self._opened = False
        self.catalogue: Catalogue  # from `open` on: what expires depends on the day
        self.orders: dict[int, Order] = {}
        self.fills: list[Fill] = []

    @property
    def managed(self) -> tuple[str, ...]:
        """What `managedAccounts` lists."""
        return (self.advisor, *self.accounts) if self.advisor else self.accounts

    # the beginning

    def open(self, now: float) -> None:
        """Fill the world with what it holds at the start. A second call changes nothing."""
        if self._opened:
            return
        self._opened = True
        positions, orders, completed, fills = self._wanted
        self.catalogue = Catalogue(self.seed, datetime.fromtimestamp(now, UTC).date(), invented=positions)
        rng = random.Random(self.seed)
        self.cash = {account: round(rng.uniform(60_000, 250_000), 2) for account in self.accounts}
        held = self.catalogue.portfolio(positions)
        for number, contract in enumerate(held):
            account = self.accounts[number % len(self.accounts)]
            quantity = rng.choice((100, 200, 300, 50, 25, 10, -100, -50))
            cost = round(contract.price * rng.uniform(0.8, 1.15), 4)
            self.positions[account, contract.conId] = Position(account, contract, float(quantity), cost)
        liquid = self.catalogue.portfolio(25)
        for number in range(fills):
            self._past_fill(rng, liquid[number % len(liquid)], now - 60.0 * (fills - number) - 300)
        for number in range(completed):
            self._past_cancel(rng, liquid[(number + 3) % len(liquid)], now - 900 - 60.0 * number)
        for number in range(orders):
            contract = liquid[(number + 7) % len(liquid)]
            client = (1, OTHER_CLIENT, 0)[number % 3]
            self._working_order(rng, contract, client, 100 + number if client else 0, now)

    def _perm_id(self) -> int:
        self._next_perm_id += 1
        return self._next_perm_id - 1

    def _new(self, rng: random.Random, contract: Contract, client: int, order_id: int, price: float) -> Order:
        order = Order(
            permId=self._perm_id(),
            orderId=order_id,
            clientId=client,
            account=self.accounts[contract.conId % len(self.accounts)],
            contract=contract,
            action="BUY",
            totalQuantity=float(rng.choice((10, 25, 50, 100))),
            orderType="LMT",
            lmtPrice=round(price, 2),
            tif="GTC",
        )
        self.orders[order.permId] = order
        return order

    def _working_order(self, rng: random.Random, contract: Contract, client: int, order_id: int, now: float) -> None:
        far_below = self.prices.price(contract, now) * 0.5
        self._new(rng, contract, client, order_id, far_below).status = "Submitted"
        self.next_order_id = max(self.next_order_id, order_id + 1)

    def _past_fill(self, rng: random.Random, contract: Contract, at: float) -> None:
        order = self._new(rng, contract, OTHER_CLIENT, 0, self.prices.quote(contract, at).ask)
        order.orderId = self.next_order_id
        self.next_order_id += 1
        for shares in pieces(order.totalQuantity):
            self.fills.append(self._executed(order, shares, order.lmtPrice or contract.price, at))

    def _past_cancel(self, rng: random.Random, contract: Contract, at: float) -> None:
        order = self._new(rng, contract, OTHER_CLIENT, 0, self.prices.price(contract, at) * 0.6)
        order.orderId = self.next_order_id
        self.next_order_id += 1
        self._finish(order, "Cancelled", at, "Cancelled by Trader")

    def quote(self, contract: Contract, now: float) -> Quote:
        return self.prices.quote(contract, now)

    # orders

    def order_of(self, client: int, order_id: int) -> Order | None:
        """The order that `client` placed as `order_id`, the latest if the id was used again; never one made by hand,
        which has no id."""
        if order_id == 0:
            return None
        for order in reversed(self.orders.values()):
            if order.orderId == order_id and order.clientId == client:
                return order
        return None

    def open_orders(self) -> list[Order]:
        return [order for order in self.orders.values() if not order.done]

    def completed_orders(self) -> list[Order]:
        return [order for order in self.orders.values() if order.done]

    def bind(self) -> list[Order]:
        """Give every open order that was made by hand an order id of its own, below zero; which they are."""
        bound = [order for order in self.open_orders() if order.clientId == 0 and order.orderId == 0]
        for order in bound:
            self._bound -= 1
            order.orderId = self._bound
        return bound

    def refused(self, order: Order) -> Refusal | None:
        """Why the gateway would turn this order down at once; None: it would not."""
        return refusal(order, self.order_of(order.clientId, order.orderId), frozenset(self.managed))

    def place(self, order: Order, now: float) -> Refusal | list[Changed | Fill]:
        """Take a new order or the change of a working one; what happened at once, in order."""
        refused = self.refused(order)
        if refused is not None:
            return refused
        known = self.order_of(order.clientId, order.orderId)
        if known is not None:
            order = self._amend(known, order)
        else:
            order.permId = self._perm_id()
            self.orders[order.permId] = order
            self.next_order_id = max(self.next_order_id, order.orderId + 1)
        if not order.transmit:
            order.status = "PreSubmitted"
            return [Changed(order)]
        news: list[Changed | Fill] = []
        for member in self._family(order):
            member.transmit = True
            member.status = "PreSubmitted" if self._waits_for_parent(member) else "Submitted"
            news.append(Changed(member))
        for member in self._family(order):
            news += self._trade(member, now)
        return news

    def _family(self, order: Order) -> list[Order]:
        """The working orders that are transmitted together with `order`: it, its parent, and their children."""
        head = (order.parentId and self.order_of(order.clientId, order.parentId)) or order
        return [
            other
            for other in self.open_orders()
            if other in (head, order) or (other.clientId == head.clientId and other.parentId == head.orderId != 0)
        ]

    def _amend(self, known: Order, order: Order) -> Order:
        known.totalQuantity = order.totalQuantity
        known.orderType, known.lmtPrice, known.auxPrice = order.orderType, order.lmtPrice, order.auxPrice
        known.tif, known.orderRef, known.transmit, known.wire = order.tif, order.orderRef, order.transmit, order.wire
        return known

    def _waits_for_parent(self, order: Order) -> bool:
        parent = self.order_of(order.clientId, order.parentId) if order.parentId else None
        return parent is not None and not parent.done

    def _trade(self, order: Order, now: float) -> list[Changed | Fill]:
        """Let a working order meet the market at `now`."""
        if order.done or not order.transmit or self._waits_for_parent(order):
            return []
        quote = self.quote(order.contract, now)
        price = price_now(order, quote.bid, quote.ask)
        news: list[Changed | Fill] = []
        if price is not None:
            for shares in pieces(order.remaining):
                news += [self.execute(order, shares, price, now), Changed(order)]
            news += self._after(order, now)
        elif order.tif in IMMEDIATE:
            self._finish(order, "Cancelled", now, "Cancelled by System")
            news.append(Changed(order))
        return news

    def _after(self, order: Order, now: float) -> list[Changed | Fill]:
        """What the end of `order` does to others: children wake, the rest of its OCA group is cancelled."""
        news: list[Changed | Fill] = []
        for other in self.open_orders():
            if order.ocaGroup and other.ocaGroup == order.ocaGroup:
                self._finish(other, "Cancelled", now, "Cancelled by System")
                news.append(Changed(other))
            elif other.parentId and other.parentId == order.orderId and other.clientId == order.clientId:
                other.status = "Submitted"
                news += [Changed(other), *self._trade(other, now)]
        return news

    def meet_market(self, now: float) -> list[Changed | Fill]:
        """Let every working order meet the market; what came of it."""
        news: list[Changed | Fill] = []
        for order in self.open_orders():
            news += self._trade(order, now)
        return news

    def cancel(self, order: Order, now: float) -> list[Changed | Fill]:
        """Cancel a working order and the children that waited for it."""
        self._finish(order, "Cancelled", now, "Cancelled by Trader")
        news: list[Changed | Fill] = [Changed(order)]
        for child in self.open_orders():
            if child.parentId and child.parentId == order.orderId and child.clientId == order.clientId:
                news += self.cancel(child, now)
        return news

    def _finish(self, order: Order, status: str, now: float, words: str) -> None:
        order.status, order.completedAt, order.completedStatus = status, now, words

    # executions

    def execute(self, order: Order, shares: float, price: float, now: float) -> Fill:
        """Book an execution of `order`: the order, the position, the cash and the list of fills all follow."""
        fill = self._executed(order, shares, price, now)
        fill.realizedPNL = self.book(fill)
        self.fills.append(fill)
        return fill

    def _executed(self, order: Order, shares: float, price: float, now: float) -> Fill:
        spent = order.avgFillPrice * order.filled + price * shares
        order.avgFillPrice = round(spent / (order.filled + shares), 8)
        order.filled += shares
        order.lastFillPrice = price
        if order.remaining <= 0:
            self._finish(order, "Filled", now, f"Filled Size: {order.filled:g}")
        elif order.status == "PreSubmitted":
            order.status = "Submitted"
        self._executions += 1
        contract = order.contract
        return Fill(
            execId=f"0000e0d5.{self.seed & 0xFFFF:04x}{self._executions:04x}.01.01",
            time=now,
            account=order.account,
            contract=contract,
            exchange=contract.primaryExchange or contract.exchange,
            side="BOT" if order.sign > 0 else "SLD",
            shares=shares,
            price=price,
            permId=order.permId,
            clientId=order.clientId,
            orderId=order.orderId,
            cumQty=order.filled,
            avgPrice=order.avgFillPrice,
            orderRef=order.orderRef,
            commission=commission(contract, shares, price),
        )

    def _own(self, account: str) -> str:
        """`account`, the first one for none. ValueError: it is none of this world's."""
        if account and account not in self.accounts:
            raise ValueError(f"there is no account {account}")
        return account or self.accounts[0]

    def happen(
        self, symbol: str | int, quantity: float, price: float | None, now: float, client: int, account: str = ""
    ) -> tuple[Order, Fill]:
        """An order of `client` that is placed and filled at once: positive `quantity` bought, negative sold.
        ValueError: the quantity is 0, or the account is none of this world's."""
        if not quantity:
            raise ValueError("an execution is of more or less than 0")
        contract = self.catalogue.named(symbol)
        order = Order(
            permId=self._perm_id(),
            orderId=self.next_order_id if client else 0,
            clientId=client,
            account=self._own(account),
            contract=contract,
            action="BUY" if quantity > 0 else "SELL",
            totalQuantity=abs(quantity),
            orderType="MKT",
            status="Submitted",
        )
        self.next_order_id += 1 if client else 0
        self.orders[order.permId] = order
        quote = self.quote(contract, now)
        at = price if price is not None else (quote.ask if quantity > 0 else quote.bid)
        return order, self.execute(order, abs(quantity), at, now)

    def appear(
        self, symbol: str | int, quantity: float, limit: float, now: float, client: int, account: str = ""
    ) -> tuple[Order, Refusal | list[Changed | Fill]]:
        """A limit order that `client` placed elsewhere (0: made by hand, order id 0): positive `quantity` buys."""
        order = Order(
            permId=0,
            orderId=self.next_order_id if client else 0,
            clientId=client,
            account=account or self.accounts[0],
            contract=self.catalogue.named(symbol),
            action="BUY" if quantity > 0 else "SELL",
            totalQuantity=abs(quantity),
            orderType="LMT",
            lmtPrice=limit,
        )
        return order, self.place(order, now)

    def correct(self, exec_id: str, price: float) -> Fill:
        """A correction of an execution: the same but for the price and the last part of its id, one higher. KeyError:
        there is no such execution."""
        old = next((fill for fill in reversed(self.fills) if fill.execId == exec_id), None)
        if old is None:
            raise KeyError(exec_id)
        stem, _, number = exec_id.rpartition(".")
        new = replace(old, execId=f"{stem}.{int(number) + 1:02d}", price=price, avgPrice=price)
        self.fills[self.fills.index(old)] = new
        return new
