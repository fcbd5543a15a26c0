"""Time, as an argument: the only file that reads a clock.

Never decides anything; who needs time is given a `Clock`.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """What the project knows of time."""

    def now(self) -> datetime:
        """The wall clock, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds that never go back and stand still while the machine sleeps (where the system says so)."""

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` of `monotonic` pass."""


class SystemClock:
    """The machine's own time."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
