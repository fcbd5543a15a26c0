"""Daemon, NATS server and remote facade as processes that are stopped, continued and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from daemon.simulator import Gateway, World
from shared.scaleout import LEASE
from tests.daemon.running import Mirror, environment, place
from tests.ports import free_port
from tests.scaleout.conftest import FastClock, NatsServer, published
from tests.waiting import LIMIT, answered, until

API = "/api/ibkr"


@asynccontextmanager
async def process(module: str, environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            signal_group(started, number)
        await started.wait()


def signal_group(one: asyncio.subprocess.Process, number: int) -> None:
    """The facade is two processes: the listening one and the serving one."""
    try:
        os.killpg(one.pid, number)
    except ProcessLookupError:
        pass


@asynccontextmanager
async def remote_facade(
    server: NatsServer, directory: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, ClientSession]]:
    """A facade whose only session is on NATS."""
    port = free_port()
    environ = environment(
        directory,
        IBKR_NATS_URL=server.url,
        IBKR_SESSIONS="default=nats",
        IBKR_FACADE_PORT=str(port),
        IBKR_ENV_FILE=str(directory / "none.env"),
    )
    (directory / "none.env").touch()
    async with (
        process("facade", environ) as started,
        ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(LIMIT)) as http,
    ):
        yield started, http


async def get(http: ClientSession, path: str) -> Any:
    async with http.get(f"{API}/{path}") as response:
        return await response.json()


async def link_is(http: ClientSession, enough: Callable[[Any], bool]) -> Any:
    async def ask() -> Any:
        try:
            return await get(http, "link")
        except (ClientError, TimeoutError) as error:
            raise ConnectionError from error

    return await answered(ask, enough)


async def test_what_is_stopped_and_continued_returns_by_itself(nats_server: NatsServer) -> None:
    """Server, daemon and facade in turn: the remote facade is not connected meanwhile; without a restart it is again,
    with what has happened since."""
    async with (
        Gateway(World(seed=1)) as gateway,
        place() as directory,
        place() as elsewhere,
    ):
        own = environment(
            directory,
            IBKR_NATS_URL=nats_server.url,
            IBKR_AUTO_CONNECT="true",
            IBKR_PORT=str(gateway.port),
            IBKR_ENV_FILE=str(directory / "none.env"),
        )
        (directory / "none.env").touch()
        async with process("daemon", own) as daemon, remote_facade(nats_server, elsewhere) as (facade, http):
            await link_is(http, lambda link: link["connected"])
            local = await answered(lambda: Mirror.join(own["IBKR_SOCKET"]))
            pids = (daemon.pid, facade.pid)

            async def filled() -> None:
                """The facade has a fill that happens now."""
                execution = gateway.fill("AAPL", 1).execId

                async def ask() -> Any:
                    return await get(http, "executions")

                await answered(ask, lambda body: execution in {row["execId"] for row in body.get("data") or ()})

            await filled()

            nats_server.signal(signal.SIGSTOP)
            stale = await link_is(http, lambda link: not link["connected"])
            assert stale["reason"] == "daemonUnreachable"
            meanwhile = gateway.fill("AAPL", 2).execId
            await local.until(lambda: meanwhile in local.rows("fills"))  # a local reader has it at once
            assert local.link["connected"]
            nats_server.signal(signal.SIGCONT)
            await link_is(http, lambda link: link["connected"])
            await filled()

            daemon.send_signal(signal.SIGSTOP)
            stale = await link_is(http, lambda link: not link["connected"])
            assert stale["reason"] == "daemonUnreachable"
            daemon.send_signal(signal.SIGCONT)
            await link_is(http, lambda link: link["connected"])
            await filled()

            signal_group(facade, signal.SIGSTOP)
            during = gateway.fill("AAPL", 3).execId
            await local.until(lambda: during in local.rows("fills"))
            signal_group(facade, signal.SIGCONT)
            await link_is(http, lambda link: link["connected"])
            await filled()
            rows = (await get(http, "executions"))["data"]
            assert {meanwhile, during} <= {row["execId"] for row in rows}
            assert (daemon.returncode, facade.returncode, daemon.pid, facade.pid) == (None, None, *pids)
            await local.leave()


async def test_a_facade_that_is_killed_frees_its_lines_within_the_lease(nats_server: NatsServer) -> None:
    clock = FastClock()
    async with place() as elsewhere, published(nats_server, clock=clock) as daemon:
        async with remote_facade(nats_server, elsewhere) as (facade, http):
            await link_is(http, lambda link: link["reason"] != "daemonUnreachable")
            stream = await http.get(f"{API}/events?topics=quotes:1,bars:1:1day")
            assert stream.status == 200, await stream.text()
            await until(lambda: daemon.market.streams().wanted == 2)
            signal_group(facade, signal.SIGKILL)
            await facade.wait()
            stream.close()
        assert daemon.market.streams().wanted == 2
        clock.jump(LEASE)
        await until(lambda: daemon.market.streams().wanted == 0)
