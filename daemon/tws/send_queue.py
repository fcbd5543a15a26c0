"""What is sent to the gateway, and when: by priority, bounded, and never above IBKR's rate (FAULTS 28).

In place of ib_async's own queue, which has no priority and no bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from daemon.tws.errors import LinkLost, TwsBusy
from shared.clock import Clock

RATE = 40
"""Messages at most in any one second. IBKR's limit is 50; a fifth is left for what TWS counts differently."""

SLOWEST = 5
"""Messages a second below which halving stops: enough for a probe and an order."""

WAITING = 4096
"""Sends that may wait in a lane: the start of 60 accounts, the replay of 1000 streams; far less than a runaway loop."""


class Lane(IntEnum):
    """The first that is not empty is sent from."""

    ORDER = 0
    PROBE = 1
    READ = 2
    RESUBSCRIBE = 3


class Bucket:
    """How many sends a second: pure arithmetic. A fifth of `rate` may go at once, the rest evenly.

    So no second sees more than `rate`, and where the network bunches what was sent, still not IBKR's limit: forty at
    once and forty a second later would be eighty to a gateway that was slow to read the first.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._tokens = float(self.burst)
        self._at = now

    @property
    def burst(self) -> int:
        return max(1, self.rate // 5)

    def wait(self, now: float) -> float:
        """Seconds until one more may be sent; 0: now."""
        each_second = self.rate - self.burst
        self._tokens = min(self.burst, self._tokens + (now - self._at) * each_second)
        self._at = now
        # a hair less than a whole one: a timer may be that early
        return 0.0 if self._tokens >= 0.999 else (1.0 - self._tokens) / each_second

    def take(self) -> None:
        self._tokens -= 1.0

    def halve(self) -> None:
        self.rate = max(SLOWEST, self.rate // 2)


class SendQueue:
    """Sends wait here in their lane until the rate admits them and the socket's write buffer has room."""

    def __init__(self, clock: Clock, rate: int = RATE) -> None:
        self._clock = clock
        self._bucket = Bucket(rate, clock.monotonic())
        self._lanes: tuple[deque[Callable[[], object]], ...] = tuple(deque() for _ in Lane)
        self._turns: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._closed = False

    @property
    def rate(self) -> int:
        return self._bucket.rate

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lanes))

    def send(self, lane: Lane, act: Callable[[], object]) -> None:
        """Call `act`, which writes one message, as soon as it may: at once, if nothing of a higher lane waits."""
        if self._closed:
            return
        if (
            len(self._lanes[lane]) >= WAITING
        ):  # each lane has its own bound: a flood of requests must not keep a probe out
            raise TwsBusy(WAITING)
        self._lanes[lane].append(act)
        self._send_due()

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
        self._bucket.halve()

    def pause(self, *, paused: bool) -> None:
        """Whether the socket's write buffer is full: the peer does not read."""
        self._paused = paused
        self._send_due()

    def close(self) -> None:
        """The session is over: what waits is not sent, and callers of `admit` get `LinkLost`."""
        self._closed = True
        if self._timer:
            self._timer.cancel()
        for lane in self._lanes:
            lane.clear()
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(LinkLost())

    def _send_due(self) -> None:
        """Send what may be sent now."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while not self._paused and not self._closed:
            lane = next((lane for lane in self._lanes if lane), None)
            if lane is None:
                return
            now = self._clock.monotonic()
            wait = self._bucket.wait(now)
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(wait, self._send_due)
                return
            self._bucket.take()
            lane.popleft()()
