"""Historical requests and bar streams: pacing, refusals, answers, and the updates that follow.

The bars themselves come from `history`; the limits from `pacing`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from daemon.simulator import data_messages, history, messages
from daemon.simulator.behaviour import OddBars
from daemon.simulator.codes import DUPLICATE_TICKER, PACING
from daemon.simulator.contracts import NEW_YORK, Contract
from daemon.simulator.history import InvalidQueryError, Query
from daemon.simulator.reference import resolve
from daemon.simulator.requests import Request
from daemon.simulator.session import Session
from daemon.simulator.state import Answer, GatewayState
from daemon.simulator.subscriptions import BarStream

STREAMED: Final = ("TRADES", "MIDPOINT", "BID", "ASK", "AGGTRADES")
"""What bars that go on can show."""

REAL_TIME: Final = 5
"""Seconds of a real-time bar; the API has no other."""


def historical_data(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    req_id = request.reqId
    held = session.subscriptions
    if req_id in held.bars or req_id in held.histories:
        session.error(req_id, 322, who="bG", cause=DUPLICATE_TICKER)
        return None
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    try:
        query, keep = _query(gateway, contract, request)
    except InvalidQueryError as invalid:
        session.error(req_id, invalid.code, who="bG", cause=str(invalid))
        return None
    if not _admitted(gateway, session, query, request):
        return None
    cause = _missing(gateway, query)
    if cause:
        session.error(req_id, 162, cause=cause)
        return None
    format_date = request.number("formatDate", 1)
    if query.show == "SCHEDULE":
        return [_schedule(query, req_id)]
    if keep:
        stream = BarStream(req_id, query, format_date, False, history.open_bar(query, query.end))
        held.bars[req_id] = stream
    return _bars(gateway, session, req_id, query, format_date)


def _query(gateway: GatewayState, contract: Contract, request: Request) -> tuple[Query, bool]:
    fields, now = request.fields, gateway.clock.time()
    size = history.bar_seconds(fields["barSizeSetting"])
    span = history.duration(fields["durationStr"])
    show = fields["whatToShow"].upper()
    keep = fields["keepUpToDate"] == "1"
    if show not in history.SHOWN:
        raise InvalidQueryError(f"Historical data query whatToShow {show!r} is not supported")
    if contract.secType == "CRYPTO" and show == "TRADES":
        raise InvalidQueryError("Expected what to show is AGGTRADES, please use that instead of TRADES.", 10299)
    if keep and fields["endDateTime"]:
        raise InvalidQueryError("An end date/time cannot be used with keepUpToDate")
    if keep and (size < REAL_TIME or show not in STREAMED):
        raise InvalidQueryError(
            "Historical data with keepUpToDate is supported for bars of 5 secs and up, of TRADES, MIDPOINT, BID or ASK"
        )
    if show == "ADJUSTED_LAST" and fields["endDateTime"]:
        raise InvalidQueryError("End Date not supported with adjusted last")
    if span[1] == "S" and span[0] > 86_400:
        raise InvalidQueryError("Historical data requests for durations longer than 86400 S must be made in days")
    end = min(history.end_of(fields["endDateTime"], now, contract.timeZoneId), now)
    return Query(contract, end, span, size, show, fields["useRTH"] == "1"), keep


def _admitted(gateway: GatewayState, session: Session, query: Query, request: Request) -> bool:
    """Whether pacing lets the request through; a client with too many violations is disconnected."""
    wanted, contract = request.fields, query.contract
    identity = tuple(wanted[name] for name in wanted if name not in ("reqId", "keepUpToDate"))
    weight = 2 if query.show == "BID_ASK" else 1
    waiting = sum(
        len(held.histories) + sum(not stream.real_time for stream in held.bars.values())
        for held in (other.subscriptions for other in gateway.ready_sessions())
    )
    pacing = gateway.history
    key = (contract.conId, wanted["exchange"], query.show)
    fine = pacing.admit(gateway.clock.monotonic(), query.size, identity, key, weight)
    if fine and waiting >= pacing.limits.open and pacing.enabled:
        fine = False
        pacing.violations += 1
    if not fine:
        session.error(request.reqId, 162, cause=PACING)
        if gateway.pacing_patience and pacing.violations >= gateway.pacing_patience:
            session.hang_up()
    return fine


def _missing(gateway: GatewayState, query: Query) -> str:
    """Why there are no such bars; empty if there are."""
    contract, venue = query.contract, query.contract.exchange
    if contract.conId in gateway.faults.no_history:
        return f"HMDS query returned no data: {contract.symbol}@{venue} {query.show.title()}"
    if contract.secType == "CASH" and query.show in ("TRADES", "AGGTRADES", "ADJUSTED_LAST"):
        return f"No historical market data for {contract.symbol}/CASH@{venue} Last {query.size}"
    if query.end < history.head_timestamp(contract):
        return f"HMDS query returned no data: {contract.symbol}@{venue} {query.show.title()}"
    if query.show != "SCHEDULE" and len(history.starts(query)) > history.MOST_BARS:
        return "Time length exceed max."
    return ""


def _bars(gateway: GatewayState, session: Session, req_id: int, query: Query, format_date: int) -> Iterable[bytes]:
    zone, name = query.contract.timeZoneId, session.version
    found = history.bars(gateway.world.prices, query)
    odd = gateway.faults.odd_bars
    dated = [(_date(odd, bar.start, query.size, format_date, zone), bar) for bar in found]
    begin = found[0].start if found else query.end
    yield data_messages.historical_data(
        name, req_id, history.moment(begin, zone), history.moment(query.end, zone), dated, odd == "unknown"
    )


def _date(odd: OddBars, start: float, size: int, format_date: int, zone: str) -> str:
    date = history.bar_date(start, size, format_date, zone)
    return date[4:] if odd == "noYear" and format_date != 2 else date


def _schedule(query: Query, req_id: int) -> bytes:
    count, unit = query.span
    days = count * {"S": 1, "D": 1, "W": 5, "M": 21, "Y": 252}[unit] if unit != "S" else 1
    zone, rows = query.contract.timeZoneId, []
    for session in history.sessions_back(query.contract, query.end, query.regular):
        begin, end = history.moment(session.opens, zone), history.moment(session.closes, zone)
        rows.append(("-".join(begin.split()[:2]), "-".join(end.split()[:2]), f"{session.day:%Y%m%d}"))
        if len(rows) >= days:
            break
    return data_messages.historical_schedule(req_id, zone, rows[::-1])


def cancel_historical_data(_gateway: GatewayState, session: Session, request: Request) -> None:
    """A query or stream that is known ends with 162, as in TWS; one that is not, with 366."""
    req_id, held = request.reqId, session.subscriptions
    stream = held.bars.pop(req_id, None)
    hung = session.unanswered.pop(req_id, None)
    if req_id in held.histories or hung is not None or (stream is not None and not stream.dead):
        held.histories.discard(req_id)
        session.error(req_id, 162, cause=f"API historical data query cancelled: {req_id}")
    else:
        session.error(req_id, 366, id=req_id)


def real_time_bars(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    req_id = request.reqId
    if req_id in session.subscriptions.bars:
        session.error(req_id, 322, who="bP", cause=DUPLICATE_TICKER)
        return None
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    show = request.fields["whatToShow"].upper()
    if contract.secType == "CRYPTO" and show == "TRADES":
        session.error(req_id, 10299, cause="Expected what to show is AGGTRADES, please use that instead of TRADES.")
        return None
    if show not in STREAMED:
        session.error(req_id, 321, who="bP", cause="Invalid whatToShow")
        return None
    denied = gateway.faults.invalid_bars.get(contract.conId)
    if denied is not None or (contract.secType == "CASH" and show == "TRADES"):
        cause = denied or f"No market data permissions for {contract.exchange} {contract.secType}"
        session.error(req_id, 420, cause=cause)
        return None
    now = gateway.clock.time()
    query = Query(contract, now, (1, "D"), REAL_TIME, show, request.fields["useRTH"] == "1")
    session.subscriptions.bars[req_id] = BarStream(req_id, query, 2, True, now - now % REAL_TIME)
    return None


def cancel_real_time_bars(_gateway: GatewayState, session: Session, request: Request) -> None:
    if session.subscriptions.bars.pop(request.reqId, None) is None:
        session.error(request.reqId, 300, id=request.reqId)


def every_second(gateway: GatewayState, session: Session) -> None:
    """Real-time bars that are complete, and the open bar of each history that is kept up to date."""
    now, frames = gateway.clock.time(), []
    prices, version = gateway.world.prices, session.version
    for stream in session.subscriptions.bars.values():
        if stream.dead:
            continue
        size = stream.query.size
        if stream.real_time:
            while stream.begin + size <= now:
                bar = history.bar(prices, stream.query, stream.begin, stream.begin + size)
                frames.append(data_messages.real_time_bar(version, stream.reqId, bar))
                stream.begin += size
        else:
            stream.begin = max(stream.begin, history.open_bar(stream.query, now))
            bar = history.bar(prices, stream.query, stream.begin, now)
            date = history.bar_date(stream.begin, size, stream.format_date, stream.query.contract.timeZoneId)
            frames.append(
                data_messages.empty_historical_update(stream.reqId, date)
                if gateway.faults.odd_bars == "emptyUpdate"
                else data_messages.historical_update(version, stream.reqId, date, bar)
            )
    if frames:
        session.write(b"".join(frames))


def head_timestamp(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    at = history.head_timestamp(contract)
    if request.number("formatDate", 1) == 2:
        return [data_messages.head_timestamp(request.reqId, str(int(at)))]
    return [
        data_messages.head_timestamp(request.reqId, history.moment(at, "UTC").removesuffix(" UTC").replace(" ", "-"))
    ]


def histogram(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    last = gateway.world.quote(contract, gateway.clock.time()).last
    rows = [(round(last + contract.minTick * n, 8), 100 * (11 - abs(n))) for n in range(-10, 11)]
    return [messages.answer(89, request.reqId, *messages.listed(rows))]


def historical_ticks(gateway: GatewayState, session: Session, request: Request) -> Iterable[bytes] | None:
    contract = resolve(gateway, session, request)
    if contract is None:
        return None
    fields, now = request.fields, gateway.clock.time()
    count = max(1, min(1000, request.number("numberOfTicks", 1000)))
    try:
        start = history.end_of(fields["startDateTime"], 0.0, NEW_YORK)
        end = history.end_of(fields["endDateTime"], start + count if start else now, NEW_YORK)
    except InvalidQueryError as invalid:
        session.error(request.reqId, invalid.code, who="cM", cause=str(invalid))
        return None
    show = fields["whatToShow"].upper()
    rows: list[tuple[object, ...]] = []
    for number in range(count):
        at = int(end) - count + number
        quote = gateway.world.quote(contract, at)
        if show == "BID_ASK":
            rows.append((at, 0, quote.bid, quote.ask, quote.bidSize, quote.askSize))
        elif show == "MIDPOINT":
            rows.append((at, 0, round((quote.bid + quote.ask) / 2, 8), 0))
        else:
            rows.append((at, 0, quote.last, quote.lastSize, contract.primaryExchange, ""))
    kind = {"BID_ASK": 97, "MIDPOINT": 96}.get(show, 98)
    return [data_messages.historical_ticks(kind, request.reqId, rows, True)]


ANSWERS: Final[dict[str, Answer]] = {
    "reqHistoricalData": historical_data,
    "cancelHistoricalData": cancel_historical_data,
    "reqRealTimeBars": real_time_bars,
    "cancelRealTimeBars": cancel_real_time_bars,
    "reqHeadTimeStamp": head_timestamp,
    "reqHistogramData": histogram,
    "reqHistoricalTicks": historical_ticks,
}
