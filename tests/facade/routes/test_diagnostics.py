"""The doctor over HTTP: the same findings, for who cannot reach a terminal."""

from __future__ import annotations

import asyncio
import threading

import pytest

from facade.doctor.checks import CHECKS, Check, DiagnosticContext
from tests.facade.conftest import Served
from tests.waiting import LIMIT, until

PATH = "/api/ibkr/diagnostics"

pytestmark = pytest.mark.usefixtures("patient_doctor")


async def test_diagnostics_run_every_check_in_order_and_dial_nothing_beside_a_session(served: Served) -> None:
    served.daemon.answer("link.get", served.daemon.store.row("link", "link"))
    status, body, headers = await served.get(PATH)
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert [check["name"] for check in body["checks"]] == list(CHECKS)
    results = {check["name"]: check["result"] for check in body["checks"]}
    assert (results["settings"], results["daemon"], results["link"], results["facade"]) == ("ok",) * 4
    assert "the daemon's session is on it" in next(c["evidence"] for c in body["checks"] if c["name"] == "gateway port")
    assert "1234567" not in str(body)


async def test_requests_during_an_examination_share_it_even_after_the_first_has_left(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    under_way: list[None] = []
    beside: list[int] = []

    def look(_context: DiagnosticContext) -> Check:
        under_way.append(None)
        beside.append(len(under_way))
        begun.release()
        assert go_on.wait(LIMIT)
        under_way.pop()
        return Check("gateway port", "ok", "It answers.")

    monkeypatch.setattr("facade.doctor.checks.CHECKS", {"gateway port": look})
    server = served.facade.server
    assert server is not None
    first = asyncio.create_task(served.get(PATH))
    try:
        assert await asyncio.to_thread(begun.acquire, timeout=LIMIT)
        first.cancel()
        await until(lambda: not server.connections)
        second = asyncio.create_task(served.get(PATH))
        await until(lambda: server.connections)
        assert (await served.get("/livez"))[0] == 200  # by now the second request has arrived as well
    finally:
        go_on.set()
    assert (await second)[1]["checks"][0]["evidence"] == "It answers."
    assert (await served.get(PATH))[0] == 200
    assert set(beside) == {1}
    assert begun.acquire(blocking=False)
