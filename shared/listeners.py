"""Which program of this machine listens on a TCP port, as far as this user can see."""

from __future__ import annotations

import psutil


def listening_pids(port: int) -> list[int | None]:
    """A process each for the listeners on `port`; `None` for another user's. Empty where the system hides them."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    return [conn.pid for conn in found if conn.status == psutil.CONN_LISTEN and conn.laddr.port == port]


def listener_name(port: int) -> str:
    """Such as `program java (process 4711)`."""
    pids = [pid for pid in listening_pids(port) if pid is not None]
    if not pids:
        return "a program of another user"
    try:
        return f"program {psutil.Process(pids[0]).name()} (process {pids[0]})"
    except psutil.Error:
        return f"process {pids[0]}"
