"""The facade's end of the conversation with the daemon, through which it keeps what it believes current.

Connects for ever, resumes from the step it has, watches what somebody wants to read, passes questions on. What is told
is folded in `believed.py`. Never decides what is answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import structlog

from facade.replica.believed import Believed, Delta
from shared.clock import Clock
from shared.jsonrpc.client import Client, ConnectionLost
from shared.jsonrpc.codec import RpcError
from shared.messages import STATE_TOPICS
from shared.reasons import Problem

log = structlog.get_logger(__name__)

RETRY = 0.2
"""s between dials: a refused local dial costs microseconds, and a person is looking at the page."""

OPEN_LIMIT = 2.0
"""s for connection and hello, as for a ping: a daemon that takes longer does not answer."""

PING_EVERY = 0.25
"""s from one ping's answer to the next ping, so that silence is known within `PING_LIMIT` and a little."""

PING_LIMIT = 2.0
"""s after which a daemon that does not answer a ping is unreachable (the contract's)."""

WATCH_LIMIT = 10.0
"""s for the answer to a watch; the first pages of ten thousand positions take a tenth of one."""

FIRST_LIMIT = 2.0
"""s that a new process waits for its first complete replica before it serves without one."""


class _Watched(msgspec.Struct):
    epoch: str
    seq: int
    reset: bool


_delta = msgspec.json.Decoder(Delta)
_watched = msgspec.json.Decoder(_Watched)


class Mirror(Believed):
    """`path`: the daemon's socket; the rest as `Believed` says."""

    def __init__(self, path: str, proof_limit: float, clock: Clock) -> None:
        super().__init__(proof_limit, clock)
        self.daemon = ""
        """What the daemon calls itself."""
        self.settled = asyncio.Event()
        """Set once it is known how the first dial ended: a complete replica, or no daemon."""
        self._path = path
        self._why = ""  # what was last said of its absence: each cause is one line, not one each dial
        self._client: Client | None = None
        self._wanted: Counter[str] = Counter()
        self._more_wanted = asyncio.Event()
        self._refused: dict[str, Problem] = {}
        self._asked: set[str] = set()  # topics watched on this connection
        self._backlog: list[Delta] | None = None  # deltas that came beside the answer to a watch
        self._news: asyncio.Future[None] | None = None
        self._folded = False  # since the listeners were told last

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
        client = await Client.open(self._path, "ibkr-facade/1", self._hear, self._away, OPEN_LIMIT, self._heard)
        self._client = client
        self._asked.clear()
        self.interrupt()
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
        """Watch what is wanted and not watched yet, resuming where the daemon still can; let go of the rest.

        Nothing is held that is not watched: while a topic is not told of, the replica's step passes its changes.
        """
        wanted = {*STATE_TOPICS, *self._wanted}
        gone = self._asked - wanted
        for topic in gone.union(self._held_lines() - wanted):
            self.drop(topic)
        if gone:
            self._asked -= gone
            await client.call("unwatch", {"topics": sorted(gone)}, WATCH_LIMIT)
        missing = wanted - self._asked - self._refused.keys()
        # in one call, so that all of them come to the same step together
        resumable = missing.intersection(STATE_TOPICS, self._held_state(client)) if not self._asked else set()
        if resumable:
            resumable |= missing & self._held_lines()
        try:
            await self._watch_some(client, resumable, resume=True)
        except RpcError:  # one of those that come and go can no longer be had: they begin anew
            for topic in resumable.difference(STATE_TOPICS):
                self.drop(topic)
            resumable = resumable.intersection(STATE_TOPICS)
            await self._watch_some(client, resumable, resume=True)
        missing -= resumable
        await self._watch_some(client, missing.intersection(STATE_TOPICS), resume=False)
        await self._watch_lines(client, missing.difference(STATE_TOPICS))

    def _held_lines(self) -> set[str]:
        """The quotes and bars in the replica."""
        return set() if self.replica is None else {topic for topic in self.replica.topics() if ":" in topic}

    def _held_state(self, client: Client) -> Iterable[str]:
        """The standing topics, if the replica is of this daemon's epoch."""
        return STATE_TOPICS if self.replica is not None and self.replica.epoch == client.welcome.epoch else ()

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
                self.begin(answer.epoch, topics)
            elif self.replica is not None and self.replica.seq >= answer.seq:
                self._answers(True)  # nothing was missed; otherwise the delta that follows says so
        except RpcError:
            self._asked -= topics
            raise
        finally:
            backlog, self._backlog = self._backlog or [], None
        for delta in backlog:
            self._take(delta)
        self._heard()

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

    def _take(self, delta: Delta) -> None:
        if not self._asked.issuperset(delta.topics):  # it crossed with our unwatch
            delta.topics = {topic: page for topic, page in delta.topics.items() if topic in self._asked}
        if self.take(delta):
            self._answers(True)
            self._folded = True

    def _heard(self) -> None:
        """However many steps came in one piece, listeners are told once, after them."""
        if self._folded:
            self._tell()

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
        self.interrupt()
        self._more_wanted.set()  # so that the conversation ends now and not at its next ping
        if why not in (self._why, "aborted"):
            self._why = why
            log.warning("mirror.away", message="The daemon does not answer.", error=why)
        self._answers(False)

    def _tell(self) -> None:
        self._folded = False
        if self._news is not None:
            self._news.set_result(None)
            self._news = None
        super()._tell()


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
