"""The law of replication, as properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from shared.replica import NEVER, Replica, TopicDelta, TopicState, fold, merge

TOPICS = ("positions", "orders", "quotes:1", "bars:1:x")
ALL = frozenset(TOPICS)

keys = st.sampled_from("abcde")
rows = st.one_of(st.none(), st.binary(min_size=1, max_size=2))
deltas = st.dictionaries(keys, rows, max_size=5)
states = st.dictionaries(keys, st.binary(min_size=1, max_size=2), max_size=5)
changes = st.dictionaries(st.sampled_from(TOPICS), deltas, min_size=1, max_size=4)


@given(states, deltas, deltas)
def test_merged_deltas_do_what_they_do_in_turn(
    state: dict[str, bytes], first: dict[str, bytes | None], then: dict[str, bytes | None]
) -> None:
    assert fold(fold(state, first), then) == fold(state, merge(first, then))


@given(deltas, deltas, deltas)
def test_merging_does_not_care_how_deltas_are_grouped(
    a: dict[str, bytes | None], b: dict[str, bytes | None], c: dict[str, bytes | None]
) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


def at(seq: int) -> str:
    return f"2026-01-01T{seq // 3600:02}:{seq // 60 % 60:02}:{seq % 60:02}.000Z"


def live(replica: Replica) -> dict[str, dict[str, bytes]]:
    return {topic: rows for topic in TOPICS if (rows := replica.rows(topic))}


class Replication(RuleBasedStateMachine):
    """An owner that changes and forgets at will, mirrors that listen when they please, readers that come back late."""

    mirrors = Bundle("mirrors")

    @initialize(limit=st.integers(0, 6))
    def start(self, limit: int) -> None:
        self.limit = limit
        self.owner = Replica("e1", tombstones=limit)
        self.model: dict[str, dict[str, bytes]] = {topic: {} for topic in TOPICS}
        self.past: dict[int, dict[str, dict[str, bytes]]] = {0: {}}

    @rule(change=changes)
    def put(self, change: dict[str, dict[str, bytes | None]]) -> None:
        seq = self.owner.seq + 1
        self.owner.put(seq, at(seq), change)
        for topic, delta in change.items():
            self.model[topic] = fold(self.model[topic], delta)
        self.past[seq] = live(self.owner)

    @rule(age=st.integers(0, 5))
    def trim(self, age: int) -> None:
        self.owner.trim(at(max(0, self.owner.seq - age)))

    @rule(target=mirrors)
    def join(self) -> Replica:
        mirror = Replica("e1")
        mirror.fold(self.owner.seq, self.owner.floor, self.owner.snapshot(ALL))
        return mirror

    @rule(mirror=mirrors)
    def listen(self, mirror: Replica) -> None:
        """A mirror that was away for any time takes what it lacks, or starts again on a reset."""
        lacking = self.owner.since(ALL, mirror.seq)
        if lacking is None:
            assert mirror.seq < self.owner.floor
            for topic in TOPICS:
                mirror.drop(topic)
            lacking = self.owner.snapshot(ALL)
        mirror.fold(self.owner.seq, self.owner.floor, lacking)
        assert live(mirror) == live(self.owner)

    @rule(mirror=mirrors, topic=st.sampled_from(TOPICS), change=changes)
    def leave_and_add(self, mirror: Replica, topic: str, change: dict[str, dict[str, bytes | None]]) -> None:
        """A topic dropped and added again later, older or younger than what is held, is as complete as the rest."""
        self.listen(mirror)
        mirror.drop(topic)
        assert mirror.state(topic) == NEVER
        self.put(change)
        lacking = self.owner.since(ALL - {topic}, mirror.seq)
        if lacking is not None:
            mirror.fold(self.owner.seq, self.owner.floor, lacking)
            mirror.fold(self.owner.seq, self.owner.floor, self.owner.snapshot({topic}))
            assert live(mirror) == live(self.owner)
        else:
            self.listen(mirror)

    @rule(mirror=mirrors, data=st.data())
    def resume(self, mirror: Replica, data: st.DataObject) -> None:
        """From any step a replica can serve, its delta turns the state of that step into the current state."""
        for replica in (self.owner, mirror):
            seq = data.draw(st.integers(0, replica.seq))
            lacking = replica.since(ALL, seq)
            assert (lacking is None) == (seq < replica.floor)
            if lacking is None:
                continue
            state = self.past[seq]
            for topic, delta in lacking.items():
                steps = [step for step, _ in delta.rows.values()]
                assert steps == sorted(steps)
                assert all(seq < step <= replica.seq for step in steps)
                state = {**state, topic: fold(state.get(topic, {}), {key: row for key, (_, row) in delta.rows.items()})}
            assert {topic: rows for topic, rows in state.items() if rows} == self.past[replica.seq]

    @invariant()
    def owner_is_the_model(self) -> None:
        for topic in TOPICS:
            assert self.owner.rows(topic) == self.model[topic]
            for key in "abcde":
                assert self.owner.row(topic, key) == self.model[topic].get(key)

    @invariant()
    def tombstones_are_bounded(self) -> None:
        held = self.owner.snapshot(ALL)
        tombs = [step for delta in held.values() for step, row in delta.rows.values() if row is None]
        assert len([step for step in tombs if step < self.owner.seq]) <= self.limit
        assert all(step >= self.owner.floor for step in tombs)


Replication.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
test_replication = Replication.TestCase


def test_a_replica_answers_nothing_from_the_future() -> None:
    replica = Replica("e")
    replica.put(1, at(1), {"orders": {"a": b"1"}})

    assert replica.since(ALL, 2) is None
    assert replica.since(ALL, 1) == {}


def test_a_dropped_tombstone_raises_the_floor() -> None:
    """Beyond the bound the oldest gone key is forgotten, and readers from before it are refused, not misled."""
    replica = Replica("e", tombstones=1)
    replica.put(1, at(1), {"orders": {"a": b"1", "b": b"1"}})
    replica.put(2, at(2), {"orders": {"a": None}})
    replica.put(3, at(3), {"orders": {"b": None}})

    assert replica.floor == 2
    assert replica.since(ALL, 1) is None
    assert replica.since(ALL, 2) == {"orders": TopicDelta(TopicState(3, at(3)), {"b": (3, None)})}


def test_one_step_may_empty_everything_without_costing_a_reader_its_place() -> None:
    """However many keys one step removes, a reader of the step before receives each of them."""
    replica = Replica("e", tombstones=3)
    replica.put(1, at(1), {"positions": {str(n): b"1" for n in range(50)}})
    replica.put(2, at(2), {"positions": {str(n): None for n in range(50)}})

    lacking = replica.since(ALL, 1)
    assert lacking is not None
    assert len(lacking["positions"].rows) == 50


def test_a_topic_that_became_empty_is_published() -> None:
    replica = Replica("e")
    replica.put(1, at(1), {"positions": {}})

    assert replica.since(ALL, 0) == {"positions": TopicDelta(TopicState(1, at(1)), {})}
    assert replica.state("positions") == TopicState(1, at(1))


def test_a_market_topic_ends_with_its_last_trace() -> None:
    """Nothing of a line that was let go stays after its tombstones; a state topic stays though empty."""
    replica = Replica("e")
    replica.put(1, at(1), {"quotes:1": {"1": b"x"}, "orders": {"a": b"1"}})
    replica.put(2, at(2), {"quotes:1": {"1": None}, "orders": {"a": None}})
    replica.trim(at(3))

    assert tuple(replica.topics()) == ("orders",)
    assert replica.state("quotes:1") == NEVER


def test_steps_only_rise() -> None:
    replica = Replica("e")
    replica.put(1, at(1), {"orders": {}})

    with pytest.raises(ValueError, match="step 1 after step 1"):
        replica.put(1, at(1), {"orders": {}})


def test_a_reader_that_never_reads_costs_nothing_beyond_the_state() -> None:
    replica = Replica("e", tombstones=10)
    replica.put(1, at(1), {"positions": {str(n): b"0" for n in range(100)}})
    for seq in range(2, 2_000):
        replica.put(
            seq, at(seq), {"positions": {str(seq % 100): b"%d" % seq}, "orders": {str(seq): b"x", str(seq - 1): None}}
        )

    held = replica.snapshot(ALL)
    assert len(held["positions"].rows) == 100
    assert len(held["orders"].rows) <= 1 + 10 + 1
