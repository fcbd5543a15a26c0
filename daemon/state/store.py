"""The daemon's rows, each encoded once, and the steps by which they changed.

Never talks to the gateway or a socket, and no step awaits: whoever calls `put` is the source of truth, whoever listens
to `on_step` publishes them. Only this file gives the rows of `sync`, `gaps` and `notices` their keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace as changed

from daemon.state.fills import identity, newer
from shared.clock import Clock
from shared.messages import BROKER_TOPICS, Fill, Gap, Notice, Sync
from shared.replica import Replica

Rows = Mapping[str, Struct | None]

NOTICES = 200
"""IBKR's texts kept: a day of ordinary farm chatter, and what a page can usefully list."""
GAPS = 200
"""Gaps kept: more than a month of nightly ones, and enough of a flapping night to see its pattern."""
FILLS_SHOWN = timedelta(hours=24)
"""Topic `fills` is the last 24 h by execution time; the ledger has the older ones."""
FILLS_KNOWN = timedelta(days=8)
"""IBKR lists at most seven days of executions; one more, so that none of them is ever taken for new."""
FILLS_HELD = 20_000
"""Fills in memory, about 20 MB: ten times a busy day trader's week. Beyond, the oldest are in the ledger only."""
TOMBSTONE_AGE = timedelta(minutes=30)
"""How long a removed row is remembered: a reader that was away for longer takes a fresh snapshot anyway."""


class Recorder(Protocol):
    """Where fills are kept before they are shown: the ledger."""

    def fills_complete(self, at: datetime) -> None:
        """The list of fills was read to its end at `at`."""

    def keep(self, fills: Sequence[Fill], then: Callable[[], object]) -> None:
        """Write, and call `then` on the event loop once that is done, has failed, or takes too long."""


class Store:
    """Topics of rows. Every method takes one step at most and returns the step it has come to."""

    def __init__(self, epoch: str, clock: Clock, recorder: Recorder | None = None) -> None:
        self.replica = Replica(epoch)
        self.on_step: list[Callable[[], None]] = []
        self._clock = clock
        self._recorder = recorder
        self._encode = msgspec.json.Encoder().encode
        self._rows: dict[str, dict[str, Struct]] = {}
        # by what an execution and its corrections have in common: all that are known; the id of those in the topic
        self._fills: dict[str, Fill] = {}
        self._shown: dict[str, str] = {}
        self._forgotten: datetime | None = None  # the latest execution time that had to be let go
        self._recording = 0  # batches of fills that are not shown yet
        self._recorded = asyncio.Event()
        self._recorded.set()
        self._fills_read = False  # their snapshot is complete, which is published once they are shown
        self._step({"sync": {topic: Sync(known=False) for topic in BROKER_TOPICS}})

    @property
    def epoch(self) -> str:
        return self.replica.epoch

    @property
    def seq(self) -> int:
        return self.replica.seq

    # --- writing ----------------------------------------------------------------------------------------------------

    def put(self, changes: Mapping[str, Rows]) -> int:
        """Change rows; `None` is gone. Rows equal to what is held cost no step, NaN and infinity become null.

        Fills never go, and are shown once they are recorded.
        """
        if "fills" in changes:
            self._admit(changes["fills"].values())
            changes = {topic: rows for topic, rows in changes.items() if topic != "fills"}
        return self._step(changes)

    def replace(
        self,
        topic: str,
        rows: Mapping[str, Struct],
        where: Callable[[Struct], bool] | None = None,
        *,
        known: bool = False,
    ) -> int:
        """Swap a topic in one step, or only those of its rows that `where` picks: what is not in `rows` is gone.

        `known`: this was a complete snapshot, which `sync` shows in the same step.
        """
        if topic == "fills":  # a fill that IBKR no longer lists stays
            self._admit(rows.values())
            return self._complete(topic, {}) if known else self.seq
        held = self._rows.get(topic, {})
        gone = {key: None for key, row in held.items() if key not in rows and (where is None or where(row))}
        changes: dict[str, Rows] = {topic: {**gone, **rows}}
        return self._complete(topic, changes) if known else self._step(changes)

    def known(self, topic: str) -> int:
        """The snapshot of `topic` is complete: what it holds, be it nothing, is what there is."""
        return self._complete(topic, {})

    def stale(self, topics: Iterable[str]) -> int:
        """What these topics hold may be old from now on. What is not known stays just that."""
        topics = tuple(topics)
        held = self._rows["sync"]
        self._fills_read = self._fills_read and "fills" not in topics
        return self._step(
            {"sync": {topic: changed(held[topic], stale=True) for topic in topics if self._is_known(topic)}}
        )

    def forget(self, topic: str) -> int:
        """Nothing is known of `topic` any more. Its rows go; fills, which are past, stay."""
        self._fills_read = self._fills_read and topic != "fills"
        gone: Rows = {} if topic == "fills" else dict.fromkeys(self._rows.get(topic, {}))
        return self._step({topic: gone, "sync": {topic: Sync(known=False)}})

    def drop(self, topic: str) -> int:
        """A quotes or bars topic ends with its line."""
        seq = self._step({topic: dict.fromkeys(self._rows.get(topic, {}))})
        self._rows.pop(topic, None)
        return seq

    def notice(self, notice: Notice) -> int:
        return self._append("notices", notice, NOTICES)

    def gap(self, gap: Gap) -> int:
        return self._append("gaps", gap, GAPS)

    def load(self, fills: Iterable[Fill], complete: datetime | None = None) -> int:
        """Fills recorded by earlier daemons; `complete`: when one of them last read the list to its end.

        With that the topic is known, and stale until this daemon's session has read it.
        """
        kept = [fill for fill in fills if self._hold(fill)]
        seq = self._show(kept)
        if complete is None or self._is_known("fills"):
            return seq
        return self._step({"sync": {"fills": Sync(known=True, asOf=complete, stale=True)}}, "fills")

    def expire(self) -> int:
        """Hide the fills that have become too old, and show those that a passing error of the clock had hidden.

        To be called about once a minute.
        """
        now = self._clock.now()
        oldest = now - FILLS_SHOWN
        self._hide([base for base in self._shown if self._fills[base].time < oldest])
        seq = self._show([fill for base, fill in self._fills.items() if base not in self._shown])
        newest = max((fill.time for fill in self._fills.values()), default=now)
        for base in [base for base, fill in self._fills.items() if fill.time < min(now, newest) - FILLS_KNOWN]:
            del self._fills[base]
        self.replica.trim(_at(now - TOMBSTONE_AGE))
        return seq

    async def recorded(self) -> None:
        """Until every fill received so far is shown, which takes a moment."""
        await self._recorded.wait()

    # --- reading ----------------------------------------------------------------------------------------------------

    def rows(self, topic: str) -> Mapping[str, Struct]:
        """The rows of a topic; to be read, not kept. Of `fills`, all that are known: also those too old to be shown."""
        if topic == "fills":
            return {fill.execId: fill for fill in self._fills.values()}
        return self._rows.get(topic, {})

    def row(self, topic: str, key: str) -> Struct | None:
        return self._rows.get(topic, {}).get(key)

    def fills(self, since: datetime) -> list[Fill] | None:
        """Every fill executed at or after `since`; `None` where memory no longer has all of them."""
        if since < self._clock.now() - FILLS_KNOWN or (self._forgotten is not None and since <= self._forgotten):
            return None
        return [fill for fill in self._fills.values() if fill.time >= since]

    # --- one step ---------------------------------------------------------------------------------------------------

    def _step(self, changes: Mapping[str, Rows], became_known: str | None = None) -> int:
        """All of `changes` as one step, or none where they change nothing."""
        encoded: dict[str, dict[str, bytes | None]] = {}
        for topic, rows in changes.items():
            if differing := self._differing(topic, rows):
                encoded[topic] = differing
        if became_known is not None:
            encoded.setdefault(became_known, {})  # a topic known to be empty moves too
        if encoded:
            self.replica.put(self.replica.seq + 1, _at(self._clock.now()), encoded)
            for notify in self.on_step:
                notify()
        return self.replica.seq

    def _differing(self, topic: str, rows: Rows) -> dict[str, bytes | None]:
        held = self._rows.setdefault(topic, {}) if rows else {}
        differing: dict[str, bytes | None] = {}
        for key, row in rows.items():
            before = held.get(key)
            if row is None:
                if before is not None:
                    del held[key]
                    differing[key] = None
            elif before is not row:
                held[key] = row
                line = self._encode(row)
                if before is None or line != self.replica.row(topic, key):  # not rows: NaN differs from NaN
                    differing[key] = line
        return differing

    def _complete(self, topic: str, changes: Mapping[str, Rows]) -> int:
        if topic == "fills" and self._recording:
            self._fills_read = True
            return self.seq
        now = self._clock.now()
        if topic == "fills" and self._recorder is not None:
            self._recorder.fills_complete(now)
        sync = {topic: Sync(known=True, asOf=now)}
        return self._step({**changes, "sync": sync}, None if self._is_known(topic) else topic)

    def _is_known(self, topic: str) -> bool:
        sync = self._rows["sync"].get(topic)
        return isinstance(sync, Sync) and sync.known

    def _append(self, topic: str, row: Struct, limit: int) -> int:
        """A row with a key of its own, EPOCH-SEQ; the oldest beyond `limit` goes in the same step."""
        held = self._rows.setdefault(topic, {})
        oldest = next(iter(held)) if len(held) >= limit else None
        return self._step({topic: {**({oldest: None} if oldest else {}), f"{self.epoch}-{self.seq + 1}": row}})

    # --- fills ------------------------------------------------------------------------------------------------------

    def _admit(self, received: Iterable[Struct | None]) -> None:
        """New fills and what is new about known ones: recorded first, shown then."""
        new = [fill for row in received if isinstance(row, Fill) and (fill := self._hold(row))]
        if new and self._recorder is None:
            self._show(new)
        elif new and self._recorder is not None:
            self._recording += 1
            self._recorded.clear()
            self._recorder.keep(new, lambda: self._kept(new))

    def _kept(self, fills: Sequence[Fill]) -> None:
        self._recording -= 1
        self._show(fills)
        if not self._recording:
            if self._fills_read:
                self._fills_read = False
                self._complete("fills", {})
            self._recorded.set()

    def _hold(self, received: Fill) -> Fill | None:
        base, _ = identity(received.execId)
        fill = newer(self._fills.get(base), received)
        if fill is not None:
            self._fills[base] = fill
            if len(self._fills) > FILLS_HELD:
                self._let_go_of_oldest()
        return fill

    def _let_go_of_oldest(self) -> None:
        """A tenth at once, so that a burst beyond the bound is not sorted fill by fill."""
        by_age = sorted(self._fills, key=lambda base: self._fills[base].time)
        oldest = by_age[: FILLS_HELD // 10]
        self._hide(base for base in oldest if base in self._shown)
        for base in oldest:
            time = self._fills.pop(base).time
            self._forgotten = max(time, self._forgotten or time)  # older ones may come late

    def _show(self, fills: Iterable[Fill]) -> int:
        """What is held by now of these fills becomes rows, in place of what they correct."""
        oldest = self._clock.now() - FILLS_SHOWN
        rows: dict[str, Struct | None] = {}
        for fill in fills:
            base, _ = identity(fill.execId)
            held = self._fills.get(base)
            if held is not None and held.time >= oldest:
                before = self._shown.get(base, held.execId)
                if before != held.execId:
                    rows[before] = None
                rows[held.execId] = held
                self._shown[base] = held.execId
        return self._step({"fills": rows})

    def _hide(self, bases: Iterable[str]) -> int:
        return self._step({"fills": {self._shown.pop(base): None for base in list(bases)}})


def _at(moment: datetime) -> str:
    """RFC 3339 UTC, as rows have it. Such texts compare as their moments do, to within a second."""
    return msgspec.json.encode(moment)[1:-1].decode()
