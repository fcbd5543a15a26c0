"""A session that a test scripts, a clock that a test moves, and a link supervised over both."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from daemon.link import events as ev
from daemon.link.events import Event, Target
from daemon.link.states import Policy
from daemon.link.windows import Calendar
from daemon.session.supervisor import Supervisor
from daemon.state.sink import Sink
from daemon.state.store import Store
from shared.messages import BROKER_TOPICS, FarmState, Fill, Gap, LinkEvent, Pacing, Streams, Upstream
from shared.messages import Link as LinkRow
from tests.clock import WEDNESDAY, HandClock, settled

HOME = Target(host="127.0.0.1", port=7497, clientId=1)
LIMIT = 60.0  # s; only ends a test that would hang


class Script:
    """One session: opens, reads and answers as the gateway is set; every request to it is in `requested`."""

    def __init__(self, number: int, target: Target, emit: Callable[[Event], None], gateway: Gateway) -> None:
        self.number = number
        self.target = target
        self.emit = emit
        self.gateway = gateway
        self.last_received = 0.0
        self.decode_errors: dict[str, int] = {}
        self.messages_in = self.messages_out = 0
        self.requested: list[str] = []
        self.ended: str | None = None
        self._over = asyncio.Event()

    def receives(self) -> None:
        """Any complete message."""
        self.last_received = self.gateway.clock.monotonic()

    def emits(self, event: type[ev.SessionEvent], **fields: Any) -> None:
        self.receives()
        self.emit(event(session=self.number, **fields))

    async def open(self) -> None:
        self.requested.append("open")
        earlier = self.gateway.sessions[: self.number - 1]
        assert all(session.ended for session in earlier), "one session at a time"
        outcome = self.gateway.outcome
        if outcome == "hang":
            await self._over.wait()
        elif outcome in ("handshakeTimeout", "sessionIncomplete"):
            await self.gateway.clock.sleep(self.target.timeout)
            if self.ended is None:
                self.emit(ev.AttemptOverdue(session=self.number, reason=outcome, text="theirs"))
            await self._over.wait()
        elif outcome is not None:
            self.emit(ev.Failed(session=self.number, reason=outcome, code=111, text="theirs"))
        else:
            for event in self.gateway.greeting:
                self.emit(event(self.number))
            self.emits(ev.Opened, serverVersion=178, accounts=self.gateway.accounts)

    async def sync(self, topics: frozenset[str] | None = None) -> None:
        self.requested.append("sync" if topics is None else "sync " + " ".join(sorted(topics)))
        await self._publish(frozenset(BROKER_TOPICS) if topics is None else topics)

    async def recover(self, cause: str) -> None:
        self.requested.append(f"recover {cause}")
        await self._publish(frozenset(BROKER_TOPICS))

    async def _publish(self, topics: frozenset[str]) -> None:
        if self.gateway.slow_reads:
            await self.gateway.clock.sleep(self.target.timeout)
            return
        for fill in self.gateway.fills:
            self.gateway.store.put({"fills": {fill.execId: fill}})
        for topic in topics - self.gateway.incomplete:
            self.gateway.store.known(topic)
        self.receives()

    async def probe(self, timeout: float) -> float:
        self.requested.append("probe")
        if self.gateway.frozen:
            await self._over.wait()
        self.receives()
        return 0.004

    async def prove_upstream(self, timeout: float) -> bool:
        self.requested.append("prove")
        return self.gateway.upstream_answers

    def abort(self) -> None:
        self.ended = self.ended or "aborted"
        self._over.set()

    async def close(self, timeout: float) -> None:
        await self.gateway.may_close.wait()
        self.ended = self.ended or "closed"


class Gateway:
    """What the scripted sessions do; `sessions` are those that were dialled."""

    def __init__(self, clock: HandClock, store: Sink) -> None:
        self.clock = clock
        self.store = store
        self.sessions: list[Script] = []
        self.outcome: str | None = None  # a reason to fail with, "hang", or None
        self.accounts: tuple[str, ...] = ("DU1234567",)
        self.greeting: tuple[Callable[[int], Event], ...] = ()
        self.incomplete: frozenset[str] = frozenset()
        self.fills: tuple[Fill, ...] = ()
        self.frozen = False
        self.slow_reads = False
        self.upstream_answers = False
        self.may_close = asyncio.Event()  # its part of a polite end is done
        self.may_close.set()

    def __call__(self, number: int, target: Target, emit: Callable[[Event], None]) -> Script:
        self.sessions.append(Script(number, target, emit, self))
        return self.sessions[-1]

    @property
    def session(self) -> Script:
        return self.sessions[-1]


class Kept:
    """A memory for a test."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = held
        self.events: list[LinkEvent] = []

    def phase(self, event: LinkEvent) -> None:
        self.events.append(event)

    async def set_held(self, held: bool) -> None:
        self.held = held


class Lines:
    """Wanted streams: `wanted` of them are requested of each session that becomes ready."""

    def __init__(self) -> None:
        self.wanted = 0
        self.requested: list[Any] = []
        self.live = 0
        self.conditions: list[tuple[Upstream, set[str]]] = []  # each with the farms that are broken

    def ready(self, tws: Any) -> int:
        self.requested.append(tws)
        self.live = self.wanted
        return self.wanted

    def over(self) -> None:
        self.live = 0

    def link_changed(self, upstream: Upstream, farms: Mapping[str, FarmState]) -> None:
        self.conditions.append((upstream, {name for name, farm in farms.items() if farm.state == "broken"}))

    def streams(self) -> Streams:
        return Streams(wanted=self.wanted, live=self.live)

    def on_pacing_refusal(self, call: Callable[[], None]) -> None:
        """No request is refused here."""

    def pacing(self) -> Pacing:
        return Pacing()


class Story:
    """A supervised link and everything around it."""

    def __init__(self, *, wall: datetime = WEDNESDAY, held: bool = False, **policy: Any) -> None:
        policy = {"configured": HOME, "automatic": True, "calendar": Calendar()} | policy
        self.clock = HandClock(wall)
        self.store = Store("e1", self.clock)
        self.gateway = Gateway(self.clock, self.store)
        self.memory = Kept(held=held)
        self.market = Lines()
        self.link = Supervisor(
            Policy(**policy),
            probeInterval=5.0,
            probeTimeout=5.0,
            factory=self.gateway,
            store=self.store,
            memory=self.memory,
            market=self.market,
            clock=self.clock,
            random_unit=lambda: 0.5,
            listening=frozenset,
            version="test",
        )

    @property
    def row(self) -> LinkRow:
        row = self.store.row("link", "link")
        assert isinstance(row, LinkRow)
        return row

    @property
    def session(self) -> Script:
        return self.gateway.session

    @property
    def gaps(self) -> list[Gap]:
        return [gap for gap in self.store.rows("gaps").values() if isinstance(gap, Gap)]

    def requests(self) -> Counter[str]:
        """Every request to the current session, counted."""
        return Counter(self.session.requested)

    async def pass_(self, seconds: float) -> None:
        await self.clock.pass_(seconds)


@asynccontextmanager
async def supervised(*, gateway: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Story]:
    """The link from the daemon's start to its clean end. `gateway`: attributes of the gateway that it finds."""
    story = Story(**options)
    for name, value in (gateway or {}).items():
        setattr(story.gateway, name, value)
    running = asyncio.create_task(story.link.run(), name="the link under test")
    await settled()
    try:
        yield story
    finally:
        story.link.stop()
        async with asyncio.timeout(LIMIT):
            await running
