"""Which of the gateway's rows are read when: first snapshots, what stayed unknown, other clients' orders, after a gap.

One reading at a time, each with a deadline. The rows are written by the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from daemon.link import events as ev
from daemon.link.states import Link, Live
from daemon.session.interfaces import Rows, Tws
from daemon.session.slots import Slots
from daemon.tws.errors import LinkLost, TwsError
from shared.clock import Clock
from shared.messages import BROKER_TOPICS, Sync

log = structlog.get_logger("daemon.session")

AGAIN = 10.0
"""s between questions for what stayed unknown (CONTRACT 5), and for a proof of upstream after 2110."""
OTHERS = 30.0
"""s between readings of other clients' orders, of whose changes IBKR sends nothing."""
EVERY = {"unknown": AGAIN, "orders": OTHERS, "upstream": AGAIN}
GRACE = 5.0
"""s beyond the limits that the session keeps itself."""


class Reading:
    """`limit`: s for the first snapshots. `emit` takes events; `recovered` is called after a gap."""

    def __init__(
        self,
        store: Rows,
        clock: Clock,
        limit: float,
        emit: Callable[[ev.Event], None],
        recovered: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._limit = limit
        self._emit = emit
        self._recovered = recovered
        self._due: dict[str, float] = {}
        self.recovering = False

    async def first(self, tws: Tws, session: int) -> None:
        """The first snapshots. What they leave unknown after their time is requested again later."""
        try:
            await self._sync(tws, None, ("unknown", "orders"))
        except TwsError:
            pass  # what it means for the session comes as an event of its own
        self._emit(ev.Synced(session=session))

    async def after_gap(self, tws: Tws, cause: str) -> None:
        """Orders, executions, positions and values again. What does not come stays stale, and is requested again."""
        self.recovering = True
        try:
            async with _at_most(2 * self._limit + GRACE):
                await tws.recover(cause)
                await self._store.recorded()
        except LinkLost:
            return  # the gap goes on
        except TwsError as error:
            log.warning("link.recovery", message="Not everything could be read again after a gap.", error=str(error))
        finally:
            self.recovering = False
            self._put_off("unknown", "orders")
        self._recovered()

    def upkeep(self, link: Link, tws: Tws, slots: Slots) -> None:
        """Called several times a second: begins what is due, if nothing is being read."""
        state, now = link.state, self._clock.monotonic()
        if not isinstance(state, Live) or slots.running("reading"):
            return
        if link.phase == "ready":
            due = {
                "unknown": self.unknown(link),
                "orders": frozenset[str]() if state.facts.readOnly else frozenset({"orders"}),
            }
            due = {name: topics for name, topics in due.items() if topics and now >= self._due.get(name, now)}
            if due:  # in one reading: a list that never ends must not keep the orders from being read
                slots.start("reading", self._sync(tws, frozenset().union(*due.values()), tuple(due)))
        elif link.phase == "upstreamLost" and state.facts.lost == 2110 and now >= self._due.get("upstream", now):
            self._put_off("upstream")
            slots.start("reading", self._prove(tws, state.session))

    def unknown(self, link: Link) -> frozenset[str]:
        """Topics without a complete snapshot in this session."""
        sync = self._store.rows("sync")
        unknown = {topic for topic in BROKER_TOPICS if not _is_complete(sync.get(topic))}
        if isinstance(link.state, Live) and link.state.facts.readOnly:
            unknown.discard("orders")  # they will not come, and requesting them raises a dialog in TWS
        return frozenset(unknown)

    async def _sync(self, tws: Tws, topics: frozenset[str] | None, due: tuple[str, ...]) -> None:
        self._put_off(*due)
        async with _at_most(self._limit):
            await tws.sync(topics)
            await self._store.recorded()

    async def _prove(self, tws: Tws, session: int) -> None:
        """2110 may never be taken back: an answer that only IBKR's servers can give is as good (CONTRACT 4.2)."""
        if await tws.prove_upstream(AGAIN):
            text = "IBKR's servers answer"
            self._emit(ev.UpstreamRestored(session=session, code=None, text=text, dataLost=False))

    def _put_off(self, *names: str) -> None:
        """What is being read now is not read again so soon."""
        now = self._clock.monotonic()
        self._due |= {name: now + EVERY[name] for name in names}


def _is_complete(row: object) -> bool:
    return isinstance(row, Sync) and row.known and not row.stale


@asynccontextmanager
async def _at_most(seconds: float) -> AsyncIterator[None]:
    """A limit whose end is no failure: what has not come by then is unknown, and the store shows that."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        pass
