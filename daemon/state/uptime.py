"""How long each phase of the link lasted, and how much of a day it was ready: arithmetic on link events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from shared.messages import LinkEvent, Uptime

PERIODS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}

UNWANTED = frozenset({"held", "disabled", "stopping"})
"""Phases in which no link is wanted: known, but neither up nor down."""

Span = tuple[datetime, datetime]


class Moment(NamedTuple):
    """By both clocks. `monotonic`: s, comparable within one epoch; `None` where an older version recorded it."""

    wall: datetime
    monotonic: float | None


class Recorded(LinkEvent, frozen=True, kw_only=True):
    """An event as the ledger has it. `monotonic`: s, when it was; no part of what readers get."""

    monotonic: float | UnsetType = UNSET


def same(one: LinkEvent, other: LinkEvent) -> bool:
    """Whether two events say the same of the link, apart from when."""
    return _of(one) == _of(other)


def _of(event: LinkEvent) -> tuple[object, ...]:
    return event.phase, event.reason, event.expected, event.epoch, event.remedy


def timed(events: Iterable[LinkEvent], ends: Mapping[str, Moment], epoch: str) -> Iterator[LinkEvent]:
    """Each event with the seconds until the next one of its epoch, or until its daemon was last seen alive.

    `events`: oldest first. The last one of the running `epoch` still lasts: `durationS` is `None`. The seconds are
    those of the monotonic clock: the wall clock may have been set meanwhile.
    """
    for event, end in _ended(events, ends, epoch):
        yield _lasting(event, None if end is None else _seconds(event, end))


def placed(events: Iterable[LinkEvent], ends: Mapping[str, Moment], epoch: str, now: Moment) -> Iterator[LinkEvent]:
    """Timed events, `at` of each so far before the end of its epoch as the monotonic clock shows.

    The last one of the running `epoch` lasts until `now`.
    """
    anchors = {**ends, epoch: now}
    for event, end in _ended(events, ends, epoch):
        begun, anchor = _moment(event), anchors.get(event.epoch)
        at = event.at
        if anchor is not None and anchor.monotonic is not None and begun.monotonic is not None:
            at = anchor.wall - timedelta(seconds=anchor.monotonic - begun.monotonic)
        yield replace(_lasting(event, _seconds(event, end or now)), at=at)


def _ended(
    events: Iterable[LinkEvent], ends: Mapping[str, Moment], epoch: str
) -> Iterator[tuple[LinkEvent, Moment | None]]:
    before: LinkEvent | None = None
    for event in events:
        if before is not None:
            yield before, _moment(event) if event.epoch == before.epoch else ends.get(before.epoch, _moment(before))
        before = event
    if before is not None:
        yield before, None if before.epoch == epoch else ends.get(before.epoch, _moment(before))


def _moment(event: LinkEvent) -> Moment:
    known = isinstance(event, Recorded) and event.monotonic is not UNSET
    return Moment(event.at, event.monotonic if known else None)  # type: ignore[attr-defined]


def _seconds(event: LinkEvent, end: Moment) -> float:
    begun = _moment(event)
    if begun.monotonic is not None and end.monotonic is not None:
        return max(0.0, end.monotonic - begun.monotonic)
    # a wall clock that was set back makes no negative time
    return max(0.0, (end.wall - begun.wall).total_seconds())


def _lasting(event: LinkEvent, seconds: float | None) -> LinkEvent:
    if isinstance(event, Recorded):
        return replace(event, durationS=seconds, monotonic=UNSET)
    return replace(event, durationS=seconds)


def lasts_into(event: LinkEvent, since: datetime, now: datetime) -> bool:
    """Whether a timed event ends after `since`."""
    return _end(event, now) > since


def uptimes(events: Iterable[LinkEvent], now: datetime, planned: Sequence[Span] = ()) -> dict[str, Uptime]:
    """The uptime of each of `PERIODS`. `events`: timed, oldest first, of all these periods."""
    windows = list(_joined(planned))
    sums = {name: _Sum(now - period, now, windows) for name, period in PERIODS.items()}
    for event in events:
        for each in sums.values():
            each.add(event)
    return {name: each.uptime() for name, each in sums.items()}


def uptime(events: Iterable[LinkEvent], since: datetime, now: datetime, planned: Sequence[Span] = ()) -> Uptime:
    """Seconds of `since`..`now` that the link was ready, was not, and was not inside a planned window.

    Counted from the first `ready` of `events`, which are in ascending order. Phases of `UNWANTED` are neither up nor
    down, nor is the time until the next daemon after one of them; any other absence of the daemon is down.
    """
    total = _Sum(since, now, list(_joined(planned)))
    for event in events:
        total.add(event)
    return total.uptime()


class _Sum:
    """The uptime between two moments, event by event, so that no list of events is needed."""

    def __init__(self, since: datetime, now: datetime, windows: Sequence[Span]) -> None:
        self._since = since
        self._now = now
        self._windows = windows
        self._up = self._down = self._planned = self._known = 0.0
        self._last: LinkEvent | None = None  # None before the first `ready`

    def add(self, event: LinkEvent) -> None:
        last = self._last
        if last is None and event.phase != "ready":
            return
        if last is not None:
            self._count(_end(last, self._now), event.at, "unwanted" if last.phase in UNWANTED else "down")
        kind = "up" if event.phase == "ready" else "unwanted" if event.phase in UNWANTED else "down"
        self._count(event.at, _end(event, self._now), "planned" if kind == "down" and event.expected else kind)
        self._last = event

    def _count(self, start: datetime, end: datetime, kind: str) -> None:
        start, end = max(start, self._since), min(end, self._now)
        seconds = (end - start).total_seconds()
        if seconds <= 0:
            return
        self._known += seconds
        if kind == "up":
            self._up += seconds
        elif kind != "unwanted":
            inside = seconds if kind == "planned" else sum(_overlap(start, end, window) for window in self._windows)
            self._planned += inside
            self._down += seconds - inside

    def uptime(self) -> Uptime:
        total = self._up + self._down
        ratio = self._up / total if total else None
        return Uptime(ratio=ratio, upS=self._up, downS=self._down, plannedS=self._planned, knownS=self._known)


def _end(event: LinkEvent, now: datetime) -> datetime:
    return now if event.durationS is None else event.at + timedelta(seconds=event.durationS)


def _overlap(start: datetime, end: datetime, window: Span) -> float:
    return max(0.0, (min(end, window[1]) - max(start, window[0])).total_seconds())


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Spans without overlaps, so that no second is counted twice."""
    current: Span | None = None
    for start, end in sorted(spans):
        if current is not None and start <= current[1]:
            current = (current[0], max(current[1], end))
        else:
            if current is not None:
                yield current
            current = (start, end)
    if current is not None:
        yield current
