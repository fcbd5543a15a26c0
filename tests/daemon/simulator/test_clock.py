"""A clock that tests move by hand."""

from __future__ import annotations

from daemon.simulator import ManualClock


def test_timers_run_in_order_each_at_its_own_moment() -> None:
    clock, seen = ManualClock(start=100.0), []

    def again() -> None:
        seen.append(("again", clock.time()))

    clock.call_later(3, lambda: seen.append(("late", clock.time())))
    clock.call_later(1, lambda: (seen.append(("early", clock.time())), clock.call_later(1, again)))
    clock.call_later(2, lambda: seen.append(("never", clock.time()))).cancel()
    clock.advance(5)

    assert seen == [("early", 101.0), ("again", 102.0), ("late", 103.0)]
    assert (clock.time(), clock.monotonic()) == (105.0, 5.0)
