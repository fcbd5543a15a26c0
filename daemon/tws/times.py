"""The gateway's spellings of times and dates → datetimes. Pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

_NEW_YORK, _CHICAGO, _SYDNEY = "America/New_York", "America/Chicago", "Australia/Sydney"
ABBREVIATIONS: Final[dict[str, str]] = {
    "EST": _NEW_YORK, "EDT": _NEW_YORK, "CST": _CHICAGO, "CDT": _CHICAGO,
    "MST": "America/Denver", "MDT": "America/Denver", "PST": "America/Los_Angeles", "PDT": "America/Los_Angeles",
    "BST": "Europe/London", "CEST": "Europe/Paris", "EEST": "Europe/Athens", "MSK": "Europe/Moscow",
    "IDT": "Asia/Jerusalem", "JST": "Asia/Tokyo", "HKT": "Asia/Hong_Kong", "SGT": "Asia/Singapore",
    "KST": "Asia/Seoul", "AEST": _SYDNEY, "AEDT": _SYDNEY, "NZST": "Pacific/Auckland", "NZDT": "Pacific/Auckland",
}  # fmt: skip
"""TWS writes Java's names of zones. The American ones stand for the zone with its summer time: IBKR writes CST in
September beside `US/Central`."""

_OFFSET = re.compile(r"(?:GMT|UTC)?([+-])(\d{1,2})(?::?(\d{2}))?")
_TIME = re.compile(r"(\d{8})(?:(-)| +)(\d{1,2}:\d{2}(?::\d{2})?)(?:\.\d+)?(?: +(.*))?")
_NO_YEAR = re.compile(r"(\d{2})(\d{2})(?: +(\d{1,2}:\d{2}:\d{2})(?: +(.*))?)?")


def zone(name: str) -> tzinfo | None:
    """The zone of that name or abbreviation, or of an offset such as `GMT+08:00`; `None` if there is no such zone."""
    if (offset := _OFFSET.fullmatch(name)) is not None:
        hours, minutes = int(offset[2]), int(offset[3] or 0)
        if hours > 15 or minutes > 59:
            return None
        distance = timedelta(hours=hours, minutes=minutes)
        return timezone(-distance if offset[1] == "-" else distance)
    try:
        return ZoneInfo(ABBREVIATIONS.get(name, name))
    except (KeyError, OSError, ValueError):  # not found; a directory's name; a path
        return None


def nearest_year(month: int, day: int, near: date) -> int:
    """The year in which that day is nearest to `near`. Raises ValueError where there is no such day."""
    days = []
    for year in (near.year - 1, near.year, near.year + 1):
        try:
            days.append(date(year, month, day))
        except ValueError:  # 29 February, or no day at all
            continue
    if not days:
        raise ValueError(f"not a day: {month:02}{day:02}")
    return min(days, key=lambda each: abs(each - near)).year


def read_time(text: str, near: datetime | None = None) -> tuple[datetime, str]:
    """A time, and the name of its zone where that is not known: then it is read as the local zone, which is also meant
    where none is named. `YYYYMMDD-HH:MM:SS` and seconds since 1970 are UTC. One without a year is of the year that is
    nearest to `near`. Raises ValueError."""
    if near is not None and (short := _NO_YEAR.fullmatch(text)) is not None and short[3]:
        text = f"{nearest_year(int(short[1]), int(short[2]), near.date())}{text}"
    if text.isdecimal() and len(text) > 8:
        return datetime.fromtimestamp(int(text), UTC), ""
    if len(text) == 8:
        return datetime.strptime(text, "%Y%m%d").astimezone(), ""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"not a time: {text!r}")
    day, is_utc, clock, name = found.groups()
    when = datetime.strptime(day + (clock if clock.count(":") == 2 else f"{clock}:00"), "%Y%m%d%H:%M:%S")
    if not name:
        return (when.replace(tzinfo=UTC) if is_utc else when.astimezone()), ""
    known = zone(name) or zone(name.partition(" ")[0])  # EST (Eastern Standard Time)
    return (when.astimezone(), name) if known is None else (when.replace(tzinfo=known), "")


def read_bar_date(text: str, until: str = "", near: datetime | None = None) -> date | datetime:
    """When a bar begins; a date for daily bars and longer ones. `until`: the end that the message's header names, which
    has the year of dates that are written without one; a message without a header is sent `near` that time. Raises
    ValueError."""
    if (found := _NO_YEAR.fullmatch(text)) is not None:
        month, day = int(found[1]), int(found[2])
        if near is not None:
            year = nearest_year(month, day, near.date())
        else:
            last = datetime.strptime(until[:8], "%Y%m%d").date()
            year = last.year if (month, day) <= (last.month, last.day) else last.year - 1
        text = f"{year}{text}"
    if len(text) == 8 and text.isdecimal():
        return datetime.strptime(text, "%Y%m%d").date()
    when, _ = read_time(text)
    return when
