"""Windows: the local socket as a named pipe that this user alone can open.

Same functions as the Unix side of `local.py`. CPython's own accept loop does the work; only the making of a pipe
instance is ours, because asyncio gives no way to say who may open it. A start-up test reads back what the system
made of our wish.
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
"""Bytes the system keeps for a reader that is busy, each way; as much as `peer.HIGH_WATER`."""

ACCEPT_PAUSE = 1.0
"""s between tries to make another instance while there is no memory for one."""

FILE_NOT_FOUND, ACCESS_DENIED, PIPE_BUSY = 2, 5, 231


async def listen(factory: Callable[[], asyncio.Protocol], path: str) -> _PipeListener:
    """Serve the pipe `path`. Raises `AlreadyRunning` when this user serves it, `UnsafePath` when somebody else does."""
    _must_be_a_pipe(path)
    _must_be_free(path)
    listener = _PipeListener(factory, path)
    await listener.serve()
    return listener


async def connect(factory: Callable[[], P], path: str, timeout: float) -> tuple[asyncio.Transport, P]:
    """A connection to whoever serves `path`, who is known to be this user before a byte is sent.

    Raises `FileNotFoundError` where nobody listens, `TimeoutError` after `timeout` s, `PermissionError` where another
    user does.
    """
    loop = _proactor()
    async with asyncio.timeout(timeout):
        made, _ = await loop.create_pipe_connection(cast(Any, asyncio.Protocol), path)
    transport = cast("asyncio.Transport", made)
    # nothing was awaited since, so nothing was read or said: the protocol comes in once the owner is known
    try:
        owner = windows_security.access_of_pipe(_handle(transport)).owner
        if owner != windows_security.own_sid():
            raise PermissionError(f"{path} is served by another user ({owner or 'unknown'}); nothing was said to them.")
    except BaseException:
        transport.abort()
        raise
    protocol = factory()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport, protocol


def peer_identity(transport: asyncio.BaseTransport) -> PeerIdentity:
    """Who is at the other end of `transport`: nobody but this user can open the pipe."""
    return PeerIdentity(windows_security.client_pid(_handle(transport)), windows_security.own_sid())


class _PipeListener:
    """CPython's pipe server with instances of our making."""

    def __init__(self, factory: Callable[[], asyncio.Protocol], path: str) -> None:
        self.address = path
        self.refused = 0
        self.starved = 0
        self._factory = factory
        self._loop = _proactor()
        self._pause: asyncio.TimerHandle | None = None
        self._again: asyncio.Task[None] | None = None
        self._hungry = False
        self._server = _Server(path, self._starve)

    async def serve(self) -> None:
        """Start, or start again, CPython's accept loop on our server."""
        # the loop names the class by a global of its module; the coroutine does not suspend, so nobody else sees ours
        original = windows_events.PipeServer
        windows_events.PipeServer = lambda _address: self._server  # type: ignore[misc, assignment]
        try:
            await self._loop.start_serving_pipe(cast(Any, self._admit), self.address)
        finally:
            windows_events.PipeServer = original  # type: ignore[misc]

    def close(self) -> None:
        """Accept nobody any more; the name is free once the last peer has gone. Twice is once."""
        if self._pause is not None:
            self._pause.cancel()
        if self._again is not None:
            self._again.cancel()
        self._server.close()

    async def wait_closed(self) -> None:
        if self._again is not None:
            await asyncio.gather(self._again, return_exceptions=True)
        await asyncio.sleep(0)  # the accept loop hears of its cancelled future in the next turn

    def _admit(self) -> asyncio.Protocol:
        if self._hungry:
            self._hungry = False
            log.info("socket.accepting", message="Peers are accepted again.", refusedBefore=self.starved)
        return self._factory()

    def _starve(self, error: OSError) -> None:
        self.starved += 1
        if not self._hungry:
            self._hungry = True
            log.warning(
                "socket.starved", message="No peer can be accepted for now; the link stays up.", error=str(error)
            )
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._again = self._loop.create_task(self.serve(), name="socket.serve")


class _Server(windows_events.PipeServer):
    """A pipe whose every instance has our descriptor."""

    _address: str
    _free_instances: weakref.WeakSet[windows_utils.PipeHandle]

    def __init__(self, address: str, starve: Callable[[OSError], None]) -> None:
        self._starve = starve
        self._label = True
        super().__init__(address)

    def _get_unconnected_pipe(self) -> Any:
        try:
            return super()._get_unconnected_pipe()  # type: ignore[misc]
        except OSError as error:
            # CPython's loop would try again at once, for ever; `None` ends it, and the listener starts it anew
            self._starve(error)
            return None

    def _server_pipe_handle(self, first: bool) -> windows_utils.PipeHandle | None:
        if self.closed():
            return None
        pipe = windows_utils.PipeHandle(self._made(first))
        if first:
            try:
                must_be_ours_alone(pipe.fileno(), self._address)
            except BaseException:
                pipe.close()
                raise
        self._free_instances.add(pipe)
        return pipe

    def _made(self, first: bool) -> int:
        try:
            return made(self._address, first, self._label)
        except OSError as error:
            if not (first and self._label):
                raise
            # a system without mandatory labels; where the name is the trouble the second try says so too
            log.debug("pipe.label", message="No integrity label on the pipe.", error=str(error))
            self._label = False
            return made(self._address, first, self._label)


def made(path: str, first: bool, label: bool) -> int:
    """A handle of a new instance of the pipe `path`: byte mode, local clients of this user only. Raises `OSError`."""
    mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED
    if first:
        mode |= _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
    try:
        with windows_security.ours_alone(label) as attributes:
            return _winapi.CreateNamedPipe(
                path, mode, REJECT_REMOTE, _winapi.PIPE_UNLIMITED_INSTANCES, BUFFER, BUFFER, 0, attributes
            )
    except OSError as error:
        if first and error.winerror == ACCESS_DENIED:
            raise _taken(path) from None
        raise


def must_be_ours_alone(handle: int, path: str) -> None:
    """The start-up test: what the system made is what was asked for. Raises `UnsafePath`."""
    access = windows_security.access_of_pipe(handle)
    if not access.ours_alone:
        raise UnsafePath(
            f"The pipe {path} would be open to others (owner {access.owner or 'unknown'}, allowed "
            f"{', '.join(access.allowed or ('everybody',))}), so nothing is served. Start the daemon as yourself, "
            "not elevated: ibkr doctor"
        )


def _must_be_free(path: str) -> None:
    """FIRST_PIPE_INSTANCE would only say that the name is taken; asking its holder says by whom."""
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


def _must_be_a_pipe(path: str) -> None:
    if not path.lower().startswith("\\\\.\\pipe\\") or len(path) > 256:
        raise UnsafePath(
            f"{path} is no pipe name (\\\\.\\pipe\\NAME, at most 256 characters). "
            rf"Use one: $env:IBKR_SOCKET = '\\.\pipe\ibkr-{windows_security.own_sid()}'"
        )


def _handle(transport: asyncio.BaseTransport) -> int:
    return int(transport.get_extra_info("pipe").fileno())


def _proactor() -> asyncio.ProactorEventLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.ProactorEventLoop):
        raise TypeError("Named pipes need asyncio's Proactor loop, which is the default on Windows.")
    return loop
