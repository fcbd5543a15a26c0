"""How long each phase of the link lasted, and how much of a day it was ready: arithmetic on link events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from shared.messages import LinkEvent, Uptime

PERIODS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}

UNWANTED = frozenset({"held", "disabled", "stopping"})
"""Phases in which no link is wanted: known, but neither up nor down."""

Span = tuple[datetime, datetime]


def same(one: LinkEvent, other: LinkEvent) -> bool:
    """Whether two events say the same of the link, apart from when."""
    return replace(one, at=other.at, session=other.session, durationS=None) == replace(other, durationS=None)


def timed(events: Iterable[LinkEvent], ends: Mapping[str, datetime], epoch: str) -> Iterator[LinkEvent]:
    """Each event with the seconds until the next one of its epoch, or until its daemon was last seen alive.

    `events`: oldest first. The last one of the running `epoch` still lasts: `durationS` is `None`.
    """
    before: LinkEvent | None = None
    for event in events:
        if before is not None:
            end = event.at if event.epoch == before.epoch else ends.get(before.epoch, before.at)
            yield _until(before, end)
        before = event
    if before is not None:
        yield before if before.epoch == epoch else _until(before, ends.get(before.epoch, before.at))


def _until(event: LinkEvent, end: datetime) -> LinkEvent:
    # a wall clock that was set back makes no negative time
    return replace(event, durationS=max(0.0, (end - event.at).total_seconds()))


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
