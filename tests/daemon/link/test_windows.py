"""The planned windows: the right hours in the right zone, through both changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from daemon.link.windows import (
    REGIONS,
    RESTART_ALLOWANCE,
    Calendar,
    Overrides,
    Window,
    calendar,
    login_expired,
    read_overrides,
)
from shared.messages import Expected


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NIGHTLY = Calendar(REGIONS["northAmerica"])


@pytest.mark.parametrize(
    ("wall", "active"),
    [
        ("2025-11-19T05:14:59", False),  # 00:14:59 EST, Wednesday
        ("2025-11-19T05:15:00", True),
        ("2025-11-19T06:44:59", True),
        ("2025-11-19T06:45:00", False),
        ("2025-07-16T04:15:00", True),  # 00:15 EDT: an hour earlier in UTC
        ("2025-07-16T05:45:00", False),
        ("2025-11-22T05:30:00", False),  # Saturday has none
        ("2025-11-23T05:30:00", True),  # Sunday has
    ],
)
def test_the_nightly_reset_follows_new_york(wall: str, active: bool) -> None:
    """00:15–01:45 New York time, Sunday to Friday, in winter and in summer."""
    assert NIGHTLY.at(utc(wall)).active is active


def test_the_weekend_reset_runs_over_midnight() -> None:
    saturday = calendar().at(utc("2025-11-22T05:30:00"))  # 00:30 in New York

    assert saturday == Expected(active=True, kind="weekendReset", nextAt=utc("2025-11-22T08:00:00"))


def test_outside_a_window_the_next_one_is_named() -> None:
    assert NIGHTLY.at(utc("2025-11-21T12:00:00")) == Expected(nextAt=utc("2025-11-23T05:15:00"))


@pytest.mark.parametrize(
    ("night", "hours"),
    [
        ("2025-03-09", 1.5),  # clocks go forward at 02:00, after the window
        ("2025-11-02", 1.5),  # they go back at 02:00: 01:45 comes twice, the first ends it
        ("2025-06-02", 1.5),
    ],
)
def test_a_window_keeps_its_length_when_the_clocks_change(night: str, hours: float) -> None:
    spans = list(NIGHTLY.spans(utc(f"{night}T04:00:00"), utc(f"{night}T07:00:00")))

    assert [(span.end - span.start).total_seconds() / 3600 for span in spans] == [hours]


def test_europe_and_new_york_part_in_the_weeks_between_their_changes() -> None:
    """06:25 in Zurich is 05:25 UTC in winter, 04:25 in summer; Europe changes weeks after New York."""
    europe = Calendar(REGIONS["europe"])

    assert europe.at(utc("2025-03-20T05:30:00")).active
    assert not europe.at(utc("2025-03-20T04:30:00")).active
    assert europe.at(utc("2025-04-03T04:30:00")).active


def test_hong_kong_has_two_resets_a_day() -> None:
    asia = Calendar(REGIONS["asiaPacific"])
    day = list(asia.spans(utc("2025-11-18T16:00:00"), utc("2025-11-19T16:00:00")))

    assert sorted((span.start, span.end) for span in day) == [
        (utc("2025-11-18T20:45:00"), utc("2025-11-18T22:05:00")),
        (utc("2025-11-19T12:15:00"), utc("2025-11-19T13:15:00")),
    ]


def test_the_gateways_own_restart_is_local_time() -> None:
    """`IBKR_RESTART_AT` is this machine's clock; the window lasts as long as a slow restart."""
    local = datetime(2025, 11, 19, 23, 58).astimezone()
    own = calendar(restart_at=time(23, 58))

    assert own.restarting(local.astimezone(UTC))
    assert own.restarting((local + RESTART_ALLOWANCE - timedelta(seconds=1)).astimezone(UTC))
    assert not own.restarting((local + RESTART_ALLOWANCE).astimezone(UTC))
    assert not calendar().restarting(local.astimezone(UTC))


@pytest.mark.parametrize(
    ("wall", "expired"),
    [
        ("2025-11-23T06:00:00", "2025-11-23T06:00:00"),  # Sunday 01:00 EST itself
        ("2025-11-23T05:59:59", "2025-11-16T06:00:00"),
        ("2025-11-29T23:00:00", "2025-11-23T06:00:00"),
        ("2025-07-16T12:00:00", "2025-07-13T05:00:00"),  # EDT
    ],
)
def test_logins_end_on_sunday_at_one_in_new_york(wall: str, expired: str) -> None:
    assert login_expired(utc(wall)) == utc(expired)


def test_overlapping_windows_end_with_the_last_of_them() -> None:
    """Sunday 01:30 in New York is in the nightly reset; the weekly login lasts a little longer."""
    expected = calendar().at(utc("2025-11-23T06:30:00"))

    assert expected.active
    assert expected.nextAt == utc("2025-11-23T07:00:00")


def test_a_file_may_name_a_region_or_windows_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "windows.json"
    assert read_overrides(file) == Overrides()

    file.write_text('{"region": "asiaPacific"}')
    assert calendar(read_overrides(file)).windows[:2] == REGIONS["asiaPacific"]

    file.write_text(
        '{"windows": [{"kind": "nightlyReset", "zone": "Asia/Tokyo", "days": "Mon", "start": "01:00", "end": "02:00"}]}'
    )
    assert calendar(read_overrides(file)).windows == (
        Window(kind="nightlyReset", zone="Asia/Tokyo", days="Mon", start="01:00", end="02:00"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"region": "mars"}',
        '{"regoin": "europe"}',
        '{"windows": [{"kind": "nightlyReset", "zone": "Asia/Nowhere", "days": "Mon", "start": "1:00", "end": "2"}]}',
        '{"windows": [{"kind": "nightlyReset", "zone": "", "days": "Monday", "start": "01:00", "end": "02:00"}]}',
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "windows.json"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"windows\.json cannot be used"):
        read_overrides(file)
