"""The doctor of a session whose daemon is on another machine: it examines nothing of this one in its place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, ClientTimeout

from daemon.process import Daemon
from daemon.simulator import Gateway, World
from facade.app import Facade
from facade.doctor.checks import CHECKS
from facade.serving import served
from facade.terminal import diagnosis
from shared.settings import Settings
from tests.facade.conftest import listening
from tests.facade.fake_daemon import ready_link
from tests.scaleout.conftest import NatsServer, published
from tests.waiting import LIMIT, until

ELSEWHERE = {"state directory", "listener", "zone data", "ipv6 localhost", "firewall", "logout"}
pytestmark = pytest.mark.usefixtures("patient_doctor")


@pytest.fixture
def patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.doctor.checks.DAEMON_TIMEOUT", LIMIT)


def facade_settings(server: NatsServer, directory: Path, **more: Any) -> Settings:
    return Settings(
        session="far", sessions=(("far", "nats"),), nats_url=(server.url,), state_dir=directory / "state", **more
    )


@asynccontextmanager
async def facade_of(settings: Settings) -> AsyncIterator[tuple[Facade, ClientSession]]:
    sock = listening()
    async with (
        served(settings, [sock], drain=0) as facade,
        ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}", timeout=ClientTimeout(LIMIT)) as http,
    ):
        yield facade, http


async def found(http: ClientSession) -> dict[str, dict[str, Any]]:
    async with http.get("/api/ibkr/sessions/far/diagnostics") as response:
        assert response.status == 200
        checks = (await response.json())["checks"]
    assert [check["name"] for check in checks] == list(CHECKS)
    return {check["name"]: check for check in checks}


def set_link(daemon: Daemon, **changes: Any) -> int:
    return daemon.store.put({"link": {"link": ready_link(epoch=daemon.store.epoch, **changes)}})


async def test_a_remote_session_is_examined_by_what_its_daemon_answers(nats_server: NatsServer, tmp_path: Path) -> None:
    """A healthy gateway on the facade's own machine, at the port of its settings, is neither dialled nor reported."""
    async with (
        Gateway(World(seed=7, accounts=("DU1234567",), positions=1)) as ours,
        published(nats_server, "far") as daemon,
        facade_of(facade_settings(nats_server, tmp_path, port=ours.port)) as (facade, http),
    ):
        state = facade.default.mirror.state
        await until(lambda: state.reachable)
        seq = set_link(daemon, phase="waiting", reason="portClosed", sentence="Nothing listens there.", connected=False)
        await state.wait_for_seq(seq, LIMIT)
        checks = await found(http)
        assert (checks["daemon"]["result"], "over NATS" in checks["daemon"]["evidence"]) == ("ok", True)
        assert (checks["gateway port"]["result"], checks["gateway port"]["reason"]) == ("failed", "portClosed")
        assert checks["gateway port"]["evidence"] == "The daemon reports: Nothing listens there."
        assert checks["link"]["result"] == "failed"
        assert {name for name in ELSEWHERE if checks[name]["result"] == "skipped"} == ELSEWHERE
        assert all("on the daemon's machine" in checks[name]["evidence"] for name in ELSEWHERE)
        assert ours.connections.total == 0

        environ = {
            "IBKR_ENV_FILE": "",
            "IBKR_SESSION": "far",
            "IBKR_SESSIONS": "far=nats",
            "IBKR_NATS_URL": nats_server.url,
            "IBKR_STATE_DIR": str(tmp_path / "state"),
            "HOME": str(tmp_path),
        }
        by_command = {check.name: check for check in await asyncio.to_thread(lambda: list(diagnosis.examine(environ)))}
        assert by_command["gateway port"].evidence == "The daemon reports: Nothing listens there."
        assert by_command["daemon"].result == "ok"

        await state.wait_for_seq(set_link(daemon), LIMIT)
        checks = await found(http)
        assert {checks[name]["result"] for name in ("gateway port", "handshake", "link", "clock", "client id")} == {
            "ok"
        }
        assert "1234567" not in str(checks)


async def test_without_an_answer_nothing_of_the_remote_daemon_is_known(nats_server: NatsServer, tmp_path: Path) -> None:
    async with facade_of(facade_settings(nats_server, tmp_path)) as (_, http):
        checks = await found(http)
        assert (checks["daemon"]["result"], checks["daemon"]["reason"]) == ("failed", "daemonUnreachable")
        assert "over NATS" in checks["daemon"]["evidence"]
        unknown = ("link", "gateway port", "handshake", "client id", "accounts", "upstream", "data farms", "clock")
        assert {checks[name]["result"] for name in unknown} == {"unknown"}


async def test_a_clock_that_differs_from_the_daemon_s_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    async with (
        published(nats_server, "far") as daemon,
        facade_of(facade_settings(nats_server, tmp_path)) as (facade, http),
    ):
        await until(lambda: facade.default.mirror.state.reachable)
        row = ready_link(epoch=daemon.store.epoch)
        assert row.proof.at is not None
        behind = msgspec.structs.replace(row.proof, at=row.proof.at.replace(year=row.proof.at.year - 1))
        seq = daemon.store.put({"link": {"link": msgspec.structs.replace(row, proof=behind)}})
        await facade.default.mirror.state.wait_for_seq(seq, LIMIT)
        assert (await found(http))["clock"]["result"] == "failed"
