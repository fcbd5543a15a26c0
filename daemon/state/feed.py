"""Which reader watches which topics, and the sequence number up to which each has received them.

Publishes what readers lack, as encoded lines, while they take them. Backpressure by conflation: nothing is queued for a
reader that does not read; what it misses is found again from its number, merged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

import msgspec

from daemon.state.store import Rows, Store
from shared.replica import Entry, TopicDelta

PAGE = 256 * 1024
"""Bytes of a line: a quarter of what a line may be, and about what a local socket takes at once."""

PAGES_A_TURN = 4
"""Pages written to one reader before the loop may turn: 1 MB is about 2 ms, so that a snapshot of 10 000 positions to
a fast reader delays no other."""

TOPICS = 1024
"""Topics of one reader: an account's hundred market-data lines, ten times over."""

ENVELOPE, AROUND, ESCAPED = 256, 96, 6
"""Bytes at most of a line beside its topics, of a topic beside its rows or of a row beside its bytes, and of a
character of a name."""

_encode = msgspec.json.Encoder().encode


class Reader(Protocol):
    """Where lines go. `writable` is false while it leaves too much unread."""

    writable: bool

    def write(self, line: bytes) -> None: ...

    def abort(self, reason: str) -> None: ...


class _Watch:
    """`seq`: the step up to which `topics` are published. `fresh`: topics still to begin, from a step (`None`: all)."""

    __slots__ = ("ack", "fresh", "named", "pages", "seq", "topics")

    def __init__(self, seq: int) -> None:
        self.topics: frozenset[str] = frozenset()
        self.fresh: dict[str, int | None] = {}
        self.seq = seq
        self.named = 0  # the step named in the last complete line
        self.ack = 0  # a step that must be named, whatever has changed
        self.pages: Iterator[bytes] | None = None  # the rest of a delta that is longer than a page


class Feed:
    """Every reader's watch. `merged`: how often a reader that was not reading had a delta merged into its next."""

    def __init__(self, store: Store, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.merged = 0
        self._store = store
        self._call_soon = call_soon
        self._watches: dict[Reader, _Watch] = {}
        self._scheduled = False
        # this turn's lines, by what their readers watch and where they stood; `None`: nothing to publish
        self._lines: dict[tuple[frozenset[str], int], bytes | None] = {}
        store.on_step.append(self._schedule)

    @property
    def watchers(self) -> int:
        return len(self._watches)

    def watch(self, reader: Reader, topics: Collection[str], epoch: str | None, since: int | None) -> tuple[int, bool]:
        """Add `topics`: what changed after `since`, or all of it, follows from the next turn of the loop on.

        The step from which it will be published, and whether that is a reset. Raises `ValueError` beyond the bound.
        """
        watch = self._watches.get(reader) or _Watch(self._store.seq)
        wanted = frozenset(topics)
        if len(watch.topics.union(watch.fresh, wanted)) > TOPICS:
            raise ValueError(f"More than {TOPICS} topics on one connection.")
        replica = self._store.replica
        start = since if epoch == replica.epoch and since is not None else None
        if start is not None and not replica.floor <= start <= replica.seq:
            start = None
        watch.topics -= wanted
        watch.fresh |= dict.fromkeys(wanted, start)
        self._watches[reader] = watch
        self._schedule()
        return self._store.seq, start is None

    def unwatch(self, reader: Reader, topics: Collection[str]) -> None:
        """Publish no more of `topics`. A page already under way may still hold some of their rows."""
        watch = self._watches.get(reader)
        if watch is not None:
            watch.topics -= frozenset(topics)
            for topic in topics:
                watch.fresh.pop(topic, None)
            if not watch.topics and not watch.fresh:
                del self._watches[reader]

    def topics(self, reader: Reader) -> frozenset[str]:
        watch = self._watches.get(reader)
        return frozenset() if watch is None else watch.topics.union(watch.fresh)

    def forget(self, reader: Reader) -> None:
        """The reader is gone."""
        self._watches.pop(reader, None)

    def request_ack(self, reader: Reader) -> int:
        """The present step, which the reader will be sent even when nothing that it watches has changed."""
        watch = self._watches.get(reader)
        if watch is not None:
            watch.ack = self._store.seq
            self._schedule()
        return self._store.seq

    def drained(self, reader: Reader) -> None:
        """The reader takes lines again."""
        if reader in self._watches:
            self._schedule()

    # --- publishing -------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Once for all steps of a turn of the loop, after it."""
        if not self._scheduled and self._watches:
            self._scheduled = True
            self._call_soon(self._publish_all)

    def put(self, changes: Mapping[str, Rows]) -> int:
        """A step of the store that is published at once: what comes once a turn anyway need not wake the next one."""
        pending, self._scheduled = self._scheduled, True
        try:
            seq = self._store.put(changes)
        finally:
            self._scheduled = pending
        if not pending:
            self._publish_all()
        return seq

    def _publish_all(self) -> None:
        self._scheduled = False
        for reader, watch in list(self._watches.items()):
            if reader.writable:
                self._publish(reader, watch)
            else:
                self.merged += 1
        self._lines.clear()

    def _publish(self, reader: Reader, watch: _Watch) -> None:
        for _ in range(PAGES_A_TURN):
            if not reader.writable:
                return  # `drained` comes
            line = self._next_line(reader, watch)
            if line is None:
                return
            reader.write(line)
            if watch.pages is None:
                return  # that was all
        self._schedule()

    def _next_line(self, reader: Reader, watch: _Watch) -> bytes | None:
        """What to write now; `None`: nothing. `pages` are there where more must follow."""
        if watch.pages is not None:
            line = next(watch.pages, None)
            if line is not None:
                return line
            watch.pages = None
        seq = self._store.replica.seq
        if watch.fresh:
            missing = self._missing(watch)
        elif watch.seq == seq and watch.ack <= watch.named:
            return None
        else:
            key = (watch.topics, watch.seq)
            if key in self._lines:
                return self._advance(watch, self._lines[key])
            missing = self._store.replica.since(watch.topics, watch.seq)
            if not missing and missing is not None:
                self._lines[key] = None
                return self._advance(watch, None)
        if missing is None:
            reader.abort("too far behind: what it has missed is no longer held")
            return None
        replica = self._store.replica
        line = None if watch.fresh else delta_line(replica.epoch, missing, seq, replica.floor)
        if line is None or len(line) > PAGE:
            watch.pages = delta_lines(replica.epoch, missing, seq, replica.floor)
            watch.topics = watch.topics.union(watch.fresh)
            watch.fresh.clear()
            line = next(watch.pages)
        else:
            self._lines[watch.topics, watch.seq] = line
        watch.seq = watch.named = seq
        return line

    def _advance(self, watch: _Watch, line: bytes | None) -> bytes | None:
        """`line` brings the watch to the present step; without one it is sent that step only where that is due."""
        watch.seq = self._store.seq
        if line is None and watch.ack > watch.named:
            replica = self._store.replica
            line = delta_line(replica.epoch, {}, replica.seq, replica.floor)
        if line is not None:
            watch.named = watch.seq
        return line

    def _missing(self, watch: _Watch) -> dict[str, TopicDelta] | None:
        """What a watch with fresh topics has to receive: each of those is there, with or without rows."""
        replica = self._store.replica
        missing = replica.since(watch.topics, watch.seq) if watch.topics else {}
        for start in {start for start in watch.fresh.values() if start is not None}:
            topics = frozenset(topic for topic, its in watch.fresh.items() if its == start)
            more = replica.since(topics, start)
            if missing is None or more is None:
                return None
            missing |= {topic: TopicDelta(replica.state(topic), {}) for topic in topics} | more
        if missing is not None:
            missing |= replica.snapshot(topic for topic, start in watch.fresh.items() if start is None)
        return missing


# --- lines: pure ----------------------------------------------------------------------------------------------------


def delta_lines(epoch: str, parts: Mapping[str, TopicDelta], seq: int, floor: int, page: int = PAGE) -> Iterator[bytes]:
    """One delta as lines of at most `page` bytes (or one row); only the last names the step it completes."""
    size = ENVELOPE
    here: dict[str, TopicDelta] = {}
    for topic, delta in parts.items():
        around = AROUND + ESCAPED * len(topic)
        if size + around > page and here:
            yield delta_line(epoch, here, None, floor)
            here, size = {}, ENVELOPE
        size += around
        rows: dict[str, Entry] = {}
        here[topic] = TopicDelta(delta.state, rows)
        for key, entry in delta.rows.items():
            cost = AROUND + ESCAPED * len(key) + len(entry[1] or b"")
            if size + cost > page and (rows or len(here) > 1):
                yield delta_line(epoch, here, None, floor)
                rows = {}
                here, size = {topic: TopicDelta(delta.state, rows)}, ENVELOPE + around
            rows[key] = entry
            size += cost
    yield delta_line(epoch, here, seq, floor)


def delta_line(epoch: str, parts: Mapping[str, TopicDelta], seq: int | None, floor: int) -> bytes:
    """A delta as one line. `seq`: the step it completes, `None` where a further page does."""
    topics = []
    for topic, delta in parts.items():
        state, rows = delta.state, delta.rows
        lines = [b"%s:%s" % (_encode(key), b"null" if row is None else row) for key, (_, row) in rows.items()]
        steps = [step for step, _ in rows.values()]
        topics.append(
            b'%s:{"asOf":%s,"seq":%d,"rows":{%s},"seqs":%s}'
            % (_encode(topic), _encode(state.asOf or None), state.seq, b",".join(lines), _encode(steps))
        )
    return b'{"jsonrpc":"2.0","method":"delta","params":{"epoch":%s,"topics":{%s},"seq":%s,"floor":%d}}\n' % (
        _encode(epoch),
        b",".join(topics),
        _encode(seq),
        floor,
    )
