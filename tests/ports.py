"""Ports for what needs its port before it starts."""

from __future__ import annotations

import secrets
import socket

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
