"""Market depth, scanners and news: what further subscriptions add to market data.

Depth follows the world's quotes; scanners rank its stocks by their day; headlines are made of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from daemon.simulator import data_messages, history
from daemon.simulator.contracts import Contract
from daemon.simulator.messages import answer, listed, units
from daemon.simulator.prices import hash_of
from daemon.simulator.reference import resolve
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState
from daemon.simulator.subscriptions import Depth

DEPTHS_AT_ONCE: Final = 3
"""Market depth requests one user may hold."""

DEEP: Final = frozenset(("STK", "FUT", "CASH", "CRYPTO"))
"""Security types that have a book."""

BOOK_ROWS: Final = 10
"""Levels on each side of a book."""

SCANS: Final = {
    "TOP_PERC_GAIN": "Top % Gainers",
    "TOP_PERC_LOSE": "Top % Losers",
    "MOST_ACTIVE": "Most Active",
    "HOT_BY_VOLUME": "Hot by Volume",
}
"""The scans this gateway offers, with their names."""

SCAN_ROWS: Final = 50
"""Rows of a scan, at most."""

PROVIDERS: Final = (
    ("BRFG", "Briefing.com General Market Columns"),
    ("BRFUPDN", "Briefing.com Analyst Actions"),
    ("DJNL", "Dow Jones Newsletters"),
)

_ARTICLE: Final = re.compile(r"([0-9a-f]{1,12})-([0-9a-f]{1,9})")

NEWS_EVERY: Final = 6 * 3600
"""Seconds between two headlines about one contract."""


def market_depth(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    held = session.subscriptions.depths
    if request.reqId in held:
        session.error(request.reqId, 102)
        return None
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    if contract.secType not in DEEP:
        session.error(request.reqId, 10092)
        return None
    if sum(len(other.subscriptions.depths) for other in gateway.ready_sessions()) >= DEPTHS_AT_ONCE:
        session.error(request.reqId, 309, id=DEPTHS_AT_ONCE)
        return None
    rows = max(1, min(BOOK_ROWS, request.number("numRows", 5)))
    held[request.reqId] = Depth(request.reqId, contract, rows, request.fields.get("isSmartDepth") == "1")
    return book(gateway, session, held[request.reqId], insert=True)


def book(gateway: GatewayState, session: Session, depth: Depth, *, insert: bool) -> list[bytes]:
    """Every level of a book, inserted or updated: bids (side 1) and asks (side 0) from the top down."""
    contract, now = depth.contract, gateway.clock.time()
    quote, venues = gateway.world.quote(contract, now), contract.validExchanges.split(",")
    frames: list[bytes] = []
    for side, top, sign in ((1, quote.bid, -1), (0, quote.ask, 1)):
        for row in range(depth.rows):
            price = round(top + sign * row * contract.minTick, 8)
            size = units(quote.bidSize * (1 + hash_of(contract.conId, row, side, int(now)) % 5), session.version)
            fields = (0 if insert else 1, side, price, size)
            venue = venues[1 + row % (len(venues) - 1)] if len(venues) > 1 else venues[0]
            frames.append(data_messages.depth(depth.reqId, row, venue if depth.smart else "", *fields))
    return frames


def every_second(gateway: GatewayState, session: Session) -> None:
    """The books a client follows, as they are now."""
    for depth in session.subscriptions.depths.values():
        session.write(b"".join(book(gateway, session, depth, insert=False)))


def cancel_depth(_gateway: GatewayState, session: Session, request: Request) -> None:
    if session.subscriptions.depths.pop(request.reqId, None) is None:
        session.error(request.reqId, 310, id=request.reqId)


# scanners


def scanner_parameters(_gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    scans = "".join(
        f"<ScanType><displayName>{name}</displayName><scanCode>{code}</scanCode><instruments>STK</instruments></ScanType>"
        for code, name in SCANS.items()
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><ScanParameterResponse><InstrumentList varName="instrumentList">'
        "<Instrument><name>US Stocks</name><type>STK</type></Instrument></InstrumentList>"
        f'<ScanTypeList varName="scanTypeList">{scans}</ScanTypeList></ScanParameterResponse>'
    )
    return [answer(19, 1, xml)]


def scanner(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    code = request.fields["scanCode"]
    if request.fields["instrument"] != "STK" or code not in SCANS:
        session.error(request.reqId, 162, cause=f"Invalid scan code or instrument: {code}")
        return None
    count = request.number("numberOfRows", -1)
    found = _ranked(gateway, code)[: min(SCAN_ROWS, count) if count >= 0 else SCAN_ROWS]
    if not found:
        session.error(request.reqId, 165, cause="no items retrieved")
    return [data_messages.scanner_data(request.reqId, found)]


def _ranked(gateway: GatewayState, code: str) -> list[Contract]:
    prices, now = gateway.world.prices, gateway.clock.time()
    stocks = [c for c in gateway.world.catalogue.by_con_id.values() if c.secType == "STK" and c.currency == "USD"]

    def rank(contract: Contract) -> float:
        if code in ("MOST_ACTIVE", "HOT_BY_VOLUME"):
            return -prices.volume(contract, now)
        move = prices.price(contract, now) / prices.opening(contract, now)
        return move if code == "TOP_PERC_LOSE" else -move

    return sorted(stocks, key=rank)


# news


def news_providers(_gateway: GatewayState, _session: Session, _request: Request) -> Iterable[bytes]:
    return [answer(85, *listed(PROVIDERS))]


def historical_news(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    contract = gateway.world.catalogue.by_con_id.get(request.number("conId"))
    providers = [code for code, _ in PROVIDERS if code in request.fields["providerCodes"].split("+")]
    if contract is None or not providers:
        session.error(request.reqId, 10276)
        return None
    count = max(1, min(300, request.number("totalResults", 10)))
    frames, now = [], gateway.clock.time()
    for number in range(count):
        at = now - now % NEWS_EVERY - number * NEWS_EVERY
        code = providers[number % len(providers)]
        shown = history.moment(at, "UTC").removesuffix(" UTC")
        day = f"{shown[:4]}-{shown[4:6]}-{shown[6:]}.0"
        price = gateway.world.prices.price(contract, at)
        frames.append(
            answer(86, request.reqId, day, code, _article_id(code, contract, at), f"{contract.longName} at {price:.2f}")
        )
    return [*frames, answer(87, request.reqId, True)]


def _article_id(code: str, contract: Contract, at: float) -> str:
    return f"{code}${contract.conId:x}-{int(at):x}"


def news_article(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    provider, article = request.fields["providerCode"], request.fields["articleId"]
    about = _ARTICLE.fullmatch(article.removeprefix(f"{provider}$"))
    contract = gateway.world.catalogue.by_con_id.get(int(about[1], 16)) if about else None
    if contract is None or about is None or provider not in dict(PROVIDERS):
        session.error(request.reqId, 10172, cause="Not found")
        return None
    at = int(about[2], 16)
    text = f"{contract.longName} was at {gateway.world.prices.price(contract, at):.2f} {contract.currency}."
    return [answer(83, request.reqId, 0, text)]


ANSWERS: Final[dict[str, Answer]] = {
    "reqMktDepth": market_depth,
    "cancelMktDepth": cancel_depth,
    "reqScannerParameters": scanner_parameters,
    "reqScannerSubscription": scanner,
    "reqNewsProviders": news_providers,
    "reqHistoricalNews": historical_news,
    "reqNewsArticle": news_article,
}
