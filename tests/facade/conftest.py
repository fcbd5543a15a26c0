"""A facade on a free port of the loopback, in this process, before a fake daemon on a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from multidict import CIMultiDict
from yarl import URL

from facade import serving
from facade.app import Facade
from facade.doctor import checks as doctor
from facade.replica.state import ReplicaState
from shared.settings import Settings
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

LIMIT = 60.0
"""s within which anything a test waits for must have come."""


@dataclass
class Served:
    """A running facade: its parts, its port, a client that speaks HTTP to it."""

    facade: Facade
    port: int
    http: ClientSession
    daemon: FakeDaemon

    @property
    def state(self) -> ReplicaState:
        """What the facade holds of the daemon's state."""
        return self.facade.default.mirror.state

    async def holds(self, topic: str, key: str) -> None:
        """Wait until the facade has this row."""
        await until(lambda: self.state.row(topic, key))

    async def get(self, path: str | URL, **kwargs: Any) -> tuple[int, Any, CIMultiDict[str]]:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> tuple[int, Any, CIMultiDict[str]]:
        return await self.request("POST", path, json={} if body is None else body, **kwargs)

    async def request(self, method: str, path: str | URL, **kwargs: Any) -> tuple[int, Any, CIMultiDict[str]]:
        """Status, decoded body, headers."""
        async with self.http.request(method, path, **kwargs) as response:
            text = await response.text()
            is_json = "json" in response.headers.get("Content-Type", "")
            return (
                response.status,
                await response.json(content_type=None) if is_json else text,
                CIMultiDict(response.headers),
            )

    async def raw(self, request: bytes) -> bytes:
        """What comes back for these bytes until the facade closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(LIMIT):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def listening(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def running(tmp_path: Path, daemon: FakeDaemon, **settings: Any) -> AsyncIterator[Served]:
    """A facade before `daemon`, which may or may not be there."""
    sock = listening()
    port = sock.getsockname()[1]
    configured = Settings(socket=daemon.path, state_dir=tmp_path / "state", facade_port=port, **settings)
    async with (
        serving.served(configured, [sock], drain=0) as facade,
        ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(LIMIT)) as http,
    ):
        yield Served(facade, port, http, daemon)


@pytest.fixture
def patient_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of the doctor that a slow machine does not reach."""
    for name in ("DAEMON_TIMEOUT", "MIN_DIAL_TIMEOUT", "MAX_DIAL_TIMEOUT", "SLOW_HANDSHAKE", "SLOW_PROBE"):
        monkeypatch.setattr(doctor, name, LIMIT)


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    return str(directory / "d.sock")


@pytest.fixture
async def daemon(socket_path: str) -> AsyncIterator[FakeDaemon]:
    """A daemon that serves, ready, every list complete and empty."""
    async with FakeDaemon(socket_path) as fake:
        fake.set_all()
        yield fake


@pytest.fixture
async def served(tmp_path: Path, daemon: FakeDaemon) -> AsyncIterator[Served]:
    async with running(tmp_path, daemon) as built:
        await until(lambda: built.facade.default.mirror.state.connected)
        yield built
