"""ib_async's objects → rows. Pure: IBKR's unset sentinels, NaN and infinity become `None`, nothing else is changed.

Never decides whether a row is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal

import ib_async as ib
from msgspec.structs import replace

from shared.messages import (
    Account,
    AccountValue,
    Bar,
    ContractDetails,
    ContractMatch,
    Fill,
    OptionChain,
    Order,
    PnL,
    Position,
)

UNSET = frozenset({1.7976931348623157e308, 2**31 - 1, 2**63 - 1, float(2**63 - 1), float(2**127 - 1)})
"""What IBKR sends for “no value”: the largest double, and the largest integers of 32, 64 and 128 bits."""

DONE = frozenset({"Filled", "Cancelled", "ApiCancelled"})
"""States an order does not leave. Not `Inactive`: IBKR may take such an order up again."""


def number(value: Any) -> float | None:
    """A number that means something, or `None`."""
    if value is None or value in UNSET or not math.isfinite(value):
        return None
    return float(value)


def whole(value: Any) -> int | None:
    got = number(value)
    return None if got is None else int(got)


def contract_fields(contract: ib.Contract) -> dict[str, Any]:
    """CONTRACT of the rows. `exchange` falls back to the primary one, which is all that some messages tell."""
    return {
        "conId": contract.conId,
        "symbol": contract.symbol,
        "secType": contract.secType,
        "lastTradeDateOrContractMonth": contract.lastTradeDateOrContractMonth,
        "strike": number(contract.strike) or None,  # 0 where there is none
        "right": "" if contract.right in ("0", "?") else contract.right,
        "multiplier": contract.multiplier,
        "exchange": contract.exchange or contract.primaryExchange,
        "currency": contract.currency,
        "localSymbol": contract.localSymbol,
        "tradingClass": contract.tradingClass,
    }


# --- accounts -------------------------------------------------------------------------------------------------------


def account_row(name: str) -> Account:
    """IBKR names every paper account with a `D` in front."""
    return Account(account=name, paper=name.startswith("D"))


def value_key(account: str, tag: str, currency: str) -> str:
    return f"{account}:{tag}:{currency}"


def value_row(account: str, tag: str, value: str, currency: str, model: str = "") -> AccountValue:
    return AccountValue(account=account, tag=tag, value=value, currency=currency, modelCode=model)


def pnl_row(account: str, daily: float, unrealized: float, realized: float) -> PnL:
    return PnL(account=account, dailyPnL=number(daily), unrealizedPnL=number(unrealized), realizedPnL=number(realized))


# --- positions ------------------------------------------------------------------------------------------------------

Marks = tuple[float | None, float | None, float | None, float | None]
"""marketPrice, marketValue, unrealizedPNL, realizedPNL of one position."""

NO_MARKS: Marks = (None, None, None, None)


def position_key(account: str, con_id: int) -> str:
    return f"{account}:{con_id}"


def position_row(account: str, contract: ib.Contract, units: float, cost: float, marks: Marks) -> Position:
    return marked(
        Position(account=account, position=units, avgCost=number(cost), **contract_fields(contract)),
        marks,
    )


def marked(row: Position, marks: Marks) -> Position:
    """The position with its market figures."""
    price, value, unrealized, realized = marks
    if (row.marketPrice, row.marketValue, row.unrealizedPNL, row.realizedPNL) == marks:
        return row
    return replace(row, marketPrice=price, marketValue=value, unrealizedPNL=unrealized, realizedPNL=realized)


# --- orders ---------------------------------------------------------------------------------------------------------


def placed_by(client: int, order_id: int, ours: int) -> Literal["thisClient", "otherClient", "manual"]:
    """An order typed into TWS has no id of its own (0, or negative once client 0 has bound it) and client 0."""
    if client == 0 and order_id <= 0:
        return "manual"
    return "thisClient" if client == ours else "otherClient"


def open_order_row(contract: ib.Contract, order: ib.Order, status: str, ours: int, known: Order | None) -> Order:
    """An order as openOrder tells it; what only orderStatus tells is kept from what is `known`."""
    status = status or (known.status if known else "")
    row = Order(
        permId=order.permId,
        orderId=order.orderId,
        clientId=order.clientId,
        placedBy=placed_by(order.clientId, order.orderId, ours),
        account=order.account,
        action=order.action,
        totalQuantity=number(order.totalQuantity),
        orderType=order.orderType,
        lmtPrice=number(order.lmtPrice),
        auxPrice=number(order.auxPrice),
        tif=order.tif,
        orderRef=order.orderRef,
        parentId=order.parentId,
        status=status,
        done=status in DONE,
        **contract_fields(contract),
    )
    if known is None:
        return row
    return replace(
        row,
        filled=known.filled,
        remaining=known.remaining,
        avgFillPrice=known.avgFillPrice,
        lastFillPrice=known.lastFillPrice,
        whyHeld=known.whyHeld,
    )


def completed_order_row(contract: ib.Contract, order: ib.Order, status: str, known: Order | None) -> Order:
    """A finished order. IBKR says neither its order id nor its client here: unknown, unless `known` from before."""
    filled = number(order.filledQuantity)
    total = number(order.totalQuantity)
    if known is not None:
        return replace(
            known,
            status=status,
            done=True,
            filled=known.filled if filled is None else filled,
            remaining=0.0 if status == "Filled" else known.remaining,
        )
    return Order(
        permId=order.permId,
        orderId=None,
        clientId=None,
        placedBy=None,
        account=order.account,
        action=order.action,
        totalQuantity=total or filled,  # IBKR sends 0 for some finished orders
        orderType=order.orderType,
        lmtPrice=number(order.lmtPrice),
        auxPrice=number(order.auxPrice),
        tif=order.tif,
        orderRef=order.orderRef,
        status=status,
        filled=filled,
        remaining=0.0 if status == "Filled" else None,
        done=True,
        **contract_fields(contract),
    )


def with_fills(order: Order, fills: Sequence[Fill], ours: int) -> Order:
    """What a finished order's executions say of it: who placed it, and its prices if they are all of its executions."""
    first, last = fills[0], max(fills, key=lambda fill: fill.time)
    if order.clientId is None:
        by = placed_by(first.clientId, first.orderId, ours)
        order = replace(order, orderId=first.orderId, clientId=first.clientId, placedBy=by)
    shares = sum(fill.shares for fill in fills)
    if order.avgFillPrice is None and shares > 0 and order.filled is not None and math.isclose(shares, order.filled):
        average = sum(fill.shares * fill.price for fill in fills) / shares
        order = replace(order, avgFillPrice=average, lastFillPrice=last.price)
    return order


# --- executions -----------------------------------------------------------------------------------------------------


def fill_row(contract: ib.Contract, execution: ib.Execution, *, asked: bool) -> Fill:
    """`asked`: it came as the answer to a question of ours, not as it happened."""
    return Fill(
        execId=execution.execId,
        time=execution.time,
        account=execution.acctNumber,
        side=execution.side,
        shares=execution.shares,
        price=execution.price,
        permId=execution.permId,
        orderId=whole(execution.orderId) or 0,  # TWS sends its unset value for manual orders
        clientId=whole(execution.clientId) or 0,
        cumQty=number(execution.cumQty),
        avgPrice=number(execution.avgPrice),
        orderRef=execution.orderRef,
        recovered=asked,
        **contract_fields(contract),
    )


def with_commission(fill: Fill, report: ib.CommissionReport) -> Fill:
    return replace(
        fill,
        commission=number(report.commission),
        commissionCurrency=report.currency,
        realizedPNL=number(report.realizedPNL),
    )


# --- answers --------------------------------------------------------------------------------------------------------


def details_row(details: ib.ContractDetails) -> ContractDetails:
    contract = details.contract or ib.Contract()
    return ContractDetails(
        **contract_fields(contract),
        primaryExchange=contract.primaryExchange,
        longName=details.longName,
        marketName=details.marketName,
        stockType=details.stockType,
        minTick=number(details.minTick),
        priceMagnifier=whole(details.priceMagnifier),
        minSize=number(details.minSize),
        sizeIncrement=number(details.sizeIncrement),
        orderTypes=details.orderTypes,
        validExchanges=details.validExchanges,
        underConId=whole(details.underConId) or None,
        underSymbol=details.underSymbol,
        underSecType=details.underSecType,
        contractMonth=details.contractMonth,
        realExpirationDate=details.realExpirationDate,
        lastTradeTime=details.lastTradeTime,
        industry=details.industry,
        category=details.category,
        subcategory=details.subcategory,
        timeZoneId=details.timeZoneId,
        tradingHours=details.tradingHours,
        liquidHours=details.liquidHours,
        cusip=details.cusip,
    )


def match_row(found: ib.ContractDescription) -> ContractMatch:
    contract = found.contract or ib.Contract()
    return ContractMatch(
        conId=contract.conId,
        symbol=contract.symbol,
        secType=contract.secType,
        primaryExchange=contract.primaryExchange,
        currency=contract.currency,
        description=contract.description,
        derivativeSecTypes=tuple(found.derivativeSecTypes),
    )


def chain_row(chain: ib.OptionChain) -> OptionChain:
    return OptionChain(
        exchange=chain.exchange,
        underlyingConId=int(chain.underlyingConId),
        tradingClass=chain.tradingClass,
        multiplier=chain.multiplier,
        expirations=tuple(sorted(chain.expirations)),
        strikes=tuple(sorted(chain.strikes)),
    )


def bar_row(bar: ib.BarData) -> Bar:
    """A volume of -1 says that such bars have none, and then neither has average or count a meaning."""
    volume = number(bar.volume)
    traded = volume is not None and volume >= 0
    return Bar(
        date=bar_date(bar.date),
        open=number(bar.open),
        high=number(bar.high),
        low=number(bar.low),
        close=number(bar.close),
        volume=volume if traded else None,
        average=number(bar.average) if traded else None,
        barCount=whole(bar.barCount) if traded else None,
    )


def bar_date(when: date | datetime) -> str:
    """RFC 3339 UTC, or `YYYY-MM-DD` of a daily bar or longer."""
    if isinstance(when, datetime):
        return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return when.isoformat()
