"""Time, as an argument: the only file that reads a clock.

Never decides anything; who needs time is given a `Clock`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """What the project knows of time."""

    def now(self) -> datetime:
        """The wall clock, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds that never go back, and go on while the machine sleeps where the system has such a clock."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` in which the machine is awake."""


if sys.platform == "linux":
    _monotonic = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":
    _monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)  # time.monotonic is the one that stands still
else:
    _monotonic = time.monotonic


class SystemClock:
    """The machine's own time."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(_monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
