"""Historical bars follow the market's hours and the same prices as the ticks do."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulator import history
from daemon.simulator.history import InvalidQueryError, Query
from daemon.simulator.market import World

WORLD = World(seed=7)
WORLD.open(1_763_380_800.0)
APPLE = WORLD.catalogue.named("AAPL")
EURO = WORLD.catalogue.named("EUR")
END = history.end_of("20251112 20:00:00", 0.0, "US/Eastern")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1 secs", 1), ("30 secs", 30), ("1 min", 60), ("2 mins", 120), ("1 hour", 3600), ("8 hours", 28800),
     ("1 day", 86400), ("1 week", 604800), ("1W", 604800), ("1 month", history.MONTH), ("1M", history.MONTH)],
)  # fmt: skip
def test_bar_sizes_of_the_api_are_known(text: str, seconds: int) -> None:
    assert history.bar_seconds(text) == seconds


@pytest.mark.parametrize("text", ["7 mins", "2 secs", "1 year", "0 mins", "min", "", "1 m"])
def test_other_bar_sizes_are_refused_with_the_legal_ones(text: str) -> None:
    with pytest.raises(InvalidQueryError, match="Legal ones are: 1 secs, 5 secs"):
        history.bar_seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20251112 16:00:00 US/Eastern", "2025-11-12T21:00:00"),
        ("20251112 16:00:00 UTC", "2025-11-12T16:00:00"),
        ("20251112-16:00:00", "2025-11-12T16:00:00"),
        ("20251112 16:00:00", "2025-11-12T21:00:00"),
        ("20251112", "2025-11-12T05:00:00"),
        ("20250712 16:00:00 US/Eastern", "2025-07-12T20:00:00"),
    ],
)
def test_an_end_is_read_in_its_own_time_zone(text: str, expected: str) -> None:
    at = history.end_of(text, 0.0, "US/Eastern")
    assert datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat() == expected


@given(
    size=st.sampled_from(["5 secs", "1 min", "15 mins", "1 hour", "1 day"]),
    back=st.integers(0, 400),
    regular=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_bars_are_whole_ordered_and_within_their_sessions(size: str, back: int, regular: bool) -> None:
    query = Query(APPLE, END - back * 3600, (1, "D"), history.bar_seconds(size), "TRADES", regular)
    found = history.bars(WORLD.prices, query)

    assert found
    assert all(b.low <= min(b.open, b.close) <= max(b.open, b.close) <= b.high and b.volume > 0 for b in found)
    assert [b.start for b in found] == sorted({b.start for b in found})
    if query.size < 86_400:
        local = [datetime.fromtimestamp(b.start, history.zone("US/Eastern")) for b in found]
        first, last = ("09:30", "16:00") if regular else ("04:00", "20:00")
        assert all(first <= f"{t:%H:%M}" < last and t.weekday() < 5 for t in local)


def test_bars_join_where_one_ends_and_the_next_begins() -> None:
    query = Query(APPLE, END, (1, "D"), 60, "TRADES", True)
    minutes = history.bars(WORLD.prices, query)
    [hour] = history.bars(WORLD.prices, Query(APPLE, minutes[59].start + 60, (1800, "S"), 1800, "TRADES", True))

    assert all(a.close == b.open for a, b in itertools.pairwise(minutes))
    assert (hour.open, hour.close) == (minutes[30].open, minutes[59].close)


def test_the_last_bar_meets_the_quote() -> None:
    [bar] = history.bars(WORLD.prices, Query(APPLE, END - 5 * 3600, (5, "S"), 5, "TRADES", True))
    assert bar.close == WORLD.quote(APPLE, END - 5 * 3600).last


def test_midpoints_have_no_volume_and_bid_ask_is_as_wide_as_the_market() -> None:
    """TWS says -1 where nothing was traded."""
    middle = history.bars(WORLD.prices, Query(EURO, END - 3 * 3600, (1, "D"), 3600, "MIDPOINT", False))
    both = history.bars(WORLD.prices, Query(APPLE, END, (1, "D"), 3600, "BID_ASK", True))

    assert len(middle) >= 23
    assert {(b.volume, b.average, b.barCount) for b in middle} == {(-1, -1, -1)}
    assert all(b.low <= b.open and b.close <= b.high for b in both)


@pytest.mark.parametrize(
    ("span", "size", "count"),
    [("1 M", 86_400, 21), ("1 Y", 86_400, 252), ("1 Y", 604_800, 51), ("1 Y", history.MONTH, 12)],
)
def test_long_bars_count_trading_days(span: str, size: int, count: int) -> None:
    found = history.bars(WORLD.prices, Query(APPLE, END, history.duration(span), size, "TRADES", True))

    assert len(found) == count
    assert all(datetime.fromtimestamp(b.start, UTC).weekday() < 5 for b in found)
