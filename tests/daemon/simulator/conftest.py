"""A gateway on a free port, and unmodified clients on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import ib_async
import pytest

from daemon.simulator import Gateway, ManualClock, World
from tests.daemon.simulator.waiting import LIMIT, Connect, Raw
from tests.ports import free_port
from tests.waiting import until


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    """A healthy gateway with a world of 25 positions."""
    gateway = Gateway(World(seed=7))
    gateway.port = free_port()
    async with gateway:
        yield gateway


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def clocked(clock: ManualClock) -> AsyncIterator[Gateway]:
    """A gateway whose time is moved by hand."""
    async with Gateway(World(), clock=clock) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
async def clients_are_closed() -> AsyncIterator[None]:
    yield
    while Raw.opened:
        await Raw.opened.pop().close()


@pytest.fixture
async def connect(gateway: Gateway) -> AsyncIterator[Connect]:
    """Connect an unmodified ib_async; every client is disconnected in the end."""
    clients: list[ib_async.IB] = []

    async def connect(client_id: int = 1, to: Gateway = gateway, **options: object) -> ib_async.IB:
        ib = ib_async.IB()
        clients.append(ib)
        ib.RaiseRequestErrors = True
        await ib.connectAsync("127.0.0.1", to.port, clientId=client_id, timeout=LIMIT, **options)
        return ib

    yield connect
    for ib in clients:
        if ib.isConnected():
            ib.disconnect()
    await until(lambda: not gateway.client_ids)
