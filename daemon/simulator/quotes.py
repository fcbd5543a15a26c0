"""Market-data requests: permissions, and the first ticks of a line. The lines live in `lines`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from daemon.simulator import data_messages
from daemon.simulator.codes import DUPLICATE_TICKER, SNAPSHOT_GENERIC
from daemon.simulator.contracts import Contract
from daemon.simulator.lines import (
    ASK,
    ASK_SIZE,
    BID,
    BID_SIZE,
    CLOSE,
    DELAY_S,
    HIGH,
    LAST,
    LAST_SIZE,
    LOW,
    OPEN,
    VOLUME,
)
from daemon.simulator.messages import units
from daemon.simulator.prices import DAY
from daemon.simulator.reference import resolve
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState
from daemon.simulator.subscriptions import Line


def market_data(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    req_id, snapshot = request.reqId, request.fields["snapshot"] == "1"
    if req_id in session.subscriptions.lines:
        session.error(req_id, 322, who="bE", cause=DUPLICATE_TICKER)
        return None
    generic = frozenset(int(part) for part in request.fields["genericTickList"].split(",") if part.strip().isdigit())
    if snapshot and generic:
        session.error(req_id, 321, who="bM", cause=SNAPSHOT_GENERIC)
        return None
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    if contract.secType == "CFD":  # a share's: TWS names the share, and sends nothing itself
        under = gateway.world.catalogue.by_con_id[contract.underConId]
        return [data_messages.reroute(req_id, under)]
    if not snapshot and sum(gateway.quotes.by_contract().values()) >= gateway.quotes.limit:
        session.error(req_id, 101)
        return None
    terms = data_messages.tick_req_params(req_id, contract)
    if not _may_see(gateway, session, req_id, contract, terms):
        return None
    line = Line(session, req_id, contract, _kind(gateway, session, contract), generic)
    if not snapshot:
        gateway.quotes.add(line)
    frames = first_ticks(gateway, line)
    frames.insert(1, terms)  # after the market data type, as TWS does
    return [*frames, data_messages.tick_snapshot_end(req_id)] if snapshot else frames


def _kind(gateway: GatewayState, session: Session, contract: Contract) -> int:
    """The type of data the line gets: delayed only where live is not subscribed, frozen only while nothing moves."""
    wanted = session.subscriptions.market_data_type
    if gateway.faults.entitlement(contract.conId) in (354, 10089, 10167, 10168):
        return 4 if wanted == 4 and gateway.faults.quiet else 3
    return 2 if wanted in (2, 4) and gateway.faults.quiet else 1


def _may_see(gateway: GatewayState, session: Session, req_id: int, contract: Contract, terms: bytes = b"") -> bool:
    """Whether data flows. If not, an error says why, after the `terms` of the line; a warning where it flows all the
    same."""
    if gateway.faults.competing:
        session.write(terms)
        session.error(req_id, 10197)
        return False
    code = gateway.faults.entitlement(contract.conId)
    delayed = session.subscriptions.market_data_type >= 3
    venue = contract.primaryExchange or contract.exchange
    if venue == "NASDAQ":
        venue = f"{venue}.{contract.tradingClass}"  # as TWS names it here: NASDAQ.NMS
    what = f"{contract.symbol} {venue}/TOP/ALL"
    if code == 10090:
        session.error(req_id, code, what=what)
    elif code in (10089, 10168, 10167) and delayed:
        session.error(req_id, 10167, what=what)
    elif code:
        session.write(terms)
        session.error(req_id, 10168 if code == 10167 else code, what=what)
        return False
    return True


def first_ticks(gateway: GatewayState, line: Line) -> list[bytes]:
    """What a line gets at once: its type and the whole picture."""
    version, req_id, contract = line.session.version, line.reqId, line.contract
    now = gateway.clock.time() - (DELAY_S if line.kind >= 3 else 0)
    quote = gateway.world.quote(contract, now)
    line.day = int(now // DAY)
    line.bid, line.ask = round(quote.bid / contract.minTick), round(quote.ask / contract.minTick)
    line.high, line.low = round(quote.high / contract.minTick), round(quote.low / contract.minTick)
    price: list[tuple[int, float, float | None]]
    price = [(BID, quote.bid, quote.bidSize), (ASK, quote.ask, quote.askSize), (LAST, quote.last, quote.lastSize)]
    size = [(BID_SIZE, quote.bidSize), (ASK_SIZE, quote.askSize), (LAST_SIZE, quote.lastSize), (VOLUME, quote.volume)]
    day = [(HIGH, quote.high), (LOW, quote.low), (CLOSE, quote.close), (OPEN, quote.open)]
    frames = [data_messages.market_data_type(req_id, line.kind)]
    if contract.conId in gateway.faults.no_prices:
        price, size = [(BID, -1.0, 0), (ASK, -1.0, 0), (LAST, 0.0, 0)], [(BID_SIZE, 0), (ASK_SIZE, 0), (LAST_SIZE, 0)]
        day = [(kind, 0.0) for kind, _ in day]
    elif contract.secType == "IND":
        price, size = [(LAST, quote.last, None)], []
    elif contract.secType == "CASH":
        price, size = price[:2], size[:2]
    frames += [
        data_messages.tick_price(req_id, line.tick(k), p, "" if s is None else units(s, version), k != LAST)
        for k, p, s in price
    ]
    frames += [data_messages.tick_size(req_id, line.tick(k), units(s, version)) for k, s in size]
    frames += [data_messages.tick_price(req_id, line.tick(k), p) for k, p in day]
    frames.append(data_messages.tick_string(req_id, line.tick(45), str(int(now))))
    frames.append(data_messages.tick_generic(req_id, line.tick(49), 0))
    if contract.secType == "OPT":
        greeks = gateway.world.prices.greeks(contract, now)
        frames.append(data_messages.tick_greeks(version, req_id, line.tick(13), greeks))
    return frames + _generic_ticks(line, quote.last, quote.low, quote.high, int(now), quote.volume)


def _generic_ticks(line: Line, last: float, low: float, high: float, now: int, volume: int) -> list[bytes]:
    req_id, frames = line.reqId, []
    if 165 in line.generic:
        for kind, price in ((15, low), (16, high), (17, low), (18, high), (19, low), (20, high)):
            frames.append(data_messages.tick_price(req_id, kind, round(price * (1 + 0.02 * (kind % 2 - 0.5)), 2)))
        frames.append(data_messages.tick_size(req_id, 21, volume * 3))
    if 221 in line.generic or 232 in line.generic:
        frames.append(data_messages.tick_price(req_id, 37, last))
    if 233 in line.generic:
        frames.append(data_messages.tick_string(req_id, 48, f"{last};1;{now * 1000};{volume};{last};true"))
    if 236 in line.generic:
        frames += [data_messages.tick_generic(req_id, 46, 3.0), data_messages.tick_size(req_id, 89, 1_000_000)]
    if 293 in line.generic:
        frames.append(data_messages.tick_generic(req_id, 54, float(volume // 100)))
    if 456 in line.generic:
        frames.append(data_messages.tick_string(req_id, 59, f"0.96,1.00,{20_270_101 + now % 9},0.25"))
    return frames


def cancel_market_data(gateway: GatewayState, session: Session, request: Request) -> None:
    line = session.subscriptions.lines.get(request.reqId)
    if line is None:
        session.error(request.reqId, 300, id=request.reqId)
    else:
        gateway.quotes.remove(line)


def market_data_type(_gateway: GatewayState, session: Session, request: Request) -> None:
    kind = request.number("marketDataType")
    if kind in (1, 2, 3, 4):
        session.subscriptions.market_data_type = kind
    else:
        session.error(-1, 321, who="cJ", cause="Invalid market data type")


def tick_by_tick(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    kind = request.fields["tickType"]
    if request.reqId in session.subscriptions.lines:
        session.error(request.reqId, 322, who="cN", cause=DUPLICATE_TICKER)
        return None
    contract = resolve(gateway, session, request)
    if contract is None or not _may_see(gateway, session, request.reqId, contract):
        return None
    if kind not in ("Last", "AllLast", "BidAsk", "MidPoint"):
        session.error(request.reqId, 321, who="cN", cause="Invalid tick type")
        return None
    gateway.quotes.add(Line(session, request.reqId, contract, by_tick=kind))  # type: ignore[arg-type]
    return None


ANSWERS: Final[dict[str, Answer]] = {
    "reqMktData": market_data,
    "cancelMktData": cancel_market_data,
    "reqMarketDataType": market_data_type,
    "reqTickByTickData": tick_by_tick,
    "cancelTickByTickData": cancel_market_data,
}
