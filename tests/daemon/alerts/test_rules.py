"""When an alert about the link is due, in simulated time."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from daemon.alerts.rules import Condition, State, step
from daemon.link.windows import Calendar, calendar

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
AFTER = 60.0
READY = Condition(phase="ready")
DOWN = Condition(phase="waiting", reason="portClosed")
LOGIN = Condition(phase="waiting", reason="loginRequired")
BLOCKED = Condition(phase="blocked", reason="clientIdInUse")
HELD = Condition(phase="held", reason="manual")
WEEK = timedelta(days=7)


class Watched:
    """A link that a test sets, looked at every second; what was reported, with the second of each."""

    def __init__(self, start: datetime = NOON, windows: Calendar | None = None) -> None:
        self.start = self.now = start
        self.windows = windows
        self.state = State()
        self.reports: list[tuple[float, str, str]] = []
        self.lasted: list[float | None] = []
        self._names = (f"i{number}" for number in itertools.count(1))
        self._stepped = start

    def be(self, condition: Condition, seconds: float, every: float = 1.0) -> None:
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self._step(condition)
            self.now = min(end, self.now + timedelta(seconds=every))

    def _step(self, condition: Condition) -> None:
        if self.windows is not None:
            expected = self.windows.at(self.now).active
            condition = Condition(phase=condition.phase, reason=condition.reason, expected=expected)
        elapsed = (self.now - self._stepped).total_seconds()
        self._stepped = self.now
        self.state, report = step(self.state, condition, self.now, elapsed, AFTER, next(self._names))
        if report is not None:
            at = (self.now - self.start).total_seconds()
            self.reports.append((at, report.kind, report.incident.id))
            self.lasted.append(report.incident.overAfter)


def test_what_lasts_is_reported_once_and_its_end_once() -> None:
    """After a minute, and when it has been over for a minute; its duration ends where `ready` began."""
    link = Watched()
    link.be(READY, 100)
    link.be(DOWN, 3600)
    link.be(READY, 3600)

    (down, recovered) = link.reports
    assert (down[:2], recovered[:2]) == ((160.0, "down"), (3760.0, "recovered"))
    assert down[2] == recovered[2]
    assert link.lasted == [None, 3600.0]


@pytest.mark.parametrize("condition", [HELD, Condition(phase="disabled"), Condition(phase="stopping"), READY])
def test_what_a_person_requested_is_no_incident(condition: Condition) -> None:
    link = Watched()
    link.be(condition, 10_000)

    assert link.reports == []


def test_a_link_that_was_never_up_is_down() -> None:
    link = Watched()
    link.be(Condition(phase="connecting"), 10)
    link.be(DOWN, 100)

    assert [report[:2] for report in link.reports] == [(60.0, "down")]


def test_a_short_interruption_is_not_reported() -> None:
    link = Watched()
    for _ in range(5):
        link.be(DOWN, 55)
        link.be(READY, 65)

    assert link.reports == []


def test_flapping_is_one_incident() -> None:
    link = Watched()
    for _ in range(50):
        link.be(DOWN, 20)
        link.be(READY, 30)
    link.be(READY, 100)

    assert [kind for _, kind, _ in link.reports] == ["down", "recovered"]
    assert len({name for *_, name in link.reports}) == 1


def test_what_needs_a_person_at_once_is_one_alert_of_that_kind() -> None:
    for condition in (LOGIN, BLOCKED):
        link = Watched()
        link.be(condition, 300)
        link.be(READY, 100)
        assert [report[:2] for report in link.reports] == [(60.0, "action"), (360.0, "recovered")]


def test_an_incident_that_turns_out_to_need_a_person_is_reported_once_more() -> None:
    """Under the same name; and attempts in between do not begin the minute again."""
    link = Watched()
    link.be(DOWN, 120)
    for _ in range(10):
        link.be(BLOCKED, 40)
        link.be(Condition(phase="connecting"), 5)
    link.be(READY, 100)

    assert [report[:2] for report in link.reports] == [(60.0, "down"), (180.0, "action"), (630.0, "recovered")]
    assert len({name for *_, name in link.reports}) == 1


def test_a_disconnect_by_hand_ends_an_incident() -> None:
    link = Watched()
    link.be(DOWN, 100)
    link.be(HELD, 100)

    assert [report[:2] for report in link.reports] == [(60.0, "down"), (160.0, "recovered")]


def test_a_planned_window_is_waited_out() -> None:
    """What outlasts it is reported between its end and a minute later; what needs a person at once."""
    link = Watched()
    link.be(READY, 100)
    expected = Condition(phase="waiting", reason="portClosed", expected=True)
    link.be(expected, 4000)
    assert link.reports == []
    link.be(DOWN, 200)
    assert [kind for _, kind, _ in link.reports] == ["down"]
    assert 4100 < link.reports[0][0] <= 4160

    link = Watched()
    link.be(Condition(phase="waiting", reason="loginRequired", expected=True), 100)
    assert [report[:2] for report in link.reports] == [(60.0, "action")]


def test_a_year_of_nightly_resets_reports_nothing() -> None:
    """The link is away in each planned window of IBKR's, also some seconds longer, and back by itself."""
    windows = calendar(())
    link = Watched(NOON, windows)
    for span in sorted(windows.spans(NOON, NOON + timedelta(days=365))):
        if span.kind == "weeklyLogin" or span.start < link.now:
            continue
        link.be(READY, (span.start - link.now).total_seconds(), every=3600.0)
        link.be(DOWN, (span.end - link.now).total_seconds() + 20, every=300.0)

    assert link.now - NOON > timedelta(days=360)
    assert link.reports == []


def test_a_missed_weekly_login_is_reported_within_its_minute() -> None:
    """Also inside the planned window, since only a person can mend it."""
    windows = calendar(())
    window = next(span for span in windows.spans(NOON, NOON + 2 * WEEK) if span.kind == "weeklyLogin")
    link = Watched(window.start - timedelta(hours=1), windows)
    link.be(READY, 3600, every=10.0)
    link.be(LOGIN, 600)

    assert [report[:2] for report in link.reports] == [(3660.0, "action")]
