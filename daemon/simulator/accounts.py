"""Account requests: values, portfolio, positions, summary, profit and loss, and what keeps them current.

Each answer is an iterable of frames whose last one is its end marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from daemon.simulator import messages
from daemon.simulator.codes import DUPLICATE_TICKER, SUMMARY_LIMIT
from daemon.simulator.market import World
from daemon.simulator.portfolio import Position
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState

SUMMARIES_AT_ONCE: Final = 2
"""Account-summary subscriptions one client may hold."""

UPDATE_EVERY: Final = 180.0
"""Seconds between the account updates that come without a change: TWS's own three minutes."""

LEDGER: Final = [
    "AccountOrGroup",
    "AccruedCash",
    "CashBalance",
    "CorporateBondValue",
    "Currency",
    "ExchangeRate",
    "FundValue",
    "FutureOptionValue",
    "FuturesPNL",
    "FxCashBalance",
    "IssuerOptionValue",
    "MoneyMarketFundValue",
    "MutualFundValue",
    "NetDividend",
    "NetLiquidationByCurrency",
    "OptionMarketValue",
    "RealizedPnL",
    "RealCurrency",
    "StockMarketValue",
    "TBillValue",
    "TBondValue",
    "TotalCashBalance",
    "UnrealizedPnL",
    "WarrantValue",
]

Row = tuple[str, str, str]


def _money(value: float) -> str:
    return f"{value:.2f}"


def values(world: World, account: str, now: float) -> list[Row]:
    """Every account value as (tag, value, currency)."""
    base = world.base_currency
    totals = world.totals(account, now)
    stock, gross, unrealized, realized = totals.marketValue, totals.gross, totals.unrealizedPnL, totals.realizedPnL
    cash = world.cash.get(account, 0.0)
    net = cash + stock
    initial, maintenance = gross * 0.30, gross * 0.25
    rows: list[Row] = [
        ("AccountCode", account, ""),
        ("AccountReady", "true", ""),
        ("AccountType", "INDIVIDUAL", ""),
        ("ColumnPrio-C", "2", ""),
        ("ColumnPrio-S", "1", ""),
        ("Cushion", f"{(net - maintenance) / net if net else 0:.6f}", ""),
        *((f"DayTradesRemaining{day}", "-1", "") for day in ("", "T+1", "T+2", "T+3", "T+4")),
        ("Leverage", f"{gross / net if net else 0:.2f}", ""),
        ("Leverage-S", f"{gross / net if net else 0:.2f}", ""),
        ("LookAheadNextChange", "0", ""),
        ("NLVAndMarginInReview", "false", ""),
        ("SegmentTitle-C", "US Commodities", ""),
        ("SegmentTitle-S", "US Securities", ""),
        ("TradingType-S", "STKNOPT", ""),
        ("WhatIfPMEnabled", "true", ""),
    ]
    amounts: dict[str, float] = {
        "AccruedDividend": 0,
        "AvailableFunds": net - initial,
        "Billable": 0,
        "EquityWithLoanValue": net,
        "ExcessLiquidity": net - maintenance,
        "FullAvailableFunds": net - initial,
        "FullExcessLiquidity": net - maintenance,
        "FullInitMarginReq": initial,
        "FullMaintMarginReq": maintenance,
        "Guarantee": 0,
        "IndianStockHaircut": 0,
        "InitMarginReq": initial,
        "LookAheadAvailableFunds": net - initial,
        "LookAheadExcessLiquidity": net - maintenance,
        "LookAheadInitMarginReq": initial,
        "LookAheadMaintMarginReq": maintenance,
        "MaintMarginReq": maintenance,
        "NetLiquidation": net,
        "PASharesValue": 0,
        "PhysicalCertificateValue": 0,
        "PostExpirationExcess": 0,
        "PostExpirationMargin": 0,
        "TotalCashValue": cash,
        "TotalDebitCardPendingCharges": 0,
    }
    securities: dict[str, float] = {
        "GrossPositionValue": gross,
        "PreviousDayEquityWithLoanValue": net,
        "RegTEquity": net,
        "RegTMargin": gross * 0.5,
        "SMA": max(0.0, net - gross * 0.5),
    }
    rows += [("BuyingPower", _money(max(0.0, (net - initial) * 4)), base), ("NetLiquidationUncertainty", "0.00", base)]
    rows += [("AccruedCash-C", "0.00", base), ("AccruedCash-S", "0.00", base)]
    for tag, amount in amounts.items():  # in all, in commodities, in securities
        rows += [(tag, _money(amount), base), (f"{tag}-C", _money(0), base), (f"{tag}-S", _money(amount), base)]
    for tag, amount in securities.items():
        rows += [(tag, _money(amount), base), (f"{tag}-S", _money(amount), base)]
    ledger: dict[str, float] = {
        "CashBalance": cash,
        "TotalCashBalance": cash,
        "StockMarketValue": stock,
        "NetLiquidationByCurrency": net,
        "UnrealizedPnL": unrealized,
        "RealizedPnL": realized,
    }
    for currency in ("BASE", base):
        for tag in LEDGER:
            if tag == "AccountOrGroup":
                rows.append((tag, account, currency))
            elif tag in ("Currency", "RealCurrency"):
                rows.append((tag, currency, currency))
            elif tag == "ExchangeRate":
                rows.append((tag, "1.00", currency))
            else:
                rows.append((tag, _money(ledger.get(tag, 0.0)), currency))
    return rows


# account updates: one account a client


def _known_account(gateway: GatewayState, session: Session, account: str, req_id: int = -1) -> bool:
    if account in gateway.world.managed:
        return True
    session.error(req_id, 321, who="bW", cause=f"Invalid account code {account!r}")
    return False


def _has_values(gateway: GatewayState, session: Session, account: str, req_id: int = -1) -> bool:
    """Whether the account's values may be read; an error says why not."""
    refused = gateway.faults.refused_accounts.get(account)
    if refused is not None:
        session.error(req_id, 321, who="bW", cause=refused)
        return False
    return _known_account(gateway, session, account, req_id)


def _shown(gateway: GatewayState, account: str) -> Iterator[Row]:
    """The account values with the tags of the gateway's own setting: TWS 10.47 can put `$LEDGER-` before a ledger's."""
    prefix = "$LEDGER-" if gateway.faults.ledger_prefix else ""
    for tag, value, currency in values(gateway.world, account, gateway.clock.time()):
        yield f"{prefix}{tag}" if tag in LEDGER else tag, value, currency


def account_updates(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    account = request.fields["acctCode"] or gateway.world.managed[0]
    if not _has_values(gateway, session, account):
        return None
    if not request.number("subscribe"):
        session.subscriptions.account = ""
        return None
    if session.subscriptions.account == account:
        return None  # it stands: TWS sends only what changes, and no second end
    session.subscriptions.account = account
    return _download(gateway, account)


def _download(gateway: GatewayState, account: str, only: frozenset[int] | None = None) -> Iterator[bytes]:
    now = gateway.clock.time()
    for tag, value, currency in _shown(gateway, account):
        yield messages.account_value(account, tag, value, currency)
    for held in list(gateway.world.positions.values()):
        wanted = held.position if only is None else held.contract.conId in only
        if wanted and held.account == account:
            yield messages.portfolio_value(gateway.world.holding(held, now))
    yield messages.account_time(gateway.local_time()[9:14])
    if only is None:
        yield messages.account_download_end(account)


def account_updates_multi(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    account, model = request.fields["account"], request.fields["modelCode"]
    if account and not _has_values(gateway, session, account, request.reqId):
        return None
    session.subscriptions.account_multi[request.reqId] = (account, model)
    return _multi(gateway, request.reqId, account, model)


def _multi(gateway: GatewayState, req_id: int, account: str, model: str, end: bool = True) -> Iterator[bytes]:
    for name in (account,) if account else gateway.world.accounts:
        for tag, value, currency in _shown(gateway, name):
            yield messages.account_update_multi(req_id, name, model, tag, value, currency)
        part = gateway.faults.models.get(name) if not model else None
        if part is not None:
            for tag, value, currency in _shown(gateway, name):
                if currency:
                    yield messages.account_update_multi(req_id, name, part, tag, _half(value), currency)
    if end:
        yield messages.account_update_multi_end(req_id)


def _half(value: str) -> str:
    """The part of an amount that a model holds."""
    return _money(float(value) / 2) if "." in value else value


def cancel_account_updates_multi(_gateway: GatewayState, session: Session, request: Request) -> None:
    session.subscriptions.account_multi.pop(request.reqId, None)


# account summary: two at once


def account_summary(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    req_id, held = request.reqId, session.subscriptions.summaries
    if req_id in held:
        session.error(req_id, 322, who="bO", cause=DUPLICATE_TICKER)
        return None
    if len(held) >= SUMMARIES_AT_ONCE:
        session.error(req_id, 322, who="bO", cause=SUMMARY_LIMIT)
        return None
    tags = tuple(tag.strip() for tag in request.fields["tags"].split(",") if tag.strip())
    held[req_id] = (request.fields["groupName"], tags)
    return _summary(gateway, req_id, tags)


def _summary(gateway: GatewayState, req_id: int, tags: tuple[str, ...], end: bool = True) -> Iterator[bytes]:
    plain = frozenset(tag for tag in tags if not tag.startswith("$"))
    ledgers = [tag.partition(":")[2] or "BASE" for tag in tags if tag.startswith("$LEDGER")]
    for account in gateway.world.accounts:
        for tag, value, currency in values(gateway.world, account, gateway.clock.time()):
            in_ledger = tag in LEDGER and ("ALL" in ledgers or currency in ledgers)
            in_plain = tag in plain and not (tag in LEDGER and currency == "BASE")
            if in_plain or in_ledger:
                yield messages.account_summary(req_id, account, tag, value, currency)
    if end:
        yield messages.account_summary_end(req_id)


def cancel_account_summary(_gateway: GatewayState, session: Session, request: Request) -> None:
    session.subscriptions.summaries.pop(request.reqId, None)


# positions


def positions(gateway: GatewayState, session: Session, _request: Request) -> Iterable[bytes]:
    session.subscriptions.positions = True
    return _positions(gateway)


def _positions(gateway: GatewayState) -> Iterator[bytes]:
    for held in list(gateway.world.positions.values()):
        if held.position:
            yield messages.position(held)
    yield messages.position_end()


def cancel_positions(_gateway: GatewayState, session: Session, _request: Request) -> None:
    session.subscriptions.positions = False


def positions_multi(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    account, model = request.fields["account"], request.fields["modelCode"]
    if account and not _known_account(gateway, session, account, request.reqId):
        return None
    session.subscriptions.positions_multi[request.reqId] = (account, model)
    rows: list[bytes] = []
    for held in gateway.world.held(account):
        rows.append(messages.position_multi(request.reqId, held, model))
        part = gateway.faults.models.get(held.account) if not model else None
        if part is not None:
            rows.append(messages.position_multi(request.reqId, replace(held, position=held.position / 2), part))
    return [*rows, messages.position_multi_end(request.reqId)]


def cancel_positions_multi(_gateway: GatewayState, session: Session, request: Request) -> None:
    session.subscriptions.positions_multi.pop(request.reqId, None)


# profit and loss: about once a second


def pnl(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    account = request.fields["account"]
    if not _known_account(gateway, session, account, request.reqId):
        return None
    if request.reqId in session.subscriptions.pnl:
        session.error(request.reqId, 322, who="cB", cause=DUPLICATE_TICKER)
        return None
    session.subscriptions.pnl[request.reqId] = account
    return [messages.pnl(request.reqId, gateway.world.totals(account, gateway.clock.time()))]


def cancel_pnl(_gateway: GatewayState, session: Session, request: Request) -> None:
    session.subscriptions.pnl.pop(request.reqId, None)


def pnl_single(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    account, con_id = request.fields["account"], request.number("conId")
    if not _known_account(gateway, session, account, request.reqId):
        return None
    session.subscriptions.pnl_single[request.reqId] = (account, con_id)
    held = gateway.world.positions.get((account, con_id))
    if held is None:
        return None
    return [messages.pnl_single(session.version, request.reqId, gateway.world.holding(held, gateway.clock.time()))]


def cancel_pnl_single(_gateway: GatewayState, session: Session, request: Request) -> None:
    session.subscriptions.pnl_single.pop(request.reqId, None)


# what goes on by itself


def every_second(gateway: GatewayState, session: Session) -> None:
    """Profit and loss, where the client subscribed to it."""
    now, wanted = gateway.clock.time(), session.subscriptions
    frames = [messages.pnl(req_id, gateway.world.totals(account, now)) for req_id, account in wanted.pnl.items()]
    for req_id, key in wanted.pnl_single.items():
        held = gateway.world.positions.get(key)
        if held is not None:
            frames.append(messages.pnl_single(session.version, req_id, gateway.world.holding(held, now)))
    if frames:
        session.write(b"".join(frames))


def every_three_minutes(gateway: GatewayState, session: Session) -> None:
    """The account values, where the client subscribed to them."""
    wanted = session.subscriptions
    if wanted.account:
        session.answer(list(_download(gateway, wanted.account))[:-1])
    for req_id, (account, model) in wanted.account_multi.items():
        session.answer(_multi(gateway, req_id, account, model, end=False))
    for req_id, (_, tags) in wanted.summaries.items():
        session.answer(_summary(gateway, req_id, tags, end=False))


def position_changed(gateway: GatewayState, session: Session, held: Position) -> None:
    """An execution changed a position: sent to a client that follows positions or the account."""
    wanted = session.subscriptions
    frames: list[bytes] = []
    if wanted.positions:
        frames.append(messages.position(held))
    for req_id, (account, model) in wanted.positions_multi.items():
        if account in ("", held.account):
            frames.append(messages.position_multi(req_id, held, model))
    if wanted.account == held.account:
        frames += _download(gateway, held.account, only=frozenset((held.contract.conId,)))
    if frames:
        session.write(b"".join(frames))


ANSWERS: Final[dict[str, Answer]] = {
    "reqAccountUpdates": account_updates,
    "reqAccountUpdatesMulti": account_updates_multi,
    "cancelAccountUpdatesMulti": cancel_account_updates_multi,
    "reqAccountSummary": account_summary,
    "cancelAccountSummary": cancel_account_summary,
    "reqPositions": positions,
    "cancelPositions": cancel_positions,
    "reqPositionsMulti": positions_multi,
    "cancelPositionsMulti": cancel_positions_multi,
    "reqPnL": pnl,
    "cancelPnL": cancel_pnl,
    "reqPnLSingle": pnl_single,
    "cancelPnLSingle": cancel_pnl_single,
}
