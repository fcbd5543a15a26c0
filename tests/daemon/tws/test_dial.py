from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading
from typing import Any

import pytest

from daemon.tws.dial import DialError, dial, why
from tests.ports import free_port


def windows(number: int, text: str) -> OSError:
    """As Windows reports it: in its own language, with a number of its own."""
    error = OSError(errno.EINVAL, text)
    error.winerror = number  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "portClosed", errno.ECONNREFUSED),
        (windows(1225, "Der Remotecomputer hat die Netzwerkverbindung abgelehnt"), "portClosed", 1225),
        (windows(10061, "Es konnte keine Verbindung hergestellt werden"), "portClosed", 10061),
        (ConnectionResetError(errno.ECONNRESET, "Connect call failed"), "closedDuringHandshake", errno.ECONNRESET),
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), "closedDuringHandshake", errno.ENOTCONN),
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


async def test_a_swallowed_dial_is_a_dial_timeout(full: socket.socket):
    with pytest.raises(DialError) as failed:
        await dial("127.0.0.1", full.getsockname()[1], 0.1)

    assert failed.value.reason == "dialTimeout"


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch):
    """localhost may be ::1 first, where nothing listens (FAULTS 26)."""
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
        resolve_to(monkeypatch, places)
        sock, peer = await dial("anything", port, 10)
        sock.close()

    assert peer == "127.0.0.1"


@pytest.mark.parametrize("refused_first", [True, False])
async def test_of_several_addresses_a_refusal_goes_before_a_silence(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket, refused_first: bool
):
    ports = [free_port(), full.getsockname()[1]]
    places = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        for port in (ports if refused_first else reversed(ports))
    ]
    resolve_to(monkeypatch, places)

    with pytest.raises(DialError) as failed:
        await dial("anything", 1, 0.2)

    assert failed.value.reason == "portClosed"


def resolve_to(monkeypatch: pytest.MonkeyPatch, places: list[Any]) -> None:
    """Give every name these addresses."""

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        return list(places)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_an_address_that_does_not_answer_costs_a_moment_and_the_one_that_did_comes_first_the_next_time(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket
):
    loop = asyncio.get_running_loop()
    accepted = asyncio.Event()

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.2", 0) as server:
        port = server.sockets[0].getsockname()[1]
        mute = full.getsockname()
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in (mute, ("127.0.0.2", port))]
        resolve_to(monkeypatch, places)
        sock, peer = await dial("anything", port, 3600)
        sock.close()
        assert peer == "127.0.0.2"

        dialled: list[object] = []
        connect = loop.sock_connect

        async def sock_connect(sock: socket.socket, address: Any) -> None:
            dialled.append(address)
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", sock_connect)
        sock, _ = await dial("anything", port, 3600, address="127.0.0.2")
        sock.close()
        assert dialled == [("127.0.0.2", port)]


async def test_a_name_server_that_does_not_answer_costs_one_thread_and_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch,
):
    answers = threading.Event()

    def getaddrinfo(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        answers.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        for _ in range(5):
            with pytest.raises(DialError) as failed:
                await dial("slow.example", 7497, 0.01)
            assert failed.value.reason == "hostUnreachable"
        threads = [thread for thread in threading.enumerate() if thread.name == "look up slow.example"]
        assert [thread.daemon for thread in threads] == [True]
    finally:
        answers.set()
    with pytest.raises(DialError) as failed:
        await dial("slow.example", 7497, 3600)
    assert "Temporary failure" in str(failed.value)


async def test_a_port_that_accepts_and_resets_has_closed_the_connection_whoever_notices_first():
    """FIELD F2: the system reports it in connect, at the first call on the socket, or to the first read."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    port = listener.getsockname()[1]
    ended = threading.Event()

    def reset() -> None:
        while not ended.is_set():
            sock, _ = listener.accept()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    thread = threading.Thread(target=reset, daemon=True)
    thread.start()
    reasons = set()
    for _ in range(200):
        try:
            sock, _ = await dial("127.0.0.1", port, 10)
            sock.close()
        except DialError as failed:
            reasons.add(failed.reason)
    ended.set()
    with socket.create_connection(("127.0.0.1", port)):
        thread.join()
    listener.close()

    assert reasons <= {"closedDuringHandshake"}


async def test_a_name_that_cannot_be_one_is_unreachable():
    with pytest.raises(DialError) as failed:
        await dial("a" * 70 + ".example", 7497, 1)

    assert failed.value.reason == "hostUnreachable"


async def test_a_dial_that_meets_itself_is_a_closed_port():
    """A free port of the range from which dials come can connect to itself, though no socket listens there."""
    met = None
    for _ in range(200):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        with pytest.raises(DialError) as failed:
            await dial("127.0.0.1", port, 10)
        met = failed.value.reason
        assert met == "portClosed"
