"""One row a code: what IBKR's message codes mean to the link, to farms and to requests."""

from __future__ import annotations

import math

import pytest

from daemon.codes import CODES, meaning
from shared.reasons import CATALOGUE


def test_each_reason_is_one_of_the_catalogue():
    assert {code.reason for code in CODES.values()} <= set(CATALOGUE)


@pytest.mark.parametrize("code", [165, 300, 399, 404, 2100, 2104, 2106, 2150, 2199, 10090, 10167])
def test_a_warning_leaves_the_data_of_its_request_flowing(code: int):
    assert meaning(code).flows


@pytest.mark.parametrize("code", [1100, 1101, 1102, 1300, 2110])
def test_what_the_link_reports_with_a_requests_id_interrupts_the_request(code: int):
    """Also 2110, though its neighbours are warnings."""
    assert meaning(code) == CODES[1100]
    assert not meaning(code).flows


@pytest.mark.parametrize("code", [200, 321, 322, 420])
def test_a_stream_that_ibkr_will_never_serve_is_not_requested_again(code: int):
    assert meaning(code).retry == math.inf


def test_an_unlisted_code_fails_its_request():
    assert meaning(424242).request == "fails"
    assert meaning(424242).reason == "brokerError"


def test_only_codes_of_the_link_may_explain_why_it_is_down():
    """`lastError.code` may hold an errno; none of those is a code of the link."""
    link = {code for code, row in CODES.items() if row.concerns == "link"}

    assert link == {326, 503, 1100, 1101, 1102, 1300, 2110}
