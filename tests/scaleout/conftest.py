"""A real nats-server, and daemons and replicas on either side of it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.process import Daemon
from facade.replica.mirror import Mirror
from facade.replica.nats import nats_connector
from facade.replica.state import ReplicaState
from shared import scaleout
from shared.clock import Clock
from shared.messages import STATE_TOPICS
from tests.daemon.running import place, running, settings
from tests.ports import free_port
from tests.waiting import until, until_now

SERVER = shutil.which("nats-server")

RATE = 3.0
"""How much faster than real time a test's clock runs. A busy machine delays a sign of life by no more than 0.8 s."""


class FastClock:
    """`rate` times as fast as real time. `ahead`: s by which the wall clock is ahead of the real one."""

    def __init__(self, ahead: float = 0.0, rate: float = RATE) -> None:
        self.ahead = ahead
        self._rate = rate
        self._real = time.time() - rate * time.monotonic()
        self._jumped = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._real, UTC) + timedelta(seconds=self.monotonic() + self.ahead)

    def monotonic(self) -> float:
        return self._rate * time.monotonic() + self._jumped

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)

    def jump(self, seconds: float) -> None:
        """Both clocks go forward at once, as when the process was stopped."""
        self._jumped += seconds


class NatsServer:
    """One nats-server process with JetStream, on a port of its own; the port stays through a restart."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._directory = directory
        self.config = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{directory}/store" }}\n'
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert SERVER is not None
        self._process = subprocess.Popen([SERVER, "-c", str(self._write_config())], stderr=subprocess.DEVNULL)

    def listening(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port)):
            return True

    def reload(self) -> None:
        """Take `config` without a restart."""
        self._write_config()
        self.signal(signal.SIGHUP)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Remove everything that the stopped server has stored."""
        shutil.rmtree(self._directory / "store", ignore_errors=True)

    def _write_config(self) -> Path:
        config = self._directory / "nats.conf"
        config.write_text(self.config)
        return config


class Proxy:
    """The network between one client and a NATS server: it passes bytes on, holds them back, or cuts connections."""

    def __init__(self, server: NatsServer) -> None:
        self.url = ""
        self._server = server
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> asyncio.Server:
        listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"nats://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        return listener

    def stall(self) -> None:
        self._passing.clear()

    def refuse(self) -> None:
        """No connection at all until `resume`."""
        self._refusing = True
        self.cut()

    def resume(self) -> None:
        self._refusing = False
        self._passing.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        writers = tuple(self._writers)
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *(writer.wait_closed() for writer in writers), return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a task of its own: asyncio's would log its cancellation as an error
        task = asyncio.create_task(self._serve(reader, writer), name="proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refusing:
                raise ConnectionRefusedError
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(upstream)
            pumps = [
                asyncio.create_task(self._pump(reader, upstream)),
                asyncio.create_task(self._pump(upstream_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                upstream.transport.abort()
                writer.transport.abort()
                self._writers.discard(upstream)
        finally:
            self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass


@asynccontextmanager
async def proxied(server: NatsServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(server)
    listener = await proxy.listen()
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    pytest.importorskip("nats", reason="nats-py is not installed: pip install '.[nats]'")
    if SERVER is None:
        pytest.skip("nats-server is not installed: apt-get install nats-server")
    server = NatsServer(tmp_path)
    server.start()
    until_now(server.listening)
    yield server
    if server._process is not None:
        server.signal(signal.SIGCONT)
    server.kill()


@pytest.fixture
async def daemon(nats_server: NatsServer) -> AsyncIterator[Daemon]:
    async with published(nats_server) as started:
        yield started


@asynccontextmanager
async def published(
    server: NatsServer, session: str = "default", clock: Clock | None = None, url: str = "", **more: Any
) -> AsyncIterator[Daemon]:
    """A daemon that publishes its session, which has no gateway."""
    async with (
        place() as directory,
        running(
            settings(directory, session=session, nats_url=(url or server.url,), **more), clock or FastClock()
        ) as one,
    ):
        yield one


@asynccontextmanager
async def remote(
    server: NatsServer,
    session: str = "default",
    credentials: Path | None = None,
    clock: Clock | None = None,
    url: str = "",
    proof_limit: float = 3600.0,
) -> AsyncIterator[Mirror]:
    """A replica on the other side of NATS."""
    clock = clock or FastClock()
    at = scaleout.Server((url or server.url,), credentials)
    mirror = Mirror(nats_connector(at, scaleout.Subjects("ibkr", session), clock), ReplicaState(proof_limit, clock))
    task = asyncio.create_task(mirror.run(), name="mirror")
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        closing = [task for task in asyncio.all_tasks() if task.get_name() == "nats.close"]
        await asyncio.gather(*closing, return_exceptions=True)  # a conversation's end does not wait for it


def equal(mirror: Mirror, daemon: Daemon, topics: tuple[str, ...] = STATE_TOPICS) -> bool:
    """Whether the replica is reachable and has exactly the daemon's rows."""
    replica = mirror.state.replica
    return (
        mirror.state.reachable
        and replica is not None
        and replica.epoch == daemon.store.epoch
        and all(replica.rows(topic) == daemon.store.replica.rows(topic) for topic in topics)
    )


async def settled(mirror: Mirror, daemon: Daemon) -> None:
    await until(lambda: equal(mirror, daemon), "the replica did not come to the daemon's state")
