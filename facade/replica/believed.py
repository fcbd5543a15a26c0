"""What the facade believes of the daemon: its rows, folded at consistent points only, and what they are worth.

Keeps the last known rows while the daemon is away. Rows are bytes; `link` and `sync` alone are read. Knows no socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from shared.clock import Clock
from shared.messages import STATE_TOPICS, Link, Proof, Sync
from shared.reasons import Problem, describe
from shared.replica import NEVER, Replica, TopicDelta, TopicState


class Page(msgspec.Struct):
    """One topic's part of a delta; `seqs` stand parallel to `rows`."""

    asOf: str | None
    seq: int
    rows: dict[str, msgspec.Raw]  # a union with None would be decoded
    seqs: list[int]


class Delta(msgspec.Struct):
    """What the daemon tells. `seq`: the step it completes, `None` in the middle of one."""

    epoch: str
    topics: dict[str, Page]
    seq: int | None = None
    floor: int = 0


UNCHANGED = TopicDelta(NEVER, {})

_link = msgspec.json.Decoder(Link)
_sync = msgspec.json.Decoder(Sync)


class Believed:
    """`proof_limit`: s that a proof is good for (probe interval + timeout)."""

    def __init__(self, proof_limit: float, clock: Clock) -> None:
        self.replica: Replica | None = None
        """What was last known; `None` before the first complete one."""
        self.link: Link | None = None
        """The last link row heard. Whether it still holds: `connected`."""
        self.reachable = False
        """The daemon answers."""
        self.upheavals = 0
        """How often something changed that is no step: the daemon came or went, a replica or a topic came whole."""
        self._proof_limit = proof_limit
        self._clock = clock
        self._proven_until = 0.0
        self._proof_at: float | None = None
        self._pages: dict[str, TopicDelta] = {}
        self._fresh: Replica | None = None  # a replica being filled, not complete yet
        self._known: dict[str, Sync] = {}
        self._births: dict[str, int] = {}
        self._born = 0
        self._reached: list[tuple[int, asyncio.Future[None]]] = []
        self._listeners: list[Callable[[], None]] = []

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the replica holds every topic there always is, and the daemon is there to keep it so."""
        return self.reachable and self.replica is not None

    @property
    def connected(self) -> bool:
        """The daemon answers, says `ready`, and its proof is young enough."""
        return self.reachable and self._clock.monotonic() < self._proven_until

    @property
    def proof_age(self) -> float | None:
        """s since the gateway's last message, as far as the last link row tells; `None` where there is none."""
        return None if self._proof_at is None else max(0.0, self._clock.monotonic() - self._proof_at)

    def known(self, topic: str) -> Sync | None:
        """The topic's row in `sync`; `None` where there is none."""
        return self._known.get(topic)

    def syncs(self) -> Iterable[tuple[str, Sync]]:
        """Every topic's row in `sync`."""
        return self._known.items()

    def row(self, topic: str, key: str) -> bytes | None:
        return None if self.replica is None else self.replica.row(topic, key)

    def state(self, topic: str) -> TopicState:
        return NEVER if self.replica is None else self.replica.state(topic)

    def has(self, topics: Iterable[str]) -> bool:
        """Whether each of `topics` has been told, be it with no rows."""
        held = () if self.replica is None else frozenset(self.replica.topics())
        return all(topic in held for topic in topics)

    def birth(self, topic: str) -> int:
        """Which coming of a topic that comes and goes is held, 0 for none: who read an earlier one lacks all of it."""
        return self._births.get(topic, 0)

    def listen(self, listener: Callable[[], None]) -> None:
        """`listener` is called after each fold and whenever `reachable` changes. It must neither block nor raise."""
        self._listeners.append(listener)

    async def reach(self, seq: int, timeout: float) -> None:
        """Until the replica holds step `seq`. Raises `Problem` where that does not happen within `timeout` s."""
        if self.replica is not None and self.replica.seq >= seq:
            return
        reached = asyncio.get_running_loop().create_future()
        entry = (seq, reached)
        self._reached.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await reached
        except TimeoutError:
            raise Problem("daemonUnreachable", "The daemon did as asked, but tells no news of it.") from None
        finally:
            self._reached.remove(entry)

    # --- what is told -----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """What was only half told is forgotten; what is complete stays."""
        self._pages.clear()
        self._fresh = None

    def begin(self, epoch: str, topics: set[str]) -> None:
        """What is held of `topics` is no longer known to be right: a whole snapshot of them follows."""
        if self.replica is None or self.replica.epoch != epoch or self._fresh is not None or "link" in topics:
            # what was last known stays readable until the new one is complete
            if self._fresh is None or self._fresh.epoch != epoch:
                self._fresh = Replica(epoch)
            return
        for topic in topics:
            self.drop(topic)

    def drop(self, topic: str) -> None:
        """Hold nothing of a topic that nobody tells of any more."""
        self._births.pop(topic, None)
        self._pages.pop(topic, None)
        for replica in (self.replica, self._fresh):
            if replica is not None:
                replica.drop(topic)

    def take(self, delta: Delta) -> bool:
        """Keep a page; with the last page of a step fold them all. Whether the replica is at a consistent point now."""
        for topic, page in delta.topics.items():
            told = self._pages.get(topic)
            rows = {} if told is None else told.rows
            for (key, row), seq in zip(page.rows.items(), page.seqs, strict=True):
                line = bytes(row)
                rows.pop(key, None)
                rows[key] = (seq, None if line == b"null" else line)
            self._pages[topic] = TopicDelta(TopicState(page.seq, page.asOf or ""), rows)
        target = self._fresh or self.replica
        if delta.seq is None or target is None or target.epoch != delta.epoch:
            return False
        pages, self._pages = self._pages, {}
        for topic in pages:
            if ":" in topic and topic not in self._births:
                self._born += 1
                self._births[topic] = self._born
                self.upheavals += 1
        target.fold(delta.seq, delta.floor, pages)
        if self._fresh is None:
            self._read(pages)
        elif not self._swapped(self._fresh):
            return False
        self._wake(target.seq)
        return True

    def _swapped(self, fresh: Replica) -> bool:
        """Whether the new replica is complete and has taken the old one's place."""
        held = frozenset(fresh.topics())
        if not held.issuperset(STATE_TOPICS):
            return False
        self.replica, self._fresh = fresh, None
        self.upheavals += 1
        self._births = {topic: birth for topic, birth in self._births.items() if topic in held}
        self._known.clear()
        self._read(fresh.snapshot(("link", "sync")))
        return True

    def _read(self, changed: Mapping[str, TopicDelta]) -> None:
        """The two topics that say what the others are worth."""
        for topic, (_, row) in changed.get("sync", UNCHANGED).rows.items():
            if row is None:
                self._known.pop(topic, None)
            else:
                self._known[topic] = _sync.decode(row)
        _, row = changed.get("link", UNCHANGED).rows.get("link", (0, None))
        if row is not None:
            self.link = _link.decode(row)
            age = self._age(self.link.proof)
            self._proof_at = None if age is None else self._clock.monotonic() - age
            proven = self.link.connected and self._proof_at is not None
            self._proven_until = (self._proof_at or 0.0) + self._proof_limit if proven else 0.0

    def _age(self, proof: Proof) -> float | None:
        """s since the gateway's last message. A row may be told long after it was written: to a new reader, or by a
        daemon that was stopped in between. Then the two processes' common wall clock knows better.
        """
        if proof.ageMs is None:
            return None
        by_clock = 0.0 if proof.at is None else (self._clock.now() - proof.at).total_seconds()
        return max(proof.ageMs / 1000, by_clock)

    def _wake(self, come_to: int) -> None:
        for seq, reached in self._reached:  # each takes itself out
            if come_to >= seq and not reached.done():
                reached.set_result(None)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def unreachable(link: Link | None) -> Link:
    """The link row while the daemon is away: no phase, the last known rest, stale."""
    facts: dict[str, Any] = {}
    if link is not None and link.gateway is not None:
        facts = msgspec.structs.asdict(link.gateway)
    sentence, advice = describe("daemonUnreachable", **facts)
    last = link or Link(phase=None, reason=None, sentence="")
    return msgspec.structs.replace(
        last,
        phase=None,
        reason="daemonUnreachable",
        sentence=sentence,
        advice=advice,
        connected=False,
        stale=True,
        nextAttemptAt=None,
    )
