"""Accept connections from a listening socket that several processes hold, where the event loop cannot (Windows).

Windows' Proactor binds a socket for ever to the completion port it was first given to, and a duplicate in another
process is the same socket: a second serving child could not accept from it. An accepted socket is a new one, so a
thread accepts and the loop serves.
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
"""s without accepting after an accept has failed for want of descriptors."""


class AcceptThread:
    """Accepts from `sock` until `close`, which closes it in this process; other processes keep theirs."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket) -> None:
        self._factory = factory
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._woken, self._wake = socket.socketpair()
        self._failures = 0
        sock.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more; accepted connections go on. Idempotent."""
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
            except (BlockingIOError, ConnectionError):  # another process accepted it, or the client has left
                continue
            except OSError as error:
                pause = self._failed(error)
                continue
            if self._failures:
                log.info("facade.accepting", message="Connections are accepted again.", refusedBefore=self._failures)
                self._failures = 0
            conn.setblocking(False)
            self._loop.call_soon_threadsafe(self._adopt, conn)

    def _failed(self, error: OSError) -> float:
        self._failures += 1
        if self._failures == 1:
            log.warning("facade.starved", message="accept() failed; connections wait in the backlog.", error=str(error))
        return PAUSE

    def _adopt(self, conn: socket.socket) -> None:
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, conn), name="http.open")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
