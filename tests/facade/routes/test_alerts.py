"""Delivery of alerts and heartbeats as route, metrics and doctor show it: a real daemon, real receivers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.simulator import Gateway, World
from facade.doctor import checks as doctor
from shared.alerts.sinks import read_sinks, read_url
from tests.daemon.alerts.receiver import receiving
from tests.daemon.running import place, settings
from tests.daemon.running import running as daemon_running
from tests.facade.conftest import Served
from tests.facade.conftest import running as facade_running
from tests.facade.fake_daemon import FakeDaemon
from tests.facade.routes.test_metrics import scraped, value
from tests.waiting import answered, until

PATH = "/api/ibkr/alerts"


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files")
@pytest.mark.usefixtures("patient_doctor")
async def test_what_is_not_delivered_shows_everywhere_and_what_is_delivered_too(tmp_path: Path) -> None:
    """In the route, in the metrics and in the doctor; without the path of a URL."""
    async with (
        Gateway(World(seed=7)) as gateway,
        receiving() as receiver,
        receiving() as heartbeats,
        place() as directory,
    ):
        receiver.status, heartbeats.status = 500, 503
        sinks: Any = {"alerts": read_sinks(receiver.url), "heartbeat": read_url(heartbeats.url), "alerts_after": 0.2}
        config = settings(directory, port=gateway.port, auto_connect=True, **sinks)
        facade_of = FakeDaemon(config.socket)  # not started: the real one answers at its place
        async with daemon_running(config), facade_running(tmp_path, facade_of, **sinks) as served:
            await until(lambda: served.facade.default.mirror.state.connected)
            body = await answered(lambda: health(served), lambda body: bool((body["heartbeat"] or {}).get("failing")))
            assert (body["known"], body["incidents"], body["receivers"][0]["failing"]) == (True, [], False)
            assert "503" in body["heartbeat"]["failure"]

            await gateway.stop()
            body = await answered(lambda: health(served), lambda body: body["receivers"][0]["failing"])
            shown = body["receivers"][0]
            assert (shown["process"], shown["waiting"], shown["deliveredAt"]) == ("daemon", 1, None)
            assert "500" in shown["failure"]
            (incident,) = body["incidents"]
            assert (incident["process"], incident["reported"]) == ("daemon", ["down"])
            assert "secret-path" not in str(body)

            samples = await scraped(served)
            sink = shown["receiver"]
            assert value(samples, "ibkr_alerts_total", process="daemon", sink=sink, outcome="failed") >= 1
            assert value(samples, "ibkr_alerts_pending", process="daemon", sink=sink) == 1
            assert value(samples, "ibkr_incidents", process="daemon") == 1
            assert value(samples, "ibkr_heartbeats_total", outcome="failed") == 1

            found = await examined(served)
            assert (found["alerts"].result, found["heartbeat"].result) == ("failed", "failed")
            assert "never accepted" in found["heartbeat"].evidence

            receiver.status = 200
            body = await answered(lambda: health(served), lambda body: not body["receivers"][0]["waiting"])
            shown = body["receivers"][0]
            assert (shown["delivered"], shown["failing"], "500" in shown["failure"]) == (1, False, True)
            assert shown["failedAt"] < shown["deliveredAt"]


async def health(served: Served) -> Any:
    status, body, _ = await served.get(PATH)
    assert status == 200
    return body


async def examined(served: Served) -> dict[str, doctor.Check]:
    session = served.facade.default
    checks = await asyncio.to_thread(lambda: list(doctor.examine({}, settings=session.settings, dial=False)))
    return {check.name: check for check in checks}


async def test_without_a_daemon_only_what_the_facade_sends_is_known(tmp_path: Path, socket_path: str) -> None:
    async with receiving() as receiver:
        sinks: Any = {"alerts": read_sinks(receiver.url), "alerts_on": ("daemon",), "alerts_after": 0.2}
        (tmp_path / "state").mkdir(mode=0o700)
        async with facade_running(tmp_path, FakeDaemon(socket_path), **sinks) as served:
            await until(lambda: receiver.received)
            body = await answered(lambda: health(served), lambda body: body["receivers"][0]["delivered"])
            assert (body["known"], body["heartbeat"]) == (False, None)
            assert [one["process"] for one in body["receivers"]] == ["facade"]
            assert [(one["reason"], one["reported"]) for one in body["incidents"]] == [
                ("daemonUnreachable", ["daemon"])
            ]
            samples = await scraped(served)
            sink = body["receivers"][0]["receiver"]
            assert value(samples, "ibkr_alerts_total", process="facade", sink=sink, outcome="delivered") == 1
            assert value(samples, "ibkr_incidents", process="facade") == 1


@pytest.mark.usefixtures("patient_doctor")
async def test_receivers_that_the_running_daemon_was_not_started_with_are_named(
    tmp_path: Path, daemon: FakeDaemon
) -> None:
    daemon.answer("daemon.info", {"alerts": [], "heartbeat": None})
    daemon.answer("link.get", daemon.store.row("link", "link"))
    sinks: Any = {"alerts": read_sinks("https://example.com/x"), "heartbeat": read_url("https://example.com/y")}
    async with facade_running(tmp_path, daemon, **sinks) as served:
        found = await examined(served)
    assert (found["alerts"].result, found["heartbeat"].result) == ("failed", "failed")
    assert found["alerts"].remedy == (doctor.RESTART_DAEMON,)
