"""One client of the gateway: its socket, what it has subscribed to, and what it has not been sent yet.

Owns flow control and the bound on what waits for a client that does not read. Decides no answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, cast

from daemon.simulator import messages
from daemon.simulator.alterations import altered
from daemon.simulator.behaviour import Behaviour, Handshake
from daemon.simulator.broken import NONSENSE
from daemon.simulator.clock import Clock, Timer
from daemon.simulator.codes import words
from daemon.simulator.requests import Request
from daemon.simulator.seen import Connections
from daemon.simulator.subscriptions import Subscriptions
from daemon.simulator.wire import OLDEST_VERSION, BadFrameError, Inbox

SLOW_BUFFER: Final = 16 << 20
"""Bytes that may wait for one client before it is dropped, as TWS drops a slow API client: two of the largest snapshots
(10,000 positions with their portfolio), not more."""

CHUNK: Final = 256
"""Frames of a long answer in one turn of the loop: about a millisecond, so that others' turns come."""

WAITING_ANSWERS: Final = 500
"""Answers that may wait for a client that does not read: ten seconds of all the messages it may send."""

UNANSWERED: Final = 1000
"""Hung requests that are remembered for a later 1100; more would be a client that is not bound itself."""

DRIP_STEP: Final = 0.05
"""Seconds between the drops of a slow connection."""

Then = Callable[[], None]


class Owner(Protocol):
    """What a session requires of the gateway that accepted it."""

    clock: Clock
    server_version: int
    slow_buffer: int

    @property
    def faults(self) -> Behaviour: ...

    @property
    def connections(self) -> Connections: ...

    def local_time(self) -> str: ...

    def accepted(self, session: Session) -> None: ...

    def received(self, session: Session, fields: list[str]) -> None: ...

    def closed(self, session: Session, clean: bool, reset: bool) -> None: ...


class Session(asyncio.Protocol):
    """One accepted connection, from the first byte to the last."""

    def __init__(self, gateway: Owner) -> None:
        self.gateway = gateway
        self.version = 0
        self.client_id: int | None = None
        self.options = ""
        self.ready = False
        self.subscriptions = Subscriptions()
        self.unanswered: dict[int, Request] = {}
        self.sent_at: deque[float] = deque()
        self.rate_violations = 0
        self.warned_at = float("-inf")
        self.dropped_here = False
        self._inbox = Inbox()
        self._transport: asyncio.Transport | None = None
        self._answers: deque[tuple[Iterator[bytes], Then | None]] = deque()
        self._pumping = False
        self._writable = True
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._drip: Timer | None = None
        self._eof = False
        self._ignoring = False
        self._handshake: Handshake = "normal"
        self._greeting = b""

    # the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._handshake = self.gateway.faults.handshake
        self._transport.set_write_buffer_limits(high=1 << 20)
        self.gateway.accepted(self)
        # up to CPython 3.11.4, a pause in connection_made is undone: the transport begins to read after this call
        asyncio.get_running_loop().call_soon(self._freeze_if_frozen)
        if self._handshake == "close":
            self.hang_up()
        elif self._handshake == "reset":
            self.reset()

    def data_received(self, data: bytes) -> None:
        if self._ignoring:
            return
        if not self.version and self._misgreeted():
            return
        self._inbox.feed(data)
        try:
            if self.version or self._greeted():
                for fields in self._inbox.messages():
                    if self._handshake != "silentAfterVersion":
                        self.gateway.received(self, fields)
                    if self.closing:
                        return
        except BadFrameError:
            self.hang_up()

    def _misgreeted(self) -> bool:
        nonsense = NONSENSE.get(self._handshake)
        if nonsense is None:
            self._ignoring = self._handshake == "silent"
            return self._ignoring
        answer, closes = nonsense
        self._ignoring = True
        self.write(answer)
        if closes:
            self.hang_up()
        return True

    def _greeted(self) -> bool:
        offer = self._inbox.greeting()
        if offer is None:
            return False
        version = min(self.gateway.faults.version or self.gateway.server_version, offer.highest)
        if offer.highest < OLDEST_VERSION:
            self.hang_up()
            return False
        self.options = offer.options
        self.version = max(version, OLDEST_VERSION)
        self._greeting = messages.greeting(version, self.gateway.local_time())
        if self.gateway.faults.version_after:
            self.gateway.clock.call_later(self.gateway.faults.version_after, self._send_greeting)
        else:
            self._send_greeting()
        return not self.closing

    def _send_greeting(self) -> None:
        greeting = self._greeting
        self.write(greeting[: len(greeting) // 2] if self._handshake == "closeInVersion" else greeting)
        if self._handshake in ("closeInVersion", "closeAfterVersion"):
            self.hang_up()

    def eof_received(self) -> bool:
        self._eof = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._answers.clear()
        self._held.clear()
        if self._drip is not None:
            self._drip.cancel()
        self.gateway.closed(self, clean=exc is None and self._eof, reset=isinstance(exc, ConnectionError))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump()

    @property
    def closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def hang_up(self) -> None:
        """Close with FIN, after what was written is out."""
        if self._transport is not None:
            self.dropped_here = True
            self._transport.close()

    def reset(self) -> None:
        """Close with RST; what was not sent is lost."""
        if self._transport is not None:
            self.dropped_here = True
            peer: Any = self._transport.get_extra_info("socket")
            if peer is not None:
                peer.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
                )
            self._transport.abort()

    # what goes out

    def write(self, data: bytes) -> None:
        """Send now, or keep while the gateway is frozen or dripping. Drops a client that has not read for too long."""
        if self.gateway.faults.alterations and self.ready:
            data = altered(data, self.gateway.faults.alterations)
        self._send(data)

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.gateway.faults.frozen or self._drip is not None or self.gateway.faults.drip:
            self._held.append(data)
            self._held_bytes += len(data)
            waiting = self._held_bytes
            if not self.gateway.faults.frozen:
                self._arm_drip()
        else:
            transport.write(data)
            waiting = transport.get_write_buffer_size()
        if waiting > self.gateway.slow_buffer:
            self.gateway.connections.slow += 1
            self.reset()

    def answer(self, frames: Iterable[bytes], then: Then | None = None) -> None:
        """Send an answer in its order, a chunk a turn of the loop and no faster than the client reads."""
        self._answers.append((iter(frames), then))
        if len(self._answers) > WAITING_ANSWERS:
            self.gateway.connections.slow += 1
            self.reset()
            return
        if not self._pumping:
            self._pump()

    def _pump(self) -> None:
        self._pumping = False
        while self._answers and self._writable and not self.closing and not self.gateway.faults.frozen:
            frames, then = self._answers[0]
            chunk: list[bytes] = []
            for frame in frames:
                chunk.append(frame)
                if len(chunk) == CHUNK:
                    break
            if chunk:
                self.write(b"".join(chunk))
            if len(chunk) < CHUNK:
                self._answers.popleft()
                if then is not None:
                    then()
            else:
                self._pumping = True
                asyncio.get_running_loop().call_soon(self._pump)
                return

    def _freeze_if_frozen(self) -> None:
        if self.gateway.faults.frozen:
            self.freeze()

    def freeze(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def thaw(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not self.gateway.faults.drip:
            self._flush()
        else:
            self._arm_drip()
        self._transport.resume_reading()
        self._pump()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held:
            self._send(b"".join(held))

    def _arm_drip(self) -> None:
        if self._drip is None and self._held:
            self._drip = self.gateway.clock.call_later(DRIP_STEP, self._drop)

    def _drop(self) -> None:
        self._drip = None
        transport, rate = self._transport, self.gateway.faults.drip
        if transport is None or self.gateway.faults.frozen:
            return
        if not rate:
            self._flush()
            return
        waiting = b"".join(self._held)
        amount = max(1, int(rate * DRIP_STEP))
        transport.write(waiting[:amount])
        rest = waiting[amount:]
        self._held, self._held_bytes = ([rest] if rest else []), len(rest)
        self._arm_drip()

    # words

    def error(self, req_id: int, code: int, **parts: object) -> None:
        """An error for one request, in the code's own words."""
        self.write(messages.error(self.version, req_id, code, words(code, **parts)))

    def hang(self, request: Request) -> None:
        """Remember a request that gets no answer."""
        if request.reqId >= 0 and len(self.unanswered) < UNANSWERED:
            self.unanswered[request.reqId] = request
