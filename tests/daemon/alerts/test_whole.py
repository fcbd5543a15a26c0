"""Alerts of whole daemon processes, to a real receiver."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from shared.jsonrpc.client import Client
from tests.daemon.alerts.receiver import receiving, verified
from tests.daemon.running import ROOT, environment, place, process
from tests.ports import free_port
from tests.waiting import answered, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL")


def daemon(directory: Path, url: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """A daemon whose gateway is not there, killed in the end. No window is planned, whatever the time of day."""
    state = directory / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    (state / "windows.json").write_text('{"windows": []}')
    more = {"IBKR_AUTO_CONNECT": "true", "IBKR_PORT": str(free_port()), "IBKR_ALERTS": url, "IBKR_ALERTS_AFTER": "0.5"}
    return process("-m", "daemon", env=environment(directory) | more, cwd=directory)


async def alert_test(directory: Path) -> tuple[int, str]:
    """Exit status and output of `ibkr alert test`."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "facade.cli", "alert", "test"),
        env=environment(directory) | {"PYTHONPATH": str(ROOT)},
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await running.communicate()
    return running.returncode or 0, output.decode()


async def test_ibkr_alert_test_prints_what_each_receiver_answers() -> None:
    """0 delivered, 1 refused or none, 3 without a daemon; a path is never printed."""
    async with place() as directory, receiving() as receiver:
        async with daemon(directory, f"{receiver.url}") as running:
            client = await answered(lambda: Client.open(str(directory / "run" / "d.sock"), "test/1"))
            await client.close()
            assert await alert_test(directory) == (0, f"{receiver.url.removesuffix('/hook/secret-path')}: delivered\n")
            receiver.status = 500
            status, output = await alert_test(directory)
            assert (status, "HTTP status 500" in output, "secret-path" in output) == (1, True, False)
            running.kill()
            await running.wait()
        assert (await alert_test(directory))[0] == 3
        async with daemon(directory, ""):
            client = await answered(lambda: Client.open(str(directory / "run" / "d.sock"), "test/1"))
            await client.close()
            status, output = await alert_test(directory)
            assert (status, "IBKR_ALERTS" in output) == (1, True)


async def test_an_alert_of_a_killed_daemon_is_sent_by_the_next_one() -> None:
    async with place() as directory:
        async with receiving(0) as hanging, daemon(directory, hanging.url):
            await until(lambda: hanging.received)
            port = int(hanging.url.split(":")[2].partition("/")[0])
        async with receiving(200, port) as receiver, daemon(directory, receiver.url):
            await until(lambda: receiver.received)
            secret = (directory / "state" / "alerts.secret").read_text().strip()
            message, headers, body = receiver.received[0]

            assert (message, body) == (hanging.received[0][0], hanging.received[0][2])
            assert verified(headers, body, secret)
            assert receiver.kinds()[0] == "down"

            client = await answered(lambda: Client.open(str(directory / "run" / "d.sock"), "test/1"))
            tested = await client.call("alerts.test", {}, 30.0)
            await client.close()
            assert b'"delivered":true' in bytes(tested)
            assert receiver.kinds()[-1] == "test"
