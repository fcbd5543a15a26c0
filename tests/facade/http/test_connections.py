"""Connections: how many, how long, and what becomes of those that ask for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from pathlib import Path

import pytest
import structlog

from facade.http.connections import AcceptErrors
from shared.messages import Account, Position
from tests.clock import LoopTime
from tests.facade.conftest import LIMIT, Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

STATUS = "/api/ibkr/status"


async def opened(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", served.port)


async def exchange(
    served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = STATUS
) -> bytes:
    """One answer over a connection that stays."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
    async with asyncio.timeout(LIMIT):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await reader.readexactly(length)


async def test_a_connection_beyond_the_bound_is_closed_and_the_others_are_served(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.serving.CONNECTIONS", 2)
    async with running(tmp_path, daemon) as served:
        first, second = [await opened(served) for _ in range(2)]
        assert b" 200 " in await exchange(served, *first)
        third = await opened(served)
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(ConnectionResetError):
                assert await third[0].read() == b""
        assert b" 200 " in await exchange(served, *second)
        second[1].close()
        server = served.facade.server
        assert server is not None
        await until(lambda: len(server.connections) == 1)
        fourth = await opened(served)
        assert b" 200 " in await exchange(served, *fourth)
        for _, writer in (first, third, fourth):
            writer.close()


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    reader, writer = await opened(served)
    request = f"GET {STATUS} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    writer.write(request * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(38)
    writer.write(request.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello") + request)
    for _ in range(2):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(38)
    writer.close()


async def test_a_client_that_leaves_ends_its_request(served: Served) -> None:
    server = served.facade.server
    assert server is not None
    requested = asyncio.Event()

    async def never(_params: object) -> None:
        requested.set()
        await asyncio.Event().wait()

    served.daemon.replies["bars.fetch"] = never
    for path in ("/api/ibkr/bars?conId=1", "/api/ibkr/events", STATUS):
        reader, writer = await opened(served)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            await (requested.wait() if "bars" in path else reader.readuntil(b"\r\n\r\n"))
        writer.close()
        await until(lambda: not server.connections)
    assert len(served.facade.default.streams) == 0


async def test_an_http_1_0_client_is_answered_and_closed(served: Served) -> None:
    raw = await served.raw(f"GET {STATUS} HTTP/1.0\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
    assert raw.endswith(b'{"connected": true, "available": true}')


async def test_an_upgrade_is_ignored(served: Served) -> None:
    reader, writer = await opened(served)
    writer.write(
        f"GET {STATUS} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    async with asyncio.timeout(LIMIT):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def many_positions(served: Served) -> None:
    """The response to /positions is larger than the buffers between facade and client."""
    served.daemon.set_rows("accounts", {"DU1": Account(account="DU1", paper=True)})
    rows = {f"DU1:{n}": Position(account="DU1", conId=n, position=1.0) for n in range(40_000)}
    served.daemon.set_rows("positions", rows)
    await served.holds("positions", "DU1:39999")


async def test_a_client_that_does_not_read_its_response_is_disconnected(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.http.responses.WRITE_TIMEOUT", 0.05)
    monkeypatch.setattr("facade.serving.KEEP_ALIVE", 600.0)  # which would end the connection as well
    async with running(tmp_path, daemon) as served:
        await many_positions(served)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", served.port))
            client.sendall(f"GET /api/ibkr/positions HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
            server = served.facade.server
            assert server is not None
            await until(lambda: server.requests_count == 1)
            await until(lambda: not server.connections)


async def test_a_client_that_reads_none_of_its_many_small_responses_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipelined: each fits into the write buffer, all of them do not."""
    monkeypatch.setattr("facade.http.responses.WRITE_TIMEOUT", 0.05)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", served.port))
        client.sendall(f"GET /ui/table.js HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode() * 800)
        server = served.facade.server
        assert server is not None
        await until(lambda: server.requests_count > 0)
        await until(lambda: not server.connections)
        assert server.requests_count < 800


@pytest.mark.parametrize("path", ["/api/ibkr/events", "/api/ibkr/openapi.json"])
async def test_a_client_that_has_left_before_its_response_is_no_fault(served: Served, path: str) -> None:
    """Its connection is reset in the moment in which the request is read."""

    def request(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()

    assert (await served.get("/api/ibkr/openapi.json"))[0] == 200
    server = served.facade.server
    assert server is not None
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", served.port)) as client:
                client.setblocking(False)
                client.sendall(request("/livez"))
                await asyncio.get_running_loop().sock_recv(client, 4096)
                before = server.requests_count
                client.sendall(request(path))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until(lambda before=before: server.requests_count > before and len(server.connections) == 1)
    assert [line["event"] for line in lines] == []
    assert not [label for label in served.facade.counts if label[1] == 500]


async def test_requests_under_way_are_answered_at_shutdown(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with running(tmp_path, daemon) as served:
        await until(lambda: served.state.connected)
        reader, writer = await opened(served)
        assert b"Connection: close" not in await exchange(served, reader, writer)
        served.facade.draining = True
        assert b"Connection: close" in await exchange(served, reader, writer)
        assert await reader.read() == b""
        writer.close()


async def test_an_expectation_is_answered_after_every_rule_that_needs_no_body(served: Served) -> None:
    """A refusal is the first and only answer, wherever the request goes; then the body is not needed any more."""
    ours, json_ = f"Host: 127.0.0.1:{served.port}", "Content-Type: application/json"
    for line, host, kind, expected, status in (
        ("POST /api/ibkr/connect", "Host: evil.example", json_, "100-continue", b"421"),
        ("POST /nothing", "Host: evil.example", json_, "100-continue", b"421"),
        ("POST /nothing%0A", ours, json_, "100-continue", b"404"),
        ("POST /api/ibkr/sessions/nothing/connect", ours, json_, "100-continue", b"404"),
        ("PUT /api/ibkr/connect", ours, json_, "100-continue", b"405"),
        ("POST /api/ibkr/connect", ours, "Content-Type: text/plain", "100-continue", b"415"),
        ("POST /api/ibkr/connect", ours, json_, "200-ok", b"417"),
        ("GET /livez", ours, json_, "200-ok", b"417"),
    ):
        reader, writer = await opened(served)
        writer.write(f"{line} HTTP/1.1\r\n{host}\r\n{kind}\r\nContent-Length: 2\r\nExpect: {expected}\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status), (line, head)
        assert b"Content-Type: application/problem+json" in head
        writer.close()
    assert served.daemon.requests == []


async def test_an_old_clients_expectation_is_ignored(served: Served) -> None:
    raw = await served.raw(f"GET {STATUS} HTTP/1.0\r\nHost: 127.0.0.1:{served.port}\r\nExpect: any\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.0 200 ")


async def test_expect_continue_is_answered_before_the_body(served: Served) -> None:
    reader, writer = await opened(served)
    writer.write(
        f"POST /api/ibkr/reconnect HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode()
    )
    async with asyncio.timeout(LIMIT):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202 ")
    writer.close()


async def test_the_rest_of_an_unread_body_is_awaited_for_a_bounded_time(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.serving.LINGER", 600.0)
    async with running(tmp_path, daemon) as served:
        time = LoopTime(monkeypatch)
        reader, writer = await opened(served)
        writer.write(f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(LIMIT):
            assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
        ended = asyncio.create_task(reader.read(), name="ended")
        await time.pass_(590)
        assert not ended.done()
        await time.pass_(20)
        async with asyncio.timeout(LIMIT):
            await ended
        writer.close()


async def test_half_a_header_times_out(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.serving.KEEP_ALIVE", 0.2)
    async with running(tmp_path, daemon) as served:
        reader, writer = await opened(served)
        writer.write(f"GET {STATUS} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n".encode())
        ended = asyncio.create_task(reader.read(), name="ended")
        async with asyncio.timeout(LIMIT):
            while not ended.done():
                if not writer.is_closing():
                    writer.write(b"X: y\r\n")
                await asyncio.wait([ended], timeout=0.02)
        assert ended.done()
        writer.close()


async def test_the_ipv6_loopback_is_served(tmp_path: Path, daemon: FakeDaemon) -> None:
    from facade.serving import served
    from shared.settings import Settings
    from tests.facade.conftest import listening

    sock = listening("::1")
    port = sock.getsockname()[1]
    settings = Settings(socket=daemon.path, state_dir=tmp_path / "state", facade_host="::1", facade_port=port)
    async with served(settings, [sock], drain=0):
        reader, writer = await asyncio.open_connection("::1", port)
        writer.write(f"GET {STATUS} HTTP/1.1\r\nHost: [::1]:{port}\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_failing_accepts_are_logged_once_and_once_when_they_work_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AcceptErrors, "QUIET", 0.0)
    handle_accept_error = AcceptErrors()
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as lines:
        for times in (1, 2):
            for _ in range(3):
                handle_accept_error(
                    loop, {"message": "accept", "exception": OSError(errno.EMFILE, "Too many open files")}
                )
            await until(lambda times=times: len(lines) == 2 * times)
    assert [line["event"] for line in lines] == ["facade.starved", "facade.accepting"] * 2
    assert [line["refusedBefore"] for line in lines[1::2]] == [3, 3]
