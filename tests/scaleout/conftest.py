"""A real nats-server, and daemons and replicas on either side of it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.process import Daemon
from facade.replica.mirror import Mirror
from facade.replica.nats import nats_connector
from facade.replica.state import ReplicaState
from shared import scaleout
from shared.clock import SystemClock
from shared.messages import STATE_TOPICS
from tests.daemon.running import place, running, settings
from tests.ports import free_port
from tests.waiting import until

SERVER = shutil.which("nats-server")


class NatsServer:
    """One nats-server process with JetStream, on a port of its own; the port stays through a restart."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._directory = directory
        self.config = f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{directory}/store" }}\n'
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self._directory / "nats.conf"
        config.write_text(self.config)
        assert SERVER is not None
        self._process = subprocess.Popen([SERVER, "-c", str(config)], stderr=subprocess.DEVNULL)

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


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    pytest.importorskip("nats", reason="nats-py is not installed: pip install '.[nats]'")
    if SERVER is None:
        pytest.skip("nats-server is not installed: apt-get install nats-server")
    server = NatsServer(tmp_path)
    server.start()
    yield server
    if server._process is not None:
        server.signal(signal.SIGCONT)
    server.kill()


@pytest.fixture
async def daemon(nats_server: NatsServer) -> AsyncIterator[Daemon]:
    async with published(nats_server) as started:
        yield started


@asynccontextmanager
async def published(server: NatsServer, session: str = "default", **more: Any) -> AsyncIterator[Daemon]:
    """A daemon that publishes its session, which has no gateway."""
    async with (
        place() as directory,
        running(settings(directory, session=session, nats_url=(server.url,), **more)) as one,
    ):
        yield one


@asynccontextmanager
async def remote(
    server: NatsServer, session: str = "default", credentials: Path | None = None
) -> AsyncIterator[Mirror]:
    """A replica on the other side of NATS."""
    clock = SystemClock()
    connect = nats_connector(scaleout.Server((server.url,), credentials), scaleout.Subjects("ibkr", session), clock)
    mirror = Mirror(connect, ReplicaState(3600.0, clock))
    task = asyncio.create_task(mirror.run(), name="mirror")
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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
