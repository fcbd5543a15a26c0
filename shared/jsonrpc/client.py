"""The client side of a JSON-RPC connection over the local socket, for connections that stay open."""

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
    notification,
    request,
    short_reason,
)
from shared.log import REQUEST_ID
from shared.messages import PROTOCOL, Hello, Welcome
from shared.transport.local_socket import connect


class ConnectionLost(ConnectionError):  # noqa: N818 - the name says what is the case
    """The connection ended before the response arrived. Whether the daemon carried out the call is unknown."""


class _Received(Struct):
    """A response or notification. Only the fields in use are checked: the daemon is this user's own process."""

    id: int | str | UnsetType | None = UNSET
    method: str = ""
    params: Raw = Raw(b"{}")
    result: Raw = Raw()
    error: _Error | None = None


class _Error(Struct):
    code: int
    message: str
    data: Any = None


_received = msgspec.json.Decoder(_Received)
_welcome = msgspec.json.Decoder(Welcome)


class Client(asyncio.Protocol):
    """One connection to the daemon. Used once: after `on_close` open a new one."""

    def __init__(
        self,
        on_notification: Callable[[str, Raw], None] | None = None,
        on_close: Callable[[str], None] | None = None,
        on_read: Callable[[], None] | None = None,
    ) -> None:
        self.welcome: Welcome
        self.reason = ""
        """Why the connection ended; empty while it is open."""
        self._on_notification = on_notification
        self._on_close = on_close
        self._on_read = on_read
        self._transport: asyncio.Transport | None = None
        self._lines = LineSplitter()
        self._number = 0
        self._pending: dict[int, asyncio.Future[Raw]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
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
        """Connect and send hello as `client` ("name/version"). `timeout`: s for both.

        `on_notification` receives method and encoded params (which keep their whole line in memory); it must not block.
        `on_read` is called after all notifications that arrived together. `on_close` is called once, with the reason,
        when the connection ends after it was opened. Raises `OSError` where there is no daemon (`FileNotFoundError`,
        `ConnectionRefusedError`, `TimeoutError`, `PermissionError`, `ConnectionLost`), `RpcError` where it refuses.
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
                raise ConnectionLost("The program at the socket does not speak the daemon's protocol.") from None
            except BaseException:
                self.abort()
                raise
        if self.reason:
            raise ConnectionLost(self.reason)
        self._on_close = on_close
        return self

    async def call(self, method: str, params: Any, timeout: float | None) -> Raw:
        """The encoded result of `method`. `timeout`: s; a later response is ignored. `None`: until the connection ends.

        Raises `RpcError` (also `pacingBudget` when `MAX_CALLS` are pending), `TimeoutError`, `ConnectionLost`.
        """
        if len(self._pending) >= MAX_CALLS:
            raise RpcError(
                APPLICATION_ERROR, "Too many calls are pending.", {"reason": "pacingBudget", "retryable": True}
            )
        self._number += 1
        number = self._number
        line = request(number, method, params, REQUEST_ID.get())
        if len(line) > MAX_LINE:
            raise RpcError(APPLICATION_ERROR, "The request is over 1 MiB.", {"reason": "tooLarge"})
        response: asyncio.Future[Raw] = asyncio.get_running_loop().create_future()
        self._pending[number] = response
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
                if self._transport is None or self.reason:
                    raise ConnectionLost(self.reason)
                self._transport.write(line)
                return await response
        finally:
            del self._pending[number]
            if not response.cancel() and not response.cancelled():
                response.exception()  # it arrived together with the timeout; mark it as retrieved

    def notify(self, method: str, params: Any) -> None:
        """Send a notification; it is lost with the connection."""
        if self._transport is not None and not self.reason:
            self._transport.write(notification(method, params))

    async def close(self) -> None:
        """Close after the write buffer is flushed; `on_close` is not called."""
        self._on_close = None
        if self._transport is not None:
            self._end("closed by the client")
            self._transport.close()
            # not asyncio.timeout: before Python 3.11.3 it raises CancelledError in the cleanup of a cancelled task
            timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._transport.abort)
            try:
                await self._ended.wait()
            finally:
                timer.cancel()

    def abort(self, reason: str = "aborted") -> None:
        """Close now, dropping the write buffer."""
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
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if self.reason:
                return
            try:
                message = _received.decode(line)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                self.abort(f"The daemon sent a line that cannot be decoded ({short_reason(error)}).")
                return
            self._dispatch(message)
        if self._lines.overlong:
            self.abort("The daemon sent a line over 1 MiB.")
        if self._on_read is not None:
            self._on_read()

    def _dispatch(self, message: _Received) -> None:
        if message.method:
            if message.id is UNSET and self._on_notification is not None:
                self._on_notification(message.method, message.params)
            return
        response = self._pending.get(message.id) if isinstance(message.id, int) else None
        if response is None or response.done():
            if message.error is not None and message.id is None:
                self.abort(message.error.message)
            return  # a response after its timeout
        if message.error is not None:
            response.set_exception(RpcError(message.error.code, message.error.message, message.error.data))
        else:
            response.set_result(message.result)

    def _end(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._writable.set()
        for response in self._pending.values():
            if not response.done():
                response.set_exception(ConnectionLost(self.reason))
