"""Waits as arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import doubling, ladder, spread


def test_doubling_starts_at_the_first_and_stops_at_the_cap() -> None:
    assert [doubling(1, 15, n) for n in range(1, 7)] == [1, 2, 4, 8, 15, 15]


def test_a_ladder_stays_on_its_last_step() -> None:
    assert [ladder((5, 10, 20, 30), n) for n in (1, 2, 3, 4, 5, 99)] == [5, 10, 20, 30, 30, 30]


@given(st.floats(0.1, 100), st.floats(0.1, 1000), st.integers(1, 10**9))
def test_no_number_of_failures_overflows_or_exceeds_the_cap(first: float, cap: float, tries: int) -> None:
    assert 0 < doubling(first, cap, tries) <= cap


@given(st.floats(0, 1))
def test_the_spread_is_a_fifth_either_way(random_unit: float) -> None:
    assert 0.8 <= spread(1, random_unit) <= 1.2
    assert spread(1, 0.5) == pytest.approx(1)
