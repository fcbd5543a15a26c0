import asyncio
import contextlib
import socket

import pytest
from structlog.testing import capture_logs

from facade.http.accept_thread import AcceptThread


class Echo(asyncio.Protocol):
    """Gives back what it gets, with its name before it."""

    def __init__(self, name):
        self.name = name

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(self.name + data)
        self.transport.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


async def ask(address):
    """What one connection is answered."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"?")
        return await reader.read()
    except ConnectionError:  # it was not even accepted
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_connections_are_served_by_the_loop(listener):
    accepting = AcceptThread(lambda: Echo(b"a"), listener.dup())

    answers = await asyncio.gather(*(ask(listener.getsockname()) for _ in range(20)))

    assert answers == [b"a?"] * 20
    accepting.close()


async def test_a_client_that_left_before_its_accept_delays_no_other(listener):
    """Windows fails such an accept; that is no sign of a system that has nothing left to accept with."""

    class Left(socket.socket):
        left = False

        def accept(self):
            conn, address = super().accept()
            if not self.left:
                self.left = True
                conn.close()
                raise ConnectionResetError(10054, "An existing connection was forcibly closed by the remote host")
            return conn, address

    with capture_logs() as logs:
        accepting = AcceptThread(lambda: Echo(b"a"), Left(fileno=listener.dup().detach()))
        assert await ask(listener.getsockname()) == b""
        assert await ask(listener.getsockname()) == b"a?"
        accepting.close()

    assert logs == []


async def test_a_successor_takes_over_without_a_refused_connection(listener):
    address = listener.getsockname()
    first = AcceptThread(lambda: Echo(b"1"), listener.dup())
    assert await ask(address) == b"1?"

    second = AcceptThread(lambda: Echo(b"2"), listener.dup())
    both = await asyncio.gather(*(ask(address) for _ in range(20)))
    first.close()
    first.close()
    after = await asyncio.gather(*(ask(address) for _ in range(20)))

    assert set(both) <= {b"1?", b"2?"}
    assert after == [b"2?"] * 20
    second.close()


async def test_a_connection_waits_in_the_backlog_between_two_acceptors(listener):
    AcceptThread(lambda: Echo(b"1"), listener.dup()).close()
    waiting = asyncio.create_task(ask(listener.getsockname()))
    await asyncio.sleep(0)

    second = AcceptThread(lambda: Echo(b"2"), listener.dup())

    assert await waiting == b"2?"
    second.close()
