"""Time for the simulated gateway: the machine's own, or one that a test moves by hand.

Nothing else in this package reads a clock or arms a timer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """Something armed that can be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Wall time in seconds since the epoch, a clock that never jumps, and timers on the latter."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer: ...


class RealClock:
    """The machine's clocks and the running loop's timers."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)


class _Armed:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A clock that stands still until `advance` is called; due timers then run in order, each at its own moment."""

    def __init__(self, start: float = 1_763_380_800.0) -> None:
        self._start = start
        self._now = 0.0
        self._order = itertools.count()
        self._armed: list[tuple[float, int, _Armed]] = []

    def time(self) -> float:
        return self._start + self._now

    def monotonic(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        armed = _Armed(callback)
        heapq.heappush(self._armed, (self._now + max(0.0, delay), next(self._order), armed))
        return armed

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`, running what falls due on the way."""
        until = self._now + seconds
        while self._armed and self._armed[0][0] <= until:
            self._now, _, armed = heapq.heappop(self._armed)
            if armed.callback is not None:
                armed.callback()
        self._now = until
