"""The facade's replica of one daemon: its rows, folded at consistent steps only, and whether they are current.

Keeps the last rows while the daemon is unreachable. Rows are opaque bytes, except those of `link` and `sync`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from shared.clock import Clock
from shared.messages import STATE_TOPICS, Link, Proof, Sync
from shared.reasons import Problem, describe
from shared.replica import NEVER, Replica, TopicDelta, TopicState


class Page(msgspec.Struct):
    """One topic's part of a delta. `seqs`: the step of each row's last change, in the order of `rows`."""

    asOf: str | None
    seq: int
    rows: dict[str, msgspec.Raw]  # a union with None would be decoded
    seqs: list[int]


class Delta(msgspec.Struct):
    """The params of a `delta` notification. `seq`: the step it completes; `None` where a further page does."""

    epoch: str
    topics: dict[str, Page]
    seq: int | None = None
    floor: int = 0


UNCHANGED = TopicDelta(NEVER, {})

_link = msgspec.json.Decoder(Link)
_sync = msgspec.json.Decoder(Sync)


class ReplicaState:
    """`proof_limit`: s after the gateway's last message until `connected` is false (probe interval + timeout)."""

    def __init__(self, proof_limit: float, clock: Clock) -> None:
        self.replica: Replica | None = None
        """The last complete replica; `None` before the first."""
        self.link: Link | None = None
        """The last link row received. `connected` says whether it still holds."""
        self.reachable = False
        """Whether the daemon answers."""
        self.resync_count = 0
        """Changes that are not a step: `reachable` changed, a whole replica or a whole topic arrived."""
        self.daemon_time: Callable[[], datetime] = clock.now
        """The daemon's wall clock: `Conversation.daemon_time` of the present conversation."""
        self._proof_limit = proof_limit
        self._clock = clock
        self._proven_until = 0.0
        self._proof_at: float | None = None
        self._next_attempt: float | None = None
        self._pages: dict[str, TopicDelta] = {}
        self._incoming: Replica | None = None  # a replica being filled, not complete yet
        self._syncs: dict[str, Sync] = {}
        self._generations: dict[str, int] = {}
        self._last_generation = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._listeners: list[Callable[[], None]] = []

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether the replica holds every standing topic and the daemon is reachable."""
        return self.reachable and self.replica is not None

    @property
    def connected(self) -> bool:
        """Whether the daemon answers, its link is `ready`, and its proof is younger than `proof_limit`."""
        return self.reachable and self._clock.monotonic() < self._proven_until

    @property
    def proof_age(self) -> float | None:
        """s since the gateway's last message, by the last link row; `None` where there is none."""
        return None if self._proof_at is None else max(0.0, self._clock.monotonic() - self._proof_at)

    @property
    def next_attempt_in(self) -> float | None:
        """s until the link's next attempt, by the last link row; `None` where none is planned."""
        return None if self._next_attempt is None else self._next_attempt - self._clock.monotonic()

    def sync(self, topic: str) -> Sync | None:
        """The topic's row in `sync`; `None` where there is none."""
        return self._syncs.get(topic)

    def syncs(self) -> Iterable[tuple[str, Sync]]:
        """Every topic's row in `sync`."""
        return self._syncs.items()

    def row(self, topic: str, key: str) -> bytes | None:
        return None if self.replica is None else self.replica.row(topic, key)

    def topic_state(self, topic: str) -> TopicState:
        return NEVER if self.replica is None else self.replica.state(topic)

    def has_topics(self, topics: Iterable[str]) -> bool:
        """Whether each of `topics` has arrived, with or without rows."""
        held = () if self.replica is None else frozenset(self.replica.topics())
        return all(topic in held for topic in topics)

    def topic_generation(self, topic: str) -> int:
        """The number of the subscription whose rows of `topic` are held, 0 for none.

        A reader of an earlier generation lacks all of them. Standing topics have none.
        """
        return self._generations.get(topic, 0)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each fold and whenever `reachable` changes. It must neither block nor raise."""
        self._listeners.append(listener)

    async def wait_for_seq(self, seq: int, timeout: float) -> None:
        """Wait until the replica holds step `seq`. Raises `Problem` after `timeout` s."""
        if self.replica is not None and self.replica.seq >= seq:
            return
        arrived = asyncio.get_running_loop().create_future()
        entry = (seq, arrived)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await arrived
        except TimeoutError:
            raise Problem(
                "daemonUnreachable", "The command succeeded, but the state update did not arrive in time."
            ) from None
        finally:
            self._waiters.remove(entry)

    # --- applying what the daemon sends -----------------------------------------------------------------------------

    def discard_partial(self) -> None:
        """Drop the pages of an unfinished step and an incomplete replica; keep the last complete one."""
        self._pages.clear()
        self._incoming = None

    def expect_snapshot(self, epoch: str, topics: Collection[str]) -> None:
        """Prepare for a whole snapshot of `topics`: the rows held of them may be wrong."""
        if self.replica is None or self.replica.epoch != epoch or self._incoming is not None or "link" in topics:
            # the last complete replica stays readable until the new one is complete
            if self._incoming is None or self._incoming.epoch != epoch:
                self._incoming = Replica(epoch)
            return
        for topic in topics:
            self.drop(topic)

    def drop(self, topic: str) -> None:
        """Forget a topic that is no longer watched."""
        self._generations.pop(topic, None)
        self._pages.pop(topic, None)
        for replica in (self.replica, self._incoming):
            if replica is not None:
                replica.drop(topic)

    def apply(self, delta: Delta) -> bool:
        """Keep a page; with the last page of a step fold all of them. Whether the replica is now at a whole step."""
        for topic, page in delta.topics.items():
            earlier = self._pages.get(topic)
            rows = {} if earlier is None else earlier.rows
            for (key, row), seq in zip(page.rows.items(), page.seqs, strict=True):
                line = bytes(row)
                rows.pop(key, None)
                rows[key] = (seq, None if line == b"null" else line)
            self._pages[topic] = TopicDelta(TopicState(page.seq, page.asOf or ""), rows)
        target = self._incoming or self.replica
        if delta.seq is None or target is None or target.epoch != delta.epoch:
            return False
        pages, self._pages = self._pages, {}
        for topic in pages:
            if ":" in topic and topic not in self._generations:
                self._last_generation += 1
                self._generations[topic] = self._last_generation
                self.resync_count += 1
        target.fold(delta.seq, delta.floor, pages)
        if self._incoming is None:
            self._read_status(pages)
        elif not self._replaced_by(self._incoming):
            return False
        self._wake_waiters(target.seq)
        return True

    def _replaced_by(self, incoming: Replica) -> bool:
        """Whether the incoming replica is complete and has replaced the last one."""
        held = frozenset(incoming.topics())
        if not held.issuperset(STATE_TOPICS):
            return False
        self.replica, self._incoming = incoming, None
        self.resync_count += 1
        self._generations = {topic: generation for topic, generation in self._generations.items() if topic in held}
        self._syncs.clear()
        self._read_status(incoming.snapshot(("link", "sync")))
        return True

    def _read_status(self, changed: Mapping[str, TopicDelta]) -> None:
        """Decode the two topics that say whether the others are current."""
        for topic, (_, row) in changed.get("sync", UNCHANGED).rows.items():
            if row is None:
                self._syncs.pop(topic, None)
            else:
                self._syncs[topic] = _sync.decode(row)
        _, row = changed.get("link", UNCHANGED).rows.get("link", (0, None))
        if row is not None:
            self.link = _link.decode(row)
            age = self._age(self.link.proof)
            self._proof_at = None if age is None else self._clock.monotonic() - age
            wait = None if self.link.nextAttemptAt is None else self.link.nextAttemptAt - self._clock.now()
            self._next_attempt = None if wait is None else self._clock.monotonic() + wait.total_seconds()
            proven = self.link.connected and self._proof_at is not None
            self._proven_until = (self._proof_at or 0.0) + self._proof_limit if proven else 0.0

    def _age(self, proof: Proof) -> float | None:
        """s since the gateway's last message: the row's own age, or by the daemon's wall clock where that is more.

        A row may arrive long after it was written: at a new reader, or from a daemon that was stopped in between.
        """
        if proof.ageMs is None:
            return None
        by_clock = 0.0 if proof.at is None else (self.daemon_time() - proof.at).total_seconds()
        return max(proof.ageMs / 1000, by_clock)

    def _wake_waiters(self, current: int) -> None:
        for seq, arrived in self._waiters:  # each removes itself
            if current >= seq and not arrived.done():
                arrived.set_result(None)

    def notify_listeners(self) -> None:
        for listener in self._listeners:
            listener()


def unreachable_link(link: Link | None) -> Link:
    """The link row while the daemon is unreachable: no phase, the rest as in the last row `link`, stale."""
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
