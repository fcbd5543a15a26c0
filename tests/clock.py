"""Clocks that a test moves by hand: the one that is injected, and the event loop's."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

import pytest

WEDNESDAY = datetime(2025, 11, 19, 15, 0, tzinfo=UTC)  # 10:00 in New York: no planned window for 14 h


async def settled() -> None:
    """Every task has come to where it waits for something from outside."""
    for _ in range(12):
        await asyncio.sleep(0)


class HandClock:
    """Stands still until `pass_` or `jump`; a sleeping task wakes in its order, at its own moment."""

    def __init__(self, wall: datetime = WEDNESDAY) -> None:
        self._monotonic = 1000.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    def jump(self, seconds: float, *, wall: float | None = None) -> None:
        """Both clocks at once, as when the process was stopped; `wall`: the wall clock by another amount."""
        self._monotonic += seconds
        self._wall += timedelta(seconds=seconds if wall is None else wall)
        while self._sleepers and self._sleepers[0][0] <= self._monotonic + 1e-9:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)

    async def pass_(self, seconds: float) -> None:
        """Let time pass from one sleeper to the next, each of which runs as far as it can."""
        await settled()
        end = self._monotonic + seconds
        while end - self._monotonic > 1e-9:
            next_wake = self._sleepers[0][0] if self._sleepers else end
            self.jump(min(end, max(next_wake, self._monotonic)) - self._monotonic)
            await settled()


class LoopTime:
    """The running loop's clock, which can be moved ahead: deadlines then pass without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        real, self._ahead = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: real() + self._ahead)

    async def pass_(self, seconds: float) -> None:
        self._ahead += seconds
        await settled()
