"""Clients that do not go on: half requests, a byte at a time, streams without a reader, more than there is room."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.abuse.chain import HELLO, Chain, answer_of, unix
from tests.waiting import until_now

CROWD = 40
STREAMS = 256
CONNECTIONS = 512
PEERS = 256
AAPL = 265598


@contextmanager
def crowd() -> Iterator[list[socket.socket]]:
    """Sockets that are gone at the end, whatever becomes of them."""
    held: list[socket.socket] = []
    try:
        yield held
    finally:
        for sock in held:
            vanish(sock)


def vanish(sock: socket.socket) -> None:
    """Gone as a killed program is: with a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def said_to_the_end(sock: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(65536):
            said += chunk
    return said


def test_half_requests_and_silent_peers_are_ended(attacked: Chain) -> None:
    """Silent, half a line, half a header, half a body, a byte now and then, at either door: each is ended by us, with
    408 where a body was due and by name on the socket, and meanwhile everybody else is served."""
    body = attacked.request("POST", "/api/ibkr/connect", "Content-Length: 100", close=False)
    typed = body.replace(b"\r\n\r\n", b"\r\nContent-Type: application/json\r\n\r\n")
    chunked = attacked.request("POST", "/api/ibkr/reconnect", "Content-Type: application/json", close=False)
    chunked = chunked.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{")
    beginnings = {
        "nothing": b"",
        "half a line": b"GET /api/ib",
        "half a header": attacked.request("GET", "/", close=False)[:-9],
        "no end of headers": attacked.request("GET", "/", close=False)[:-2],
        "no body": typed,
        "half a body": typed + b'{"host": ',
        "half a chunk": chunked,
    }
    dripping: list[socket.socket] = []
    ended = threading.Event()

    def peer(said: bytes) -> socket.socket:
        sock = unix(attacked.socket)
        held.append(sock)
        sock.sendall(said)
        return sock

    def drip() -> None:
        """A byte every 50 ms into a body of 100, and into a header."""
        while not ended.wait(0.05):
            for sock in dripping:
                with contextlib.suppress(OSError):
                    sock.send(b"a")

    with crowd() as held:
        mute = [peer(said) for said in (b"", HELLO[:30]) for _ in range(CROWD)]
        begun = [peer(HELLO + b'{"jsonrpc":"2.0",') for _ in range(CROWD)]
        waiting: dict[str, list[socket.socket]] = {}
        for what, beginning in beginnings.items():
            waiting[what] = [attacked.dial() for _ in range(CROWD)]
            held += waiting[what]
            for sock in waiting[what]:
                sock.sendall(beginning)
        for beginning in (typed, b"GET / HTTP/1.1\r\nX: "):
            sock = attacked.dial()
            held.append(sock)
            sock.sendall(beginning)
            dripping.append(sock)
        thread = threading.Thread(target=drip, name="drip")
        thread.start()
        try:
            for _ in range(20):
                attacked.served()
            for what, sockets in waiting.items():
                for sock in sockets:
                    said = said_to_the_end(sock)
                    wanted = b"HTTP/1.1 408 " if what in ("no body", "half a body", "half a chunk") else b""
                    assert said.startswith(wanted), (what, said[:100])
                    assert b" 500 " not in said
                attacked.served()
            for sock in dripping:
                said_to_the_end(sock)
            for sock in mute:
                last = json.loads(said_to_the_end(sock))
                assert last["error"]["code"] == -32001
                assert "hello" in last["error"]["message"]
            for sock in begun:
                _, last = (json.loads(line) for line in said_to_the_end(sock).splitlines())
                assert last["error"]["code"] == -32600
        finally:
            ended.set()
            thread.join()


def test_floods_of_headers_and_connections_end_with_the_flood(attacked: Chain) -> None:
    """A header without end is refused before it has filled anything; a connection beyond the bound is closed at once,
    those within it are served, and a new one again when there is room."""
    with crowd() as held:
        for _ in range(CROWD):
            sock = attacked.dial()
            held.append(sock)
            with contextlib.suppress(ConnectionError):
                sock.sendall(attacked.request("GET", "/", close=False)[:-2] + b"X: " + b"a" * 200_000)
        for _ in range(CROWD):
            sock = attacked.dial()
            held.append(sock)
            flood = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(5000))
            with contextlib.suppress(ConnectionError):
                sock.sendall(attacked.request("GET", "/", close=False)[:-2] + flood)
        attacked.served()
        for sock in held:
            said = said_to_the_end(sock)
            assert not said or said.startswith(b"HTTP/1.0 400 "), said[:100]
    request = attacked.request("GET", "/livez", close=False)
    with attacked.dial() as kept, crowd() as held:
        for number in range(CONNECTIONS + 100):
            held.append(attacked.dial())
            if number % 50 == 0:  # not idle for so long that it is closed, however slowly the others are accepted
                kept.sendall(request)
                assert answer_of(kept).status == 200
        assert said_to_the_end(held[-1]) == b""
        kept.sendall(request)
        assert answer_of(kept).status == 200

    def served() -> bool:
        with contextlib.suppress(ConnectionError):
            return attacked.get("/livez").status == 200
        return False

    until_now(served)
    attacked.served()


def test_streams_that_vanish_or_are_too_many_leave_nothing(attacked: Chain) -> None:
    request = attacked.request("GET", "/api/ibkr/events")
    with crowd() as held:
        for _ in range(STREAMS):
            sock = attacked.dial()
            held.append(sock)
            sock.sendall(request)
        for sock in held:
            assert answer_of(sock).status == 200
        refused = attacked.send(request)
        refused.refuses(503, "tooManyStreams")
        assert int(refused.headers["retry-after"]) >= 1
        attacked.served()
    for _ in range(3):
        with attacked.dial() as sock:
            sock.sendall(request)
            until_now(lambda: attacked.send(request).status == 200)
    attacked.served()


def test_stalled_streams_delay_no_other(attacked: Chain) -> None:
    path = f"/api/ibkr/events?topics=link,positions,quotes:{AAPL}"
    with crowd() as held:
        for _ in range(CROWD):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.connect(("127.0.0.1", attacked.port))
            held.append(sock)
            sock.sendall(attacked.request("GET", path))
        reader = attacked.dial()
        held.append(reader)
        reader.sendall(attacked.request("GET", path))
        gateway = attacked.simulated
        until_now(lambda: gateway.do(lambda it: it.tick("AAPL", last=100.0)))  # the line has been requested
        for _ in range(10):
            for _ in range(100):
                gateway.do(lambda it: [it.tick("AAPL", last=100 + n / 100, bid=99.0, ask=101.0) for n in range(20)])
            attacked.served()
        gateway.do(lambda it: it.tick("AAPL", last=4321.25))
        said = b""
        while b'"last":4321.25' not in said[-4_000_000:]:
            chunk = reader.recv(1 << 20)
            assert chunk, "the reader was dropped"
            said += chunk
        attacked.served()


# --- the daemon's socket --------------------------------------------------------------------------------------------


def test_floods_on_the_socket_delay_no_other_peer(attacked: Chain) -> None:
    everything = json.dumps({"topics": ["link", "positions", "summary", "orders", "fills"]})
    since = b'{"since":"2020-01-01T00:00:00Z"}'
    floods = (
        b'{"jsonrpc":"2.0","id":1,"method":"watch","params":%s}\n' % everything.encode(),
        b'{"jsonrpc":"2.0","id":1,"method":"account.positions","params":{}}\n' * 50,
        b'{"jsonrpc":"2.0","id":1,"method":"executions.list","params":%s}\n' % since * 50,
        b'{"jsonrpc":"2.0","method":"ping"}\n' * 500,
        b"x" * 65536,
    )
    with crowd() as held:
        for flood in floods * 5:
            sock = unix(attacked.socket)
            held.append(sock)
            sock.sendall(HELLO)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                for _ in range(2000):
                    sock.send(flood)
            attacked.served()


def test_more_peers_than_there_is_room_for(attacked: Chain) -> None:
    """Those who have not said who they are make room; the facade's own conversation is not one of them."""
    with crowd() as held:
        for _ in range(PEERS + 50):
            held.append(unix(attacked.socket))
        attacked.served()
