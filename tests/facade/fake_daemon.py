"""A daemon without a gateway: the real store, feed and socket; its rows and answers are set by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from daemon.state.feed import Feed
from daemon.state.store import Store
from shared.clock import SystemClock
from shared.jsonrpc.codec import APPLICATION_ERROR, RpcError
from shared.jsonrpc.server import RpcService, ServerConnection
from shared.messages import BROKER_TOPICS, Endpoint, GatewayFacts, Link, Proof, WatchParams
from shared.transport import local_socket
from shared.transport.address import DEFAULT_SESSION
from shared.transport.interfaces import Listener

Reply = Callable[[Mapping[str, Any]], Awaitable[Any]]


def ready_link(**changes: Any) -> Link:
    """A link row as the daemon writes it while all is well."""
    row = Link(
        phase="ready",
        reason=None,
        sentence="Connected.",
        connected=True,
        session=1,
        proof=Proof(at=datetime.now(UTC), ageMs=0, rttMs=1.0),
        gateway=GatewayFacts(host="127.0.0.1", port=7497, clientId=1, configured=Endpoint(host="127.0.0.1", port=7497)),
        accounts=("DU1234567",),
        upstream="ok",
    )
    return msgspec.structs.replace(row, **changes)


class _Connection(ServerConnection):
    """One facade's conversation."""

    def __init__(self, daemon: FakeDaemon) -> None:
        super().__init__(daemon.service)
        self.daemon = daemon

    def data_received(self, data: bytes) -> None:
        if not self.daemon.silent:
            super().data_received(data)

    def drained(self) -> None:
        self.daemon.feed.drained(self)

    def lost(self, reason: str) -> None:
        self.daemon.feed.forget(self)


class FakeDaemon:
    """Serves `path` between `start` and `stop`; the same object may serve again, as the same epoch."""

    def __init__(self, path: str, epoch: str = "e1", session: str = DEFAULT_SESSION) -> None:
        self.path = path
        self.store = Store(epoch, SystemClock())
        self.feed = Feed(self.store, lambda callback: asyncio.get_running_loop().call_soon(callback))
        self.silent = False
        """Sockets stay open and nothing is answered, as by a stopped process."""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """Every call beside the watching, in order."""
        self.replies: dict[str, Reply] = {}
        self.refuses: set[str] = set()
        """Topics that no line is left for."""
        self.service = RpcService(
            "fake/1",
            epoch,
            {
                "watch": self._watch,
                "unwatch": self._unwatch,
                **{
                    name: self._method(name)
                    for name in (
                        "link.connect",
                        "link.disconnect",
                        "link.reconnect",
                        "link.events",
                        "account.pnl.history",
                        "executions.list",
                        "contracts.search",
                        "contracts.get",
                        "contracts.qualify",
                        "contracts.options",
                        "quotes.get",
                        "bars.fetch",
                        "daemon.info",
                        "link.get",
                    )
                },
            },
            session=session,
        )
        self._listener: Listener | None = None

    async def start(self) -> None:
        self._listener = await local_socket.listen(lambda: _Connection(self), self.path)

    async def stop(self) -> None:
        """End as a process does: listener and conversations close."""
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None
        for peer in tuple(self.service.connections):
            peer.abort("stopped")
        await self.service.close()

    async def __aenter__(self) -> FakeDaemon:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- its rows ---

    def link(self, **changes: Any) -> int:
        return self.store.put({"link": {"link": ready_link(epoch=self.store.epoch, **changes)}})

    def set_rows(self, topic: str, rows: Mapping[str, Struct] | None = None) -> int:
        """A complete snapshot of `topic`."""
        return self.store.replace(topic, rows or {}, known=True)

    def set_all(self, **topics: Mapping[str, Struct]) -> int:
        """Ready, with every list complete; those not named are empty."""
        for topic in BROKER_TOPICS:
            self.set_rows(topic, topics.get(topic))
        return self.link()

    def refuse(self, method: str, reason: str, **data: Any) -> None:
        async def reply(_params: Mapping[str, Any]) -> Any:
            raise RpcError(APPLICATION_ERROR, reason, {"reason": reason, **data})

        self.replies[method] = reply

    def answer(self, method: str, result: Any) -> None:
        async def reply(_params: Mapping[str, Any]) -> Any:
            return result

        self.replies[method] = reply

    # --- methods ---

    def _method(self, name: str) -> Callable[[ServerConnection, msgspec.Raw], Awaitable[Any]]:
        async def method(peer: ServerConnection, params: msgspec.Raw) -> Any:
            given = msgspec.json.decode(params)
            self.requests.append((name, given))
            reply = self.replies.get(name)
            try:
                result = {} if reply is None else await reply(given)
            except RpcError as error:
                raise RpcError(error.code, error.message, {**error.data, "seq": self.feed.request_ack(peer)}) from error  # type: ignore[arg-type]
            if isinstance(result, dict):
                result = {**result, "seq": self.feed.request_ack(peer)}  # type: ignore[arg-type]
            return result

        return method

    async def _watch(self, peer: ServerConnection, params: msgspec.Raw) -> Any:
        given = msgspec.json.decode(params, type=WatchParams)
        if self.refuses.intersection(given.topics):
            raise RpcError(APPLICATION_ERROR, "no line left", {"reason": "tooManySubscriptions"})
        seq, reset = self.feed.watch(peer, given.topics, given.epoch, given.since)  # type: ignore[arg-type]
        return {"epoch": self.store.epoch, "seq": seq, "reset": reset}

    async def _unwatch(self, peer: ServerConnection, params: msgspec.Raw) -> Any:
        given = msgspec.json.decode(params, type=WatchParams)
        self.feed.unwatch(peer, given.topics)  # type: ignore[arg-type]
        return {}
