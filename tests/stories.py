"""Stories over the wire: the simulated gateway on one side, on the other the daemon's own link, session and store.

Nothing is replaced but time, which runs as it does and can be made to run ahead.
"""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.link.events import Event, Target
from daemon.link.states import Policy
from daemon.link.windows import Calendar
from daemon.market.data import Market
from daemon.session.supervisor import Supervisor
from daemon.simulator import Gateway, World
from daemon.state.store import Store
from daemon.tws import Limits, Tws
from shared import log
from shared.messages import Gap, Sync
from shared.messages import Link as LinkRow
from shared.reasons import describe
from tests.daemon.scripted import Kept
from tests.ports import free_port
from tests.waiting import until

LIMIT = 60.0  # s; only ends a test that would hang
NO_WINDOWS = Calendar(())


class Elastic:
    """Real time that can be made to run ahead, in steps too small to count as a suspend.

    `wall`: what the wall clock shows at the beginning.
    """

    def __init__(self, wall: datetime | None = None) -> None:
        self._ahead = 0.0
        self._slept = 0.0
        self._offset = timedelta() if wall is None else wall - datetime.now(UTC)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self.in_flight: Callable[[], bool] = lambda: False
        """Whether an answer is under way that time must not overtake."""

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset + timedelta(seconds=self._ahead + self._slept)

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    async def sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._sleepers, (self.monotonic() + seconds, next(self._order), woken))
        timer = loop.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    async def pass_(self, seconds: float) -> None:
        """Each sleeper wakes at its time, and what it then sends reaches the gateway and back.

        The real time that it takes is part of `seconds`: on a slow machine no more of them pass than elsewhere.
        """
        end = self.monotonic() + seconds
        while (left := end - self.monotonic()) > 0:
            next_wake = self._sleepers[0][0] - self.monotonic() if self._sleepers else left
            step = min(left, max(next_wake, 0.001), 0.25)
            self.absent(step)
            await _idle()
            async with asyncio.timeout(LIMIT):
                while self.in_flight():  # noqa: ASYNC110 - the network of a busy machine takes its real time
                    await asyncio.sleep(0.001)

    def absent(self, seconds: float) -> None:
        """All at once, as when we are stopped."""
        self._ahead += seconds
        while self._sleepers and self._sleepers[0][0] <= self.monotonic():
            _wake(heapq.heappop(self._sleepers)[2])

    def asleep(self, seconds: float) -> None:
        """The machine slept, which only the wall clock has seen."""
        self._slept += seconds


async def _idle() -> None:
    """Until no callback is ready, for some turns of the loop in each of which the network is looked at."""
    ready, still = asyncio.get_running_loop()._ready, 0  # type: ignore[attr-defined]
    for _ in range(500):
        await asyncio.sleep(0)
        still = 0 if ready else still + 1
        if still == 3:
            return


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Story:
    """One gateway, one link, and everything that can be seen of both."""

    def __init__(
        self,
        gateway: Gateway,
        clock: Elastic,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        said: io.StringIO,
        **policy: Any,
    ) -> None:
        self.gateway = gateway
        self.clock = clock
        self.store = Store("e1", clock)
        self.memory = Kept()
        self.market = Market(spawn, clock, self.store)
        self.target = Target(host="127.0.0.1", port=gateway.port, clientId=1, timeout=policy.pop("timeout", 60.0))
        self._log = said
        self._rate = policy.pop("rate", 1000)  # messages a second; real ones, however time runs
        self.listening: frozenset[int] = frozenset()
        self.session: Tws | None = None
        clock.in_flight = self._in_flight
        settings = {"configured": self.target, "automatic": True, "calendar": NO_WINDOWS} | policy
        self.link = Supervisor(
            Policy(**settings),
            probeInterval=5.0,
            probeTimeout=5.0,
            factory=self._open,
            store=self.store,
            memory=self.memory,
            market=self.market,
            clock=clock,
            random_unit=lambda: 0.5,
            listening=lambda: self.listening,
            version="test",
        )

    def _open(self, number: int, target: Target, emit: Callable[[Event], None]) -> Tws:
        self.session = Tws(number, target, emit, self.store, self.clock, Limits(rate=self._rate))
        return self.session

    def _in_flight(self) -> bool:
        """A probe that the gateway is going to answer."""
        probing = self.session is not None and self.session.probing
        return bool(probing) and not self.gateway.faults.frozen and self.gateway.connections.now > 0

    # --- what is seen of the link ---

    @property
    def row(self) -> LinkRow:
        row = self.store.row("link", "link")
        assert isinstance(row, LinkRow)
        return row

    @property
    def gaps(self) -> list[Gap]:
        return [gap for gap in self.store.rows("gaps").values() if isinstance(gap, Gap)]

    @property
    def phases(self) -> list[tuple[str, str | None]]:
        """Every phase the link has been in, in order."""
        return [(event.phase, event.reason) for event in self.memory.events]

    def sync(self, topic: str) -> Sync:
        row = self.store.row("sync", topic)
        assert isinstance(row, Sync)
        return row

    def is_in(self, phase: str, reason: str | None = None) -> bool:
        row = self.row
        return (row.phase, row.reason) == (phase, reason) and row.connected is (phase == "ready")

    async def becomes(self, phase: str, reason: str | None = None) -> LinkRow:
        """Wait until the row says so, without making time run ahead."""
        await until(
            lambda: self.is_in(phase, reason), f"wanted {phase} {reason}, is {self.row.phase} {self.row.reason}"
        )
        return self.row

    async def stays(self, phase: str, reason: str | None, seconds: float) -> None:
        """Let time run ahead; at no moment of it may the link be in another phase."""
        before = len(self.memory.events)
        await self.clock.pass_(seconds)
        assert self.phases[before:] == []
        assert self.is_in(phase, reason)

    @property
    def patience(self) -> float:
        """Seconds between the end of the last attempt or session and the next attempt."""
        row = self.row
        assert row.nextAttemptAt is not None
        assert row.lastError is not None
        return (row.nextAttemptAt - row.lastError.at).total_seconds()

    def explains(self, reason: str) -> bool:
        """Whether the row has the catalogue's words for a reason."""
        row, target = self.row, self.link.link.target
        sentence, advice = describe(reason, host=target.host, port=target.port, clientId=target.clientId)
        return (row.reason, row.sentence, row.advice) == (reason, sentence, advice)

    def warned(self, reason: str) -> int:
        """How many lines of the log say that the link is not ready for this reason."""
        return sum(f"reason={reason}" in line for line in self.lines)

    # --- what is seen at the gateway ---

    def requested(self, name: str) -> int:
        """How many requests of this name have come."""
        return sum(seen.name == name for seen in self.gateway.requests)

    @property
    def dials(self) -> int:
        return self.gateway.connections.total

    # --- what is read in the log ---

    @property
    def lines(self) -> list[str]:
        return self._log.getvalue().splitlines()

    def logged(self, text: str) -> int:
        """How many lines of the log hold `text`."""
        return sum(text in line for line in self.lines)


class Console(io.StringIO):
    """A terminal that can print everything."""

    encoding = "utf-8"


@contextmanager
def console() -> Iterator[io.StringIO]:
    """The console's lines, as a person would read them."""
    stream = Console()
    root, noisy = logging.getLogger(), logging.getLogger("asyncio")
    handlers, level, noise = list(root.handlers), root.level, noisy.level
    log.set_up("INFO", "console", stream=stream)
    noisy.setLevel(logging.ERROR)  # in debug mode it remarks on slow steps, which are no part of a story
    try:
        yield stream
    finally:
        logging.basicConfig(handlers=handlers, level=level, force=True)
        noisy.setLevel(noise)


@asynccontextmanager
async def story(
    *,
    world: World | None = None,
    wall: datetime | None = None,
    before: Callable[[Gateway], None] = lambda _gateway: None,
    connected: bool = True,
    gateway: dict[str, Any] | None = None,
    **policy: Any,
) -> AsyncIterator[Story]:
    """`before` makes the gateway misbehave before the first dial; `connected`: begin when the link is ready.

    The gateway does not count messages a second, since it lives in real time and the link may run ahead of it.
    """
    clock = Elastic(wall)
    work: list[asyncio.Task[None]] = []

    def spawn(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        work.append(asyncio.create_task(coroutine, name=name))
        return work[-1]

    with console() as said:
        made = Gateway(world or World(), **{"tick_rate": 0.0, "message_rate": 0, **(gateway or {})})
        made.port = free_port()
        async with made as simulated:
            before(simulated)
            scene = Story(simulated, clock, spawn, said, **policy)
            running = asyncio.create_task(scene.link.run(), name="the link under test")
            spawn(scene.market.run(), "the market under test")
            try:
                await until(lambda: scene.store.row("link", "link"))
                if connected:
                    await scene.becomes("ready")
                yield scene
            finally:
                scene.link.stop()
                async with asyncio.timeout(LIMIT):
                    await running
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
