"""The asking end of a conversation in JSON-RPC lines. The codec is `lines.py`'s, the daemon's end `peer.py`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from shared.jsonrpc.codec import (
    APPLICATION_ERROR,
    CLOSE_TIMEOUT,
    MAX_CALLS,
    MAX_LINE,
    LineSplitter,
    RpcError,
    brief,
    notification,
    request,
)
from shared.log import REQUEST_ID
from shared.messages import PROTOCOL, Hello, Welcome
from shared.transport.local_socket import connect


class ConnectionLost(ConnectionError):  # noqa: N818 - the name says what is the case
    """The conversation ended before the answer came; whether the deed was done is not known."""


class _Said(Struct):
    """What a daemon says. It is this user's own process, so a line is checked once, by decoding what is used."""

    id: int | str | UnsetType | None = UNSET
    method: str = ""
    params: Raw = Raw(b"{}")
    result: Raw = Raw()
    error: _Error | None = None


class _Error(Struct):
    code: int
    message: str
    data: Any = None


_said = msgspec.json.Decoder(_Said)
_welcome = msgspec.json.Decoder(Welcome)


class Client(asyncio.Protocol):
    """One conversation with the daemon. Used once: after `on_close` a new one is opened."""

    def __init__(
        self,
        on_notification: Callable[[str, Raw], None] | None = None,
        on_close: Callable[[str], None] | None = None,
        on_read: Callable[[], None] | None = None,
    ) -> None:
        self.welcome: Welcome
        self.reason = ""
        """Why it ended; empty while it lasts."""
        self._on_notification = on_notification
        self._on_close = on_close
        self._on_read = on_read
        self._transport: asyncio.Transport | None = None
        self._lines = LineSplitter()
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Raw]] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._ended = asyncio.Event()

    @classmethod
    async def open(
        cls,
        path: str,
        client: str,
        on_notification: Callable[[str, Raw], None] | None = None,
        on_close: Callable[[str], None] | None = None,
        timeout: float = 2.0,
        on_read: Callable[[], None] | None = None,
    ) -> Client:
        """Connect and say hello as `client` ("name/version"). `timeout`: s for all of it.

        Raises `OSError` where nobody answers (`FileNotFoundError`, `ConnectionRefusedError`, `TimeoutError`,
        `PermissionError`, `ConnectionLost`), `RpcError` where the daemon refuses. `on_notification` gets the method and
        its params as the bytes they came in (a line lives as long as they do); it must not block. `on_read` is called
        after all that came in one piece. `on_close` is called once, with the reason, if the conversation ends after it
        began.
        """
        async with asyncio.timeout(timeout):
            _, self = await connect(lambda: cls(on_notification, None, on_read), path, timeout)
            try:
                hello = Hello(protocol=PROTOCOL, client=client)
                self.welcome = _welcome.decode(await self.call("hello", hello, timeout))
                if self.welcome.protocol != PROTOCOL:
                    raise RpcError(
                        APPLICATION_ERROR, "The daemon speaks another protocol.", {"reason": "protocolUnsupported"}
                    )
            except msgspec.DecodeError:
                self.abort()
                raise ConnectionLost("What answers there does not speak the daemon's protocol.") from None
            except BaseException:
                self.abort()
                raise
        if self.reason:
            raise ConnectionLost(self.reason)
        self._on_close = on_close
        return self

    async def call(self, method: str, params: Any, timeout: float) -> Raw:
        """`method`'s result, as the bytes it came in. `timeout`: s until the answer is here; then it is forgotten.

        Raises `RpcError` (also `pacingBudget` when `MAX_CALLS` are under way), `TimeoutError`, `ConnectionLost`.
        """
        if len(self._waiting) >= MAX_CALLS:
            raise RpcError(
                APPLICATION_ERROR, "Too many calls are under way.", {"reason": "pacingBudget", "retryable": True}
            )
        self._number += 1
        number = self._number
        line = request(number, method, params, REQUEST_ID.get())
        if len(line) > MAX_LINE:
            raise RpcError(APPLICATION_ERROR, "The request is over 1 MiB.", {"reason": "tooLarge"})
        answer: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(timeout):
                await self._room.wait()
                if self._transport is None or self.reason:
                    raise ConnectionLost(self.reason)
                self._transport.write(line)
                return await answer
        finally:
            del self._waiting[number]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # an answer that crossed with our giving up is nobody's

    def notify(self, method: str, params: Any) -> None:
        """Tell the daemon something that needs no answer; lost with the connection."""
        if self._transport is not None and not self.reason:
            self._transport.write(notification(method, params))

    async def close(self) -> None:
        """End the conversation; `on_close` is not called."""
        self._on_close = None
        if self._transport is not None:
            self._end("closed by us")
            self._transport.close()
            # not asyncio.timeout: before Python 3.11.3 it raises CancelledError in the cleanup of a cancelled task
            timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)
            try:
                await self._ended.wait()
            finally:
                timer.cancel()

    def abort(self, reason: str = "aborted") -> None:
        """End it now, without a word."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else "The daemon closed the connection.")
        self._ended.set()
        if self._on_close is not None:
            self._on_close(self.reason)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if self.reason:
                return
            try:
                said = _said.decode(line)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self.abort(f"The daemon sent a line that cannot be read ({brief(error)}).")
                return
            self._hear(said)
        if self._lines.overlong:
            self.abort("The daemon sent a line over 1 MiB.")
        if self._on_read is not None:
            self._on_read()

    def _hear(self, said: _Said) -> None:
        if said.method:
            if said.id is UNSET and self._on_notification is not None:
                self._on_notification(said.method, said.params)
            return
        answer = self._waiting.get(said.id) if isinstance(said.id, int) else None
        if answer is None or answer.done():
            if said.error is not None and said.id is None:
                self.abort(said.error.message)
            return  # an answer that came after its deadline
        if said.error is not None:
            answer.set_exception(RpcError(said.error.code, said.error.message, said.error.data))
        else:
            answer.set_result(said.result)

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._room.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionLost(self.reason))
