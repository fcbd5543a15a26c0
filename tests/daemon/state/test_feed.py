"""What readers receive: everything, once, in the order of steps, whatever their pace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from daemon.state.feed import PAGE, PAGES_A_TURN, TOPICS, Feed, delta_lines
from daemon.state.store import Store
from shared.messages import Account, PnL, Position, Quote
from shared.replica import Replica, TopicDelta, TopicState
from tests.clock import HandClock

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


class Loop:
    """Turns when the test calls `turn`."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def settle(self) -> None:
        while self.soon:
            self.turn()


class Mirror:
    """A reader that folds what it receives, and takes `room` lines before it must be drained (`None`: any number)."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.lines: list[bytes] = []
        self.aborted = ""
        self.replica: Replica | None = None
        self.pending: dict[str, TopicDelta] = {}

    @property
    def writable(self) -> bool:
        return not self.aborted and (self.room is None or self.room > 0)

    def write(self, line: bytes) -> None:
        assert self.writable
        if self.room is not None:
            self.room -= 1
        self.lines.append(line)
        params = msgspec.json.decode(line, type=dict[str, Any])["params"]
        rows = msgspec.json.decode(line, type=Said).params.topics
        if self.replica is None:
            self.replica = Replica(params["epoch"])
        for topic, delta in rows.items():
            entries = {
                key: (seq, None if bytes(row) == b"null" else bytes(row))
                for (key, row), seq in zip(delta.rows.items(), delta.seqs, strict=True)
            }
            before = self.pending[topic].rows if topic in self.pending else {}
            self.pending[topic] = TopicDelta(TopicState(delta.seq, delta.asOf or ""), {**before, **entries})
        if params["seq"] is not None:
            self.replica.fold(params["seq"], params["floor"], self.pending)
            self.pending = {}

    def abort(self, reason: str) -> None:
        self.aborted = reason

    def steps(self) -> list[int | None]:
        return [msgspec.json.decode(line)["params"]["seq"] for line in self.lines]

    def rows(self, topic: str) -> dict[str, bytes]:
        return {} if self.replica is None else self.replica.rows(topic)


class Topic(msgspec.Struct):
    asOf: str | None
    seq: int
    rows: dict[str, msgspec.Raw]
    seqs: list[int]


class Params(msgspec.Struct):
    topics: dict[str, Topic]


class Said(msgspec.Struct):
    params: Params


@pytest.fixture
def store() -> Store:
    return Store("e1", HandClock(NOON))


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def feed(store: Store, loop: Loop) -> Feed:
    return Feed(store, loop.call_soon)


def pnl(value: float) -> dict[str, dict[str, PnL]]:
    return {"pnl": {"DU1": PnL(account="DU1", dailyPnL=value)}}


def test_a_first_watch_is_a_reset_and_names_every_topic(store: Store, loop: Loop, feed: Feed) -> None:
    store.put(pnl(1.0))
    mirror = Mirror()

    assert feed.watch(mirror, ["pnl", "positions"], None, None) == (store.seq, True)
    assert mirror.lines == []
    loop.settle()
    assert set(msgspec.json.decode(mirror.lines[0])["params"]["topics"]) == {"pnl", "positions"}
    assert mirror.rows("pnl") == store.replica.rows("pnl")


def test_readers_are_sent_one_delta_a_turn(store: Store, loop: Loop, feed: Feed) -> None:
    mirror = Mirror()
    feed.watch(mirror, ["pnl"], None, None)
    loop.settle()
    for value in range(5):
        store.put(pnl(value))
    loop.settle()

    assert mirror.steps() == [1, store.seq]
    assert mirror.rows("pnl") == store.replica.rows("pnl")


def test_a_step_put_through_the_feed_is_published_at_once(store: Store, loop: Loop, feed: Feed) -> None:
    mirror = Mirror()
    feed.watch(mirror, ["pnl"], None, None)
    loop.settle()

    assert feed.put(pnl(1.0)) == store.seq
    assert mirror.rows("pnl") == store.replica.rows("pnl")
    lines = len(mirror.lines)
    feed.put(pnl(1.0))
    assert len(mirror.lines) == lines
    assert loop.soon == []


def test_a_step_put_through_the_feed_waits_for_what_is_due_already(store: Store, loop: Loop, feed: Feed) -> None:
    """A turn in which readers are due anyway, the first after a watch above all, publishes it too."""
    mirror = Mirror()
    feed.watch(mirror, ["pnl"], None, None)

    feed.put(pnl(1.0))
    assert mirror.lines == []
    loop.settle()
    assert mirror.steps() == [store.seq]
    assert mirror.rows("pnl") == store.replica.rows("pnl")


def test_readers_at_the_same_point_share_one_line(store: Store, loop: Loop, feed: Feed) -> None:
    mirrors = [Mirror() for _ in range(3)]
    for mirror in mirrors:
        feed.watch(mirror, ["pnl"], None, None)
    loop.settle()
    store.put(pnl(1.0))
    loop.settle()

    assert mirrors[0].lines[-1] is mirrors[1].lines[-1] is mirrors[2].lines[-1]


def test_resuming_sends_only_what_changed(store: Store, loop: Loop, feed: Feed) -> None:
    store.put(pnl(1.0))
    since = store.seq
    store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
    mirror = Mirror()

    assert feed.watch(mirror, ["pnl", "accounts"], "e1", since) == (store.seq, False)
    loop.settle()
    topics = msgspec.json.decode(mirror.lines[0])["params"]["topics"]
    assert topics["pnl"]["rows"] == {}
    assert set(topics["accounts"]["rows"]) == {"DU1"}


@pytest.mark.parametrize(("epoch", "since"), [("other", 1), (None, 1), ("e1", None), ("e1", 99), ("e1", -1)])
def test_what_cannot_be_resumed_is_reset(
    store: Store, loop: Loop, feed: Feed, epoch: str | None, since: int | None
) -> None:
    store.put(pnl(1.0))
    mirror = Mirror()

    assert feed.watch(mirror, ["pnl"], epoch, since)[1]
    loop.settle()
    assert mirror.rows("pnl") == store.replica.rows("pnl")


def test_a_reader_that_does_not_read_gets_the_merged_delta_later(store: Store, loop: Loop, feed: Feed) -> None:
    slow, fast = Mirror(room=1), Mirror()
    for mirror in (slow, fast):
        feed.watch(mirror, ["pnl"], None, None)
    loop.settle()
    for value in range(4):
        store.put(pnl(value))
        loop.settle()

    assert len(slow.lines) == 1
    assert len(fast.lines) == 5
    assert feed.merged == 4
    slow.room = None
    feed.drained(slow)
    loop.settle()
    assert len(slow.lines) == 2
    assert slow.rows("pnl") == store.replica.rows("pnl")


def test_a_long_delta_comes_in_pages(store: Store, loop: Loop, feed: Feed) -> None:
    store.replace("positions", {f"DU1:{n}": Position(account="DU1", conId=n, position=1.0) for n in range(4_000)})
    mirror = Mirror()
    feed.watch(mirror, ["positions", "pnl"], None, None)
    loop.turn()

    assert len(mirror.lines) <= PAGES_A_TURN
    loop.settle()
    assert all(len(line) <= PAGE for line in mirror.lines)
    assert mirror.steps() == [None] * (len(mirror.lines) - 1) + [store.seq]
    assert mirror.rows("positions") == store.replica.rows("positions")


def test_what_changes_while_pages_are_under_way_follows_them(store: Store, loop: Loop, feed: Feed) -> None:
    store.replace("positions", {f"DU1:{n}": Position(account="DU1", conId=n, position=1.0) for n in range(4_000)})
    mirror = Mirror(room=1)
    feed.watch(mirror, ["positions"], None, None)
    loop.settle()
    store.put({"positions": {"DU1:1": None, "DU1:2": Position(account="DU1", conId=2, position=5.0)}})
    feed.watch(mirror, ["pnl"], None, None)
    mirror.room = None
    feed.drained(mirror)
    loop.settle()

    assert mirror.rows("positions") == store.replica.rows("positions")
    assert [step for step in mirror.steps() if step is not None] == [store.seq - 1, store.seq]
    assert mirror.replica is not None
    assert mirror.replica.seq == store.seq


def test_topics_of_others_are_not_sent(store: Store, loop: Loop, feed: Feed) -> None:
    mirror = Mirror()
    feed.watch(mirror, ["pnl"], None, None)
    loop.settle()
    store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
    loop.settle()
    assert len(mirror.lines) == 1

    assert feed.request_ack(mirror) == store.seq
    loop.settle()
    assert mirror.steps()[-1] == store.seq
    assert msgspec.json.decode(mirror.lines[-1])["params"]["topics"] == {}
    feed.request_ack(mirror)
    loop.settle()
    assert len(mirror.lines) == 2


def test_an_unwatched_topic_is_sent_no_more(store: Store, loop: Loop, feed: Feed) -> None:
    mirror = Mirror()
    feed.watch(mirror, ["pnl", "accounts"], None, None)
    loop.settle()
    feed.unwatch(mirror, ["pnl"])
    store.put(pnl(1.0))
    loop.settle()

    assert mirror.rows("pnl") == {}
    assert feed.topics(mirror) == {"accounts"}
    feed.unwatch(mirror, ["accounts"])
    assert feed.watchers == 0


def test_a_reader_below_the_floor_is_let_go(loop: Loop) -> None:
    store = Store("e1", HandClock(NOON))
    store.replica = Replica("e1", tombstones=1)
    feed = Feed(store, loop.call_soon)
    mirror = Mirror(room=1)
    feed.watch(mirror, ["pnl"], None, None)
    store.put({"pnl": {key: PnL(account=key) for key in "abc"}})
    loop.settle()
    for key in "abc":
        store.put({"pnl": {key: None}})
    mirror.room = None
    feed.drained(mirror)
    loop.settle()

    assert mirror.aborted
    assert len(mirror.lines) == 1


def test_the_topics_of_a_reader_are_bounded(feed: Feed) -> None:
    mirror = Mirror()
    feed.watch(mirror, [f"quotes:{n}" for n in range(TOPICS)], None, None)

    with pytest.raises(ValueError, match=str(TOPICS)):
        feed.watch(mirror, ["pnl"], None, None)


def test_a_row_longer_than_a_page_is_a_page_of_its_own() -> None:
    rows = {"a": (1, b'"x"'), "b": (1, b'"' + b"y" * 100 + b'"'), "c": (1, b'"z"')}
    lines = list(delta_lines("e", {"notices": TopicDelta(TopicState(1, "t"), rows)}, 1, 0, page=180))

    assert [list(msgspec.json.decode(line)["params"]["topics"]["notices"]["rows"]) for line in lines] == [
        ["a"],
        ["b"],
        ["c"],
    ]


TOPIC_NAMES = ("pnl", "accounts", "quotes:1")


class Feeding(RuleBasedStateMachine):
    """Readers of every pace, topics that come and go, a store that changes: at rest all have the daemon's state."""

    readers = Bundle("readers")

    @initialize()
    def start(self) -> None:
        self.store = Store("e1", HandClock(NOON))
        self.loop = Loop()
        self.feed = Feed(self.store, self.loop.call_soon)
        self.all: list[Mirror] = []

    @rule(
        topic=st.sampled_from(TOPIC_NAMES), rows=st.dictionaries(st.sampled_from("abc"), st.integers(0, 3) | st.none())
    )
    def put(self, topic: str, rows: dict[str, int | None]) -> None:
        self.store.put(
            {topic: {key: None if value is None else PnL(account=key, dailyPnL=value) for key, value in rows.items()}}
        )

    @rule(topic=st.sampled_from(TOPIC_NAMES))
    def drop(self, topic: str) -> None:
        self.store.drop(topic)

    @rule()
    def trim(self) -> None:
        self.store.replica.trim("9")

    @rule(target=readers, room=st.none() | st.integers(0, 3))
    def come(self, room: int | None) -> Mirror:
        mirror = Mirror(room)
        self.all.append(mirror)
        return mirror

    @rule(reader=readers, topics=st.lists(st.sampled_from(TOPIC_NAMES), min_size=1, unique=True))
    def watch(self, reader: Mirror, topics: list[str]) -> None:
        if not reader.aborted:
            _, reset = self.feed.watch(reader, topics, None, None)
            assert reset
            for topic in topics:
                if reader.replica is not None:
                    reader.replica.drop(topic)

    @rule(reader=readers, topics=st.lists(st.sampled_from(TOPIC_NAMES), min_size=1, unique=True))
    def unwatch(self, reader: Mirror, topics: list[str]) -> None:
        self.feed.unwatch(reader, topics)

    @rule(reader=readers)
    def come_back(self, reader: Mirror) -> None:
        """Leave, and go on from the step reached, on a new connection."""
        topics = self.feed.topics(reader)
        self.feed.forget(reader)
        self.all.remove(reader) if reader in self.all else None
        successor = Mirror()
        self.all.append(successor)
        if topics:
            known = (
                reader.replica is not None and not reader.pending and all(reader.replica.state(t).seq for t in topics)
            )
            since = reader.replica.seq if known and reader.replica is not None else None
            _, reset = self.feed.watch(successor, topics, "e1", since)
            if not reset:
                successor.replica = reader.replica

    @rule(reader=readers, room=st.none() | st.integers(0, 3))
    def read(self, reader: Mirror, room: int | None) -> None:
        reader.room = room
        if reader.writable:
            self.feed.drained(reader)

    @rule()
    def turn(self) -> None:
        self.loop.turn()

    @rule()
    def rest(self) -> None:
        for reader in self.all:
            reader.room = None
            self.feed.drained(reader)
        self.loop.settle()
        for reader in self.all:
            for topic in self.feed.topics(reader):
                if not reader.aborted:
                    assert reader.rows(topic) == self.store.replica.rows(topic)

    @invariant()
    def a_step_is_never_sent_twice_or_backwards(self) -> None:
        for reader in self.all:
            steps = [step for step in reader.steps() if step is not None]
            assert steps == sorted(steps)


Feeding.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_feeding = Feeding.TestCase
