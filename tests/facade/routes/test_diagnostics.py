"""The doctor over HTTP: the same findings, for who cannot reach a terminal."""

from __future__ import annotations

import asyncio

import pytest

from facade.doctor.checks import CHECKS
from tests.facade.conftest import House

pytestmark = pytest.mark.usefixtures("patient_doctor")


async def test_diagnostics_tell_every_check_in_order_and_beside_a_session_dial_nothing(house: House) -> None:
    """A ready daemon proves the gateway; what it cannot know it calls unknown, and account ids are masked."""
    house.daemon.answer("link.get", house.daemon.store.row("link", "link"))
    status, body, headers = await house.get("/api/ibkr/diagnostics")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert [check["name"] for check in body["checks"]] == list(CHECKS)
    results = {check["name"]: check["result"] for check in body["checks"]}
    assert (results["settings"], results["daemon"], results["link"], results["facade"]) == ("ok",) * 4
    assert "the daemon's session is on it" in next(c["evidence"] for c in body["checks"] if c["name"] == "gateway port")
    assert "1234567" not in str(body)


async def test_two_who_ask_at_once_are_examined_one_after_the_other(house: House) -> None:
    answers = await asyncio.gather(*(house.get("/api/ibkr/diagnostics") for _ in range(2)))
    assert [status for status, _body, _headers in answers] == [200, 200]
    assert not house.facade.examining.locked()
