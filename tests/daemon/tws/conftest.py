from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def full() -> Iterator[socket.socket]:
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
