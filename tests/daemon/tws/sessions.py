"""A session under test, with the real store behind it and the events that it emitted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from daemon.link.events import AttemptOverdue, Event, Failed, Target
from daemon.simulator import Gateway
from daemon.state.store import Store
from daemon.tws import Limits, Tws
from shared.clock import SystemClock
from tests.daemon.tws.scripted import Peer, ScriptedGateway
from tests.waiting import until

Script = Callable[[Peer], Awaitable[None]]


class Session:
    """A `Tws` with the number 3 and the client id 7."""

    def __init__(
        self,
        port: int,
        timeout: float = 60.0,
        host: str = "127.0.0.1",
        limits: Limits | None = None,
        store: Store | None = None,
        client_id: int = 7,
        account: str = "",
    ) -> None:
        self.events: list[Event] = []
        self.store = store or Store("e1", SystemClock())
        target = Target(host=host, port=port, clientId=client_id, timeout=timeout, account=account)
        self.tws = Tws(3, target, self.events.append, self.store, SystemClock(), limits or Limits())

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def overdue(self) -> AttemptOverdue:
        """The report that the attempt is overdue; what comes of the attempt after it is for the caller to wait for."""
        await until(lambda: self.of(AttemptOverdue))
        event = self.of(AttemptOverdue)[-1]
        assert isinstance(event, AttemptOverdue)
        return event

    @property
    def failed(self) -> Failed:
        (event,) = self.of(Failed)
        assert isinstance(event, Failed)
        return event

    def rows(self, topic: str) -> dict[str, Any]:
        return dict(self.store.rows(topic))

    def is_current(self, topic: str) -> bool:
        """Whether the topic is known and not stale, by its row in `sync`."""
        sync: Any = self.store.rows("sync")[topic]
        return sync.known and not sync.stale


@asynccontextmanager
async def session(script: Script, timeout: float = 60.0, **how: Any) -> AsyncIterator[Session]:
    """One with a gateway that follows a script."""
    async with ScriptedGateway(script) as gateway, joined(gateway.port, timeout, **how) as made:
        yield made


@asynccontextmanager
async def attempting(port: int, timeout: float) -> AsyncIterator[Session]:
    """One whose attempt is under way, and ends with the block."""
    made = Session(port, timeout)
    opening = asyncio.create_task(made.tws.open(), name="the attempt")
    try:
        yield made
    finally:
        made.tws.abort()
        await opening


@asynccontextmanager
async def joined(port: int, timeout: float = 60.0, **how: Any) -> AsyncIterator[Session]:
    made = Session(port, timeout, **how)
    try:
        await made.tws.open()
        yield made
    finally:
        made.tws.abort()


@asynccontextmanager
async def synced(gateway: Gateway, timeout: float = 60.0, **how: Any) -> AsyncIterator[Session]:
    """One with a simulated gateway, after its first snapshots."""
    async with joined(gateway.port, timeout, **how) as made:
        await made.tws.sync()
        yield made
