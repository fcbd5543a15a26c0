"""Orders and executions: what they are, and what becomes of an order at a price.

Pure: no clock, no socket, no portfolio. Who owns the list of them is `market.World`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from daemon.simulator.contracts import Contract

DONE: Final = frozenset({"Filled", "Cancelled", "ApiCancelled", "Inactive"})
KNOWN_TYPES: Final = frozenset(
    {"MKT", "LMT", "STP", "STP LMT", "TRAIL", "TRAIL LIMIT", "MIT", "LIT", "MOC", "LOC", "REL", "MIDPRICE"}
)
IMMEDIATE: Final = frozenset({"IOC", "FOK"})
PRICED: Final = frozenset({"LMT", "STP LMT", "LIT", "LOC", "TRAIL LIMIT"})
TRIGGERED: Final = frozenset({"STP", "STP LMT", "MIT", "LIT", "TRAIL", "TRAIL LIMIT"})

MOST_UNITS: Final = 1e12
"""No order is for as many units."""

NOT_SENT: Final[Mapping[str, str]] = {}


@dataclass(slots=True, eq=False)
class Order:
    """One order and its progress. Prices in the contract's currency; None = not set.

    `wire` keeps every other attribute exactly as the client sent it, so that it comes back unchanged.
    """

    permId: int
    orderId: int
    clientId: int
    account: str
    contract: Contract
    action: str
    totalQuantity: float
    orderType: str
    lmtPrice: float | None = None
    auxPrice: float | None = None
    tif: str = "DAY"
    orderRef: str = ""
    parentId: int = 0
    ocaGroup: str = ""
    transmit: bool = True
    wire: Mapping[str, str] = field(default_factory=lambda: NOT_SENT)
    status: str = "PendingSubmit"
    filled: float = 0.0
    avgFillPrice: float = 0.0
    lastFillPrice: float = 0.0
    whyHeld: str = ""
    completedAt: float = 0.0
    completedStatus: str = ""

    @property
    def remaining(self) -> float:
        return self.totalQuantity - self.filled

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def sign(self) -> int:
        return 1 if self.action == "BUY" else -1


@dataclass(slots=True)
class Fill:
    """One execution. `time` in seconds since the epoch; `realizedPNL` None where the fill closed nothing."""

    execId: str
    time: float
    account: str
    contract: Contract
    exchange: str
    side: str
    shares: float
    price: float
    permId: int
    clientId: int
    orderId: int
    cumQty: float
    avgPrice: float
    orderRef: str = ""
    commission: float | None = None
    realizedPNL: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an order request was turned down: the code and the cause that its words name."""

    code: int
    cause: str = ""


def refusal(order: Order, known: Order | None, accounts: frozenset[str]) -> Refusal | None:
    """Whether the gateway turns `order` down at once; `known` is the order it would replace."""
    if known is not None and known.status == "Filled":
        return Refusal(104)
    if known is not None and known.done:
        return Refusal(103)
    if known is not None and (known.contract.conId != order.contract.conId or known.action != order.action):
        return Refusal(105)
    if order.account not in accounts:
        return Refusal(321, "Invalid account code")
    if order.action not in ("BUY", "SELL", "SSHORT"):
        return Refusal(321, "Please enter a valid action")
    if not 0 < order.totalQuantity < MOST_UNITS:
        return Refusal(434)
    if order.orderType not in KNOWN_TYPES:
        return Refusal(321, "Invalid order type was entered")
    if order.orderType in PRICED and order.lmtPrice is None:
        return Refusal(201, "The order needs a limit price")
    if off_tick(order.lmtPrice, order.contract.minTick):
        return Refusal(110)
    return None


def off_tick(price: float | None, tick: float) -> bool:
    """Whether `price` is not a multiple of `tick`."""
    return price is not None and abs(price / tick - round(price / tick)) > 1e-6


def price_now(order: Order, bid: float, ask: float) -> float | None:
    """At what price a working order trades against this market, None while it rests."""
    market = ask if order.sign > 0 else bid
    if order.orderType in TRIGGERED:
        if order.auxPrice is None or order.orderType.startswith("TRAIL"):
            return None
        upward = (order.sign > 0) == order.orderType.startswith("STP")
        if (market < order.auxPrice) if upward else (market > order.auxPrice):
            return None
    if order.orderType in ("MOC", "LOC", "REL"):
        return None
    if order.lmtPrice is not None and order.orderType in PRICED and order.sign * (market - order.lmtPrice) > 0:
        return None
    return market


def pieces(quantity: float) -> list[float]:
    """In which executions a marketable quantity trades: from 200 on in two, so that partial fills are ordinary."""
    if quantity < 200:
        return [quantity]
    first = quantity // 200 * 100
    return [first, quantity - first]


def commission(contract: Contract, shares: float, price: float) -> float:
    """What the execution costs, after IBKR's fixed tariff, in the contract's currency."""
    if contract.secType == "OPT":
        return round(max(1.0, 0.65 * shares), 2)
    if contract.secType == "FUT":
        return round(2.25 * shares, 2)
    if contract.secType == "CASH":
        return round(max(2.0, shares * price * 0.00002), 2)
    return round(max(1.0, 0.005 * shares), 6)
