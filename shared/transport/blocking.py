"""A blocking connection to the local socket, for a program that makes one call: `connect(path, deadline)`.

Imports neither asyncio nor the logging library: `ibkr status` starts with it.
"""

from __future__ import annotations

import sys
from time import monotonic, sleep  # the one clock outside clock.py, which would bring asyncio with it


def time_left(deadline: float) -> float:
    """Seconds from now until `deadline` (of `monotonic`). Raises `TimeoutError` where it has passed."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError("The daemon did not answer in time.")
    return left


if sys.platform == "win32":
    import _winapi

    from shared.transport import windows_security

    PIPE_BUSY, BROKEN_PIPE = 231, 109

    POLL_INTERVAL = 0.002
    """s between looks for data: a blocking pipe handle has no timeout of its own."""

    class BlockingPipe:
        """A connection to the pipe `path`, with the four methods of a socket that `blocking_client` uses.

        Raises `PermissionError` before anything is sent where another user serves the pipe.
        """

        def __init__(self, path: str, deadline: float) -> None:
            self._deadline = deadline
            self._handle = self._connected(path)
            try:
                owner = windows_security.access_of_pipe(self._handle).owner
                if owner != windows_security.own_sid():
                    raise PermissionError(f"{path} is served by another user ({owner}); no data was sent.")
            except BaseException:
                self.close()
                raise

        def settimeout(self, seconds: float) -> None:
            """`seconds` from now, for the next `recv`."""
            self._deadline = monotonic() + seconds

        def sendall(self, data: bytes) -> None:
            """Send all of it. The pipe's buffer is larger than any request, so this does not wait for the reader."""
            while data:
                sent, _ = _winapi.WriteFile(self._handle, data)
                data = data[sent:]

        def recv(self, size: int) -> bytes:
            """At least one byte; none after the peer has closed. Raises `TimeoutError`."""
            try:
                while not _winapi.PeekNamedPipe(self._handle, 0)[0]:
                    self._wait()
                return bytes(_winapi.ReadFile(self._handle, size)[0])
            except OSError as error:
                if getattr(error, "winerror", None) == BROKEN_PIPE:
                    return b""
                raise

        def close(self) -> None:
            """Idempotent."""
            handle, self._handle = self._handle, 0
            if handle:
                _winapi.CloseHandle(handle)

        def _connected(self, path: str) -> int:
            access = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
            while True:
                try:
                    return _winapi.CreateFile(path, access, 0, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL)
                except OSError as error:
                    if error.winerror != PIPE_BUSY:
                        raise
                self._wait()

        def _wait(self) -> None:
            time_left(self._deadline)
            sleep(POLL_INTERVAL)

    connect = BlockingPipe

else:
    import socket

    from shared.transport.address import require_own_peer, short_address

    QUEUE_FULL_PAUSE = 0.02
    """s before the next try where the accept queue is full: the daemon runs and is busy."""

    def connect(path: str, deadline: float) -> socket.socket:
        """A connection to `path`. Raises `OSError`; `PermissionError` where another user (not root) listens there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_address(path) as address:
                while True:
                    sock.settimeout(time_left(deadline))
                    try:
                        sock.connect(address)
                        break
                    except BlockingIOError:  # the accept queue is full
                        sleep(QUEUE_FULL_PAUSE)
            require_own_peer(sock, path)
        except BaseException:
            sock.close()
            raise
        return sock
