"""Opening the TCP connection to the gateway, and what it means when that fails."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, cast

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from daemon.tws.receive import keep_alive

REFUSED = frozenset({errno.ECONNREFUSED, 10061, 1225})
"""Nothing listens. Windows reports 10061 or 1225, with a text in its own language: the number decides."""

TIMED_OUT = frozenset({errno.ETIMEDOUT, 10060, 121, 1460})

CLOSED: Final = frozenset(
    {errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE, 10053, 10054, 10057, 1236, 64}
)
"""Accepted and reset at once: the system reports it in `connect` or at the first call on the socket."""

NEXT_ADDRESS: Final = 0.25
"""s without an answer before the next address of a name is dialled too (RFC 8305); less where the time is short."""


class DialError(Exception):
    """`reason`: `portClosed`, `hostUnreachable`, `dialTimeout` or `closedDuringHandshake`.

    `code`: errno or WinError; the text: Python's own.
    """

    def __init__(self, reason: str, code: int | None, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = code


def why(error: OSError) -> DialError:
    """The reason for a system's error at a dial. What is neither refusal nor silence is an unreachable host: no route,
    no such name, rejected by a firewall, no descriptor left; the text has the details."""
    code = getattr(error, "winerror", None) or error.errno
    if code in REFUSED or isinstance(error, ConnectionRefusedError):
        reason = "portClosed"
    elif code in TIMED_OUT or (isinstance(error, TimeoutError) and not isinstance(error, socket.gaierror)):
        reason = "dialTimeout"
    elif code in CLOSED:
        reason = "closedDuringHandshake"
    else:
        reason = "hostUnreachable"
    return DialError(reason, code, str(error))


async def dial(host: str, port: int, timeout: float, address: str = "") -> tuple[socket.socket, str]:
    """A connected socket and the address that answered, within `timeout` s.

    The addresses of a name are dialled in parallel, each `NEXT_ADDRESS` s after the one before it; `address`, the one
    that answered last, comes first. Raises `DialError`: of several addresses' failures a refusal before any other.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            places = await _resolve(host, port)
    except TimeoutError:
        raise DialError("hostUnreachable", None, f"the name {host} was not resolved within {timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        raise DialError("hostUnreachable", code, str(error)) from error
    places.sort(key=lambda place: place[4][0] != address)
    attempts = _Attempts(loop)
    delay = min(NEXT_ADDRESS, timeout / 2 / len(places))
    try:
        async with asyncio.timeout_at(deadline):
            sock = await aiohappyeyeballs.start_connection(
                places,
                happy_eyeballs_delay=delay,
                loop=cast(asyncio.AbstractEventLoop, attempts),
            )
    except OSError as error:
        failures = [why(failure) for failure in attempts.failures]
        if isinstance(error, TimeoutError) and error.errno is None:
            silent = " and ".join(str(place[4][0]) for place in places)
            failures.append(DialError("dialTimeout", None, f"no answer from {silent}:{port} within {timeout:g} s"))
        failures = failures or [why(error)]
        raise next((failed for failed in failures if failed.reason == "portClosed"), failures[-1]) from None
    return sock, _prepare(sock)


def _prepare(sock: socket.socket) -> str:
    """Set the options of a socket that has just been connected; the peer's address. Raises `DialError`."""
    try:
        peer = sock.getpeername()
        if sock.getsockname() == peer:
            # TCP's simultaneous open: a dial to a free high port of this machine can meet itself
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {peer}")
        keep_alive(sock)
    except OSError as error:
        sock.close()
        failed = why(error)
        if failed.reason != "portClosed":  # connected a moment ago: whatever the system calls it, it was closed
            failed.reason = "closedDuringHandshake"
        raise failed from error
    return str(peer[0])


class _Attempts:
    """All that `start_connection` uses of a loop. Keeps each address's own failure, which it merges into a text."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.failures: list[OSError] = []
        self._loop = loop

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        try:
            await self._loop.sock_connect(sock, address)
        except OSError as error:
            self.failures.append(error)
            raise


_lookups: dict[tuple[str, int], Future[Sequence[AddrInfoType]]] = {}
"""Those under way: a name server that does not answer costs one thread, however often the name is dialled."""


async def _resolve(host: str, port: int) -> list[AddrInfoType]:
    """The addresses of `host`, at least one. Raises `OSError`, `UnicodeError`.

    In a daemon thread: those of asyncio's executor are joined when the process ends, however long they take.
    """
    with suppress(OSError):  # an address needs no thread
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    key = host, port
    lookup = _lookups.get(key)
    if lookup is None:
        lookup = _lookups[key] = Future()
        lookup.set_running_or_notify_cancel()  # from here on no waiter's cancellation reaches it
        threading.Thread(target=_look_up, args=(lookup, key), name=f"look up {host}", daemon=True).start()
    found: Sequence[AddrInfoType] = await asyncio.wrap_future(lookup)
    return list(found)


def _look_up(lookup: Future[Sequence[AddrInfoType]], key: tuple[str, int]) -> None:
    try:
        found = socket.getaddrinfo(*key, type=socket.SOCK_STREAM)
    except Exception as error:
        del _lookups[key]
        lookup.set_exception(error)
    else:
        del _lookups[key]
        lookup.set_result(found)
