"""The table of streams, whatever happens in whatever order."""

from __future__ import annotations

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon import codes
from daemon.market.conditions import Conditions
from daemon.market.refusals import problem
from daemon.market.streams import Ask, Cancel, Changed, Release, Stream, Streams
from daemon.market.topics import read
from shared.messages import Upstream

LINES = 3
TOPICS = ["quotes:1", "quotes:2", "quotes:3", "quotes:4", "quotes:5", "bars:1:5mins", "bars:2:5secs"]
CODES = [*(code for code in codes.CODES if codes.meaning(code).request != "interrupted"), 9999]


class AnyOrder(RuleBasedStateMachine):
    """A gateway that keeps books on the table's requests."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Streams(LINES)
        self.conditions = Conditions()
        self.now = 1000.0
        self.connected = True
        self.ids = itertools.count(1)
        self.open: dict[int, str] = {}  # request -> topic, as the gateway has them
        self.opening: list[Ask] = []  # under way: the contract is being looked up
        self.watching: set[tuple[str, int]] = set()

    def plan(self) -> None:
        for order in self.table.plan(self.conditions, lambda stream: True, self.now, connected=self.connected):
            match order:
                case Ask():
                    self.opening.append(order)
                case Cancel(_, request):
                    assert self.open.pop(request, None), "cancelled once, and only what was open"
                case Release(stream):
                    assert not stream.watchers
                case Changed(stream):
                    assert isinstance(stream, Stream)

    def link(self, upstream: Upstream) -> None:
        self.conditions.observe(upstream, {}, self.now)

    @rule(topic=st.sampled_from(TOPICS), who=st.integers(1, 3))
    def watch(self, topic: str, who: int) -> None:
        self.table.watch(read(topic), who, self.now)
        self.watching.add((topic, who))
        self.plan()

    @rule(topic=st.sampled_from(TOPICS), who=st.integers(1, 3))
    def unwatch(self, topic: str, who: int) -> None:
        self.table.unwatch(topic, who, self.now)
        self.watching.discard((topic, who))
        self.plan()

    @rule(who=st.integers(1, 3))
    def leave(self, who: int) -> None:
        self.table.leave(who, self.now)
        self.watching = {(topic, other) for topic, other in self.watching if other != who}
        self.plan()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 70.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.plan()

    @precondition(lambda self: self.opening)
    @rule(fails=st.booleans())
    def look_up_ends(self, fails: bool) -> None:
        ask = self.opening.pop(0)
        if fails or ask.stream.turn != ask.turn or not self.connected:
            self.table.refused(ask, problem(200, "No security definition"), 5.0, self.now)
        else:
            request = next(self.ids)
            assert self.table.opened(ask, request, self.now)
            self.open[request] = ask.stream.topic
        self.plan()

    @rule(topics=st.lists(st.sampled_from(TOPICS), min_size=3, max_size=6, unique=True))
    def many_come_and_all_goes_well(self, topics: list[str]) -> None:
        for topic in topics:
            self.watch(topic, 1)
        while self.opening:
            self.look_up_ends(fails=False)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def data_comes(self, data: st.DataObject) -> None:
        stream = self.table.received(data.draw(st.sampled_from(sorted(self.open))), self.now)
        assert stream is not None
        assert stream.live

    @precondition(lambda self: self.open)
    @rule(data=st.data(), code=st.sampled_from(CODES))
    def trouble_comes(self, data: st.DataObject, code: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.open)))
        self.table.trouble(request, code, problem(code, ""), self.now, final=self.conditions.trust(self.now) == "sound")
        self.plan()

    @rule()
    def session_is_lost(self) -> None:
        self.table.lost()
        self.open.clear()
        self.connected = False
        self.plan()

    @rule()
    def session_is_ready(self) -> None:
        self.connected = True
        self.plan()

    @precondition(lambda self: self.connected)
    @rule()
    def streams_are_forgotten(self) -> None:
        """1101."""
        before = len(self.opening)
        wanted = [stream for stream in self.table.by_topic.values() if stream.spec.kind == "bars"]
        self.table.replay(self.now)
        self.plan()
        if self.conditions.upstream:
            again = [ask.stream.topic for ask in self.opening[before:]]
            assert len(again) == len(set(again))
            assert {stream.topic for stream in wanted} <= set(again)

    @rule()
    def upstream_is_lost(self) -> None:
        self.link("lost")
        self.plan()

    @rule()
    def upstream_is_back(self) -> None:
        self.link("ok")
        self.table.verify(self.now - 5.0, self.now)
        self.plan()

    @invariant()
    def one_request_a_topic(self) -> None:
        topics = [topic for topic in self.open.values() if topic in self.table.by_topic]
        assert len(topics) == len(set(topics))
        assert {request: stream.topic for request, stream in self.table.by_request.items()} == self.open

    @invariant()
    def never_more_lines_than_there_are(self) -> None:
        assert sum(topic.startswith("quotes") for topic in self.open.values()) <= LINES

    @invariant()
    def everything_watched_is_in_the_table(self) -> None:
        assert {topic for topic, _ in self.watching} <= set(self.table.by_topic)

    def teardown(self) -> None:
        """When all is well again and time has passed, everything watched is requested that may be, and nothing else."""
        self.link("ok")
        self.session_is_ready()
        for _ in range(3):
            self.now += 2000.0
            self.plan()
            while self.opening:
                self.look_up_ends(fails=False)
        watched = {topic for topic, _ in self.watching}
        assert set(self.table.by_topic) == watched
        final = {stream.topic for stream in self.table.by_topic.values() if stream.state == "open"}
        waiting = {topic for topic in watched - final if self.table.by_topic[topic].notBefore <= self.now}
        assert not waiting or (len(final & set(TOPICS[:5])) == LINES and all(t.startswith("quotes") for t in waiting))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
