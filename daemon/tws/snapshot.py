"""Lists that are told row by row up to an end marker: built aside, swapped in whole, else unknown (FAULTS 32, 34, 40).

Never asks anything: `startup.py` does. Never makes a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable

from msgspec import Struct

from daemon.state.sink import Sink
from daemon.tws.errors import TwsError


class Telling:
    """One topic being told: the rows so far, the end markers that are missing."""

    __slots__ = ("failed", "missing", "rows")

    def __init__(self) -> None:
        self.rows: dict[str, Struct] = {}
        self.missing: set[Hashable] = set()
        self.failed: TwsError | None = None


class Snapshots:
    """What of each topic has been told in this session, and what is on its way to the store.

    A row of a topic that is known goes to the store with the packet it came in. While a topic is being told, rows are
    (also) built aside; with its last end marker they become all that the topic has. A topic asked again before its end
    came keeps the rows it has: the first question's marker may still arrive, and then ends a list that is whole.
    """

    def __init__(self, store: Sink) -> None:
        self._store = store
        self._telling: dict[str, Telling] = {}
        self._live: set[str] = set()
        self._pending: dict[str, dict[str, Struct | None]] = {}
        self._waiters: dict[Hashable, asyncio.Future[None]] = {}
        self.settle: dict[str, Callable[[dict[str, Struct]], None]] = {}
        """topic → what is done with its rows when all are told, before they are swapped in."""

    def is_telling(self, topic: str) -> bool:
        return topic in self._telling

    # --- rows -------------------------------------------------------------------------------------------------------

    def put(self, topic: str, key: str, row: Struct | None) -> None:
        """A row came; `None`: it is gone."""
        telling = self._telling.get(topic)
        if telling is not None:
            if row is None:
                telling.rows.pop(key, None)
            else:
                telling.rows[key] = row
        if topic in self._live:
            self.publish(topic, key, row)

    def amend(self, topic: str, key: str, row: Struct) -> None:
        """A row changed that was told before. It does not count as told again: it may be about to be told no more."""
        telling = self._telling.get(topic)
        if telling is not None and key in telling.rows:
            telling.rows[key] = row
        if topic in self._live:
            self.publish(topic, key, row)

    def publish(self, topic: str, key: str, row: Struct | None) -> None:
        """For what is true whatever else is known: a fill."""
        self._pending.setdefault(topic, {})[key] = row

    def flush(self) -> None:
        """The packet is over: one step for all it changed."""
        if self._pending:
            pending, self._pending = self._pending, {}
            self._store.put(pending)

    # --- ends -------------------------------------------------------------------------------------------------------

    def begin(self, topic: str, ends: Iterable[Hashable]) -> Telling:
        """A question is about to be asked whose answer is whole when all of `ends` have come."""
        telling = self._telling.setdefault(topic, Telling())
        telling.missing, telling.failed = set(ends), None
        return telling

    def end(self, key: Hashable) -> None:
        """An end marker came. The topic that needed no other one is swapped in."""
        for topic, telling in list(self._telling.items()):
            if key in telling.missing:
                telling.missing.discard(key)
                if not telling.missing:
                    self._swap(topic, telling)
        waiter = self._waiters.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, key: Hashable, error: TwsError) -> None:
        """This end marker will not come: its topic stays what it was, and who waits for that topic is told."""
        for telling in self._telling.values():
            if key in telling.missing:
                self._fail(telling, error)

    def drop(self, topic: str, error: TwsError) -> None:
        """What is being told of `topic` cannot be trusted any more, or will not come, whatever still comes."""
        telling = self._telling.pop(topic, None)
        if telling is not None:
            self._fail(telling, error)

    def drop_all(self, error: TwsError) -> None:
        for topic in list(self._telling):
            self.drop(topic, error)

    async def ended(self, telling: Telling, key: Hashable) -> None:
        """Wait for an end marker, alone. Raises the error it failed with."""
        if telling.failed is not None:
            raise telling.failed
        if key not in telling.missing:
            return
        waiter = self._waiters[key] = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiters.pop(key, None)

    def _fail(self, telling: Telling, error: TwsError) -> None:
        telling.failed = error
        for key in telling.missing & self._waiters.keys():
            if not (waiter := self._waiters.pop(key)).done():
                waiter.set_exception(error)

    def _swap(self, topic: str, telling: Telling) -> None:
        del self._telling[topic]
        self._live.add(topic)
        if topic == "fills":  # each is told as it comes: it is true without the others
            self.flush()
            self._store.known(topic)
            return
        if topic in self.settle:
            self.settle[topic](telling.rows)
        self._pending.pop(topic, None)  # the rows built aside hold it too
        self._store.replace(topic, telling.rows, known=True)
