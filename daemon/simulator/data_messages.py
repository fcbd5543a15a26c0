"""The gateway's messages about market data and history: one function a message, each a frame for one server version.

Pure, like `messages`, which has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from daemon.simulator.contracts import Contract
from daemon.simulator.history import Bar
from daemon.simulator.messages import units
from daemon.simulator.prices import Greeks
from daemon.simulator.wire import frame


def tick_req_params(req_id: int, contract: Contract) -> bytes:
    return frame(81, req_id, contract.minTick, "9c0001", 3)


def reroute(req_id: int, contract: Contract) -> bytes:
    """Market data of this line is that of another contract."""
    return frame(91, req_id, contract.conId, contract.exchange)


def market_data_type(req_id: int, kind: int) -> bytes:
    return frame(58, 1, req_id, kind)


def tick_price(req_id: int, tick: int, price: float, size: object = 0, mask: int = 0) -> bytes:
    return frame(1, 6, req_id, tick, price, size, mask)


def tick_size(req_id: int, tick: int, size: object) -> bytes:
    return frame(2, 6, req_id, tick, size)


def tick_generic(req_id: int, tick: int, value: float) -> bytes:
    return frame(45, 6, req_id, tick, value)


def tick_string(req_id: int, tick: int, value: str) -> bytes:
    return frame(46, 6, req_id, tick, value)


def tick_greeks(version: int, req_id: int, tick: int, g: Greeks) -> bytes:
    values = (g.impliedVol, g.delta, g.optPrice, 0, g.gamma, g.vega, g.theta, g.undPrice)
    return frame(21, req_id, tick, 0, *values) if version >= 156 else frame(21, 6, req_id, tick, *values)


def tick_snapshot_end(req_id: int) -> bytes:
    return frame(57, 1, req_id)


def tick_by_tick_last(req_id: int, kind: int, at: int, price: float, size: object, exchange: str) -> bytes:
    return frame(99, req_id, kind, at, price, size, 0, exchange, "")


def tick_by_tick_quote(req_id: int, at: int, bid: float, ask: float, bid_size: object, ask_size: object) -> bytes:
    return frame(99, req_id, 3, at, bid, ask, bid_size, ask_size, 0)


def tick_by_tick_midpoint(req_id: int, at: int, price: float) -> bytes:
    return frame(99, req_id, 4, at, price)


def depth(req_id: int, row: int, venue: str, operation: int, side: int, price: float, size: object) -> bytes:
    """One level of a book; with a `venue` as SMART depth, which names the exchange of each level."""
    if venue:
        return frame(13, 1, req_id, row, venue, operation, side, price, size, True)
    return frame(12, 1, req_id, row, operation, side, price, size)


def scanner_data(req_id: int, found: Sequence[Contract]) -> bytes:
    fields: list[object] = [20, 3, req_id, len(found)]
    for rank, c in enumerate(found):
        fields += [rank, c.conId, c.symbol, c.secType, c.lastTradeDateOrContractMonth, c.strike, c.right, c.exchange]
        fields += [c.currency, c.localSymbol, c.tradingClass, c.tradingClass, "", "", "", ""]
    return frame(*fields)


# history


def historical_data(
    version: int, req_id: int, begin: str, end: str, dated: Sequence[tuple[str, Bar]], unknown: bool = False
) -> bytes:
    """`unknown`: the last bar has no prices, which TWS writes with `?`."""
    fields: list[object] = [17, req_id, begin, end, len(dated)]
    for date, bar in dated:
        fields += [date, bar.open, bar.high, bar.low, bar.close, units(bar.volume, version), bar.average, bar.barCount]
    if unknown and dated:
        fields[-7:] = ["?", "?", "?", "?", -1, "-1.00", -1]
    return frame(*fields)


def historical_update(version: int, req_id: int, date: str, bar: Bar) -> bytes:
    volume = units(bar.volume, version)
    return frame(90, req_id, bar.barCount, date, bar.open, bar.close, bar.high, bar.low, bar.average, volume)


def empty_historical_update(req_id: int, date: str) -> bytes:
    """An update of a bar in which nothing was traded."""
    return frame(90, req_id, -1, date, "", "", "", "", "-1.0", -1)


def historical_schedule(req_id: int, zone: str, sessions: Sequence[tuple[str, str, str]]) -> bytes:
    begin, end = (sessions[0][0], sessions[-1][1]) if sessions else ("", "")
    return frame(106, req_id, begin, end, zone, len(sessions), *(part for session in sessions for part in session))


def real_time_bar(version: int, req_id: int, bar: Bar) -> bytes:
    volume = units(bar.volume, version)
    return frame(
        50, 3, req_id, int(bar.start), bar.open, bar.high, bar.low, bar.close, volume, bar.average, bar.barCount
    )


def head_timestamp(req_id: int, at: str) -> bytes:
    return frame(88, req_id, at)


def historical_ticks(kind: int, req_id: int, rows: Sequence[tuple[object, ...]], done: bool) -> bytes:
    """`kind` 96 midpoint, 97 bid and ask, 98 last; each row begins with its epoch second and attribute mask."""
    return frame(kind, req_id, len(rows), *(field for row in rows for field in row), done)
