"""The one way to the gateway's ear: what may be sent when, by priority and never above IBKR's rate (FAULTS 28).

In front of ib_async's own queue, which knows no priority and no bound and so stays empty. Never knows what is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from daemon.tws.errors import LinkLost
from shared.clock import Clock

RATE = 40
"""Messages in any one second. IBKR's limit is 50; a fifth is left for what TWS counts differently."""

SLOWEST = 5
"""Messages a second below which halving stops: enough for a probe and an order."""

WAITING = 4096
"""Sends that may wait: the start of 60 accounts and the replay of 1000 streams, and far less than a runaway loop."""


class Lane(IntEnum):
    """Who goes first."""

    ORDER = 0
    PROBE = 1
    READ = 2
    RESUBSCRIBE = 3


class GateFullError(Exception):
    """More sends wait than could be right."""


class Window:
    """How many sends a second: pure arithmetic over a sliding second."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._sent: deque[float] = deque()

    def wait(self, now: float) -> float:
        """Seconds until one more may be sent; 0: now."""
        while self._sent and now - self._sent[0] >= 1.0:
            self._sent.popleft()
        if len(self._sent) < self.rate:
            return 0.0
        # the send that has to be a second old, so that with this one there are `rate` in the second
        return self._sent[len(self._sent) - self.rate] + 1.0 - now

    def sent(self, now: float) -> None:
        self._sent.append(now)

    def halve(self) -> None:
        self.rate = max(SLOWEST, self.rate // 2)


class Gate:
    """Sends wait here in their lane until the rate admits them and the socket takes them."""

    def __init__(self, clock: Clock, rate: int = RATE) -> None:
        self._clock = clock
        self._window = Window(rate)
        self._lanes: tuple[deque[Callable[[], None]], ...] = tuple(deque() for _ in Lane)
        self._turns: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._held = False
        self._closed = False

    @property
    def rate(self) -> int:
        return self._window.rate

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lanes))

    def send(self, lane: Lane, act: Callable[[], None]) -> None:
        """Do `act`, which writes one message, as soon as it may be: at once, if nothing better waits."""
        if self._closed:
            return
        if self.waiting >= WAITING:
            raise GateFullError(f"{WAITING} messages wait to be sent to the gateway")
        self._lanes[lane].append(act)
        self._open()

    async def admit(self, lane: Lane) -> None:
        """Return when one message may be written, which has to be done at once. May be cancelled. Raises `LinkLost`."""
        if self._closed:
            raise LinkLost
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def act() -> None:
            if not turn.done():
                turn.set_result(None)

        self._turns.add(turn)
        try:
            self.send(lane, act)
            await turn
        finally:
            self._turns.discard(turn)
            if turn.cancelled() and act in self._lanes[lane]:
                self._lanes[lane].remove(act)

    def halve(self) -> None:
        """Code 100: too fast for this gateway. Until the session ends."""
        self._window.halve()

    def hold(self, *, held: bool) -> None:
        """Whether the socket's own buffer is full: the peer does not read."""
        self._held = held
        self._open()

    def close(self) -> None:
        """The session is over: what waits is not sent, and who waits is told."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for lane in self._lanes:
            lane.clear()
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(LinkLost())

    def _open(self) -> None:
        """Let through what may go."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while not self._held and not self._closed:
            lane = next((lane for lane in self._lanes if lane), None)
            if lane is None:
                return
            now = self._clock.monotonic()
            wait = self._window.wait(now)
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._open)
                return
            self._window.sent(now)
            lane.popleft()()
