"""Performs at the gateway what the table of streams plans: subscribes within IBKR's pacing, cancels, releases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from daemon.market.coalescing import Spawn
from daemon.market.conditions import Conditions
from daemon.market.contracts import Contracts, Lookups, as_query, trading
from daemon.market.history import QUEUE_LIMIT, BarSource, History, paced, streaming
from daemon.market.pacing_queue import Slot
from daemon.market.refusals import history as meaning
from daemon.market.refusals import problem, translated
from daemon.market.stream_rows import StreamRows
from daemon.market.streams import Ask, Cancel, Changed, Order, Release, Stream, Streams
from daemon.market.topics import Kind
from shared.clock import Clock
from shared.messages import Bar, ContractDetails, ContractQuery, Quote
from shared.reasons import Problem

log = structlog.get_logger("daemon.market")

RETRY: Final = 5.0
"""s until a stream is tried again whose request could not even be made."""
DATA_TYPES: Final = {"live": 1, "delayed": 3}
"""IBKR's numbers. 3 is live data where it is subscribed, and delayed where not."""


class Source(Lookups, BarSource, Protocol):
    """A session, as far as market data go. Each subscription has a fresh id; an old one has to be cancelled here."""

    on_quotes: Callable[[Sequence[tuple[int, Quote]]], None]
    on_bars: Callable[[int, Sequence[Bar]], None]
    on_trouble: Callable[[int, int, str], None]

    def subscribe_quote(self, contract: ContractQuery, marketDataType: int) -> int: ...

    def unsubscribe_quote(self, reqId: int) -> None: ...

    def subscribe_bars(
        self, contract: ContractQuery, *, durationStr: str, barSizeSetting: str, whatToShow: str, useRTH: bool
    ) -> int: ...

    def unsubscribe_bars(self, reqId: int) -> None: ...


class Subscriptions:
    """The streams of the current session. `marketData`: see `DATA_TYPES`."""

    def __init__(
        self,
        table: Streams,
        rows: StreamRows,
        contracts: Contracts,
        history: History,
        conditions: Conditions,
        spawn: Spawn,
        clock: Clock,
        marketData: str,
    ) -> None:
        self.session: Source | None = None
        self._table = table
        self._rows = rows
        self._contracts = contracts
        self._history = history
        self._conditions = conditions
        self._spawn = spawn
        self._clock = clock
        self._type = DATA_TYPES[marketData]
        self._slots: dict[int, Slot] = {}  # of each bar stream's request
        self._scheduled = False

    def begin(self, session: Source) -> None:
        self.session = session
        session.on_quotes, session.on_bars, session.on_trouble = self._on_quotes, self._on_bars, self._on_trouble

    def end(self) -> None:
        """The session is over, and its subscriptions with it. What is wanted stays wanted."""
        self.session = None
        self._table.lost()
        self._slots.clear()

    # --- orders -----------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Do what is due now."""
        now = self._clock.monotonic()
        for order in self._table.plan(self._conditions, self._trading, now, connected=self.session is not None):
            self._do(order)

    def act_soon(self) -> None:
        """Once for all that happens in this turn of the loop, and never from within a step of the store."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._act_now)

    def _act_now(self) -> None:
        self._scheduled = False
        self.act()

    def _do(self, order: Order) -> None:
        match order:
            case Ask(stream, turn):
                self._spawn(self._subscribe(order), f"stream {stream.topic} {turn}")
            case Cancel(kind, request):
                self._cancel(kind, request)
            case Changed(stream):
                self._rows.trouble(stream)
            case Release(stream):
                self._rows.end(stream)

    async def _subscribe(self, ask: Ask) -> None:
        """Find the contract, wait for history's budget where it needs it, and subscribe."""
        stream, slot = ask.stream, None
        try:
            details = (await self._contracts.details(stream.spec.conId)).rows[0]
            if stream.spec.kind == "bars":
                question = streaming(stream.spec.conId, stream.spec.size, details.secType)
                slot = await self._history.queue.enter(paced(question, details, self._clock.monotonic() + QUEUE_LIMIT))
            if stream.turn == ask.turn and self.session is not None:
                with translated("the request for the stream"):
                    request = self._send(self.session, stream, details)
                self._table.opened(ask, request, self._clock.monotonic())
                if slot is not None:
                    self._slots[request], slot = slot, None
        except Problem as refusal:
            self._refused(ask, refusal)
        except Exception as fault:  # of ours; it costs this stream and nothing else
            log.exception("market.fault", topic=stream.topic)
            self._refused(ask, Problem("brokerError", f"The stream could not be requested: {fault}"))
        finally:
            if slot is not None:
                slot.leave(sent=False)

    def _refused(self, ask: Ask, refusal: Problem) -> None:
        self._table.refused(ask, refusal, max(RETRY, refusal.retryAfter or 0.0), self._clock.monotonic())
        self.act_soon()

    def _send(self, session: Source, stream: Stream, details: ContractDetails) -> int:
        if stream.spec.kind == "quotes":
            return session.subscribe_quote(as_query(details), self._type)
        question = streaming(stream.spec.conId, stream.spec.size, details.secType)
        return session.subscribe_bars(
            as_query(details),
            durationStr=question.durationStr,
            barSizeSetting=question.barSizeSetting,
            whatToShow=question.whatToShow,
            useRTH=question.useRTH,
        )

    def _cancel(self, kind: Kind, reqId: int) -> None:
        if slot := self._slots.pop(reqId, None):
            slot.leave()
        if self.session is not None:
            (self.session.unsubscribe_quote if kind == "quotes" else self.session.unsubscribe_bars)(reqId)

    def _trading(self, stream: Stream) -> bool:
        details = self._contracts.known(stream.spec.conId)
        return details is None or trading(details, self._clock.now()) is not False

    # --- what the session brings --------------------------------------------------------------------------------------

    def _on_quotes(self, packet: Sequence[tuple[int, Quote]]) -> None:
        now = self._clock.monotonic()
        received = self._table.received
        self._rows.quotes([(s, quote) for request, quote in packet if (s := received(request, now)) is not None])

    def _on_bars(self, reqId: int, bars: Sequence[Bar]) -> None:
        stream = self._table.received(reqId, self._clock.monotonic())
        if stream is None:
            return
        if slot := self._slots.get(reqId):
            slot.answered()
        if not self._rows.bars(stream, bars):
            self._table.renew(stream)
            self.act_soon()

    def _on_trouble(self, reqId: int, code: int, text: str) -> None:
        now = self._clock.monotonic()
        trust = self._conditions.trust(now)
        stream = self._table.trouble(reqId, code, problem(code, text, trust), now, final=trust == "sound")
        if stream is None:
            return
        if stream.spec.kind == "bars" and code == 162 and meaning(text) == "pacing":
            details = self._contracts.known(stream.spec.conId)
            if details is not None:
                question = streaming(stream.spec.conId, stream.spec.size, details.secType)
                self._history.queue.violated(paced(question, details, now))
        self.act_soon()
