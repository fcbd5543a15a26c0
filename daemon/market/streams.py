"""The table of wanted streams: one a topic, however many readers watch it, and its state at the gateway.

A stream is requested, replayed and released from its entry here alone. Pure: time is an argument, and what has to be
done is returned as orders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from daemon.codes import meaning
from daemon.market.conditions import Conditions, FarmType
from daemon.market.topics import Kind, Spec
from shared.reasons import Problem

LINES: Final = 100
"""Market-data lines of an ordinary IBKR user, shared with what TWS shows on its own screen."""
LINGER: Final = 10.0
"""s a stream is kept after its last watcher: a facade restarts, and browsers come back, in less."""
REMEMBERED: Final = 60.0
"""s for which a refusal stands for every reader; a later reader has the stream requested again."""

LIVELY_TICKS, LIVELY_INTERVAL = 20, 10.0
"""A stream of which 20 packets came, the last ones less than 10 s apart, is lively: its silence means something."""
SILENCE, SILENCE_INTERVALS = 30.0, 30.0
"""A lively stream is silent after 30 s or 30 of its own intervals, whichever is longer."""
FARMS: Final[Mapping[Kind, FarmType]] = {"quotes": "market", "bars": "hmds"}
"""Which farms bring what."""
FARM_WAIT: Final = 60.0
"""s at most for which a stream waits for a farm: IBKR does not say which is its own, and another may stay broken."""
VERIFY, VERIFY_QUIET = 10.0, 60.0
"""s after 1102 in which a lively stream, or any other, should have spoken: “data maintained” is not always true."""
LONGEST: Final = 900.0
"""s between two tries to get a stream: FAULTS 20 names a quarter of an hour."""


@dataclass(slots=True, eq=False)
class Stream:
    """One topic's stream. Times are monotonic s.

    `turn` rises with each request, so that what an earlier one brings late is known for that. `code`, `problem`: why
    nothing comes. `tries`: requests in a row that brought nothing.
    """

    topic: str
    spec: Spec
    watchers: set[Hashable] = field(default_factory=set)
    releaseAt: float = math.inf
    state: Literal["wanted", "requesting", "open"] = "wanted"
    turn: int = 0
    reqId: int | None = None
    notBefore: float = -math.inf
    needsFarm: bool = False
    code: int | None = None
    problem: Problem | None = None
    refusedAt: float = -math.inf
    tries: int = 0
    current: bool = False  # data came for this request
    requestedAt: float = -math.inf
    receivedAt: float = -math.inf
    packets: int = 0
    interval: float = 0.0  # s between packets, smoothed
    checkAt: float = math.inf  # when it should have spoken after 1102
    stalled: bool = False  # IBKR sends nothing for its request, without having ended it
    renewed: bool = False  # requested again for its silence; once until data come

    @property
    def lively(self) -> bool:
        return self.packets >= LIVELY_TICKS and self.interval <= LIVELY_INTERVAL

    @property
    def live(self) -> bool:
        return self.current and self.code is None


class Ask(NamedTuple):
    """Request it, and say `opened` or `refused` with this turn."""

    stream: Stream
    turn: int


class Cancel(NamedTuple):
    kind: Kind
    reqId: int


class Release(NamedTuple):
    """It has no reader any more; its rows go."""

    stream: Stream


class Changed(NamedTuple):
    """Its `code` is another, or what it shows may now be old."""

    stream: Stream


Order = Ask | Cancel | Release | Changed


class Streams:
    """The table. What `plan` orders is taken for done."""

    def __init__(self, lines: int = LINES) -> None:
        self.by_topic: dict[str, Stream] = {}
        self.by_request: dict[int, Stream] = {}
        self.lines = lines
        self._due: list[Order] = []  # for the next plan

    @property
    def lines_used(self) -> int:
        return sum(stream.spec.kind == "quotes" and stream.state != "wanted" for stream in self.by_topic.values())

    @property
    def live(self) -> int:
        return sum(stream.live for stream in self.by_topic.values())

    # --- readers ------------------------------------------------------------------------------------------------------

    def watch(self, spec: Spec, reader: Hashable, now: float) -> Stream:
        """`reader` wants the stream until `unwatch` or `leave`."""
        stream = self.by_topic.get(spec.topic)
        if stream is None:
            stream = self.by_topic[spec.topic] = Stream(spec.topic, spec)
        stream.watchers.add(reader)
        stream.releaseAt = math.inf
        if stream.problem is not None and stream.state == "wanted" and now - stream.refusedAt >= REMEMBERED:
            stream.notBefore = now
        return stream

    def unwatch(self, topic: str, reader: Hashable, now: float) -> None:
        stream = self.by_topic.get(topic)
        if stream is not None and reader in stream.watchers:
            stream.watchers.discard(reader)
            if not stream.watchers:
                stream.releaseAt = now + LINGER

    def leave(self, reader: Hashable, now: float) -> None:
        """`reader` is gone."""
        for topic in self.by_topic:
            self.unwatch(topic, reader, now)

    # --- what came of it ----------------------------------------------------------------------------------------------

    def opened(self, ask: Ask, reqId: int, now: float) -> bool:
        """The request went out as `reqId`. False: it is not wanted any more, and has to be cancelled."""
        stream = ask.stream
        if stream.turn != ask.turn or self.by_topic.get(stream.topic) is not stream:
            return False
        stream.state, stream.reqId, stream.requestedAt = "open", reqId, now
        self.by_request[reqId] = stream
        return True

    def refused(self, ask: Ask, problem: Problem, again: float, now: float) -> None:
        """The request could not be made; `again` s from now it may be tried, doubling with each try."""
        if ask.stream.turn == ask.turn:
            self._close(ask.stream)
            self._refuse(ask.stream, problem, again, now)

    def received(self, reqId: int, now: float) -> Stream | None:
        """Data came for `reqId`; whose it is, `None` for a request of the past."""
        stream = self.by_request.get(reqId)
        if stream is None:
            return None
        if stream.packets:
            stream.interval += (now - stream.receivedAt - stream.interval) * (0.05 if stream.packets > 20 else 0.2)
        stream.packets += 1
        stream.receivedAt, stream.checkAt = now, math.inf
        if not stream.current or stream.code is not None or stream.renewed:
            stream.current, stream.stalled, stream.renewed, stream.tries = True, False, False, 0
            stream.code = stream.problem = None
        return stream

    def trouble(self, reqId: int, code: int, problem: Problem, now: float, *, final: bool) -> Stream | None:
        """IBKR sent `code` for a stream. `final` is false in or just after an outage (FAULTS 10, 48)."""
        stream = self.by_request.get(reqId)
        means = meaning(code)
        stalls = means.request == "stalls"
        if stream is None or means.flows or (stream.stalled and stalls):
            return None
        if not stalls:
            self._end(stream)
        stream.stalled = stalls
        stream.needsFarm = means.needs_farm
        self._refuse(stream, problem, means.retry if final else min(means.retry, REMEMBERED), now)
        if code == 101 and (idle := self._least_recently_wanted()):
            self._due += self._release(idle)  # fewer lines are ours than we thought
        return stream

    def renew(self, stream: Stream) -> None:
        """What it would bring from here on is not the whole: it is requested again."""
        self._end(stream)
        self._due.append(Changed(stream))

    def lost(self) -> None:
        """The session is over, and with it every request of it."""
        self._due.clear()
        for stream in self.by_topic.values():
            self._forget(stream)

    def replay(self, now: float) -> int:
        """1101: IBKR has dropped every stream. Each is requested again, once; how many."""
        old = [Cancel(stream.spec.kind, reqId) for reqId, stream in self.by_request.items()]
        for stream in self.by_topic.values():
            self._forget(stream)
            stream.notBefore = now
        # the old ids are cancelled after the new requests: should IBKR have kept one, it must not run on unseen
        self._due += old
        return len(self.by_topic)

    def verify(self, since: float, now: float) -> None:
        """1102: what was open `since` the loss should bring data again by itself; what does not is requested again."""
        for stream in self.by_request.values():
            if stream.requestedAt <= since:
                stream.checkAt = now + (VERIFY if stream.lively else VERIFY_QUIET)

    # --- what to do ---------------------------------------------------------------------------------------------------

    def plan(
        self, conditions: Conditions, trading: Callable[[Stream], bool], now: float, *, connected: bool
    ) -> list[Order]:
        """Everything that has to be done now, in order. `trading`: whether its contract's session is open, or unknown.

        While not `connected`, or without upstream, streams are released but not requested.
        """
        orders: list[Order] = []
        for stream in [each for each in self.by_topic.values() if now >= each.releaseAt]:
            orders += self._release(stream)
        if connected and conditions.upstream:
            self._renew(conditions, trading, now)
            orders += self._ask(conditions, now)
        orders += self._due
        self._due = []
        return orders

    def _ask(self, conditions: Conditions, now: float) -> Iterable[Order]:
        wanted = [
            each
            for each in self.by_topic.values()
            if each.state == "wanted"
            and now >= each.notBefore
            and not (each.needsFarm and now < each.refusedAt + FARM_WAIT and not conditions.farm(FARMS[each.spec.kind]))
        ]
        wanted.sort(key=lambda each: (each.spec.kind == "bars", not each.watchers))
        used = self.lines_used
        orders: list[Order] = []
        for stream in wanted:
            if self.by_topic.get(stream.topic) is not stream:
                continue  # released for another
            if stream.spec.kind == "quotes":
                if used >= self.lines:
                    idle = self._least_recently_wanted()
                    if idle is None:
                        self._full(stream, now)
                        continue
                    orders += self._release(idle)
                    used -= 1
                used += 1
            stream.state, stream.turn, stream.current = "requesting", stream.turn + 1, False
            stream.needsFarm, stream.checkAt, stream.requestedAt, stream.packets = False, math.inf, now, 0
            orders.append(Ask(stream, stream.turn))
        return orders

    def _renew(self, conditions: Conditions, trading: Callable[[Stream], bool], now: float) -> None:
        """What has been silent for too long while everything is green becomes wanted again."""
        for stream in list(self.by_request.values()):
            again = stream.stalled and now >= stream.notBefore
            if not again and conditions.farm(FARMS[stream.spec.kind]) and self._silent(stream, now) and trading(stream):
                again = stream.renewed = True
            if again:
                self.renew(stream)

    @staticmethod
    def _silent(stream: Stream, now: float) -> bool:
        if stream.renewed:
            return False
        if now >= stream.checkAt:
            return True
        return stream.lively and now - stream.receivedAt > max(SILENCE, SILENCE_INTERVALS * stream.interval)

    def _least_recently_wanted(self) -> Stream | None:
        idle = (
            each
            for each in self.by_topic.values()
            if each.spec.kind == "quotes" and not each.watchers and each.state != "wanted"
        )
        return min(idle, key=lambda each: each.releaseAt, default=None)

    def _full(self, stream: Stream, now: float) -> None:
        """Not a refusal of the gateway's: the next plan tries again."""
        stream.refusedAt = now
        if stream.code != 101:
            stream.code = 101
            stream.problem = Problem(
                "tooManySubscriptions",
                f"All {self.lines} market-data lines are in use by streams that are watched.",
                ibCode=101,
                retryAfter=LINGER,
                extra={"lines": self.lines_used, "limit": self.lines},
            )
            self._due.append(Changed(stream))

    def _refuse(self, stream: Stream, problem: Problem, again: float, now: float) -> None:
        stream.tries += 1
        stream.code, stream.problem, stream.refusedAt = problem.ibCode, problem, now
        stream.notBefore = now + (again if again >= LONGEST else min(LONGEST, again * 2.0 ** min(stream.tries - 1, 16)))
        self._due.append(Changed(stream))

    def _release(self, stream: Stream) -> list[Order]:
        orders: list[Order] = [Release(stream)]
        if stream.reqId is not None:
            orders.append(Cancel(stream.spec.kind, stream.reqId))
        self._forget(stream)
        del self.by_topic[stream.topic]
        if stream.spec.kind == "quotes":
            for other in self.by_topic.values():
                if other.code == 101 and other.state == "wanted":
                    other.notBefore = -math.inf  # a line is free
        return orders

    def _end(self, stream: Stream) -> None:
        """Cancelled even where IBKR has said that it is over: ib_async and TWS forget it for certain then."""
        if stream.reqId is not None:
            self._due.append(Cancel(stream.spec.kind, stream.reqId))
        self._close(stream)

    def _close(self, stream: Stream) -> None:
        """No request of it is open or under way any more."""
        if stream.reqId is not None:
            del self.by_request[stream.reqId]
        stream.state, stream.reqId, stream.current, stream.stalled = "wanted", None, False, False
        stream.turn += 1

    def _forget(self, stream: Stream) -> None:
        """Its request went down with the session, and so did the reasons against it."""
        self._close(stream)
        stream.notBefore, stream.needsFarm, stream.tries, stream.refusedAt = -math.inf, False, 0, -math.inf
        stream.renewed, stream.checkAt, stream.code, stream.problem = False, math.inf, None, None
