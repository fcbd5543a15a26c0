"""Notifies systemd: ready, alive, stopping. Independent of the link, which may be down for days."""

from __future__ import annotations

import socket

READY = "READY=1"
"""Sent once the local socket listens, not once IBKR is there: no unit should wait for that."""

WATCHDOG = "WATCHDOG=1"
"""Sent every few seconds from the loop: it proves that the loop turns."""

STOPPING = "STOPPING=1"

LIMIT = 1.0
"""s that a full queue of systemd's may hold us up; the next word comes soon."""


def notify(address: str, message: str) -> bool:
    """Send `message` to `address` (NOTIFY_SOCKET: a path, or `@` and an abstract name). False where it fails."""
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(LIMIT)
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(message.encode())
    except OSError:  # started by hand with a stale variable, or systemd has gone
        return False
    return True
