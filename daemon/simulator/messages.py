"""The gateway's messages: one function each, each a frame for one negotiated server version.

Pure. The field order of each version is the one the official client and ib_async decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from daemon.simulator.catalogue import Chain
from daemon.simulator.codes import NO_REQUEST, words
from daemon.simulator.contracts import Bond, Contract
from daemon.simulator.orders import Fill, Order
from daemon.simulator.portfolio import Holding, Position, Totals
from daemon.simulator.wire import UNSET_DOUBLE, UNSET_INTEGER, escaped, frame


def units(quantity: float, version: int) -> object:
    """A size: whole below version 163, where clients read an integer."""
    return quantity if version >= 163 else round(quantity)


def greeting(version: int, connected_at: str) -> bytes:
    return frame(version, connected_at)


def error(version: int, req_id: int, code: int, message: str, reject: str = "") -> bytes:
    text = escaped(message) if version >= 153 else message
    return frame(4, 2, req_id, code, text, reject) if version >= 166 else frame(4, 2, req_id, code, text)


def notice(version: int, code: int, **parts: object) -> bytes:
    """An error message that belongs to no request, in the code's own words."""
    return error(version, NO_REQUEST, code, words(code, **parts))


def managed_accounts(accounts: Iterable[str]) -> bytes:
    return frame(15, 1, ",".join(accounts))


def next_valid_id(order_id: int) -> bytes:
    return frame(9, 1, order_id)


def current_time(now: float) -> bytes:
    return frame(49, 1, int(now))


# accounts


def account_value(account: str, tag: str, value: str, currency: str) -> bytes:
    return frame(6, 2, tag, value, currency, account)


def account_time(clock: str) -> bytes:
    return frame(8, 1, clock)


def account_download_end(account: str) -> bytes:
    return frame(54, 1, account)


def account_summary(req_id: int, account: str, tag: str, value: str, currency: str) -> bytes:
    return frame(63, 1, req_id, account, tag, value, currency)


def account_summary_end(req_id: int) -> bytes:
    return frame(64, 1, req_id)


def account_update_multi(req_id: int, account: str, model: str, tag: str, value: str, currency: str) -> bytes:
    return frame(73, 1, req_id, account, model, tag, value, currency)


def account_update_multi_end(req_id: int) -> bytes:
    return frame(74, 1, req_id)


def _identity(c: Contract) -> tuple[object, ...]:
    return (c.conId, c.symbol, c.secType, c.lastTradeDateOrContractMonth, c.strike, c.right)


def _described(c: Contract, exchange: str) -> tuple[object, ...]:
    return (*_identity(c), c.multiplier, exchange, c.currency, c.localSymbol, c.tradingClass)


def portfolio_value(holding: Holding) -> bytes:
    """`right` is 0 here where `position` leaves it empty: TWS's own way."""
    position, c = holding.position, holding.position.contract
    return frame(
        7,
        8,
        *_described(replace(c, right=c.right or "0"), c.primaryExchange),
        position.position,
        round(holding.marketPrice, 7),
        round(holding.marketValue, 2),
        round(position.avgCost, 7),
        round(holding.unrealizedPNL, 2),
        round(position.realizedPNL, 2),
        position.account,
    )


def position(held: Position) -> bytes:
    described = _described(held.contract, held.contract.primaryExchange)
    return frame(61, 3, held.account, *described, held.position, round(held.avgCost, 7))


def position_end() -> bytes:
    return frame(62, 1)


def position_multi(req_id: int, held: Position, model: str) -> bytes:
    described = _described(held.contract, held.contract.primaryExchange)
    return frame(71, 1, req_id, held.account, *described, held.position, round(held.avgCost, 7), model)


def position_multi_end(req_id: int) -> bytes:
    return frame(72, 1, req_id)


def pnl(req_id: int, value: Totals) -> bytes:
    return frame(94, req_id, *(round(x, 4) for x in (value.dailyPnL, value.unrealizedPnL, value.realizedPnL)))


def pnl_single(version: int, req_id: int, holding: Holding) -> bytes:
    held = holding.position
    money = (holding.dailyPnL, holding.unrealizedPNL, held.realizedPNL, holding.marketValue)
    return frame(95, req_id, units(held.position, version), *(round(x, 4) for x in money))


# orders


def order_status(order: Order) -> bytes:
    return frame(
        3,
        order.orderId,
        order.status,
        order.filled,
        order.remaining,
        order.avgFillPrice,
        order.permId,
        order.parentId,
        order.lastFillPrice,
        order.clientId,
        order.whyHeld,
        0,
    )


def open_order_end() -> bytes:
    return frame(53, 1)


def completed_orders_end() -> bytes:
    return frame(102)


def order_bound(order: Order) -> bytes:
    return frame(100, order.permId, order.clientId, order.orderId)


def execution(version: int, req_id: int, fill: Fill, at: str) -> bytes:
    fields = [
        11,
        req_id,
        fill.orderId or UNSET_INTEGER,  # TWS's own answer for orders made by hand
        *_described(fill.contract, fill.exchange),
        fill.execId,
        at,
        fill.account,
        fill.exchange,
        fill.side,
        fill.shares,
        fill.price,
        fill.permId,
        fill.clientId,
        0,
        fill.cumQty,
        fill.avgPrice,
        fill.orderRef,
        "",
        "",
        "",
        2,
    ]
    if version >= 178:
        fields.append(False)
    return frame(*fields)


def execution_end(req_id: int) -> bytes:
    return frame(55, 1, req_id)


def commission_report(fill: Fill) -> bytes:
    realized = UNSET_DOUBLE if fill.realizedPNL is None else round(fill.realizedPNL, 6)
    return frame(59, 1, fill.execId, fill.commission, fill.contract.currency, realized, UNSET_DOUBLE, "")


# contracts


def contract_details(version: int, req_id: int, c: Contract, exchange: str, hours: tuple[str, str]) -> bytes:
    tick_rule = "26" if c.secType == "STK" else "239" if c.secType == "CASH" else "67"
    exchanges = c.validExchanges.split(",")
    fields: list[object] = [10] if version >= 164 else [10, 8]
    last_day = c.lastTradeDateOrContractMonth
    last_trade = f"{last_day} 08:30 CST" if c.secType == "FUT" else last_day  # not always in the zone of its hours
    fields += [req_id, c.symbol, c.secType, last_trade, c.strike, c.right, exchange or c.exchange, c.currency]
    fields += [c.localSymbol, c.tradingClass, c.tradingClass, c.conId]
    fields.append(c.minTick)
    if version < 164:
        fields.append(100 if c.secType == "STK" else 1)
    name = escaped(c.longName) if version >= 153 else c.longName
    fields += [c.multiplier, ORDER_TYPES, c.validExchanges, 1, c.underConId, name, c.primaryExchange]
    fields += [last_day[:6], c.industry, c.category, c.subcategory, c.timeZoneId, *hours, "", ""]
    if c.secType == "STK":
        fields += [1, "ISIN", f"US{c.conId:09d}0"]
    else:
        fields.append(0)
    fields += [1 if c.secType == "STK" else 2147483647, c.symbol if c.underConId else ""]
    fields += ["STK" if c.secType == "OPT" else "IND" if c.secType == "FUT" else ""]
    fields += [",".join([tick_rule] * len(exchanges)), last_day]
    if version >= 152:
        fields.append(c.stockType)
    if version == 163:
        fields.append(100)
    if version >= 164:
        fields += [0.0001, 0.0001, 100] if c.secType == "STK" else [1, 1, 1]
    return frame(*fields)


def bond_details(version: int, req_id: int, c: Contract, bond: Bond, exchange: str) -> bytes:
    fields: list[object] = [18] if version >= 164 else [18, 6]
    fields += [req_id, c.symbol, c.secType, bond.cusip, bond.coupon, bond.maturity, bond.issued, "A3/A-", "", "FIXED"]
    fields += [False, True, False, "", exchange or c.exchange, c.currency, c.tradingClass, c.tradingClass, c.conId]
    fields.append(c.minTick)
    if version < 164:
        fields.append(1)
    fields += [ORDER_TYPES, c.validExchanges, "", "", False, "", escaped(c.longName) if version >= 153 else c.longName]
    fields += ["", "", 1, "CUSIP", bond.cusip, 2147483647, ",".join(["67"] * len(c.validExchanges.split(",")))]
    if version >= 164:
        fields += [1, 1, 1]
    return frame(*fields)


ORDER_TYPES = (
    "ACTIVETIM,AD,ADJUST,ALERT,ALGO,ALLOC,AON,AVGCOST,BASKET,COND,CONDORDER,DAY,DEACT,DEACTDIS,DEACTEOD,GAT,GTC,GTD,GTT,"
    "HID,ICE,IOC,LIT,LMT,LOC,MIDPX,MIT,MKT,MOC,MTL,NGCOMB,NODARK,NONALGO,OCA,OPG,OPGREROUT,PEGBENCH,PEGMID,POSTATS,"
    "REL,RPI,RTH,SCALE,SCALERST,SNAPMID,SNAPMKT,SNAPREL,STP,STPLMT,SWEEP,TRAIL,TRAILLIT,TRAILLMT,TRAILMIT,WHATIF"
)


def contract_details_end(req_id: int) -> bytes:
    return frame(52, 1, req_id)


def symbol_samples(version: int, req_id: int, found: Sequence[Contract]) -> bytes:
    fields: list[object] = [79, req_id, len(found)]
    for c in found:
        # an issuer's row has no conId but, from version 176 on, the issuer's own id
        fields += [-1 if c.bond else c.conId, c.longName if c.bond else c.symbol, c.secType, c.primaryExchange]
        fields.append("" if c.bond else c.currency)
        fields += [len(c.derivativeSecTypes), *c.derivativeSecTypes]
        if version >= 176:
            fields += [escaped(c.longName), c.bond.issuer if c.bond else ""]
    return frame(*fields)


def option_chain(req_id: int, chain: Chain, exchange: str) -> bytes:
    fields: list[object] = [75, req_id, exchange, chain.underlying.conId, chain.underlying.symbol, chain.multiplier]
    fields += [len(chain.expirations), *chain.expirations, len(chain.strikes), *chain.strikes]
    return frame(*fields)


def option_chain_end(req_id: int) -> bytes:
    return frame(76, req_id)


def market_rule(rule_id: int, steps: Sequence[tuple[float, float]]) -> bytes:
    return frame(93, rule_id, len(steps), *(value for step in steps for value in step))


# the rest: short answers of known shape


def answer(message: int, *fields: object) -> bytes:
    """A message without a version whose fields are given as they are (softDollarTiers, familyCodes, …)."""
    return frame(message, *fields)


def listed(rows: Sequence[Sequence[object]]) -> list[object]:
    """A counted list of rows as fields."""
    return [len(rows), *(field for row in rows for field in row)]
