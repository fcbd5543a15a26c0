"""When an interruption is to be expected: IBKR's published windows and the gateway's own restart, as dated data.

A window annotates and never decides. The one thing its end does is to end a wait.
Source: IBKR's system status page ("IB System Availability") and the auto-restart considerations of the TWS guide, as
read in November 2025. An account sits in one of several data centres, so its region and not the host's decides; the
default is North America, and a file `windows.json` in the state directory overrides it:

    {"region": "asiaPacific"}
    {"windows": [{"kind": "nightlyReset", "zone": "Asia/Tokyo", "days": "Sun Mon", "start": "00:15", "end": "01:45"}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from shared.messages import Expected

Kind = Literal["nightlyReset", "weekendReset", "weeklyLogin", "restart"]
Region = Literal["northAmerica", "europe", "asiaPacific"]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
RESTART_ALLOWANCE = timedelta(minutes=5)
"""A restart of TWS or Gateway was seen to refuse for 60 to 90 s; a slow machine gets three times that."""
READ_AHEAD = 8  # days: every window recurs within a week


def _zone(name: str) -> ZoneInfo | None:
    return ZoneInfo(name) if name else None


class Window(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recurring time of day. `days`: the local days it begins on; `end` before `start` means the next day.

    `zone` is an IANA name; empty is the zone of this machine.
    """

    kind: Kind
    zone: str
    days: str
    start: str
    end: str

    def __post_init__(self) -> None:
        strange = set(self.days.split()) - set(DAYS)
        if strange:
            raise ValueError(f"days are {' '.join(DAYS)}, not {' '.join(sorted(strange))}")
        for at in (self.start, self.end):
            time.fromisoformat(at)
        try:
            _zone(self.zone)
        except (KeyError, OSError) as error:
            raise ValueError(f"{self.zone!r} is no time zone known here") from error


class Span(Struct, frozen=True, order=True):
    """One occurrence, in UTC; `end` is not in it."""

    start: datetime
    end: datetime
    kind: str


_DAILY = "Sun Mon Tue Wed Thu Fri"
_NEW_YORK = "America/New_York"

WEEKEND = Window(kind="weekendReset", zone=_NEW_YORK, days="Fri", start="23:00", end="03:00")
WEEKLY_LOGIN = Window(kind="weeklyLogin", zone=_NEW_YORK, days="Sun", start="01:00", end="02:00")
"""IBKR's security tokens end at its start; the first login after it needs a person."""

REGIONS: dict[str, tuple[Window, ...]] = {
    "northAmerica": (Window(kind="nightlyReset", zone=_NEW_YORK, days=_DAILY, start="00:15", end="01:45"),),
    "europe": (Window(kind="nightlyReset", zone="Europe/Zurich", days=_DAILY, start="06:25", end="07:45"),),
    "asiaPacific": (
        Window(kind="nightlyReset", zone="Asia/Hong_Kong", days=_DAILY, start="04:45", end="06:05"),
        Window(kind="nightlyReset", zone="Asia/Hong_Kong", days=_DAILY, start="20:15", end="21:15"),
    ),
}


class Overrides(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `windows.json`; `windows` replaces all of IBKR's, `region` only the nightly ones."""

    region: Region = "northAmerica"
    windows: tuple[Window, ...] | None = None


class Calendar(Struct, frozen=True):
    """All windows that hold for this link."""

    windows: tuple[Window, ...] = (*REGIONS["northAmerica"], WEEKEND, WEEKLY_LOGIN)

    def at(self, wall: datetime) -> Expected:
        """The window around `wall` and the end of it, else the beginning of the next."""
        spans = sorted(self.spans(wall, wall + timedelta(days=READ_AHEAD)))
        around = [span for span in spans if span.start <= wall]
        if not around:
            return Expected(nextAt=min((span.start for span in spans), default=None))
        return Expected(active=True, kind=around[0].kind, nextAt=max(span.end for span in around))

    def spans(self, since: datetime, until: datetime) -> Iterator[Span]:
        """Every occurrence that touches `since`..`until`, in no order."""
        for window in self.windows:
            for span in _occurrences(window, since, until):
                if span.start < until and span.end > since:
                    yield span

    def restarting(self, wall: datetime) -> bool:
        """Whether the gateway's own restart is due around `wall`."""
        return any(span.kind == "restart" and span.start <= wall < span.end for span in self.spans(wall, _later(wall)))


def calendar(overrides: Overrides | None = None, restart_at: time | None = None) -> Calendar:
    """The windows of a region (or those given instead), and the gateway's own daily restart at a local time."""
    chosen = overrides or Overrides()
    windows = chosen.windows if chosen.windows is not None else (*REGIONS[chosen.region], WEEKEND, WEEKLY_LOGIN)
    return Calendar(windows if restart_at is None else (*windows, _restart(restart_at)))


def read_overrides(file: Path) -> Overrides:
    """The content of the file, `None` where there is none. Raises `ValueError` with one sentence."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Overrides)
    except FileNotFoundError:
        return Overrides()
    except (msgspec.MsgspecError, OSError) as error:
        raise ValueError(f"{file} cannot be used: {error}") from error


def login_expired(wall: datetime) -> datetime:
    """The last Sunday 01:00 New York at or before `wall`."""
    return max(
        span.start
        for span in _occurrences(WEEKLY_LOGIN, wall - timedelta(days=READ_AHEAD), _later(wall))
        if span.start <= wall
    )


def _restart(at: time) -> Window:
    end = datetime.combine(date(2000, 1, 3), at) + RESTART_ALLOWANCE  # any day: only its time is used
    return Window(kind="restart", zone="", days=" ".join(DAYS), start=f"{at:%H:%M}", end=f"{end:%H:%M}")


def _occurrences(window: Window, since: datetime, until: datetime) -> Iterator[Span]:
    zone = _zone(window.zone)
    start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
    overnight = timedelta(days=1 if end <= start else 0)
    # a day earlier: a window that began yesterday may still last
    day = since.astimezone(zone).date() - timedelta(days=1)
    last = until.astimezone(zone).date()
    while day <= last:
        if DAYS[day.weekday()] in window.days.split():
            yield Span(_utc(day, start, zone), _utc(day + overnight, end, zone), window.kind)
        day += timedelta(days=1)


def _utc(day: date, at: time, zone: ZoneInfo | None) -> datetime:
    """A local time of day as an instant. `None` is the machine's own zone, whose rules `astimezone` applies."""
    local = datetime.combine(day, at)
    return (local if zone is None else local.replace(tzinfo=zone)).astimezone(UTC)


def _later(wall: datetime) -> datetime:
    return wall + timedelta(seconds=1)
