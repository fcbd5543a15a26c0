"""Market data for everybody: carries out what `streams.py` orders, and turns ticks and bars into rows.

Owns the session's data streams and is the door to contracts, quotes and bars. Never decides about the link, and never
asks the gateway twice for what one stream brings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from daemon.market.coalescing import Spawn
from daemon.market.conditions import Conditions
from daemon.market.contracts import Contracts, Lookups, as_query, trading
from daemon.market.history import QUEUE_LIMIT, STREAM_BARS, BarSource, History, paced, streaming
from daemon.market.pacing_queue import Slot
from daemon.market.refusals import history as meaning
from daemon.market.refusals import interrupted, problem, translated
from daemon.market.streams import LINES, Ask, Cancel, Changed, Order, Release, Stream, Streams
from daemon.market.topics import Kind, read
from shared.clock import Clock
from shared.messages import (
    MAX_CON_ID,
    Bar,
    ContractDetails,
    ContractQuery,
    FarmState,
    Pacing,
    Quote,
    Upstream,
)
from shared.messages import Streams as StreamFigures
from shared.reasons import Problem

log = structlog.get_logger("daemon.market")

FIRST_TICK: Final = 2.0
"""s a first quote waits for its first tick."""
ROUND: Final = 0.5
"""s between two looks at what time has brought: a quarter of the shortest window that is kept here."""
RETRY: Final = 5.0
"""s until a stream is tried again whose request could not even be made."""
MOST_QUOTES: Final = 100
"""conIds of one question: an ordinary user's lines."""
DATA_TYPES: Final = {"live": 1, "delayed": 3}
"""IBKR's numbers. 3 is live data where it is subscribed, and delayed where not."""


class Source(Lookups, BarSource, Protocol):
    """A session, as far as market data goes. Each subscription has a fresh id; cancelling an old one is ours to do."""

    on_quotes: Callable[[Sequence[tuple[int, Quote]]], None]
    on_bars: Callable[[int, Sequence[Bar]], None]
    on_trouble: Callable[[int, int, str], None]

    def subscribe_quote(self, contract: ContractQuery, marketDataType: int) -> int: ...

    def unsubscribe_quote(self, reqId: int) -> None: ...

    def subscribe_bars(
        self, contract: ContractQuery, *, durationStr: str, barSizeSetting: str, whatToShow: str, useRTH: bool
    ) -> int: ...

    def unsubscribe_bars(self, reqId: int) -> None: ...


class Rows(Protocol):
    """The store, as far as it is used here."""

    def put(self, changes: Mapping[str, Mapping[str, Struct | None]]) -> int: ...

    def replace(self, topic: str, rows: Mapping[str, Struct], *, known: bool = False) -> int: ...

    def known(self, topic: str) -> int: ...

    def stale(self, topics: Iterable[str]) -> int: ...

    def drop(self, topic: str) -> int: ...

    def row(self, topic: str, key: str) -> Struct | None: ...

    def rows(self, topic: str) -> Mapping[str, Struct]: ...


class Market:
    """Shared market-data streams, quotes, bars and contracts. Everything that can go wrong is a `Problem`.

    `put`: the store's, or what also tells of the step at once; it takes the quotes of each packet.
    """

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
        self._spawn = spawn
        self._clock = clock
        self._store = store
        self._put = put or store.put
        self._type = DATA_TYPES[marketData]
        self._tws: Source | None = None
        self._lostAt = 0.0  # when upstream was
        self._slots: dict[int, Slot] = {}  # of each bar stream's request
        self._shown: set[Stream] = set()  # whose topic is known and current
        self._first: dict[str, list[asyncio.Future[None]]] = {}  # who waits for a stream's first word
        self._acting = False

    async def run(self) -> None:
        """For ever: what is due by the clock. Ends with its task."""
        while True:
            self.act()
            self.history.queue.admit()
            await self._clock.sleep(ROUND)

    # --- quotes -------------------------------------------------------------------------------------------------------

    async def quotes(self, conIds: Sequence[int]) -> list[Quote]:
        """A row for each contract, in order, each waited for until its first tick or 2 s; the lines are held 10 s.

        What stands against one contract is raised where only one was asked for, and else its row's `ibCode`.
        """
        if not 1 <= len(conIds) <= MOST_QUOTES or not all(0 < conId <= MAX_CON_ID for conId in conIds):
            raise Problem("invalidParameters", f"conIds: 1 to {MOST_QUOTES} contract numbers above 0")
        if self._tws is None:
            raise Problem("notConnected", "Quotes come while the session is there.")
        asker = object()
        topics = [self.watch(f"quotes:{conId}", asker) for conId in dict.fromkeys(conIds)]
        try:
            self.act()
            await self._spoken(topics)
            if not self.conditions.upstream:
                raise interrupted("the request for quotes")
            streams = [self._table.by_topic[topic] for topic in topics]
            if len(streams) == 1 and (against := streams[0].problem) is not None:
                raise Problem(
                    against.reason,
                    against.detail,
                    ibCode=against.ibCode,
                    retryAfter=against.retryAfter,
                    extra=against.extra,
                )
            rows = {stream.spec.conId: self._quote(stream) for stream in streams}
            return [rows[conId] for conId in conIds]
        finally:
            self.leave(asker)

    async def _spoken(self, topics: Sequence[str]) -> None:
        """Return when each stream has data or a reason against it, or after 2 s."""
        silent = [topic for topic in topics if not self._has_spoken(self._table.by_topic[topic])]
        if not silent:
            return
        waits = {topic: asyncio.get_running_loop().create_future() for topic in silent}
        for topic, wait in waits.items():
            self._first.setdefault(topic, []).append(wait)
        limit = self._spawn(self._clock.sleep(FIRST_TICK), "first quotes")
        try:
            pending: set[asyncio.Future[Any]] = set(waits.values())
            while pending and not limit.done():
                _, pending = await asyncio.wait({*pending, limit}, return_when=asyncio.FIRST_COMPLETED)
                pending.discard(limit)
        finally:
            limit.cancel()
            for topic, wait in waits.items():
                wait.cancel()
                self._first[topic].remove(wait)
                if not self._first[topic]:
                    del self._first[topic]

    @staticmethod
    def _has_spoken(stream: Stream) -> bool:
        return stream.current or (stream.problem is not None and stream.state != "asking")

    def _wake(self, topic: str) -> None:
        for wait in self._first.get(topic, ()):
            if not wait.done():
                wait.set_result(None)

    # --- watchers -----------------------------------------------------------------------------------------------------

    def watch(self, topic: str, who: Hashable) -> str:
        """`who` wants this stream; its one spelling, under which its rows come. Raises `invalidParameters`."""
        stream = self._table.watch(read(topic), who, self._clock.monotonic())
        self._act_soon()
        return stream.topic

    def unwatch(self, topic: str, who: Hashable) -> None:
        """`who` has no use for it any more. It outlives its last watcher by 10 s."""
        self._table.unwatch(read(topic).topic, who, self._clock.monotonic())

    def leave(self, who: Hashable) -> None:
        """`who` is gone."""
        self._table.leave(who, self._clock.monotonic())

    def streams(self) -> StreamFigures:
        return StreamFigures(wanted=len(self._table.by_topic), live=self._table.live)

    def on_pacing_refusal(self, call: Callable[[], None]) -> None:
        """Call `call` before each request that is refused for IBKR's pacing rules."""
        self.history.queue.on_refusal = call

    def pacing(self) -> Pacing:
        return self.history.queue.figures()

    # --- the session --------------------------------------------------------------------------------------------------

    def ready(self, tws: Source) -> int:
        """Its first snapshots are over, or 1101 says that IBKR has forgotten its streams: every wanted stream is
        asked for, exactly once. How many.
        """
        if tws is self._tws:
            self._table.replay(self._clock.monotonic())
            self._become_stale(list(self._shown))
        else:
            self.over()
            self._tws = tws
            tws.on_quotes, tws.on_bars, tws.on_trouble = self._on_quotes, self._on_bars, self._on_trouble
            self.contracts.ready(tws)
            self.history.ready(tws)
        self.act()
        return len(self._table.by_topic)

    def over(self) -> None:
        """The session is gone. What is wanted stays wanted; what is shown is old from now on."""
        self._tws = None
        self.contracts.lost()
        self.history.lost()
        self._table.lost()
        self._slots.clear()
        self._become_stale(list(self._shown))

    def link_changed(self, upstream: Upstream, farms: Mapping[str, FarmState]) -> None:
        """The gateway's own link to IBKR, or one of its data farms, has changed."""
        was, now = self.conditions.upstream, self._clock.monotonic()
        if not self.conditions.observe(upstream, farms, now):
            return
        if was and not self.conditions.upstream:
            self._lostAt = now
            self.contracts.upstream_lost()
            self.history.upstream_lost()
            for topic in self._first:
                self._wake(topic)
            self._become_stale(list(self._shown))
        elif not was and self.conditions.upstream:
            self._table.verify(self._lostAt, now)
        self._act_soon()

    # --- orders -------------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Do what is due now."""
        now = self._clock.monotonic()
        for order in self._table.plan(self.conditions, self._trading, now, connected=self._tws is not None):
            self._do(order)

    def _act_soon(self) -> None:
        """Once for all that happens in this turn of the loop, and never from within somebody's step of the store."""
        if not self._acting:
            self._acting = True
            asyncio.get_running_loop().call_soon(self._act_now)

    def _act_now(self) -> None:
        self._acting = False
        self.act()

    def _do(self, order: Order) -> None:
        match order:
            case Ask(stream, turn):
                self._spawn(self._ask(order), f"stream {stream.topic} {turn}")
            case Cancel(kind, request):
                self._cancel(kind, request)
            case Changed(stream):
                self._show_trouble(stream)
            case Release(stream):
                self._shown.discard(stream)
                self._store.put({"sync": {stream.topic: None}})
                self._store.drop(stream.topic)

    async def _ask(self, ask: Ask) -> None:
        """Find the contract, wait for history's budget where it needs it, and subscribe."""
        stream, slot = ask.stream, None
        try:
            details = (await self.contracts.details(stream.spec.conId)).rows[0]
            if stream.spec.kind == "bars":
                question = streaming(stream.spec.conId, stream.spec.size, details.secType)
                slot = await self.history.queue.enter(paced(question, details, self._clock.monotonic() + QUEUE_LIMIT))
            if stream.turn == ask.turn and self._tws is not None:
                with translated("the request for the stream"):
                    request = self._subscribe(self._tws, stream, details)
                self._table.opened(ask, request, self._clock.monotonic())
                if slot is not None:
                    self._slots[request], slot = slot, None
        except Problem as against:
            self._refused(ask, against)
        except Exception as fault:  # of ours; it costs this stream and nothing else
            log.exception("market.fault", topic=stream.topic)
            self._refused(ask, Problem("brokerError", f"The stream could not be requested: {fault}"))
        finally:
            if slot is not None:
                slot.leave(sent=False)

    def _refused(self, ask: Ask, against: Problem) -> None:
        self._table.refused(ask, against, max(RETRY, against.retryAfter or 0.0), self._clock.monotonic())
        self._act_soon()

    def _subscribe(self, tws: Source, stream: Stream, details: ContractDetails) -> int:
        if stream.spec.kind == "quotes":
            return tws.subscribe_quote(as_query(details), self._type)
        question = streaming(stream.spec.conId, stream.spec.size, details.secType)
        return tws.subscribe_bars(
            as_query(details),
            durationStr=question.durationStr,
            barSizeSetting=question.barSizeSetting,
            whatToShow=question.whatToShow,
            useRTH=question.useRTH,
        )

    def _cancel(self, kind: Kind, reqId: int) -> None:
        if slot := self._slots.pop(reqId, None):
            slot.leave()
        if self._tws is not None:
            (self._tws.unsubscribe_quote if kind == "quotes" else self._tws.unsubscribe_bars)(reqId)

    def _trading(self, stream: Stream) -> bool:
        details = self.contracts.known(stream.spec.conId)
        return details is None or trading(details, self._clock.now()) is not False

    # --- what the gateway says ----------------------------------------------------------------------------------------

    def _on_quotes(self, packet: Sequence[tuple[int, Quote]]) -> None:
        """The tickers that one network packet changed: one step."""
        now = self._clock.monotonic()
        changes: dict[str, dict[str, Quote]] = {}
        for request, quote in packet:
            stream = self._table.heard(request, now)
            if stream is None:
                continue
            if stream in self._shown:
                changes[stream.topic] = {str(quote.conId): quote}
            else:
                self._become_current(stream, {str(quote.conId): quote})
        if changes:
            self._put(changes)

    def _on_bars(self, reqId: int, bars: Sequence[Bar]) -> None:
        """First a stream's past, then the bars that changed."""
        stream = self._table.heard(reqId, self._clock.monotonic())
        if stream is None:
            return
        if slot := self._slots.get(reqId):
            slot.answered()
        if stream.packets == 1:
            self._become_current(stream, {bar.date: bar for bar in bars[-STREAM_BARS:]})
            return
        held = self._store.rows(stream.topic)
        if stream not in self._shown:
            if bars[0].date != max(held, default=""):  # how the bar of the loss ended, and what followed, was missed
                self._table.renew(stream)
                self._act_soon()
                return
            self._shown.add(stream)
            self._store.known(stream.topic)
        rows: dict[str, Bar | None] = {bar.date: bar for bar in bars}
        surplus = len(held) + sum(date not in held for date in rows) - STREAM_BARS
        for date, _ in zip(list(held), range(surplus), strict=False):
            rows.setdefault(date, None)
        self._store.put({stream.topic: rows})

    def _on_trouble(self, reqId: int, code: int, text: str) -> None:
        now = self._clock.monotonic()
        trust = self.conditions.trust(now)
        stream = self._table.trouble(reqId, code, problem(code, text, trust), now, final=trust == "sound")
        if stream is None:
            return
        if stream.spec.kind == "bars" and code == 162 and meaning(text) == "pacing":
            details = self.contracts.known(stream.spec.conId)
            if details is not None:
                question = streaming(stream.spec.conId, stream.spec.size, details.secType)
                self.history.queue.violated(paced(question, details, now))
        self._act_soon()

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _become_current(self, stream: Stream, rows: Mapping[str, Struct]) -> None:
        """The first data of a request: they are all that the topic has, and now."""
        self._shown.add(stream)
        self._store.replace(stream.topic, rows, known=True)
        self._wake(stream.topic)

    def _become_stale(self, streams: Sequence[Stream]) -> None:
        self._shown.difference_update(streams)
        self._store.stale([stream.topic for stream in streams])

    def _show_trouble(self, stream: Stream) -> None:
        """Its row says why nothing comes; what it said before is old."""
        if stream.spec.kind == "quotes" and stream.code is not None:
            self._store.put({stream.topic: {str(stream.spec.conId): replace(self._quote(stream), ibCode=stream.code)}})
        self._become_stale([stream])
        self._wake(stream.topic)

    def _quote(self, stream: Stream) -> Quote:
        row = self._store.row(stream.topic, str(stream.spec.conId))
        return row if isinstance(row, Quote) else Quote(conId=stream.spec.conId, ibCode=stream.code)
