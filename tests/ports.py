"""Ports for what needs its port before it starts."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

BELOW_EPHEMERAL_PORTS = range(20_000, 30_000)
"""Below the ports that any system assigns by itself, so that no connection takes ours in the meantime."""


def free_port() -> int:
    """One on which nothing listens. At random whatever the tests' seed: two runs side by side get two."""
    for port in secrets.SystemRandom().sample(BELOW_EPHEMERAL_PORTS, 100):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("none of a hundred ports is free")


@contextmanager
def full_backlog(port: int = 0) -> Iterator[socket.socket]:
    """A listener whose queue is full: Linux then does not answer the SYN of a dial, as a firewall that drops it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        if port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(0)
        for _ in range(8):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener
