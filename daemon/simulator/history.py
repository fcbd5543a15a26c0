"""Historical bars: which requests are valid, when the market was open, and the bars themselves.

Pure functions of the world's prices and of time. Pacing is `pacing`'s business, the wire is `messages`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from daemon.simulator.contracts import Contract
from daemon.simulator.prices import Prices, hash_of, to_tick

LEGAL_SIZES: Final = (
    "1 secs, 5 secs, 10 secs, 15 secs, 30 secs, 1 min, 2 mins, 3 mins, 5 mins, 10 mins, 15 mins, 20 mins, 30 mins, "
    "1 hour, 2 hours, 3 hours, 4 hours, 8 hours, 1 day, 1 week, 1 month"
)
_UNITS: Final = {"sec": 1, "min": 60, "hour": 3600, "day": 86_400, "d": 86_400, "week": 604_800, "w": 604_800}
_SECONDS: Final = frozenset(
    (
        *(1, 5, 10, 15, 30),
        *(60 * n for n in (1, 2, 3, 5, 10, 15, 20, 30)),
        *(3600 * n for n in (1, 2, 3, 4, 8)),
        *(86_400, 604_800),
    )
)
MONTH: Final = 2_629_800
"""Seconds that stand for the bar size of one month."""

MOST_BARS: Final = 20_000
"""Bars in one answer; the gateway answers 162 to what would give more (steps too small for the duration)."""

SHOWN: Final = frozenset(
    [
        "TRADES",
        "MIDPOINT",
        "BID",
        "ASK",
        "BID_ASK",
        "ADJUSTED_LAST",
        "HISTORICAL_VOLATILITY",
        "OPTION_IMPLIED_VOLATILITY",
        "SCHEDULE",
        "AGGTRADES",
        "REBATE_RATE",
        "FEE_RATE",
        "YIELD_BID",
        "YIELD_ASK",
        "YIELD_BID_ASK",
        "YIELD_LAST",
    ]
)
UNTRADED: Final = frozenset(
    ["MIDPOINT", "BID", "ASK", "BID_ASK", "HISTORICAL_VOLATILITY", "OPTION_IMPLIED_VOLATILITY", "FEE_RATE"]
)
"""What has no volume: TWS sends -1."""


class InvalidQueryError(Exception):
    """A request that the gateway refuses, with the cause in its words; `code` is 321 or one of the query's own."""

    def __init__(self, cause: str, code: int = 321) -> None:
        super().__init__(cause)
        self.code = code


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `start` in seconds since the epoch, for daily and longer bars midnight UTC of the trading day."""

    start: float
    open: float
    high: float
    low: float
    close: float
    volume: float
    average: float
    barCount: int


@dataclass(frozen=True, slots=True)
class Session:
    """One stretch in which a contract trades, in seconds since the epoch, and the trading day it belongs to."""

    opens: float
    closes: float
    day: date


def bar_seconds(size: str) -> int:
    """The length of a bar of this size in seconds; `InvalidQueryError` if there is no such size."""
    match = re.fullmatch(r"\s*(\d+)\s*([a-zA-Z]+)\s*", size)
    if match:
        count, unit = int(match[1]), match[2].lower()
        if count == 1 and (unit == "month" or match[2] == "M" or unit == "months"):
            return MONTH
        seconds = count * _UNITS.get(unit.removesuffix("s"), 0)
        if seconds in _SECONDS:
            return seconds
    raise InvalidQueryError(f"Historical data bar size setting is invalid. Legal ones are: {LEGAL_SIZES}")


def duration(text: str) -> tuple[int, str]:
    """A duration string as a count and one of S, D, W, M, Y; `InvalidQueryError` otherwise."""
    match = re.fullmatch(r"\s*(\d+)\s*([SDWMY])?\s*", text.upper())
    if not match or not int(match[1]):
        raise InvalidQueryError(
            "Historical data query duration string is invalid. Legal ones are: integer{SPACE}unit (S|D|W|M|Y)"
        )
    return int(match[1]), match[2] or "S"


def zone(name: str) -> tzinfo:
    """The time zone TWS calls `name`; UTC where this machine has no such zone."""
    if name in ("UTC", "GMT"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


INVALID_END: Final = (
    "End Date/Time: The date, time, or time-zone entered is invalid. The correct format is yyyymmdd hh:mm:ss xx/xxxx "
    "where yyyymmdd and xx/xxxx are optional. E.g.: 20031126 15:59:00 US/Eastern  Note that there is a space between "
    "the date and time, and between the time and time-zone.  If no date is specified, current date is assumed. If no "
    "time-zone is specified, local time-zone is assumed(deprecated).  You can also provide yyyymmddd-hh:mm:ss time is "
    "in UTC. Note that there is a dash between the date and time in UTC notation."
)
_END = re.compile(r"(\d{8})(?:[ -]+(\d{2}:\d{2}:\d{2}))?(?:\s+(\S+))?")


def end_of(text: str, now: float, zone_name: str) -> float:
    """The moment an `endDateTime` means; empty is `now`, a day alone is its midnight.

    InvalidQueryError: it is none.
    """
    if not text:
        return now
    match = _END.fullmatch(text.strip())
    if not match:
        raise InvalidQueryError(INVALID_END, 10314)
    utc = "-" in text
    if match[3] and match[3] not in ("UTC", "GMT") and zone(match[3]) is UTC:
        raise InvalidQueryError(INVALID_END, 10314)
    try:
        moment = datetime.strptime(f"{match[1]} {match[2] or '00:00:00'}", "%Y%m%d %H:%M:%S")
    except ValueError as error:
        raise InvalidQueryError(INVALID_END, 10314) from error
    return moment.replace(tzinfo=UTC if utc else zone(match[3] or zone_name)).timestamp()


def sessions_back(contract: Contract, end: float, regular: bool) -> Iterator[Session]:
    """The sessions of `contract` that began before `end`, latest first, for ever."""
    local = zone(contract.timeZoneId)
    if contract.secType == "CASH":
        opens, closes = time(17, 15), time(17, 0)
    elif contract.secType == "CRYPTO":
        opens, closes = time(17, 0), time(16, 55)
    elif contract.secType == "FUT":
        opens, closes = (time(8, 30), time(15, 15)) if regular else (time(17, 0), time(16, 0))
    elif regular or contract.secType in ("IND", "OPT"):
        opens, closes = (
            (time(8, 30), time(15, 0)) if contract.timeZoneId == "US/Central" else (time(9, 30), time(16, 0))
        )
    else:
        opens, closes = time(4, 0), time(20, 0)
    day = datetime.fromtimestamp(end, local).date() + timedelta(days=1)
    while True:
        if day.weekday() < 5 or contract.secType == "CRYPTO":
            before = day - timedelta(days=1) if opens > closes else day
            start = datetime.combine(before, opens, local).timestamp()
            if start < end:
                yield Session(start, datetime.combine(day, closes, local).timestamp(), day)
        day -= timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Query:
    """A checked request for bars: `size` in seconds, `end` in seconds since the epoch."""

    contract: Contract
    end: float
    span: tuple[int, str]
    size: int
    show: str
    regular: bool


def starts(query: Query) -> list[tuple[float, float]]:
    """Start and end of every bar the query covers, oldest first, at most `MOST_BARS` + 1 of them."""
    if query.size >= 86_400:
        return _long_bars(query)
    count, unit = query.span
    days = {"S": 10**6, "D": count, "W": 5 * count, "M": 21 * count, "Y": 252 * count}[unit]
    most = max(1, count // query.size) if unit == "S" else MOST_BARS + 1
    found: list[tuple[float, float]] = []
    for number, session in enumerate(sessions_back(query.contract, query.end, query.regular)):
        if number >= days or len(found) >= most:
            break
        last = min(session.closes, query.end)
        grid = _grid(session.opens, query.size)
        for step in range(int(max(0.0, last - grid - 1e-9) // query.size), -1, -1):
            start = max(grid + step * query.size, session.opens)
            if start < last:
                found.append((start, min(grid + (step + 1) * query.size, last)))
            if len(found) >= most:
                break
    found.reverse()
    return found


def _grid(opens: float, size: int) -> float:
    """Where the bars of a session are counted from: up to an hour from the clock's own marks, else from the opening."""
    return opens - opens % size if size <= 3600 else opens


def open_bar(query: Query, now: float) -> float:
    """The start of the bar that is being made at `now`."""
    if query.size <= 3600:
        return now - now % query.size
    return starts(replace(query, end=now, span=(1, "D")))[-1][0]


def _long_bars(query: Query) -> list[tuple[float, float]]:
    count, unit = query.span
    per_bar = {86_400: 1, 604_800: 5}.get(query.size, 21)
    days = {"S": -(-count // 86_400), "D": count, "W": 5 * count, "M": 21 * count, "Y": 252 * count}[unit]
    found: list[tuple[float, float]] = []
    day_sessions: list[Session] = []
    for session in sessions_back(query.contract, query.end, query.regular):
        day_sessions.append(session)
        if len(day_sessions) == per_bar:
            found.append((_midnight(day_sessions[-1].day), min(day_sessions[0].closes, query.end)))
            day_sessions = []
        days -= 1
        if days <= 0 or len(found) > MOST_BARS:
            break
    if day_sessions:
        found.append((_midnight(day_sessions[-1].day), min(day_sessions[0].closes, query.end)))
    found.reverse()
    return found


def _midnight(day: date) -> float:
    return datetime.combine(day, time(0), UTC).timestamp()


def bar(prices: Prices, query: Query, start: float, end: float) -> Bar:
    """The bar of `query` from `start` to `end`."""
    contract, tick = query.contract, query.contract.minTick
    shift = {"BID": -tick, "ASK": tick}.get(query.show, 0.0)
    width = max(end - start, 1e-3)
    points = [prices.price(contract, start + width * n / 8) + shift for n in range(9)]
    noise = contract.price * 0.00004 * (width**0.5) * (1 + hash_of(contract.conId, int(start)) % 5) / 5
    opened, closed = to_tick(points[0], tick), to_tick(points[-1], tick)
    high, low = to_tick(max(points) + noise, tick), to_tick(max(min(points) - noise, tick), tick)
    if query.show == "BID_ASK":  # time-weighted: open is the average bid, close the average ask
        opened, closed = to_tick(points[0] - tick, tick), to_tick(points[-1] + tick, tick)
        low, high = min(low, opened), max(high, closed)
    if query.show in UNTRADED:
        return Bar(start, opened, high, low, closed, -1, -1, -1)
    volume = int(width * (3 + contract.conId % 17) * (1 + hash_of(contract.conId, int(start)) % 7) / 4) + 1
    return Bar(start, opened, high, low, closed, volume, round(sum(points) / len(points), 6), volume // 4 + 1)


def bars(prices: Prices, query: Query) -> list[Bar]:
    """Every bar of `query`, oldest first."""
    return [bar(prices, query, start, end) for start, end in starts(query)]


def head_timestamp(contract: Contract) -> float:
    """When the history of `contract` begins; a fact invented from its conId."""
    return datetime(1980 + contract.conId % 40, 1 + contract.conId % 12, 15, 14, 30, tzinfo=UTC).timestamp()


def bar_date(start: float, size: int, format_date: int, zone_name: str) -> str:
    """A bar's date as TWS writes it: `YYYYMMDD` for daily and longer bars; else epoch seconds (2) or local time (1)."""
    if size >= 86_400:
        return datetime.fromtimestamp(start, UTC).strftime("%Y%m%d")
    if format_date == 2:
        return str(int(start))
    return moment(start, zone_name)


def moment(at: float, zone_name: str) -> str:
    """A time as TWS writes it: `20221125 10:00:00 US/Eastern`; in UTC, and saying so, where the zone is not known."""
    local = zone(zone_name)
    return f"{datetime.fromtimestamp(at, local):%Y%m%d %H:%M:%S} {zone_name if local is not UTC else 'UTC'}"
