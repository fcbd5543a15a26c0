"""Both ends of a local socket's connections in tests, whatever the socket is: a Unix socket or a named pipe."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from shared.transport.interfaces import Listener
from shared.transport.local_socket import listen


class Talk(asyncio.Protocol):
    """A protocol that remembers; `group` are those of one test that are connected."""

    transport: asyncio.Transport

    def __init__(self, group: list[Talk] | None = None) -> None:
        self.received = b""
        self.lost = asyncio.Event()
        self.group = [] if group is None else group

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.group.append(self)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


class Echo(Talk):
    """Gives back what it gets."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
async def peers() -> AsyncIterator[list[Talk]]:
    """The daemon's ends of the test's connections; they are gone when it ends."""
    peers: list[Talk] = []
    yield peers
    for one in peers:
        one.transport.abort()
        await one.lost.wait()


@contextlib.asynccontextmanager
async def listening(path: str, protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[Listener]:
    """A listener that is closed in the end."""
    listener = await listen(protocol, path)
    try:
        yield listener
    finally:
        listener.close()
        await listener.wait_closed()


def serving(
    path: str, peers: list[Talk], protocol: type[Talk] = Talk
) -> contextlib.AbstractAsyncContextManager[Listener]:
    """A listener whose ends of the connections are in `peers`."""
    return listening(path, lambda: protocol(peers))
