"""What IBKR's numbers mean for a request of data."""

from __future__ import annotations

import pytest

from daemon.market.refusals import history, problem, translated
from daemon.tws.errors import LinkLost, TwsBusy, TwsRefused, TwsSilent, TwsUnreadable
from shared.reasons import Problem

ERROR = "Historical Market Data Service error message:"


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (101, "tooManySubscriptions", 429),
        (200, "notFound", 404),
        (321, "invalidParameters", 422),
        (322, "invalidParameters", 422),
        (354, "notSubscribed", 403),
        (366, "brokerError", 502),
        (420, "brokerError", 502),
        (1100, "upstreamLost", 503),
        (2110, "upstreamLost", 503),
        (10089, "notSubscribed", 403),
        (10168, "notSubscribed", 403),
        (10182, "brokerError", 502),
        (10299, "invalidParameters", 422),
        (10314, "invalidParameters", 422),
        (10339, "invalidParameters", 422),
        (10197, "competingSession", 503),
        (424242, "brokerError", 502),
    ],
)
def test_each_code_has_its_reason_and_keeps_its_number(code: int, reason: str, status: int) -> None:
    refused = problem(code, "IBKR's own words")

    assert (refused.reason, refused.entry.status, refused.ibCode) == (reason, status, code)
    assert "IBKR's own words" in refused.detail


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("Historical data request pacing violation", "pacing", "pacingBudget"),
        ("HMDS query returned no data: AAPL@SMART Trades", "empty", "brokerError"),
        ("No historical market data for EUR/CASH@IDEALPRO Last 60", "empty", "brokerError"),
        ("HMDS server disconnect occurred.  Attempting reconnection...", "farm", "upstreamLost"),
        ("HMDS connection attempt failed.  Connection will be re-attempted...", "farm", "upstreamLost"),
        ("Starting time must occur before ending time", "invalid", "invalidParameters"),
        ("BEST queries are not supported for this contract", "invalid", "invalidParameters"),
        ("API historical data query cancelled: 11", "cancelled", "brokerError"),
        ("No market data permissions for ISLAND STK", "denied", "notSubscribed"),
        ("Trading TWS session is connected from a different IP address", "competing", "competingSession"),
        ("Time length exceed max.", "invalid", "invalidParameters"),
        ("Etwas anderes", "other", "brokerError"),
    ],
)
def test_162_has_many_meanings(text: str, kind: str, reason: str) -> None:
    assert history(ERROR + text) == kind
    assert problem(162, ERROR + text).reason == reason


def test_what_passes_has_a_time_after_which_to_try_again() -> None:
    assert problem(162, ERROR + "Historical data request pacing violation").retryAfter == 600.0
    assert problem(162, ERROR + "HMDS connection attempt failed.").retryAfter == 10.0


def test_no_such_contract_means_little_while_ibkr_cannot_look() -> None:
    text = "No security definition has been found for the request"
    impaired, settling, sound = (problem(200, text, trust) for trust in ("impaired", "settling", "sound"))

    assert (impaired.reason, impaired.ibCode, impaired.retryAfter) == ("upstreamLost", 200, 60.0)
    assert (settling.reason, settling.ibCode, sound.reason) == ("notFound", 200, "notFound")
    assert "was down" in settling.detail
    assert "was down" not in sound.detail


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (TwsRefused(354, "not subscribed"), "notSubscribed"),
        (TwsSilent("a question", 10.0), "brokerTimeout"),
        (TwsUnreadable("contractDetails", "conId"), "brokerError"),
        (TwsBusy(4096), "brokerError"),
        (LinkLost(), "notConnected"),
        (LinkLost("interrupted", 1100), "upstreamLost"),
    ],
)
def test_failures_of_the_session_become_problems(failure: Exception, reason: str) -> None:
    with pytest.raises(Problem) as raised, translated("a question"):
        raise failure
    assert raised.value.reason == reason
