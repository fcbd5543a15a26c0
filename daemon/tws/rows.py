"""ib_async's objects → rows. Pure: IBKR's unset sentinels, NaN and infinity become `None`."""

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
    return None if number(value) is None else int(value)


def contract_fields(contract: ib.Contract) -> dict[str, Any]:
    """CONTRACT of the rows. `exchange` falls back to the primary one, which is all that some messages name."""
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


LEDGER = "$LEDGER-"
"""Before the tags of cash balances in TWS 10.47 and later, where one of its settings is on."""


def value_key(account: str, tag: str, currency: str, model: str = "") -> str:
    return f"{account}:{tag}:{currency}:{model}" if model else f"{account}:{tag}:{currency}"


def value_row(account: str, tag: str, value: str | None, currency: str, model: str = "") -> AccountValue:
    return AccountValue(account=account, tag=tag, value=known_text(value), currency=currency, modelCode=model)


def known_text(value: str | None) -> str | None:
    """IBKR's own text, unless it is a number that stands for no value."""
    try:
        return value if value is None or number(float(value)) is not None else None
    except ValueError:
        return value


def pnl_row(account: str, daily: float, unrealized: float, realized: float) -> PnL:
    return PnL(account=account, dailyPnL=number(daily), unrealizedPnL=number(unrealized), realizedPnL=number(realized))


# --- positions ------------------------------------------------------------------------------------------------------

Marks = tuple[float | None, float | None, float | None, float | None]
"""marketPrice, marketValue, unrealizedPNL, realizedPNL of one position."""

NO_MARKS: Marks = (None, None, None, None)


def position_key(account: str, con_id: int, model: str = "") -> str:
    return f"{account}:{con_id}:{model}" if model else f"{account}:{con_id}"


def position_row(account: str, contract: ib.Contract, units: float, cost: float, model: str = "") -> Position:
    return Position(account=account, position=units, avgCost=number(cost), modelCode=model, **contract_fields(contract))


def derived_price(row: Position, value: float | None) -> float | None:
    """The market price that a position's market value gives."""
    units = row.position * (known_multiplier(row.multiplier) or math.nan)
    return number(value / units) if value is not None and units != 0 else None


def known_multiplier(text: str) -> float | None:
    """Units of the price in one contract; 1 where IBKR names none."""
    try:
        return number(float(text or 1)) or None
    except ValueError:
        return None


def marked(row: Position, marks: Marks) -> Position:
    """The position with its market figures."""
    price, value, unrealized, realized = marks
    if (row.marketPrice, row.marketValue, row.unrealizedPNL, row.realizedPNL) == marks:
        return row
    return replace(row, marketPrice=price, marketValue=value, unrealizedPNL=unrealized, realizedPNL=realized)


# --- orders ---------------------------------------------------------------------------------------------------------


def placed_by(
    client: int | None, order_id: int | None, ours: int
) -> Literal["thisClient", "otherClient", "manual"] | None:
    """An order typed into TWS has no id of its own (0, or negative once client 0 has bound it) and client 0."""
    if client is None or order_id is None:
        return None
    if client == 0 and order_id <= 0:
        return "manual"
    return "thisClient" if client == ours else "otherClient"


def id_of(value: int | None) -> int | None:
    """An order's or a client's id. TWS sends its unset value for manual orders, which have 0."""
    return None if value is None else whole(value) or 0


def order_terms(order: ib.Order) -> dict[str, Any]:
    """What openOrder and completedOrder report of an order alike. An order by cash has a total of 0, which is none."""
    cash = number(order.cashQty) or None
    total = number(order.totalQuantity)
    return {
        "account": order.account,
        "action": order.action,
        "totalQuantity": None if cash and not total else total,
        "orderType": order.orderType,
        "lmtPrice": number(order.lmtPrice),
        "auxPrice": number(order.auxPrice),
        "tif": order.tif,
        "orderRef": order.orderRef,
        "trailingPercent": number(order.trailingPercent),
        "trailStopPrice": number(order.trailStopPrice),
        "cashQty": cash,
    }


def open_order_row(contract: ib.Contract, order: ib.Order, status: str, ours: int, known: Order | None) -> Order:
    """An order as openOrder reports it; what only orderStatus reports is kept from what is `known`."""
    status = status or (known.status if known else "")
    order_id, client_id = id_of(order.orderId), id_of(order.clientId)
    row = Order(
        permId=order.permId,
        orderId=order_id,
        clientId=client_id,
        placedBy=placed_by(client_id, order_id, ours),
        parentId=order.parentId,
        status=status,
        done=status in DONE,
        **order_terms(order),
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
    """A finished order. IBKR reports neither order id nor client here: unknown, unless `known` from before."""
    filled = number(order.filledQuantity)
    terms = order_terms(order)
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
        status=status,
        filled=filled,
        remaining=0.0 if status == "Filled" else None,
        done=True,
        **terms | {"totalQuantity": terms["totalQuantity"] or filled},  # IBKR sends 0 for some finished orders
        **contract_fields(contract),
    )


def with_fills(order: Order, fills: Sequence[Fill], ours: int) -> Order:
    """A finished order with what its executions show: who placed it, and its prices if they are all its executions."""
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


def fill_row(contract: ib.Contract, execution: ib.Execution, *, requested: bool) -> Fill:
    """`requested`: it came in the answer to a request of ours, not as it happened."""
    return Fill(
        execId=execution.execId,
        time=execution.time,
        account=execution.acctNumber,
        side=execution.side,
        shares=execution.shares,
        price=execution.price,
        permId=execution.permId,
        orderId=id_of(execution.orderId),
        clientId=id_of(execution.clientId),
        cumQty=number(execution.cumQty),
        avgPrice=number(execution.avgPrice),
        orderRef=execution.orderRef,
        recovered=requested,
        **contract_fields(contract),
    )


PENDING_COMMISSION = -1.0
"""What IBKR reports before it has worked a commission out. A rebate of exactly 1.00 is rarer, and reported again."""


def with_commission(fill: Fill, report: ib.CommissionReport) -> Fill:
    return replace(
        fill,
        commission=None if report.commission == PENDING_COMMISSION else number(report.commission),
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


def match_row(found: ib.ContractDescription) -> ContractMatch | None:
    """`None` for what has no id at all: before server version 176, an issuer of bonds."""
    contract = found.contract or ib.Contract()
    if contract.conId <= 0 and not contract.issuerId:
        return None
    return ContractMatch(
        conId=contract.conId if contract.conId > 0 else None,
        symbol=contract.symbol,
        secType=contract.secType,
        primaryExchange=contract.primaryExchange,
        currency=contract.currency,
        description=contract.description,
        derivativeSecTypes=tuple(found.derivativeSecTypes),
        issuerId=contract.issuerId,
    )


def chain_row(
    exchange: str,
    underlying_con_id: int,
    trading_class: str,
    multiplier: str,
    expirations: Sequence[str],
    strikes: Sequence[float],
) -> OptionChain:
    return OptionChain(
        exchange=exchange,
        underlyingConId=underlying_con_id,
        tradingClass=trading_class,
        multiplier=multiplier,
        expirations=tuple(sorted(expirations)),
        strikes=tuple(sorted(strikes)),
    )


def bar_row(
    when: date | datetime,
    opened: float | None,
    high: float | None,
    low: float | None,
    close: float | None,
    volume: float | None,
    average: float | None,
    count: float | None,
) -> Bar:
    """A volume of -1 means that such bars have none, and then neither has average or count a meaning."""
    traded = volume is not None and volume >= 0
    return Bar(
        date=bar_date(when),
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=volume if traded else None,
        average=average if traded else None,
        barCount=whole(count) if traded else None,
    )


def bar_date(when: date | datetime) -> str:
    """RFC 3339 UTC, or `YYYY-MM-DD` of a daily bar or longer."""
    if isinstance(when, datetime):
        return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return when.isoformat()
