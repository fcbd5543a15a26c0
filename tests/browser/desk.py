"""What lies on a trader's desk: accounts, positions, orders, fills, quotes, link rows, as a daemon publishes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from shared.messages import Account, AccountValue, Fill, LastError, Order, PnL, Position, Quote
from shared.reasons import describe

SYMBOLS = ("AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSLA", "JPM", "XOM", "KO")
FACTS = {"host": "127.0.0.1", "port": 7497, "clientId": 1, "found": "DU7654321", "wanted": "DU1234567"}

Rows = Mapping[str, Struct]


def now(seconds: float = 0.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def contract(place: int) -> dict[str, Any]:
    """The fields of contract number `place`; beyond the first ten names are numbered."""
    symbol = SYMBOLS[place % len(SYMBOLS)] + (str(place) if place >= len(SYMBOLS) else "")
    named = {"conId": 1000 + place, "symbol": symbol, "localSymbol": symbol}
    return {**named, "secType": "STK", "exchange": "SMART", "currency": "USD"}


def account(name: str = "DU1234567", *, paper: bool = True) -> dict[str, Rows]:
    values = {
        "NetLiquidation": "1024318.42", "TotalCashValue": "318204.11", "AvailableFunds": "412907.10",
        "ExcessLiquidity": "466120.77", "MaintMarginReq": "187410.02", "BuyingPower": "1651628.40",
    }  # fmt: skip
    return {
        "accounts": {name: Account(account=name, paper=paper)},
        "summary": {
            f"{name}:{tag}:USD": AccountValue(account=name, tag=tag, value=value, currency="USD")
            for tag, value in values.items()
        },
        "pnl": {name: PnL(account=name, dailyPnL=1834.22, unrealizedPnL=20418.9, realizedPnL=-120.5)},
    }


def position(place: int, name: str = "DU1234567", price: float | None = None) -> Position:
    price = 100.0 + place if price is None else price
    return Position(
        account=name, **contract(place), position=100, avgCost=100.0, marketPrice=price, marketValue=price * 100,
        unrealizedPNL=(price - 100.0) * 100, realizedPNL=0.0,
    )  # fmt: skip


def positions(count: int, name: str = "DU1234567") -> Rows:
    return {f"{name}:{1000 + place}": position(place, name) for place in range(count)}


def order(place: int, *, done: bool = False, **changes: Any) -> Order:
    fields: dict[str, Any] = {
        "permId": 1518189000 + place, "orderId": place, "clientId": 1, "placedBy": "thisClient", "account": "DU1234567",
        **contract(place), "action": "BUY", "totalQuantity": 100, "orderType": "LMT", "lmtPrice": 99.5, "tif": "DAY",
        "status": "Filled" if done else "Submitted", "filled": 0, "remaining": 100, "done": done,
    }  # fmt: skip
    return Order(**(fields | changes))


def fill(place: int, *, recovered: bool = False) -> Fill:
    return Fill(
        execId=f"0000e0d5.{place:08x}.01.01", time=now(-60 * place - 5), account="DU1234567", **contract(place),
        side="BOT", shares=100, price=100.0 + place, permId=1518189000 + place, orderId=place, clientId=1,
        commission=1.0, commissionCurrency="USD", recovered=recovered,
    )  # fmt: skip


def book() -> dict[str, Rows]:
    """Ten positions, two open orders beside a done one, three fills of which one was recovered."""
    fills = [fill(1), fill(2, recovered=True), fill(3)]
    stop = order(2, action="SELL", placedBy="manual", orderType="STP", lmtPrice=None, auxPrice=95.0)
    orders = [order(1), stop, order(3, done=True)]
    return {
        "positions": positions(10),
        "orders": {str(row.permId): row for row in orders},
        "fills": {row.execId: row for row in fills},
    }


def quote(place: int, last: float = 101.0, **changes: Any) -> Quote:
    fields: dict[str, Any] = {
        "conId": 1000 + place, "marketDataType": "live", "bid": last - 0.01, "ask": last + 0.01, "last": last,
        "close": 100.0, "volume": 1234, "asOf": now(),
    }  # fmt: skip
    return Quote(**(fields | changes))


def trouble(phase: str, reason: str, *, next_in: float | None = None, **changes: Any) -> dict[str, Any]:
    """The changes of a link row that is not ready, with the catalogue's own words."""
    sentence, advice = describe(reason, **FACTS)
    return {
        "phase": phase,
        "reason": reason,
        "sentence": sentence,
        "advice": tuple(advice),
        "connected": False,
        "since": now(-75),
        "attempts": 14,
        "nextAttemptAt": None if next_in is None else now(next_in),
        "upstream": "unknown",
        "lastError": LastError(code=None, text="[Errno 111] Connect call failed ('127.0.0.1', 7497)", at=now(-3)),
        **changes,
    }
