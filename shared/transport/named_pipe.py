"""Windows: the local socket as a named pipe that only this user can open.

CPython's own accept loop serves it; only the creation of pipe instances is replaced, because asyncio has no way to
pass a security descriptor. At start the descriptor is read back and checked.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, cast

import structlog

from shared.transport.private_paths import AlreadyRunning, UnsafePath

assert sys.platform == "win32"  # noqa: S101 - for the type checker: everything below is Windows

import _winapi  # noqa: E402
from asyncio import windows_events, windows_utils  # noqa: E402

from shared.transport import windows_security  # noqa: E402
from shared.transport.interfaces import PeerIdentity  # noqa: E402

log = structlog.get_logger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)

REJECT_REMOTE = 0x8
"""PIPE_REJECT_REMOTE_CLIENTS; together with zeros for byte type, byte mode and waiting."""

BUFFER = 64 * 1024
"""Bytes of the system's buffer in each direction; as much as `jsonrpc.server.HIGH_WATER`."""

ACCEPT_PAUSE = 1.0
"""s until the next attempt to create an instance after one failed for lack of memory."""

FILE_NOT_FOUND, ACCESS_DENIED, PIPE_BUSY = 2, 5, 231


async def listen(factory: Callable[[], asyncio.Protocol], path: str) -> _PipeListener:
    """Serve the pipe `path`. Raises `AlreadyRunning` where this user serves it, `UnsafePath` where another one does."""
    _require_pipe_name(path)
    _require_unused(path)
    listener = _PipeListener(factory, path)
    await listener.serve()
    return listener


async def connect(factory: Callable[[], P], path: str, timeout: float) -> tuple[asyncio.Transport, P]:
    """Connect to the pipe `path`. The server's user is checked before a byte is sent.

    Raises `FileNotFoundError` where there is no listener, `TimeoutError` after `timeout` s, `PermissionError` where it
    is another user's.
    """
    loop = _proactor()
    async with asyncio.timeout(timeout):
        made, _ = await loop.create_pipe_connection(cast(Any, asyncio.Protocol), path)
    transport = cast("asyncio.Transport", made)
    # nothing was awaited since, so nothing was read or sent: the protocol is set once the owner is checked
    try:
        owner = windows_security.access_of_pipe(_handle(transport)).owner
        if owner != windows_security.own_sid():
            raise PermissionError(f"{path} is served by another user ({owner or 'unknown'}); no data was sent.")
    except BaseException:
        transport.abort()
        raise
    protocol = factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport, protocol


def peer_identity(transport: asyncio.BaseTransport) -> PeerIdentity:
    """Process and user at the other end of `transport`: only this user can open the pipe."""
    return PeerIdentity(windows_security.client_pid(_handle(transport)), windows_security.own_sid())


class _PipeListener:
    """CPython's pipe server with instances that only this user can open."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], path: str) -> None:
        self.address = path
        self.refused = 0
        self.starved = 0
        self._factory = factory
        self._loop = _proactor()
        self._pause: asyncio.TimerHandle | None = None
        self._restart: asyncio.Task[None] | None = None
        self._accept_paused = False
        self._server = _Server(path, self._pause_accepting)

    async def serve(self) -> None:
        """Start, or restart, CPython's accept loop on this server."""
        # the loop looks the class up in its module's globals; the coroutine does not suspend, so no other call sees it
        original = windows_events.PipeServer
        windows_events.PipeServer = lambda _address: self._server  # type: ignore[misc, assignment]
        try:
            await self._loop.start_serving_pipe(cast(Any, self._admit), self.address)
        finally:
            windows_events.PipeServer = original  # type: ignore[misc]

    def in_place(self) -> bool:
        """Always: a pipe's name lasts as long as its server."""
        return True

    def close(self) -> None:
        """Stop accepting; the name is free once the last connection is closed. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        if self._restart is not None:
            self._restart.cancel()
        self._server.close()

    async def wait_closed(self) -> None:
        if self._restart is not None:
            await asyncio.gather(self._restart, return_exceptions=True)
        await asyncio.sleep(0)  # the accept loop sees its cancelled future in the next iteration

    def _admit(self) -> asyncio.Protocol:
        if self._accept_paused:
            self._accept_paused = False
            log.info("socket.accepting", message="Accepting connections again.", refusedBefore=self.starved)
        return self._factory()

    def _pause_accepting(self, error: OSError) -> None:
        self.starved += 1
        if not self._accept_paused:
            self._accept_paused = True
            log.warning(
                "socket.starved", message="No pipe instance could be created; the link stays up.", error=str(error)
            )
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._restart = self._loop.create_task(self.serve(), name="socket.serve")


class _Server(windows_events.PipeServer):
    """A pipe server that creates each instance with this user's security descriptor."""

    _address: str
    _free_instances: weakref.WeakSet[windows_utils.PipeHandle]

    def __init__(self, address: str, on_failure: Callable[[OSError], None]) -> None:
        self._on_failure = on_failure
        self._label = True
        super().__init__(address)

    def _get_unconnected_pipe(self) -> Any:
        try:
            return super()._get_unconnected_pipe()  # type: ignore[misc]
        except OSError as error:
            # CPython's loop would retry at once, endlessly; `None` ends it, and the listener restarts it
            self._on_failure(error)
            return None

    def _server_pipe_handle(self, first: bool) -> windows_utils.PipeHandle | None:
        if self.closed():
            return None
        pipe = windows_utils.PipeHandle(self._create(first))
        if first:
            try:
                require_private(pipe.fileno(), self._address)
            except BaseException:
                pipe.close()
                raise
        self._free_instances.add(pipe)
        return pipe

    def _create(self, first: bool) -> int:
        try:
            return create_instance(self._address, first, self._label)
        except OSError as error:
            if not (first and self._label):
                raise
            # a system without mandatory labels; a name that is taken fails the second time too
            log.debug("pipe.label", message="No integrity label on the pipe.", error=str(error))
            self._label = False
            return create_instance(self._address, first, self._label)


def create_instance(path: str, first: bool, label: bool) -> int:
    """Create an instance of the pipe `path`: byte mode, local clients of this user only. Raises `OSError`."""
    mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED
    if first:
        mode |= _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
    try:
        with windows_security.private_attributes(label) as attributes:
            return _winapi.CreateNamedPipe(
                path, mode, REJECT_REMOTE, _winapi.PIPE_UNLIMITED_INSTANCES, BUFFER, BUFFER, 0, attributes
            )
    except OSError as error:
        if first and error.winerror == ACCESS_DENIED:
            raise _taken(path) from None
        raise


def require_private(handle: int, path: str) -> None:
    """Check at start that the system applied the descriptor. Raises `UnsafePath`."""
    access = windows_security.access_of_pipe(handle)
    if not access.private:
        raise UnsafePath(
            f"The pipe {path} would be open to others (owner {access.owner or 'unknown'}, allowed "
            f"{', '.join(access.allowed or ('everyone',))}), so it is not served. Start the daemon as yourself, "
            "not elevated: ibkr doctor"
        )


def _require_unused(path: str) -> None:
    """FIRST_PIPE_INSTANCE only reports that the name is taken; connecting shows which process has it."""
    try:
        handle = _winapi.CreateFile(
            path, _winapi.GENERIC_READ | _winapi.GENERIC_WRITE, 0, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL
        )
    except OSError as error:
        if error.winerror == FILE_NOT_FOUND:
            return
        if error.winerror == PIPE_BUSY:
            raise AlreadyRunning(None, path) from None
        raise _taken(path) from None
    try:
        if windows_security.access_of_pipe(handle).owner != windows_security.own_sid():
            raise _taken(path)
        raise AlreadyRunning(windows_security.server_pid(handle), path)
    finally:
        _winapi.CloseHandle(handle)


def _taken(path: str) -> UnsafePath:
    return UnsafePath(
        f"The pipe {path} belongs to another user's program. Use another name: "
        rf"$env:IBKR_SOCKET = '\\.\pipe\ibkr-{windows_security.own_sid()}-2'"
    )


def _require_pipe_name(path: str) -> None:
    if not path.lower().startswith("\\\\.\\pipe\\") or len(path) > 256:
        raise UnsafePath(
            f"{path} is not a pipe name (\\\\.\\pipe\\NAME, at most 256 characters). "
            rf"Use one: $env:IBKR_SOCKET = '\\.\pipe\ibkr-{windows_security.own_sid()}'"
        )


def _handle(transport: asyncio.BaseTransport) -> int:
    return int(transport.get_extra_info("pipe").fileno())


def _proactor() -> asyncio.ProactorEventLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.ProactorEventLoop):
        raise TypeError("Named pipes need asyncio's Proactor loop, which is the default on Windows.")
    return loop
