"""The facade's replica of what the daemon knows, the connection it comes through, and whether it can be believed.

Connects for ever, resumes from the step it has, folds only at consistent points, and keeps the last known rows while
the daemon is away. Rows are bytes; `link` and `sync` alone are read. Never decides what is answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import structlog

from shared.messages import STATE_TOPICS, Link, Sync
from shared.reasons import Problem, describe
from shared.replica import NEVER, Entry, Replica, TopicDelta, TopicState
from shared.rpc import Client, ConnectionLost, RpcError

log = structlog.get_logger(__name__)

RETRY = 0.2
"""s between dials: a refused local dial costs microseconds, and a person is looking at the page."""

OPEN_LIMIT = 2.0
"""s for connection and hello, as for a ping: a daemon that takes longer does not answer."""

PING_EVERY = 0.5
"""s from one ping's answer to the next ping, so that silence is known within `PING_LIMIT` and a half."""

PING_LIMIT = 2.0
"""s after which a daemon that does not answer a ping is unreachable (the contract's)."""

WATCH_LIMIT = 10.0
"""s for the answer to a watch; the first pages of ten thousand positions take a tenth of one."""

FIRST_LIMIT = 2.0
"""s that a new process waits for its first complete replica before it serves without one."""


class _Page(msgspec.Struct):
    """One topic's part of a delta; `seqs` stand parallel to `rows`."""

    asOf: str | None
    seq: int
    rows: dict[str, msgspec.Raw]  # a union with None would be decoded
    seqs: list[int]


class _Delta(msgspec.Struct):
    epoch: str
    topics: dict[str, _Page]
    seq: int | None = None
    floor: int = 0


class _Watched(msgspec.Struct):
    epoch: str
    seq: int
    reset: bool


_delta = msgspec.json.Decoder(_Delta)
_watched = msgspec.json.Decoder(_Watched)
_link = msgspec.json.Decoder(Link)
_sync = msgspec.json.Decoder(Sync)


class Mirror:
    """`path`: the daemon's socket. `proof_limit`: s that a proof is good for (probe interval + timeout).

    `monotonic`: seconds that never go back. `replica` is what was last known, `None` before the first complete one.
    """

    def __init__(self, path: str, proof_limit: float, monotonic: Callable[[], float]) -> None:
        self.replica: Replica | None = None
        self.link: Link | None = None
        """The last link row heard. Whether it still holds: `connected`."""
        self.reachable = False
        self.daemon = ""
        """What the daemon calls itself."""
        self.settled = asyncio.Event()
        """Set once it is known how the first dial ended: a complete replica, or no daemon."""
        self.upheavals = 0
        """How often something changed that is no step: the daemon came or went, a replica or a topic came whole."""
        self._why = ""  # what was last said of its absence: each cause is one line, not one each dial
        self._path = path
        self._proof_limit = proof_limit
        self._monotonic = monotonic
        self._proven_until = 0.0
        self._proof_at: float | None = None
        self._client: Client | None = None
        self._wanted: Counter[str] = Counter()
        self._refused: dict[str, Problem] = {}
        self._news: asyncio.Future[None] | None = None
        self._asked: set[str] = set()  # topics watched on this connection
        self._backlog: list[_Delta] | None = None  # deltas that came beside the answer to a watch
        self._pages: dict[str, tuple[TopicState, dict[str, Entry]]] = {}
        self._fresh: Replica | None = None  # a replica being filled, not complete yet
        self._known: dict[str, Sync] = {}
        self._reached: list[tuple[int, asyncio.Future[None]]] = []
        self._births: dict[str, int] = {}
        self._born = 0
        self._more_wanted = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    # --- what is known ---

    @property
    def complete(self) -> bool:
        """Whether the replica holds every topic there always is, and the daemon is there to keep it so."""
        return self.reachable and self.replica is not None

    @property
    def connected(self) -> bool:
        """The daemon answers, says `ready`, and its proof is young enough."""
        return self.reachable and self._monotonic() < self._proven_until

    @property
    def proof_age(self) -> float | None:
        """s since the gateway's last message, as far as the last link row tells; `None` where there is none."""
        return None if self._proof_at is None else max(0.0, self._monotonic() - self._proof_at)

    def known(self, topic: str) -> Sync | None:
        """The topic's row in `sync`; `None` where there is none."""
        return self._known.get(topic)

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

    def syncs(self) -> Iterable[tuple[str, Sync]]:
        """Every topic's row in `sync`."""
        return self._known.items()

    def listen(self, listener: Callable[[], None]) -> None:
        """`listener` is called after each fold and whenever `reachable` changes. It must neither block nor raise."""
        self._listeners.append(listener)

    # --- what is asked ---

    async def call(self, method: str, params: Any, timeout: float) -> msgspec.Raw:
        """The daemon's answer within `timeout` s. Raises `Problem`, with what the daemon said in its `extra`."""
        client = self._client
        if client is None or not self.reachable:
            raise Problem("daemonUnreachable")
        try:
            return await client.call(method, params, timeout)
        except RpcError as error:
            raise said(error) from error
        except ConnectionLost as error:
            raise Problem("daemonUnreachable", "The daemon went away before it answered.") from error
        except TimeoutError as error:
            raise Problem("brokerTimeout", f"The daemon gave no answer within {timeout:g} s.") from error

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
            if entry in self._reached:
                self._reached.remove(entry)

    async def told(self, topics: Iterable[str]) -> None:
        """Until each of `topics` has been told. Raises the `Problem` with which the daemon refused one."""
        while True:
            for topic in topics:
                if topic in self._refused:
                    raise self._refused[topic]
            if self.has(topics) or not self.reachable:
                return
            if self._news is None:
                self._news = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._news)

    def want(self, topics: Iterable[str]) -> None:
        """Watch topics that come and go (`quotes:…`, `bars:…`) until as many `release`s."""
        for topic in topics:
            if topic not in STATE_TOPICS:
                self._wanted[topic] += 1
                if topic not in self._asked:
                    self._refused.pop(topic, None)  # asked again for a new reader
                    self._more_wanted.set()

    def release(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic in STATE_TOPICS or not self._wanted[topic]:
                continue
            self._wanted[topic] -= 1
            if not self._wanted[topic]:
                del self._wanted[topic]
                self._refused.pop(topic, None)
                self._more_wanted.set()

    # --- the connection ---

    async def run(self) -> None:
        """Stay connected, for ever."""
        while True:
            try:
                await self._converse()
            except (OSError, RpcError, TimeoutError, msgspec.DecodeError) as error:
                self._away(str(error) or "no answer in time")
            self.settled.set()
            await asyncio.sleep(RETRY)

    async def _converse(self) -> None:
        """One connection, from the dial to its end."""
        client = await Client.open(self._path, "ibkr-facade/1", self._hear, self._away, OPEN_LIMIT)
        self._client = client
        self._asked.clear()
        self._pages.clear()
        self._fresh = None
        self.daemon = client.welcome.daemon
        try:
            await self._watch(client)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ping(client), name="mirror.ping")
                tasks.create_task(self._follow(client), name="mirror.follow")
        except* (OSError, RpcError, TimeoutError, msgspec.DecodeError) as errors:
            raise _first(errors) from None
        finally:
            self._client = None
            client.abort()

    async def _ping(self, client: Client) -> None:
        while True:
            await client.call("ping", {}, PING_LIMIT)
            await asyncio.sleep(PING_EVERY)

    async def _follow(self, client: Client) -> None:
        """Keep what is watched equal to what is wanted."""
        while True:
            await self._more_wanted.wait()
            self._more_wanted.clear()
            if client.reason:
                raise ConnectionLost(client.reason)
            await self._watch(client)

    async def _watch(self, client: Client) -> None:
        """Watch what is wanted and not watched yet, resuming where the daemon still can; let go of the rest."""
        wanted = {*STATE_TOPICS, *self._wanted}
        gone = self._asked - wanted
        if gone:
            self._asked -= gone
            await client.call("unwatch", {"topics": sorted(gone)}, WATCH_LIMIT)
            for topic in gone - self._wanted.keys():
                self._drop(topic)
        missing = wanted - self._asked - self._refused.keys()
        # in one call, so that all of them come to the same step together
        resumable = {topic for topic in missing if self._resumable(client, topic)}
        if "link" in missing and "link" not in resumable:
            resumable = set()
        try:
            await self._watch_some(client, resumable, resume=True)
        except RpcError:  # one of those that come and go can no longer be had: they begin anew
            for topic in resumable.difference(STATE_TOPICS):
                self._drop(topic)
            resumable = resumable.intersection(STATE_TOPICS)
            await self._watch_some(client, resumable, resume=True)
        missing -= resumable
        await self._watch_some(client, missing.intersection(STATE_TOPICS), resume=False)
        await self._watch_lines(client, missing.difference(STATE_TOPICS))

    async def _watch_lines(self, client: Client, topics: set[str]) -> None:
        """Quotes and bars; one that the daemon refuses must not cost the others."""
        try:
            await self._watch_some(client, topics, resume=False)
        except RpcError as error:
            if len(topics) == 1:
                self._refused |= dict.fromkeys(topics, said(error))
                self._tell()
                return
            for topic in sorted(topics):
                await self._watch_lines(client, {topic})

    def _resumable(self, client: Client, topic: str) -> bool:
        return self.replica is not None and self.replica.epoch == client.welcome.epoch and self.has((topic,))

    async def _watch_some(self, client: Client, topics: set[str], resume: bool) -> None:
        if not topics:
            return
        params: dict[str, Any] = {"topics": sorted(topics)}
        if resume and self.replica is not None:
            params |= {"epoch": self.replica.epoch, "since": self.replica.seq}
        self._asked |= topics
        self._backlog = []
        try:
            answer = _watched.decode(await client.call("watch", params, WATCH_LIMIT))
            if answer.reset:
                self._forget(answer.epoch, topics)
            elif self.replica is not None and self.replica.seq >= answer.seq:
                self._answers(True)  # nothing was missed; otherwise the delta that follows says so
        except RpcError:
            self._asked -= topics
            raise
        finally:
            backlog, self._backlog = self._backlog or [], None
        for delta in backlog:
            self._take(delta)

    def _forget(self, epoch: str, topics: set[str]) -> None:
        """What is held of `topics` is no longer known to be right: a whole snapshot follows."""
        if self.replica is None or self.replica.epoch != epoch or self._fresh is not None or "link" in topics:
            # what was last known stays readable until the new one is complete
            if self._fresh is None or self._fresh.epoch != epoch:
                self._fresh = Replica(epoch)
            return
        for topic in topics:
            self._drop(topic)

    def _drop(self, topic: str) -> None:
        self._births.pop(topic, None)
        for replica in (self.replica, self._fresh):
            if replica is not None:
                replica.drop(topic)

    # --- what the daemon tells ---

    def _hear(self, method: str, params: msgspec.Raw) -> None:
        if method != "delta":
            return
        try:
            delta = _delta.decode(params)
        except msgspec.DecodeError as error:
            if self._client is not None:
                self._client.abort(f"a delta that cannot be read: {error}")
            return
        if self._backlog is not None:
            self._backlog.append(delta)
        else:
            self._take(delta)

    def _take(self, delta: _Delta) -> None:
        """Keep a page; with the last page of a step, fold them all."""
        for topic, page in delta.topics.items():
            if topic not in self._asked:
                continue  # crossed with our unwatch
            _, rows = self._pages.get(topic, (NEVER, {}))
            for (key, row), seq in zip(page.rows.items(), page.seqs, strict=True):
                rows.pop(key, None)
                line = bytes(row)
                rows[key] = (seq, None if line == b"null" else line)
            self._pages[topic] = (TopicState(page.seq, page.asOf or ""), rows)
        if delta.seq is None:
            return
        target = self._fresh or self.replica
        pages, self._pages = self._pages, {}
        if target is None or target.epoch != delta.epoch:
            return
        changes = {topic: TopicDelta(state, rows) for topic, (state, rows) in pages.items()}
        for topic in changes:
            if ":" in topic and topic not in self._births:
                self._born += 1
                self._births[topic] = self._born
                self.upheavals += 1
        target.fold(delta.seq, delta.floor, changes)
        if self._fresh is not None:
            if not all(topic in set(self._fresh.topics()) for topic in STATE_TOPICS):
                return
            self.replica, self._fresh = self._fresh, None
            self.upheavals += 1
            held = frozenset(self.replica.topics())
            self._births = {topic: birth for topic, birth in self._births.items() if topic in held}
            self._known.clear()
            self._read(self.replica, {topic: self.replica.rows(topic) for topic in ("link", "sync")})
        else:
            self._read(
                target, {name: {key: row for key, (_, row) in rows.items()} for name, (_, rows) in pages.items()}
            )
        self._answers(True)
        self._tell()

    def _read(self, replica: Replica, changed: Mapping[str, Mapping[str, bytes | None]]) -> None:
        """The two topics that say what the others are worth."""
        for topic, row in changed.get("sync", {}).items():
            if row is None:
                self._known.pop(topic, None)
            else:
                self._known[topic] = _sync.decode(row)
        row = changed.get("link", {}).get("link")
        if row is not None:
            self.link = _link.decode(row)
            age = self.link.proof.ageMs
            self._proof_at = None if age is None else self._monotonic() - age / 1000
            proven = self.link.connected and self._proof_at is not None
            self._proven_until = (self._proof_at or 0.0) + self._proof_limit if proven else 0.0
        waiting, self._reached = self._reached, []
        for seq, reached in waiting:
            if replica.seq < seq:
                self._reached.append((seq, reached))
            elif not reached.done():
                reached.set_result(None)

    def _answers(self, reachable: bool) -> None:
        if self.reachable == reachable:
            return
        self.reachable = reachable
        self.upheavals += 1
        self.settled.set()
        if reachable:
            self._why = ""
            log.info("mirror.reached", message="The daemon answers.", daemon=self.daemon)
        self._tell()

    def _away(self, why: str) -> None:
        """The connection is gone; what was last known stays, marked stale."""
        self._pages.clear()
        self._fresh = None
        self._more_wanted.set()  # so that the conversation ends now and not at its next ping
        if why not in (self._why, "aborted"):
            self._why = why
            log.warning("mirror.away", message="The daemon does not answer.", error=why)
        self._answers(False)

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set_result(None)
            self._news = None
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


def said(error: RpcError) -> Problem:
    """What the daemon refused, as the problem it names."""
    data = error.data if isinstance(error.data, dict) else {}
    reason = data.get("reason")
    try:
        return Problem(
            reason if isinstance(reason, str) else "invalidParameters" if error.code == -32602 else "brokerError",
            str(data.get("detail") or "") or ("" if isinstance(reason, str) else error.message),
            ibCode=data.get("ibCode") if isinstance(data.get("ibCode"), int) else None,
            extra={"daemon": data},
        )
    except KeyError:  # a reason of a newer daemon
        return Problem("brokerError", error.message, extra={"daemon": data})


def _first(errors: BaseExceptionGroup[BaseException]) -> Exception:
    """The error that ended a group; the others were its consequence."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else ConnectionError(str(error))
