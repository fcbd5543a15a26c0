"""The times when a link that had been ready was not, and what was learnt afterwards of what happened in them.

Bookkeeping only: the row of a gap is returned when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct

from shared.messages import Fill, Gap, Recovered

FILLS_NAMED = 500
"""Recovered fills that a gap names: with ids of 24 characters 14 KB of the 48 KB that a line of events may have. The
others are in the answer to `/executions?since=` all the same."""


class Moment(NamedTuple):
    """By both clocks: the wall's may be wrong, and be set while a gap is open."""

    wall: datetime
    monotonic: float  # s


class _Open(Struct):
    cause: str
    since: Moment
    expected: bool
    known: frozenset[str]
    streams: int = 0


class Gaps:
    """At most one gap is open: an outage of the socket that follows one of upstream continues it."""

    def __init__(self) -> None:
        self._open: _Open | None = None

    @property
    def open(self) -> bool:
        return self._open is not None

    def begin(self, cause: str, at: Moment, *, expected: bool, fills: Iterable[str]) -> None:
        """The link stopped being ready. `fills`: the executions known by then."""
        if self._open is None:
            self._open = _Open(cause=cause, since=at, expected=expected, known=frozenset(fills))

    def expect(self, expected: bool) -> None:
        """Whether it lies in a planned window, where that shows only later."""
        if self._open is not None:
            self._open.expected = self._open.expected or expected

    def replayed(self, streams: int) -> None:
        if self._open is not None:
            self._open.streams = streams

    def end(self, at: Moment, *, fills: Mapping[str, Struct], unrecovered: Iterable[str]) -> Gap | None:
        """Everything has been read again, but for `unrecovered`. `fills`: all that are known now."""
        gap, self._open = self._open, None
        if gap is None:
            return None
        new = [
            fill for key, fill in fills.items() if key not in gap.known and isinstance(fill, Fill) and fill.recovered
        ]
        return Gap(
            cause=gap.cause,
            from_=gap.since.wall,
            to=gap.since.wall + timedelta(seconds=at.monotonic - gap.since.monotonic),
            expected=gap.expected,
            recovered=Recovered(
                fills=tuple(
                    fill.execId for fill in sorted(new, key=lambda fill: (fill.time, fill.execId))[:FILLS_NAMED]
                ),
                fillCount=len(new),
                streams=gap.streams,
            ),
            unrecovered=tuple(sorted(unrecovered)),
        )
