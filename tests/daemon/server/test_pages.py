"""Long answers in pages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.server.pages import Pages
from shared.reasons import Problem


@given(st.lists(st.binary(max_size=30), max_size=60), st.integers(1, 100))
def test_the_pages_of_an_answer_are_the_answer(rows: list[bytes], size: int) -> None:
    pages = Pages(page=size)
    page = pages.first(rows, {"asOf": "then"})
    found = list(page.rows)
    while page.next is not None:
        page = pages.following(page.next)
        assert page.facts == {"asOf": "then"}
        assert len(page.rows) == 1 or sum(len(row) + 1 for row in page.rows) <= size
        found += page.rows

    assert found == rows


def test_a_page_may_be_requested_again() -> None:
    pages = Pages(page=3)
    after = pages.first([b"aa", b"bb", b"cc"], {}).next
    assert after is not None

    assert pages.following(after) == pages.following(after)


def test_the_oldest_answers_are_forgotten_beyond_the_bound() -> None:
    pages = Pages(page=3, held=10)
    old = pages.first([b"aa", b"bb", b"cc"], {}).next
    new = pages.first([b"dd", b"ee", b"ff"], {}).next
    assert old is not None
    assert new is not None

    assert pages.following(new).rows == [b"ee"]
    with pytest.raises(Problem) as refused:
        pages.following(old)
    assert refused.value.reason == "invalidParameters"


@pytest.mark.parametrize("after", ["", "x", "x:1", ":", "x:-1", "x:99999999999", "x:²"])
def test_a_cursor_that_no_page_gave_is_refused(after: str) -> None:
    with pytest.raises(Problem):
        Pages().following(after)
