"""Bytes from the gateway → messages: the socket's protocol, with a receive buffer scanned by offset and bounded.

Takes the place of ib_async's own buffer, which copies all that is left after each message and accepts any length
(FAULTS 55); the messages are byte for byte the same.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import cast

SLICE = 512
"""Messages worked off in one turn of the loop, 15 ms or so; ten thousand positions in one go would be 0.4 s."""

BACKLOG = 1 << 20
"""Bytes waiting to be worked off at which the socket is no longer read; TCP then holds the gateway back."""

KEEPALIVE = (10, 5, 3)
"""s idle, s between, misses: a dead network shows after 25 s even without probes."""

USER_TIMEOUT = 15_000
"""ms that sent bytes may stay unacknowledged; without it a half-open connection swallows writes for many minutes."""


class UnreadableError(Exception):
    """The stream is not, or no longer, made of messages: a length that no message has."""

    def __init__(self, length: int) -> None:
        super().__init__(f"a message of {length} bytes was announced")
        self.length = length


class Frames:
    """Splits a stream into messages. Feed bytes, then iterate; what is incomplete waits for more.

    `first`, `later`: the longest message, in bytes, at the beginning and after `settled()`.
    """

    def __init__(self, first: int, later: int) -> None:
        self._cap = first
        self._later = later
        self._buffer = bytearray()
        self._offset = 0

    def settled(self) -> None:
        """The peer has proven what it is: longer messages are accepted from now on."""
        self._cap = self._later

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        self._buffer += data

    def __iter__(self) -> Iterator[list[str]]:
        """The complete messages as lists of fields. May be left at any point and taken up again."""
        buffer = self._buffer
        unpack = struct.unpack_from
        while True:
            offset = self._offset
            if len(buffer) - offset < 4:
                return
            (length,) = unpack(">I", buffer, offset)
            if length > self._cap:
                raise UnreadableError(length)
            end = offset + 4 + length
            if len(buffer) < end:
                return
            self._offset = end
            fields = buffer[offset + 4 : end].decode(errors="backslashreplace").split("\0")
            fields.pop()  # what stands after the last terminator
            yield fields


class Wire(asyncio.Protocol):
    """The socket's protocol.

    `message(fields)` for each message (may be exchanged at any time), `packet()` after each batch of them,
    `ended(error)` once at the end of the socket, `broken(error)` when the stream cannot be read, `writable(bool)` as
    the send buffer fills and drains.
    """

    def __init__(
        self,
        frames: Frames,
        *,
        message: Callable[[list[str]], None],
        packet: Callable[[], None],
        ended: Callable[[Exception | None], None],
        broken: Callable[[UnreadableError], None],
        writable: Callable[[bool], None],
    ) -> None:
        self.frames = frames
        self.transport: asyncio.Transport | None = None
        self.messages_in = 0
        self.messages_out = 0
        self.message = message
        self._packet = packet
        self._ended = ended
        self._broken = broken
        self._writable = writable
        self._waiting = False  # a batch is scheduled
        self._paused = False
        self._stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        self.frames.feed(data)
        if not self._waiting:
            self._work(SLICE)
        if self._waiting and not self._paused and self.transport and len(self.frames) > BACKLOG:
            self._paused = True
            self.transport.pause_reading()

    def _work(self, most: int) -> None:
        """Work off up to `most` messages; the rest in the loop's next turn, so that other tasks get theirs."""
        done = 0
        try:
            for fields in self.frames:
                self.message(fields)
                done += 1
                if done == most or self._stopped:
                    break
        except UnreadableError as error:
            self.stop()
            self._broken(error)
            return
        finally:
            self.messages_in += done
        if done and not self._stopped:
            self._packet()
        if done == most and not self._stopped:
            self._waiting = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._waiting = False
        if self._stopped:
            return
        self._work(SLICE)
        if self._paused and not self._waiting and self.transport:
            self._paused = False
            self.transport.resume_reading()

    def stop(self) -> None:
        """Drop whatever is still received."""
        self._stopped = True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stopped:
            self._work(sys.maxsize)  # what came before the end counts
        self.transport = None
        self._ended(exc)

    def pause_writing(self) -> None:
        self._writable(False)

    def resume_writing(self) -> None:
        self._writable(True)

    def send(self, data: bytes) -> None:
        """One message, with its length."""
        if self.transport:
            self.transport.write(data)
            self.messages_out += 1

    def abort(self) -> None:
        """Close at once, whether or not the peer reads what is left to be written."""
        if self.transport:
            self.transport.abort()


def keep_alive(sock: socket.socket) -> None:
    """Let the system notice a dead peer soon, as far as this system can (FAULTS 5)."""
    idle, every, misses = KEEPALIVE
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "win32":
        sock.ioctl(socket.SIO_KEEPALIVE_VALS, (1, idle * 1000, every * 1000))
        return
    wanted = {
        "TCP_KEEPIDLE": idle,
        "TCP_KEEPALIVE": idle,  # macOS's name for it
        "TCP_KEEPINTVL": every,
        "TCP_KEEPCNT": misses,
        "TCP_USER_TIMEOUT": USER_TIMEOUT,
    }
    for name, value in wanted.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
