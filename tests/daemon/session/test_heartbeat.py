"""A gateway's silence counts only while this process runs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.session.heartbeat import SUSPENDED, SilenceTimer, suspended


class Turns:
    """Turns of a heartbeat that is sometimes late."""

    def __init__(self, interval: float = 5.0, timeout: float = 5.0) -> None:
        self.silence = SilenceTimer(interval, timeout)
        self.now = self.last_message = 100.0
        self.verdicts: list[tuple[float, str]] = []
        self.turn()  # the message that opened the session

    def receive(self) -> None:
        self.last_message = self.now

    def turn(self, late: float = 0.0) -> str | None:
        slept = self.silence.next_turn
        self.now += slept + late
        verdict = self.silence.turn(slept, slept + late, self.now, self.last_message)
        if verdict in ("send", "overdue"):
            self.verdicts.append((round(self.now - 100.0, 2), verdict))
            self.silence.probed()  # the machine orders a probe at either, or ends the session
        return verdict

    def until(self, seconds: float) -> None:
        while self.now < 100.0 + seconds - 1e-9:
            self.turn()


def test_a_probe_after_the_interval_and_overdue_after_the_timeout_to_the_moment() -> None:
    turns = Turns()
    turns.until(16)

    assert [verdict for _, verdict in turns.verdicts] == ["send", "overdue", "overdue"]
    assert [at for at, _ in turns.verdicts] == [5.0, 10.0, 15.0]


def test_any_message_restarts_the_silence() -> None:
    turns = Turns()
    for _ in range(100):
        turns.turn()
        turns.receive()

    assert turns.verdicts == []


def test_a_message_proves_even_when_a_probe_is_open() -> None:
    turns = Turns()
    turns.until(9.7)
    turns.receive()

    assert turns.turn() == "received"
    turns.until(14.2)
    assert [verdict for _, verdict in turns.verdicts] == ["send"]


def test_a_turn_that_comes_much_too_late_restarts_the_time_of_the_open_probe() -> None:
    turns = Turns()
    turns.until(9.7)
    turns.turn(late=60)
    turns.until(9.75 + 60 + 4.7)

    assert [verdict for _, verdict in turns.verdicts] == ["send"]


@given(st.lists(st.floats(min_value=1.0, max_value=500.0), max_size=20), st.floats(0.1, 10), st.floats(0.1, 10))
def test_no_suspend_makes_the_gateway_overdue(lateness: list[float], interval: float, timeout: float) -> None:
    turns = Turns(interval, timeout)
    for late in lateness:
        for _ in range(5):
            turns.turn()
            turns.receive()
        turns.turn(late=late)

    assert "overdue" not in [verdict for _, verdict in turns.verdicts]


@given(st.lists(st.floats(min_value=0.0, max_value=0.04), min_size=200, max_size=200))
def test_a_loop_that_is_a_little_late_each_time_still_notices_a_freeze(lateness: list[float]) -> None:
    turns = Turns(interval=1.0, timeout=0.2)
    for late in lateness:
        turns.turn(late=late)

    assert [verdict for _, verdict in turns.verdicts][:3] == ["send", "overdue", "overdue"]
    assert turns.verdicts[2][0] <= 1.0 + 2 * 0.2 + 3 * 0.1


def test_a_suspend_is_noticed_by_whichever_clock_went_on() -> None:
    assert suspended(0.25, 0.26, 0.26) == 0
    assert suspended(0.25, 0.25 + SUSPENDED, 0.25) == SUSPENDED
    assert suspended(0.25, 0.25, 3600.25) == 3600
    assert suspended(0.25, 0.25, -3600) == 0, "a wall clock set back is no sleep"
