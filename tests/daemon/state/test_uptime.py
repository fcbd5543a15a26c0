"""How long each phase lasted, and what counts as up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.state import uptime as arithmetic
from daemon.state.uptime import same, uptime, uptimes
from shared.messages import LinkEvent

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PHASES = ("ready", "waiting", "connecting", "held", "upstreamLost", "disabled")


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def event(minutes: float, phase: str, epoch: str = "e2", **more: object) -> LinkEvent:
    return LinkEvent(at=at(minutes), phase=phase, epoch=epoch, **more)


def timed(events: list[LinkEvent], ends: dict[str, datetime], epoch: str) -> list[LinkEvent]:
    """Oldest first."""
    seen = {name: arithmetic.Moment(wall, None) for name, wall in ends.items()}
    return list(arithmetic.timed(events, seen, epoch))


def test_a_phase_lasts_until_the_next() -> None:
    events = timed([event(0, "connecting"), event(1, "ready"), event(4, "waiting")], {}, "e2")

    assert [each.durationS for each in events] == [60.0, 180.0, None]


def test_the_absence_of_a_killed_daemon_is_down() -> None:
    """Its last phase ends when it was last seen; from then until the link is ready again there was none."""
    events = timed([event(0, "ready", "e1"), event(10, "connecting", "e2")], {"e1": at(5)}, "e2")

    assert [each.durationS for each in events] == [300.0, None]
    figures = uptime(events, at(-60), at(12))
    assert figures.upS == 300.0
    assert figures.downS == 420.0
    assert figures.knownS == 720.0


def test_the_absence_of_a_stopped_daemon_is_neither_up_nor_down() -> None:
    events = timed([event(0, "ready", "e1"), event(5, "stopping", "e1"), event(60, "ready", "e2")], {"e1": at(5)}, "e2")
    figures = uptime(events, at(0), at(120))

    assert (figures.ratio, figures.upS, figures.downS, figures.knownS) == (1.0, 65 * 60, 0.0, 120 * 60)


def test_uptime_begins_with_the_first_ready() -> None:
    events = timed([event(0, "waiting"), event(50, "ready"), event(59, "waiting")], {}, "e2")
    figures = uptime(events, at(-60), at(60))

    assert (figures.upS, figures.downS, figures.knownS) == (9 * 60, 60, 10 * 60)


def test_a_clock_set_back_makes_no_negative_time() -> None:
    assert [each.durationS for each in timed([event(5, "ready"), event(0, "waiting")], {}, "e2")] == [0.0, None]


def test_planned_windows_stand_apart() -> None:
    """Time down within a window, or in a phase that was expected, is planned; ready is up all the same."""
    events = timed(
        [event(0, "ready"), event(10, "waiting"), event(20, "ready"), event(30, "waiting", expected=True)], {}, "e2"
    )
    figures = uptime(events, at(0), at(40), [(at(5), at(12)), (at(11), at(15))])

    assert figures.upS == 20 * 60
    assert figures.plannedS == (5 + 10) * 60
    assert figures.downS == 5 * 60
    assert figures.ratio == pytest.approx(20 / 25)


def test_an_unwanted_link_is_neither_up_nor_down() -> None:
    events = timed([event(0, "ready"), event(10, "held")], {}, "e2")
    figures = uptime(events, at(0), at(100))

    assert (figures.ratio, figures.upS, figures.downS) == (1.0, 600.0, 0.0)
    assert figures.knownS == 6000.0


def test_nothing_known_has_no_ratio() -> None:
    assert uptime([], at(0), at(10)).ratio is None


def test_each_period_has_its_uptime() -> None:
    events = timed([event(-60 * 48, "ready"), event(-60 * 47, "waiting"), event(-90, "ready")], {}, "e2")
    figures = uptimes(events, at(0))

    assert {name: each.upS / 60 for name, each in figures.items()} == {"24h": 90, "7d": 150, "30d": 150}
    assert figures["24h"].downS == (24 * 60 - 90) * 60
    assert figures["7d"].downS == (47 * 60 - 90) * 60


def test_equal_news_is_distinguished_from_different_news() -> None:
    one = event(0, "waiting", reason="portClosed", session=3)

    assert same(one, event(5, "waiting", reason="portClosed", session=4, durationS=1.0))
    assert not same(one, event(5, "waiting", reason="socketLost"))
    assert not same(one, replace(one, expected=True))


@given(
    st.lists(st.tuples(st.floats(0, 10_000), st.sampled_from(PHASES), st.booleans()), max_size=20),
    st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 10_000)), max_size=5),
)
def test_every_second_is_counted_once(
    changes: list[tuple[float, str, bool]], windows: list[tuple[float, float]]
) -> None:
    events = timed([event(m, phase, expected=expected) for m, phase, expected in sorted(changes)], {}, "e2")
    planned = [(at(min(pair)), at(max(pair))) for pair in windows]
    figures = uptime(events, at(0), at(10_000), planned)
    first = next((each.at for each in events if each.phase == "ready"), at(10_000))
    unwanted = sum(
        (at(10_000) - each.at).total_seconds() if each.durationS is None else each.durationS
        for each in events
        if each.phase in {"held", "disabled"} and each.at >= first
    )

    assert figures.upS + figures.downS + figures.plannedS + unwanted == pytest.approx(figures.knownS, abs=1e-3)
    assert min(figures.upS, figures.downS, figures.plannedS) >= -1e-6
