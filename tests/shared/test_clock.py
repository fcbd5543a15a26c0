"""The machine's time, as the project is given it."""

from __future__ import annotations

from datetime import timedelta

from shared.clock import SystemClock


async def test_the_system_clock_gives_utc_and_never_runs_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
