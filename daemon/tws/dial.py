"""Opening the TCP connection, and what it means when that fails. Never speaks on it."""

from __future__ import annotations

import asyncio
import errno
import socket

from daemon.tws.receive import keep_alive

REFUSED = frozenset({errno.ECONNREFUSED, 10061, 1225})
"""Nothing listens. Windows says 10061 or 1225, with a text in its own language: decide by number."""

TIMED_OUT = frozenset({errno.ETIMEDOUT, 10060, 121, 1460})


class DialError(Exception):
    """`reason`: `portClosed`, `hostUnreachable` or `dialTimeout`; `code`: errno or WinError; the text: Python's own."""

    def __init__(self, reason: str, code: int | None, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = code


def why(error: OSError) -> DialError:
    """The reason behind what the system says of a dial. What is neither refusal nor silence is an unreachable host:
    no route, no such name, a firewall's own no, no descriptor left; the text says which."""
    code = getattr(error, "winerror", None) or error.errno
    if code in REFUSED or isinstance(error, ConnectionRefusedError):
        reason = "portClosed"
    elif code in TIMED_OUT or (isinstance(error, TimeoutError) and not isinstance(error, socket.gaierror)):
        reason = "dialTimeout"
    else:
        reason = "hostUnreachable"
    return DialError(reason, code, str(error))


async def dial(host: str, port: int, timeout: float) -> tuple[socket.socket, str]:
    """A connected socket and the address that answered. Each address of a name gets its share of `timeout` s.

    Raises `DialError`: for a name with several addresses, a refusal before any other failure, else the last one's.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    failures: list[DialError] = []
    try:
        async with asyncio.timeout(timeout):
            places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise DialError("hostUnreachable", None, f"the name {host} was not resolved within {timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        raise DialError("hostUnreachable", code, str(error)) from error
    for left, (family, kind, protocol, _, address) in zip(range(len(places), 0, -1), places, strict=True):
        share = max(0.0, deadline - loop.time()) / left
        try:
            return await _connect(family, kind, protocol, address, share), str(address[0])
        except TimeoutError as error:
            failures.append(
                why(error)
                if error.errno
                else DialError("dialTimeout", None, f"no answer from {address[0]}:{port} within {share:.3g} s")
            )
        except OSError as error:
            failures.append(why(error))
    raise next((failed for failed in failures if failed.reason == "portClosed"), failures[-1])


async def _connect(family: int, kind: int, protocol: int, address: tuple[object, ...], timeout: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, address)
        if sock.getsockname() == sock.getpeername():
            # TCP's simultaneous open: a dial to a free high port of this machine can meet itself
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {address}")
        keep_alive(sock)
    except BaseException:
        sock.close()
        raise
    return sock
