"""Windows: a named pipe with the four verbs of a plain socket, for a program that lives for one question."""

from __future__ import annotations

import sys
from time import monotonic, sleep

assert sys.platform == "win32"  # noqa: S101 - for the type checker: everything below is Windows

import _winapi  # noqa: E402

from shared import sid  # noqa: E402

PIPE_BUSY, BROKEN_PIPE = 231, 109

LOOK = 0.002
"""s between looks for an answer: a plain handle has no deadline of its own."""


class PlainPipe:
    """A connection to the pipe `path`, whose owner is known to be this user before a byte is sent; until `ends`."""

    def __init__(self, path: str, ends: float) -> None:
        self._ends = ends
        self._handle = self._connected(path)
        try:
            owner = sid.access_of_pipe(self._handle).owner
            if owner != sid.own_sid():
                raise PermissionError(f"{path} is served by another user ({owner}); nothing was said to them.")
        except BaseException:
            self.close()
            raise

    def settimeout(self, seconds: float) -> None:
        """From now, for the next verb."""
        self._ends = monotonic() + seconds

    def sendall(self, data: bytes) -> None:
        """All of it. The system's buffer is larger than any question of ours, so this does not wait for the reader."""
        while data:
            sent, _ = _winapi.WriteFile(self._handle, data)
            data = data[sent:]

    def recv(self, size: int) -> bytes:
        """Some bytes; none when the other end has gone. Raises `TimeoutError`."""
        try:
            while not _winapi.PeekNamedPipe(self._handle, 0)[0]:
                self._wait()
            return bytes(_winapi.ReadFile(self._handle, size)[0])
        except OSError as error:
            if getattr(error, "winerror", None) == BROKEN_PIPE:
                return b""
            raise

    def close(self) -> None:
        """Twice is once."""
        handle, self._handle = self._handle, 0
        if handle:
            _winapi.CloseHandle(handle)

    def _connected(self, path: str) -> int:
        wanted = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
        while True:
            try:
                return _winapi.CreateFile(path, wanted, 0, _winapi.NULL, _winapi.OPEN_EXISTING, 0, _winapi.NULL)
            except OSError as error:
                if error.winerror != PIPE_BUSY:
                    raise
            self._wait()

    def _wait(self) -> None:
        if monotonic() >= self._ends:
            raise TimeoutError("The daemon did not answer in time.")
        sleep(LOOK)
