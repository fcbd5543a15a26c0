"""Market data of the daemon: quotes, bars and contracts, from streams and requests that all readers share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from daemon.market.coalescing import Spawn
from daemon.market.conditions import Conditions
from daemon.market.contracts import Contracts
from daemon.market.history import History
from daemon.market.refusals import interrupted
from daemon.market.stream_rows import Rows, StreamRows
from daemon.market.streams import LINES, Stream, Streams
from daemon.market.subscriptions import Source, Subscriptions
from daemon.market.topics import read
from shared.clock import Clock
from shared.messages import MAX_CON_ID, FarmState, Pacing, Quote, Upstream
from shared.messages import Streams as StreamFigures
from shared.reasons import Problem

FIRST_TICK: Final = 2.0
"""s a first quote waits for its first tick."""
ROUND: Final = 0.5
"""s between two looks at what time has brought: a quarter of the shortest window that is kept here."""
MOST_QUOTES: Final = 100
"""conIds of one request: an ordinary user's lines."""


class Market:
    """Raises `Problem` and nothing else. `put`: see `StreamRows`; `lines`: market-data lines that may be used."""

    def __init__(
        self,
        spawn: Spawn,
        clock: Clock,
        store: Rows,
        marketData: str = "live",
        lines: int = LINES,
        put: Callable[[Mapping[str, Mapping[str, Struct | None]]], int] | None = None,
    ) -> None:
        self.conditions = Conditions()
        self.contracts = Contracts(spawn, clock, self.conditions)
        self.history = History(spawn, clock, self.conditions, self.contracts)
        self._table = Streams(lines)
        self._rows = StreamRows(store, put)
        self._subscriptions = Subscriptions(
            self._table, self._rows, self.contracts, self.history, self.conditions, spawn, clock, marketData
        )
        self._spawn = spawn
        self._clock = clock
        self._lost_at = 0.0  # monotonic s, when upstream was

    async def run(self) -> None:
        """Do what becomes due as time passes. Runs until cancelled."""
        while True:
            self._subscriptions.act()
            self.history.queue.admit()
            await self._clock.sleep(ROUND)

    # --- readers ----------------------------------------------------------------------------------------------------

    async def quotes(self, conIds: Sequence[int]) -> list[Quote]:
        """A row for each contract, in order, each waited for until its first tick or 2 s; the lines are held 10 s.

        A refusal of the one contract is raised; among several it is its row's `ibCode`.
        """
        if not 1 <= len(conIds) <= MOST_QUOTES or not all(0 < conId <= MAX_CON_ID for conId in conIds):
            raise Problem("invalidParameters", f"conIds: 1 to {MOST_QUOTES} contract numbers above 0")
        if self._subscriptions.session is None:
            raise Problem("notConnected", "Quotes are there while there is a session with the gateway.")
        reader = object()
        topics = [self.watch(f"quotes:{conId}", reader) for conId in dict.fromkeys(conIds)]
        try:
            self._subscriptions.act()
            waiting = [topic for topic in topics if not _settled(self._table.by_topic[topic])]
            if waiting:
                await self._rows.first(waiting, self._spawn(self._clock.sleep(FIRST_TICK), "first quotes"))
            if not self.conditions.upstream:
                raise interrupted("the request for quotes")
            streams = [self._table.by_topic[topic] for topic in topics]
            if len(streams) == 1 and (refusal := streams[0].problem) is not None:
                raise Problem(
                    refusal.reason,
                    refusal.detail,
                    ibCode=refusal.ibCode,
                    retryAfter=refusal.retryAfter,
                    extra=refusal.extra,
                )
            rows = {stream.spec.conId: self._rows.quote(stream) for stream in streams}
            return [rows[conId] for conId in conIds]
        finally:
            self.leave(reader)

    def watch(self, topic: str, reader: Hashable) -> str:
        """Keep the stream of `topic` for `reader`; the topic's one spelling. Raises `invalidParameters`."""
        stream = self._table.watch(read(topic), reader, self._clock.monotonic())
        self._subscriptions.act_soon()
        return stream.topic

    def unwatch(self, topic: str, reader: Hashable) -> None:
        """`reader` no longer needs the stream, which outlives its last reader by 10 s."""
        self._table.unwatch(read(topic).topic, reader, self._clock.monotonic())

    def leave(self, reader: Hashable) -> None:
        """`reader` is gone."""
        self._table.leave(reader, self._clock.monotonic())

    # --- figures ----------------------------------------------------------------------------------------------------

    def streams(self) -> StreamFigures:
        return StreamFigures(wanted=len(self._table.by_topic), live=self._table.live)

    def on_pacing_refusal(self, call: Callable[[], None]) -> None:
        """Call `call` before each request that is refused for IBKR's pacing rules."""
        self.history.queue.on_refusal = call

    def pacing(self) -> Pacing:
        return self.history.queue.figures()

    # --- the session ------------------------------------------------------------------------------------------------

    def ready(self, session: Source) -> int:
        """Request every wanted stream, each once; how many. After the first snapshots of a session, and after 1101,
        with which IBKR has dropped the streams of the same session.
        """
        if session is self._subscriptions.session:
            self._table.replay(self._clock.monotonic())
            self._rows.all_stale()
        else:
            self.over()
            self._subscriptions.begin(session)
            self.contracts.ready(session)
            self.history.ready(session)
        self._subscriptions.act()
        return len(self._table.by_topic)

    def over(self) -> None:
        """The session is over. What is wanted stays wanted; what is held is stale."""
        self._subscriptions.end()
        self.contracts.lost()
        self.history.lost()
        self._rows.all_stale()

    def link_changed(self, upstream: Upstream, farms: Mapping[str, FarmState]) -> None:
        """The gateway's own link to IBKR, or one of its data farms, has changed."""
        was, now = self.conditions.upstream, self._clock.monotonic()
        if not self.conditions.observe(upstream, farms, now):
            return
        if was and not self.conditions.upstream:
            self._lost_at = now
            self.contracts.upstream_lost()
            self.history.upstream_lost()
            self._rows.stop_waiting()
            self._rows.all_stale()
        elif not was and self.conditions.upstream:
            self._table.verify(self._lost_at, now)
        self._subscriptions.act_soon()


def _settled(stream: Stream) -> bool:
    """Whether it has data, or a refusal that still stands."""
    return stream.current or (stream.problem is not None and stream.state != "requesting")
