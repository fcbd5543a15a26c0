"""Lists that come row by row up to an end marker: built aside, swapped in whole, else unknown (FAULTS 32, 34, 40)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable

from msgspec import Struct

from daemon.state.sink import Sink
from daemon.tws.errors import TwsError


class SnapshotBuilder:
    """One topic being read: the rows so far, the end markers that are missing."""

    __slots__ = ("failed", "missing", "rows")

    def __init__(self) -> None:
        self.rows: dict[str, Struct] = {}
        self.missing: set[Hashable] = set()
        self.failed: TwsError | None = None


class Snapshots:
    """What of each topic has been received in this session, and what is on its way to the store.

    A row of a topic that is known goes to the store with the packet it came in. While a topic is being read, rows are
    (also) built aside; with its last end marker they become all that the topic has. A topic requested again before its
    end came keeps the rows it has: the first request's marker may still arrive, and then ends a list that is whole.
    """

    def __init__(self, store: Sink) -> None:
        self._store = store
        self._builders: dict[str, SnapshotBuilder] = {}
        self._live: set[str] = set()
        self._pending: dict[str, dict[str, Struct | None]] = {}
        self._waiters: dict[Hashable, asyncio.Future[None]] = {}
        self.settle: dict[str, Callable[[dict[str, Struct]], None]] = {}
        """topic → what is done with its rows when they are complete, before they are swapped in."""

    def is_reading(self, topic: str) -> bool:
        return topic in self._builders

    def is_live(self, topic: str) -> bool:
        """Whether it has been read to its end in this session."""
        return topic in self._live

    # --- rows -------------------------------------------------------------------------------------------------------

    def put(self, topic: str, key: str, row: Struct | None) -> None:
        """A row was received; `None`: it is gone."""
        builder = self._builders.get(topic)
        if builder is not None:
            if row is None:
                builder.rows.pop(key, None)
            else:
                builder.rows[key] = row
        if topic in self._live:
            self.publish(topic, key, row)

    def collect(self, topic: str, key: str, row: Struct) -> None:
        """A row of the list that is being read, and of nothing else."""
        builder = self._builders.get(topic)
        if builder is not None:
            builder.rows[key] = row

    def collected(self, topic: str, key: str) -> Struct | None:
        """The row of the list that is being read, if there is one."""
        builder = self._builders.get(topic)
        return None if builder is None else builder.rows.get(key)

    def amend(self, topic: str, key: str, row: Struct) -> None:
        """A row changed that was received before. That does not make it part of a list that is being read."""
        builder = self._builders.get(topic)
        if builder is not None and key in builder.rows:
            builder.rows[key] = row
        if topic in self._live:
            self.publish(topic, key, row)

    def publish(self, topic: str, key: str, row: Struct | None) -> None:
        """A row that is true whatever else is known: a fill."""
        self._pending.setdefault(topic, {})[key] = row

    def flush(self) -> None:
        """The packet is over: one step for all it changed."""
        if self._pending:
            pending, self._pending = self._pending, {}
            self._store.put(pending)

    # --- ends -------------------------------------------------------------------------------------------------------

    def begin(self, topic: str, ends: Iterable[Hashable]) -> SnapshotBuilder:
        """A request is about to be sent whose answer is complete when all of `ends` have come."""
        builder = self._builders.setdefault(topic, SnapshotBuilder())
        builder.missing, builder.failed = set(ends), None
        return builder

    def under_way(self, topic: str) -> SnapshotBuilder | None:
        """What has been received of a list that is being read and has not failed."""
        builder = self._builders.get(topic)
        return None if builder is None or builder.failed else builder

    def end(self, key: Hashable) -> None:
        """An end marker came. The topic that needed no other one is swapped in."""
        for topic, builder in list(self._builders.items()):
            if key in builder.missing:
                builder.missing.discard(key)
                if not builder.missing:
                    self._swap(topic, builder)
        waiter = self._waiters.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def is_missing(self, key: Hashable) -> bool:
        """Whether a list that is being read needs this end marker."""
        return any(key in builder.missing for builder in self._builders.values())

    def fail(self, key: Hashable, error: TwsError) -> None:
        """This end marker will not come: its topic stays what it was, and waiters for that topic get the error."""
        for builder in self._builders.values():
            if key in builder.missing:
                self._fail(builder, error)

    def drop(self, topic: str, error: TwsError) -> None:
        """The list of `topic` that is being read is void, whatever still comes of it."""
        builder = self._builders.pop(topic, None)
        if builder is not None:
            self._fail(builder, error)

    def drop_all(self, error: TwsError) -> None:
        for topic in list(self._builders):
            self.drop(topic, error)

    async def ended(self, builder: SnapshotBuilder, key: Hashable) -> None:
        """Wait for an end marker, alone. Raises the error it failed with."""
        if builder.failed is not None:
            raise builder.failed
        if key not in builder.missing:
            return
        waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiters.pop(key, None)

    def _fail(self, builder: SnapshotBuilder, error: TwsError) -> None:
        builder.failed = error
        for key in builder.missing & self._waiters.keys():
            if not (waiter := self._waiters.pop(key)).done():
                waiter.set_exception(error)

    def _swap(self, topic: str, builder: SnapshotBuilder) -> None:
        del self._builders[topic]
        self._live.add(topic)
        if topic == "fills":  # each is published as it comes: it is true without the others
            self.flush()
            self._store.known(topic)
            return
        if topic in self.settle:
            self.settle[topic](builder.rows)
        self._pending.pop(topic, None)  # the rows built aside hold it too
        self._store.replace(topic, builder.rows, known=True)
