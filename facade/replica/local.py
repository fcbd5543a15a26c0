"""The conversation with a daemon on this machine: JSON-RPC over the local socket."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw

from facade.replica.conversation import CLIENT_NAME, Connect, Conversation, Watched
from shared.clock import Clock
from shared.jsonrpc.client import Client
from shared.transport.address import AnotherSession, check_session

PING_TIMEOUT = 2.0
"""s after which a daemon that does not answer a ping is unreachable (the contract's)."""

_watched = msgspec.json.Decoder(Watched)


class LocalConversation:
    """Implements `Conversation` with a JSON-RPC client."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self.daemon = client.welcome.daemon
        self.epoch = client.welcome.epoch
        self._client = client
        self._clock = clock

    async def call(self, method: str, params: Any, timeout: float | None) -> Raw:
        return await self._client.call(method, params, timeout)

    async def watch(self, topics: Collection[str], epoch: str | None, since: int | None, timeout: float) -> Watched:
        params: dict[str, Any] = {"topics": sorted(topics)}
        if epoch is not None:
            params |= {"epoch": epoch, "since": since}
        return _watched.decode(await self._client.call("watch", params, timeout))

    async def unwatch(self, topics: Collection[str], timeout: float) -> None:
        await self._client.call("unwatch", {"topics": sorted(topics)}, timeout)

    async def ping(self) -> None:
        await self._client.call("ping", {}, PING_TIMEOUT)

    def daemon_time(self) -> datetime:
        return self._clock.now()

    def abort(self, reason: str = "aborted") -> None:
        self._client.abort(reason)


def local_connector(path: str, clock: Clock, session: str = "") -> Connect:
    """Opens conversations with the daemon whose socket is at `path`, on this machine; not with one that names another
    `session`.
    """

    async def connect(
        on_delta: Callable[[Raw], None],
        on_read: Callable[[], None],
        on_close: Callable[[str], None],
        timeout: float,
    ) -> Conversation:
        def on_notification(method: str, params: Raw) -> None:
            if method == "delta":
                on_delta(params)

        client = await Client.open(path, CLIENT_NAME, on_notification, on_close, timeout, on_read)
        try:
            check_session(path, session, client.welcome.session)
        except AnotherSession:
            await client.close()
            raise
        return LocalConversation(client, clock)

    return connect
