"""The law of replication: rows, the step of each row's last change, and what a reader at step N has not seen.

Rows are opaque bytes here. Pure: no clock, no socket. Never decides what a row says or who may read it; the daemon's
store and the facade's mirror each hold one `Replica`, and a reader holds nothing but the number it has come to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple, TypeVar

from msgspec import Struct

K = TypeVar("K")
V = TypeVar("V")

TOMBSTONES = 16_384
"""Gone keys remembered, about 4 MB: above the largest account seen (10 000 positions closed at once), so that closing
everything costs no reader its place. One step's own tombstones are never dropped in that step."""


def fold(state: Mapping[K, V], delta: Mapping[K, V | None]) -> dict[K, V]:
    """The state after `delta`, in which `None` is a key that is gone."""
    after = dict(state)
    for key, row in delta.items():
        if row is None:
            after.pop(key, None)
        else:
            after[key] = row
    return after


def merge(first: Mapping[K, V | None], then: Mapping[K, V | None]) -> dict[K, V | None]:
    """One delta that does what `first` and `then` do in turn: `fold(fold(s, a), b) == fold(s, merge(a, b))`."""
    return {**first, **then}


Entry = tuple[int, bytes | None]
"""A key's value: the step of its last change, and its row or `None` for gone."""


class TopicState(NamedTuple):
    """The step of a topic's last change and when that was, RFC 3339 UTC. `TopicState(0, "")`: never changed."""

    seq: int
    asOf: str


class TopicDelta(Struct, frozen=True):
    """What changed in one topic: its state after the change, and per key (step, row or `None`) by ascending step."""

    state: TopicState
    rows: dict[str, Entry]


NEVER = TopicState(0, "")


class _Topic:
    """`rows` by ascending step; `None` is a tombstone."""

    __slots__ = ("rows", "state")

    def __init__(self) -> None:
        # an OrderedDict, since only its linked list is walked from the end without stepping over the holes that
        # re-inserted keys leave in a dict
        self.rows: OrderedDict[str, Entry] = OrderedDict()
        self.state = NEVER


class Replica:
    """Every topic's rows as of step `seq` of `epoch`.

    `floor`: the oldest step from which `since` can still answer.
    """

    def __init__(self, epoch: str, *, tombstones: int = TOMBSTONES) -> None:
        self.epoch = epoch
        self.seq = 0
        self.floor = 0
        self._limit = tombstones
        self._topics: OrderedDict[str, _Topic] = OrderedDict()  # by ascending step of last change
        self._graves: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()  # (step, at), by ascending step

    def topics(self) -> Iterable[str]:
        """Every topic that was ever written, also those with no row."""
        return tuple(self._topics)

    def rows(self, topic: str) -> dict[str, bytes]:
        """The live rows of a topic, a copy, by ascending step of their last change."""
        held = self._topics.get(topic)
        return {} if held is None else {key: row for key, (_, row) in held.rows.items() if row is not None}

    def row(self, topic: str, key: str) -> bytes | None:
        held = self._topics.get(topic)
        return None if held is None else held.rows.get(key, (0, None))[1]

    def state(self, topic: str) -> TopicState:
        held = self._topics.get(topic)
        return NEVER if held is None else held.state

    def put(self, seq: int, at: str, changes: Mapping[str, Mapping[str, bytes | None]]) -> None:
        """One step: `changes` at `at` become step `seq`, the next. An empty map still moves its topic's state.

        Costs what changed, whatever else is held. `None` for a key that is not held changes nothing.
        """
        if seq <= self.seq:
            raise ValueError(f"step {seq} after step {self.seq}")
        state = TopicState(seq, at)
        for topic, rows in changes.items():
            held = self._open(topic)
            held.state = state
            for key, row in rows.items():
                if row is not None or key in held.rows:
                    self._set(topic, held.rows, key, (seq, row))
                if row is None and key in held.rows:
                    self._graves[topic, key] = (seq, at)
        self.seq = seq
        while len(self._graves) > self._limit and next(iter(self._graves.values()))[0] < seq:
            self._drop_oldest_grave()

    def fold(self, seq: int, floor: int, changes: Mapping[str, TopicDelta]) -> None:
        """A delta of another replica: this one then holds what that one holds of these topics at step `seq`.

        `floor` is the other's: tombstones that it has dropped are dropped here too.
        """
        newest = next(reversed(self._topics.values())).state.seq if self._topics else 0
        graves: list[tuple[int, str, str, str]] = []
        disordered = []  # topics that came older than what is held: a reader has added a topic
        for topic, delta in changes.items():
            state = delta.state
            held = self._open(topic)
            last = next(reversed(held.rows.values()))[0] if held.rows else 0
            in_order = state.seq >= newest
            newest = max(newest, state.seq)
            held.state = state
            for key, entry in delta.rows.items():
                step, row = entry
                in_order = in_order and step >= last
                last = step
                self._set(topic, held.rows, key, entry)
                if row is None:
                    graves.append((step, topic, key, state.asOf))
            if not in_order:
                disordered.append(topic)
        newest_grave = next(reversed(self._graves.values()))[0] if self._graves else 0
        graves.sort()
        for step, topic, key, at in graves:
            self._graves[topic, key] = (step, at)
        if disordered or (graves and graves[0][0] < newest_grave):
            self._order(disordered)
        self.seq = max(self.seq, seq)
        while self._graves and next(iter(self._graves.values()))[0] <= floor:
            self._drop_oldest_grave()
        self.floor = max(self.floor, floor)

    def since(self, topics: Container[str], seq: int) -> dict[str, TopicDelta] | None:
        """What a reader of `topics` at step `seq` lacks, by ascending step: to be folded. `None`: it needs a reset.

        Costs what changed since, whatever is held. A topic without changes is not in the answer.
        """
        if not self.floor <= seq <= self.seq:
            return None
        lacking: dict[str, TopicDelta] = {}
        for topic, held in reversed(self._topics.items()):
            if held.state.seq <= seq:
                break
            if topic in topics:
                newest_first = []
                for key, entry in reversed(held.rows.items()):
                    if entry[0] <= seq:
                        break
                    newest_first.append((key, entry))
                lacking[topic] = TopicDelta(held.state, dict(reversed(newest_first)))
        return dict(reversed(lacking.items()))

    def snapshot(self, topics: Iterable[str]) -> dict[str, TopicDelta]:
        """Everything held of `topics`, tombstones too, so that whoever folds it can itself answer from `floor` on."""
        wanted = frozenset(topics)
        missing = {topic: TopicDelta(NEVER, {}) for topic in wanted if topic not in self._topics}
        return missing | {
            topic: TopicDelta(held.state, dict(held.rows)) for topic, held in self._topics.items() if topic in wanted
        }

    def trim(self, before: str) -> None:
        """Drop the tombstones made before `before` (RFC 3339 UTC); `floor` rises with the last of them."""
        while self._graves and next(iter(self._graves.values()))[1] < before:
            self._drop_oldest_grave()

    def drop(self, topic: str) -> None:
        """Forget a topic without a trace, for a reader that will ask for all of it when it wants it again."""
        held = self._topics.pop(topic, None)
        if held is not None:
            for key, (_, row) in held.rows.items():
                if row is None:
                    del self._graves[topic, key]

    def _open(self, topic: str) -> _Topic:
        held = self._topics.get(topic)
        if held is None:
            held = self._topics[topic] = _Topic()
        else:
            self._topics.move_to_end(topic)
        return held

    def _set(self, topic: str, rows: OrderedDict[str, Entry], key: str, entry: Entry) -> None:
        rows[key] = entry
        rows.move_to_end(key)
        if self._graves:
            self._graves.pop((topic, key), None)

    def _order(self, changed: Iterable[str]) -> None:
        """Restore ascending order after a topic came that is older than what is held. Rare: a reader adds a topic."""
        self._topics = OrderedDict(sorted(self._topics.items(), key=lambda item: item[1].state.seq))
        self._graves = OrderedDict(sorted(self._graves.items(), key=lambda item: item[1][0]))
        for topic in changed:
            held = self._topics[topic]
            held.rows = OrderedDict(sorted(held.rows.items(), key=lambda item: item[1][0]))

    def _drop_oldest_grave(self) -> None:
        (topic, key), (step, _) = self._graves.popitem(last=False)
        held = self._topics[topic]
        del held.rows[key]
        self.floor = max(self.floor, step)
        if not held.rows and ":" in topic:  # quotes:… and bars:… end with their last trace; the others always exist
            del self._topics[topic]
