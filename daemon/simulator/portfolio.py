"""Positions and cash of a world's accounts, what an execution does to them, and what they come to.

Pure: prices and time are arguments. Independent of orders and clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from daemon.simulator.contracts import Contract
from daemon.simulator.orders import Fill
from daemon.simulator.prices import Prices


@dataclass(slots=True)
class Position:
    """What one account holds of one contract; `avgCost` per unit of the contract, multiplier included."""

    account: str
    contract: Contract
    position: float
    avgCost: float
    realizedPNL: float = 0.0


@dataclass(frozen=True, slots=True)
class Holding:
    """A position with its market: the content of `updatePortfolio`."""

    position: Position
    marketPrice: float
    marketValue: float
    unrealizedPNL: float
    dailyPnL: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What a portfolio comes to, in the base currency: its value, the same without signs, and its profits and losses
    today, since purchase, and realized."""

    marketValue: float
    gross: float
    dailyPnL: float
    unrealizedPnL: float
    realizedPnL: float


class Portfolio:
    """What the accounts hold. `prices` values it."""

    def __init__(self, accounts: tuple[str, ...], prices: Prices) -> None:
        self.accounts = accounts
        self.prices = prices
        self.positions: dict[tuple[str, int], Position] = {}
        self.cash: dict[str, float] = {}
        self._booked = 0
        self._totals: dict[str, tuple[tuple[int, int, int], Totals]] = {}

    def held(self, account: str = "") -> list[Position]:
        """The positions that are not flat, of one account or of all."""
        return [p for p in self.positions.values() if p.position and account in ("", p.account)]

    def holding(self, position: Position, now: float) -> Holding:
        contract = position.contract
        price = self.prices.price(contract, now)
        before = self.prices.opening(contract, now)
        value = position.position * price * contract.size
        return Holding(
            position=position,
            marketPrice=price,
            marketValue=value,
            unrealizedPNL=value - position.position * position.avgCost,
            dailyPnL=position.position * (price - before) * contract.size,
        )

    def holdings(self, account: str, now: float) -> Iterator[Holding]:
        for position in self.held(account):
            yield self.holding(position, now)

    def totals(self, account: str, now: float) -> Totals:
        """The sums over the portfolio of `account`, or of all where it names none of them (an advisor's group).

        Worked out once a second: ten thousand positions take a fiftieth of one.
        """
        mine = account if account in self.accounts else ""
        state = (int(now), self._booked, self.prices.pins)
        known = self._totals.get(mine)
        if known is None or known[0] != state:
            value = gross = daily = unrealized = 0.0
            for holding in self.holdings(mine, now):
                value += holding.marketValue
                gross += abs(holding.marketValue)
                daily += holding.dailyPnL
                unrealized += holding.unrealizedPNL
            realized = sum(p.realizedPNL for p in self.positions.values() if mine in ("", p.account))
            known = self._totals[mine] = (state, Totals(value, gross, daily, unrealized, realized))
        return known[1]

    def book(self, fill: Fill) -> float | None:
        """Let an execution change position and cash; the profit it realized, None where it closed nothing."""
        self._booked += 1
        signed = fill.shares if fill.side == "BOT" else -fill.shares
        size = fill.contract.size
        key = (fill.account, fill.contract.conId)
        position = self.positions.get(key)
        if position is None:
            position = self.positions[key] = Position(fill.account, fill.contract, 0.0, 0.0)
        cost = fill.price * size
        held = position.position
        realized: float | None = None
        if held * signed >= 0:
            position.avgCost = (position.avgCost * abs(held) + cost * abs(signed)) / (abs(held) + abs(signed))
        else:
            closed = min(abs(held), abs(signed))
            realized = closed * (cost - position.avgCost) * (1 if held > 0 else -1) - (fill.commission or 0.0)
            position.realizedPNL += realized
            if abs(signed) > abs(held):
                position.avgCost = cost
        position.position = held + signed
        if not position.position:
            position.avgCost = 0.0
        self.cash[fill.account] = self.cash.get(fill.account, 0.0) - signed * cost - (fill.commission or 0.0)
        return realized
