"""Take connections off a listening socket that several processes hold, on a loop that cannot (Windows' Proactor).

There a socket belongs for ever to the completion port it was first given to, and a duplicate in another process is the
same socket: the second serving child could not accept on it. What is accepted is a new socket, so a thread accepts and
the loop serves.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger(__name__)

PAUSE = 1.0
"""s without accepting while the system has nothing left to accept with."""


class Accepting:
    """Accepts on `sock` until `close`, which closes it here; other processes keep theirs."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> None:
        self._factory = factory
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._woken, self._wake = socket.socketpair()
        self._starved = 0
        sock.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more; what was accepted goes on. Twice is once."""
        if self._sock.fileno() < 0:
            return
        self._wake.close()
        self._thread.join()  # it does nothing that lasts
        self._woken.close()
        self._sock.close()

    def _run(self) -> None:
        pause = 0.0
        while True:
            watched = [self._woken] if pause else [self._woken, self._sock]
            ready, _, _ = select.select(watched, [], [], pause or None)
            if self._woken in ready:
                return
            pause = 0.0
            try:
                conn, _ = self._sock.accept()
            except (BlockingIOError, ConnectionError):  # another process was faster, or the client has left
                continue
            except OSError as error:
                pause = self._starve(error)
                continue
            if self._starved:
                log.info("facade.accepting", message="Connections are accepted again.", refusedBefore=self._starved)
                self._starved = 0
            conn.setblocking(False)
            self._loop.call_soon_threadsafe(self._adopt, conn)

    def _starve(self, error: OSError) -> float:
        self._starved += 1
        if self._starved == 1:
            log.warning("facade.starved", message="No connection can be accepted for now.", error=str(error))
        return PAUSE

    def _adopt(self, conn: socket.socket) -> None:
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, conn), name="http.open")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
