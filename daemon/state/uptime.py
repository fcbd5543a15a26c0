"""How long each phase of the link lasted, and how much of a day it was ready: arithmetic on link events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from shared.messages import LinkEvent, LinkHistory, Uptime

PERIODS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}

UNWANTED = frozenset({"held", "disabled", "stopping"})
"""Phases in which nobody wants a link: known, but neither up nor down."""

Span = tuple[datetime, datetime]


def same(one: LinkEvent, other: LinkEvent) -> bool:
    """Whether two events say the same of the link, apart from when."""
    return replace(one, at=other.at, session=other.session, durationS=None) == replace(other, durationS=None)


def timed(events: Sequence[LinkEvent], ends: Mapping[str, datetime], epoch: str) -> list[LinkEvent]:
    """Each event with the seconds until the next one of its epoch, or until its daemon was last seen alive.

    `events` by ascending time; the last of the running `epoch` still lasts: `None`.
    """
    following: dict[str, datetime] = {}
    backwards = []
    for event in reversed(events):
        end = following.get(event.epoch)
        if end is None and event.epoch != epoch:
            end = ends.get(event.epoch, event.at)
        following[event.epoch] = event.at
        # a wall clock that was set back makes no negative time
        seconds = None if end is None else max(0.0, (end - event.at).total_seconds())
        backwards.append(replace(event, durationS=seconds))
    return backwards[::-1]


def history(events: Sequence[LinkEvent], since: datetime, now: datetime, planned: Sequence[Span] = ()) -> LinkHistory:
    """The events from `since` on, and the uptime of each period. `events`: as `timed` gives them, 30 days or more.

    An event that began before `since` and lasts into it belongs to it.
    """
    shown = tuple(event for event in events if event.at >= since or _end(event, now) > since)
    return LinkHistory(
        events=shown, uptime={name: uptime(events, now - period, now, planned) for name, period in PERIODS.items()}
    )


def uptime(events: Iterable[LinkEvent], since: datetime, now: datetime, planned: Sequence[Span] = ()) -> Uptime:
    """Seconds of `since`..`now` that the link was ready, was not, and was not inside a planned window.

    What no daemon saw is not known and counts for nothing; nor does what nobody wanted (`UNWANTED`).
    """
    windows = list(_joined(planned))
    up = down = apart = known = 0.0
    for event in events:
        start, end = max(event.at, since), min(_end(event, now), now)
        seconds = (end - start).total_seconds()
        if seconds <= 0:
            continue
        known += seconds
        if event.phase == "ready":
            up += seconds
        elif event.phase not in UNWANTED:
            inside = seconds if event.expected else sum(_overlap(start, end, window) for window in windows)
            apart += inside
            down += seconds - inside
    ratio = up / (up + down) if up + down else None
    return Uptime(ratio=ratio, upS=up, downS=down, plannedS=apart, knownS=known)


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
