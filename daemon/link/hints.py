"""Advice beyond a reason's own, because something about this link suggests it.

Guesses, worded as such; they change nothing else. Nothing is dialled for them: a connection made only to look at a port
stays half closed in Gateway, and enough of them make it refuse everybody.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from daemon.link.states import Link
from shared.settings import STANDARD_PORTS, is_loopback


def hints(link: Link, listening: Collection[int]) -> tuple[str, ...]:
    """Sentences to stand before the advice. `listening`: this machine's ports on which a process listens."""
    connection, reason = link.connection, link.reason
    if connection is None:
        return ()
    host, port = connection.target.host, connection.target.port
    if reason == "portClosed" and is_loopback(host):
        found = [
            f"{other} ({STANDARD_PORTS[other]})" for other in STANDARD_PORTS if other in listening and other != port
        ]
        if found:
            return (f"Probably another port is meant: something listens on {' and '.join(found)}.",)
    if reason == "accountMismatch" and not connection.target.account:
        return ("If this login is meant, connect once by hand: that is taken for a yes.",)
    if reason in ("handshakeTimeout", "closedDuringHandshake") and _named(host) and ":" in connection.peer:
        return (
            f"{host} was dialled as {connection.peer}, and TWS probably trusts only 127.0.0.1: "
            "set IBKR_HOST=127.0.0.1.",
        )
    return ()


def listening() -> frozenset[int]:
    """The standard ports on which a process of this machine listens; none where it does not list them. Blocks."""
    import psutil  # 2 MB that a link which is never refused does not need

    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError, RuntimeError):
        return frozenset()
    return frozenset(
        one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN and one.laddr.port in STANDARD_PORTS
    )


def _named(host: str) -> bool:
    """Whether it is a name and not an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
