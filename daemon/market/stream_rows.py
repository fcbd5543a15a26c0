"""Ticks and bars of the streams as rows of their topics, and which of those topics are current."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from daemon.market.history import STREAM_BARS
from daemon.market.streams import Stream
from shared.messages import Bar, Quote


class Rows(Protocol):
    """The store, as far as it is used here."""

    def put(self, changes: Mapping[str, Mapping[str, Struct | None]]) -> int: ...

    def replace(self, topic: str, rows: Mapping[str, Struct], *, known: bool = False) -> int: ...

    def known(self, topic: str) -> int: ...

    def stale(self, topics: Iterable[str]) -> int: ...

    def drop(self, topic: str) -> int: ...

    def row(self, topic: str, key: str) -> Struct | None: ...

    def rows(self, topic: str) -> Mapping[str, Struct]: ...


class StreamRows:
    """`put`: the store's, or one that also publishes the step at once; it takes the quotes of each packet."""

    def __init__(self, store: Rows, put: Callable[[Mapping[str, Mapping[str, Struct | None]]], int] | None) -> None:
        self._store = store
        self._put = put or store.put
        self._current: set[Stream] = set()  # whose topic is known and not stale
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}  # for a stream's first data or refusal

    # --- data -------------------------------------------------------------------------------------------------------

    def quotes(self, packet: Sequence[tuple[Stream, Quote]]) -> None:
        """The quotes that one network packet changed: one step."""
        changes: dict[str, dict[str, Quote]] = {}
        for stream, quote in packet:
            if stream in self._current:
                changes[stream.topic] = {str(quote.conId): quote}
            else:
                self._begin(stream, {str(quote.conId): quote})
        if changes:
            self._put(changes)

    def bars(self, stream: Stream, bars: Sequence[Bar]) -> bool:
        """First a stream's past, then the bars that changed. False: bars between are missing; it must be renewed."""
        if stream.packets == 1:
            self._begin(stream, {bar.date: bar for bar in bars[-STREAM_BARS:]})
            return True
        held = self._store.rows(stream.topic)
        if stream not in self._current:
            if bars[0].date != max(held, default=""):  # how the bar of the loss ended, and what followed, was missed
                return False
            self._current.add(stream)
            self._store.known(stream.topic)
        rows: dict[str, Bar | None] = {bar.date: bar for bar in bars}
        surplus = len(held) + sum(date not in held for date in rows) - STREAM_BARS
        for date, _ in zip(list(held), range(surplus), strict=False):
            rows.setdefault(date, None)
        self._store.put({stream.topic: rows})
        return True

    def quote(self, stream: Stream) -> Quote:
        """The quote's row, or one without figures."""
        row = self._store.row(stream.topic, str(stream.spec.conId))
        return row if isinstance(row, Quote) else Quote(conId=stream.spec.conId, ibCode=stream.code)

    # --- the state of a topic ---------------------------------------------------------------------------------------

    def _begin(self, stream: Stream, rows: Mapping[str, Struct]) -> None:
        """The first data of a request are all that its topic has, and current."""
        self._current.add(stream)
        self._store.replace(stream.topic, rows, known=True)
        self._wake(stream.topic)

    def all_stale(self) -> None:
        self._stale(list(self._current))

    def _stale(self, streams: Sequence[Stream]) -> None:
        self._current.difference_update(streams)
        self._store.stale([stream.topic for stream in streams])

    def trouble(self, stream: Stream) -> None:
        """The quote's row gets the code of the refusal; what the topic holds is stale."""
        if stream.spec.kind == "quotes" and stream.code is not None:
            self._store.put({stream.topic: {str(stream.spec.conId): replace(self.quote(stream), ibCode=stream.code)}})
        self._stale([stream])
        self._wake(stream.topic)

    def end(self, stream: Stream) -> None:
        """The stream is released; its rows go."""
        self._current.discard(stream)
        self._store.put({"sync": {stream.topic: None}})
        self._store.drop(stream.topic)

    # --- waiting for a stream's first data --------------------------------------------------------------------------

    async def first(self, topics: Sequence[str], limit: asyncio.Task[None]) -> None:
        """Until each of `topics` has data or a refusal, or `limit` is over, which is cancelled then."""
        waits = {topic: asyncio.get_running_loop().create_future() for topic in topics}
        for topic, wait in waits.items():
            self._waiting.setdefault(topic, []).append(wait)
        try:
            pending: set[asyncio.Future[Any]] = set(waits.values())
            while pending and not limit.done():
                _, pending = await asyncio.wait({*pending, limit}, return_when=asyncio.FIRST_COMPLETED)
                pending.discard(limit)
        finally:
            limit.cancel()
            for topic, wait in waits.items():
                wait.cancel()
                self._waiting[topic].remove(wait)
                if not self._waiting[topic]:
                    del self._waiting[topic]

    def stop_waiting(self) -> None:
        """No data will come."""
        for topic in self._waiting:
            self._wake(topic)

    def _wake(self, topic: str) -> None:
        for wait in self._waiting.get(topic, ()):
            if not wait.done():
                wait.set_result(None)
