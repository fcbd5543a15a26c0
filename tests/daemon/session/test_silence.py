"""Silence counts only while we listened."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.session.silence import SLEPT, Silence, absent


class Turns:
    """Turns of a listening loop that is sometimes late."""

    def __init__(self, interval: float = 5.0, timeout: float = 5.0) -> None:
        self.silence = Silence(interval, timeout)
        self.now = self.heard = 100.0
        self.verdicts: list[tuple[float, str]] = []
        self.turn()  # the message that opened the session

    def hear(self) -> None:
        self.heard = self.now

    def turn(self, late: float = 0.0) -> str | None:
        slept = self.silence.next_turn
        self.now += slept + late
        verdict = self.silence.turn(slept, slept + late, self.now, self.heard)
        if verdict in ("send", "overdue"):
            self.verdicts.append((round(self.now - 100.0, 2), verdict))
            self.silence.asked()  # the machine orders a probe at either, or ends the session
        return verdict

    def until(self, seconds: float) -> None:
        while self.now < 100.0 + seconds - 1e-9:
            self.turn()


def test_a_probe_after_the_interval_and_overdue_after_the_timeout_to_the_moment() -> None:
    turns = Turns()
    turns.until(16)

    assert [verdict for _, verdict in turns.verdicts] == ["send", "overdue", "overdue"]
    assert [at for at, _ in turns.verdicts] == [5.0, 10.0, 15.0]


def test_any_message_begins_the_silence_anew() -> None:
    turns = Turns()
    for _ in range(100):
        turns.turn()
        turns.hear()

    assert turns.verdicts == []


def test_a_message_proves_even_when_a_probe_is_open() -> None:
    turns = Turns()
    turns.until(9.7)
    turns.hear()

    assert turns.turn() == "heard"
    turns.until(14.2)
    assert [verdict for _, verdict in turns.verdicts] == ["send"]


def test_a_turn_that_comes_much_too_late_begins_the_open_probe_anew() -> None:
    turns = Turns()
    turns.until(9.7)
    turns.turn(late=60)
    turns.until(9.75 + 60 + 4.7)

    assert [verdict for _, verdict in turns.verdicts] == ["send"]


@given(st.lists(st.floats(min_value=1.0, max_value=500.0), max_size=20), st.floats(0.1, 10), st.floats(0.1, 10))
def test_no_absence_of_ours_makes_the_gateway_overdue(lateness: list[float], interval: float, timeout: float) -> None:
    """However often and long we are stopped: a gateway that answers each probe within the limit is never overdue."""
    turns = Turns(interval, timeout)
    for late in lateness:
        for _ in range(5):
            turns.turn()
            turns.hear()
        turns.turn(late=late)

    assert "overdue" not in [verdict for _, verdict in turns.verdicts]


@given(st.lists(st.floats(min_value=0.0, max_value=0.04), min_size=200, max_size=200))
def test_a_loop_that_is_a_little_late_each_time_still_notices_a_freeze(lateness: list[float]) -> None:
    turns = Turns(interval=1.0, timeout=0.2)
    for late in lateness:
        turns.turn(late=late)

    assert [verdict for _, verdict in turns.verdicts][:3] == ["send", "overdue", "overdue"]
    assert turns.verdicts[2][0] <= 1.0 + 2 * 0.2 + 3 * 0.1


def test_an_absence_is_told_by_whichever_clock_has_seen_it() -> None:
    assert absent(0.25, 0.26, 0.26) == 0
    assert absent(0.25, 0.25 + SLEPT, 0.25) == SLEPT
    assert absent(0.25, 0.25, 3600.25) == 3600
    assert absent(0.25, 0.25, -3600) == 0, "a wall clock set back is no sleep"
