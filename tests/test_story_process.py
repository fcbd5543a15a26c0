"""Whole processes stopped, killed and started again: the daemon, and the gateway it talks to (issue 4.4)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.simulator import Gateway, World
from shared.jsonrpc.client import Client
from tests.daemon.running import LIMIT, environment, place, process
from tests.waiting import answered, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGSTOP and SIGKILL")


class Daemon:
    """The link row as a peer of the socket gets it."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def row(self) -> dict[str, Any]:
        client = await Client.open(self.path, "test/1", timeout=LIMIT)
        try:
            return dict(msgspec.json.decode(await client.call("link.get", {}, LIMIT)))
        finally:
            await client.close()

    async def becomes(self, **wanted: Any) -> dict[str, Any]:
        """Ask until the row has these values."""
        return await answered(self.row, lambda row: all(row[name] == value for name, value in wanted.items()))


def settings(directory: Path, port: int) -> dict[str, str]:
    return {
        **environment(directory),
        "IBKR_AUTO_CONNECT": "true",
        "IBKR_HOST": "127.0.0.1",
        "IBKR_PORT": str(port),
        "IBKR_PROBE_INTERVAL": "0.4",
        "IBKR_PROBE_TIMEOUT": "0.4",
    }


async def test_a_daemon_stopped_for_longer_than_any_limit_does_not_take_the_gateway_for_frozen() -> None:
    """SIGSTOP for many times interval and timeout: after SIGCONT it is the same session, and nothing was dialled."""
    async with place() as directory, Gateway(World(), tick_rate=0.0) as gateway:
        env = settings(directory, gateway.port)
        scene = Daemon(env["IBKR_SOCKET"])
        async with process("-m", "daemon", env=env, cwd=directory) as daemon:
            await scene.becomes(phase="ready", session=1)
            for _ in range(3):
                daemon.send_signal(signal.SIGSTOP)
                stopped = gateway.clock.monotonic()
                await until(lambda since=stopped: gateway.clock.monotonic() - since > 2.5)
                daemon.send_signal(signal.SIGCONT)
                row = await scene.becomes(phase="ready", connected=True)
                assert row["session"] == 1
            probes = sum(seen.name == "reqCurrentTime" for seen in gateway.requests)
            await until(lambda: sum(seen.name == "reqCurrentTime" for seen in gateway.requests) > probes + 2)

            assert (await scene.row())["session"] == 1
            assert gateway.connections.total == 1


async def test_a_gateway_that_is_stopped_is_noticed_and_found_again() -> None:
    async with (
        place() as directory,
        process(
            *("-m", "daemon.simulator", "--port", "0"),
            env=dict(os.environ),
            cwd=directory,
            stdout=asyncio.subprocess.PIPE,
        ) as gateway,
    ):
        assert gateway.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = (await gateway.stdout.readline()).decode()
        env = settings(directory, int(line.rpartition(":")[2]))
        scene = Daemon(env["IBKR_SOCKET"])
        async with process("-m", "daemon", env={**env, "IBKR_CONNECT_TIMEOUT": "2"}, cwd=directory):
            await scene.becomes(phase="ready", session=1)
            gateway.send_signal(signal.SIGSTOP)
            row = await scene.becomes(connected=False)
            assert row["reason"] == "probeTimeout"
            await scene.becomes(phase="connecting", reason="probeTimeout")
            gateway.send_signal(signal.SIGCONT)

            await scene.becomes(phase="ready", connected=True, session=2)


async def test_a_daemon_killed_at_any_moment_gets_its_client_id_back_when_its_ghost_is_gone() -> None:
    """SIGKILL; TWS holds the id for a while. The next daemon waits under the same id, and is ready."""
    async with place() as directory, Gateway(World(), tick_rate=0.0) as gateway:
        env = settings(directory, gateway.port)
        scene = Daemon(env["IBKR_SOCKET"])
        async with process("-m", "daemon", env=env, cwd=directory) as daemon:
            await scene.becomes(phase="ready")
            gateway.client_id_in_use()
            daemon.kill()
            await daemon.wait()
        async with process("-m", "daemon", env=env, cwd=directory):
            row = await scene.becomes(phase="waiting", reason="clientIdInUse")
            assert row["gateway"]["clientId"] == 1
            gateway.client_id_free()
            await scene.becomes(phase="ready", connected=True)

            assert set(gateway.client_ids) == {1}
