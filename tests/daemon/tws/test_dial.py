from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from daemon.tws.dial import DialError, dial, why
from tests.ports import free_port


def windows(number: int, text: str) -> OSError:
    """As Windows says it: in its own language, with a number of its own."""
    error = OSError(errno.EINVAL, text)
    error.winerror = number  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "portClosed", errno.ECONNREFUSED),
        (windows(1225, "Der Remotecomputer hat die Netzwerkverbindung abgelehnt"), "portClosed", 1225),
        (windows(10061, "Es konnte keine Verbindung hergestellt werden"), "portClosed", 10061),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), "dialTimeout", errno.ETIMEDOUT),
        (windows(121, "Das Zeitlimit für die Semaphore wurde erreicht"), "dialTimeout", 121),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "hostUnreachable", errno.EHOSTUNREACH),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "hostUnreachable", errno.ENETUNREACH),
        (windows(1231, "Die Netzwerkadresse ist nicht erreichbar"), "hostUnreachable", 1231),
        (PermissionError(errno.EPERM, "Operation not permitted"), "hostUnreachable", errno.EPERM),
    ],
)
def test_the_number_decides_and_the_text_stays(error: OSError, reason: str, code: int):
    failed = why(error)

    assert (failed.reason, failed.code) == (reason, code)
    assert str(failed) == str(error)


@pytest.fixture
def full() -> socket.socket:
    """A listener whose queue is full: Linux then swallows the next dial, as a firewall does."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    callers = [socket.socket() for _ in range(4)]
    for caller in callers:
        caller.setblocking(False)
        caller.connect_ex(listener.getsockname())
    yield listener
    for sock in (*callers, listener):
        sock.close()


async def test_a_swallowed_dial_is_a_dial_timeout(full: socket.socket):
    with pytest.raises(DialError) as failed:
        await dial("127.0.0.1", full.getsockname()[1], 0.1)

    assert failed.value.reason == "dialTimeout"


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch):
    """localhost may be ::1 first, where nothing listens (FAULTS 26)."""
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: answer(places))
        sock, peer = await dial("anything", port, 10)
        sock.close()

    assert peer == "127.0.0.1"


@pytest.mark.parametrize("refused_first", [True, False])
async def test_of_several_addresses_a_refusal_says_more_than_a_silence(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket, refused_first: bool
):
    """Something answered: the machine is there, and nothing listens. That has advice and a patience of its own."""
    ports = [free_port(), full.getsockname()[1]]
    places = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        for port in (ports if refused_first else reversed(ports))
    ]
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lambda *_, **__: answer(places))

    with pytest.raises(DialError) as failed:
        await dial("anything", 1, 0.2)

    assert failed.value.reason == "portClosed"


async def answer(places: list[object]) -> list[object]:
    return places


async def test_a_name_that_cannot_be_one_is_unreachable():
    with pytest.raises(DialError) as failed:
        await dial("a" * 70 + ".example", 7497, 1)

    assert failed.value.reason == "hostUnreachable"


async def test_a_dial_that_meets_itself_is_a_closed_port():
    """A free port of the range from which dials come can connect to itself: nobody listens there all the same."""
    met = None
    for _ in range(200):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        with pytest.raises(DialError) as failed:
            await dial("127.0.0.1", port, 10)
        met = failed.value.reason
        assert met == "portClosed"
