"""Keeps the facade's replica of one daemon current: connects, resumes, watches what is subscribed, passes calls on.

Reconnects automatically. What arrives is folded in `state.py`; the transport is behind `conversation.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import msgspec
import structlog

from facade.replica.conversation import Connect, Conversation
from facade.replica.state import Delta, ReplicaState
from shared.jsonrpc.client import ConnectionLost
from shared.jsonrpc.codec import INVALID_PARAMS, MAX_CALLS, RpcError
from shared.messages import STATE_TOPICS
from shared.reasons import Problem

log = structlog.get_logger(__name__)

RETRY_DELAY = 0.2
"""s between connection attempts: a refused local connect costs microseconds, and a person is looking at the page."""

CONNECT_TIMEOUT = 2.0
"""s for connection and hello, as for a ping: a daemon that takes longer counts as unreachable."""

PING_INTERVAL = 0.25
"""s from a ping's response to the next ping, so that silence is noticed little after the ping's timeout."""

WATCH_TIMEOUT = 10.0
"""s for the response to a watch; the first pages of ten thousand positions take a tenth of a second."""

FIRST_ATTEMPT_TIMEOUT = 2.0
"""s that a new process waits for its first complete replica before it serves without one."""

RESERVED_CALLS = 8
"""Calls of a conversation that are left to pings and watches: requests that wait must not end it."""

_delta = msgspec.json.Decoder(Delta)


class Mirror:
    """`connect` opens conversations with the daemon; `state` is the replica that is kept current."""

    def __init__(self, connect: Connect, state: ReplicaState) -> None:
        self.state = state
        self.daemon = ""
        """The daemon's name and version; empty before the first conversation."""
        self.first_attempt_done = asyncio.Event()
        """Set once the first connection attempt has ended: with a complete replica, or with none."""
        self.pending_calls = 0
        """Calls that wait for the daemon's response."""
        self._connect = connect
        self.last_error = ""
        """Why the daemon is unreachable; empty while it is not. Each cause is logged once, not at each attempt."""
        self._conversation: Conversation | None = None
        self._subscribed: Counter[str] = Counter()
        self._subscriptions_changed = asyncio.Event()
        self._refused: dict[str, Problem] = {}
        self._watched: set[str] = set()  # topics watched in this conversation
        self._backlog: list[Delta] | None = None  # deltas that arrived before the response to their watch
        self._topics_changed: asyncio.Future[None] | None = None
        self._folded = False  # since the listeners were last called

    # --- requests ---

    async def call(self, method: str, params: Any, timeout: float | None) -> msgspec.Raw:
        """The daemon's response within `timeout` s, or for as long as it answers pings where that is `None`.

        Raises `Problem`, with the daemon's error data in its `extra`.
        """
        conversation = self._conversation
        if conversation is None or not self.state.reachable:
            raise Problem("daemonUnreachable")
        if self.pending_calls >= MAX_CALLS - RESERVED_CALLS:
            raise Problem("pacingBudget", "Too many requests are waiting for the daemon.")
        self.pending_calls += 1
        try:
            return await conversation.call(method, params, timeout)
        except RpcError as error:
            raise problem_of(error) from error
        except ConnectionLost as error:
            raise Problem("daemonUnreachable", "The connection to the daemon was lost before its response.") from error
        except TimeoutError as error:
            limit = "in time" if timeout is None else f"within {timeout:g} s"
            raise Problem("brokerTimeout", f"The daemon did not respond {limit}.") from error
        finally:
            self.pending_calls -= 1

    async def wait_for_topics(self, topics: Iterable[str]) -> None:
        """Wait until each of `topics` has arrived or the daemon is unreachable.

        Raises the `Problem` with which the daemon refused one.
        """
        while True:
            for topic in topics:
                if topic in self._refused:
                    raise self._refused[topic]
            if self.state.has_topics(topics) or not self.state.reachable:
                return
            if self._topics_changed is None:
                self._topics_changed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._topics_changed)

    def subscribe(self, topics: Iterable[str]) -> None:
        """Watch dynamic topics (`quotes:…`, `bars:…`) until `unsubscribe` was called as often."""
        for topic in topics:
            if topic not in STATE_TOPICS:
                self._subscribed[topic] += 1
                if topic not in self._watched:
                    self._refused.pop(topic, None)  # a new reader is a reason to try again
                    self._subscriptions_changed.set()

    def unsubscribe(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic in STATE_TOPICS or not self._subscribed[topic]:
                continue
            self._subscribed[topic] -= 1
            if not self._subscribed[topic]:
                del self._subscribed[topic]
                self._refused.pop(topic, None)
                self._subscriptions_changed.set()

    # --- the conversation ---

    async def run(self) -> None:
        """Reconnect until cancelled."""
        while True:
            try:
                await self._converse()
            except (OSError, RpcError, TimeoutError, msgspec.DecodeError, ValueError) as error:
                self._disconnected(str(error) or "no response in time")
            self.first_attempt_done.set()
            await asyncio.sleep(RETRY_DELAY)

    async def _converse(self) -> None:
        """One conversation, from its opening to its end. Raises the error that ended it."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_close(reason: str) -> None:
            self._disconnected(reason)
            if not ended.done():
                ended.set_result(None)

        conversation = await self._connect(self._on_delta, self._on_read, on_close, CONNECT_TIMEOUT)
        self._conversation = conversation
        self._watched.clear()
        self.state.discard_partial()
        self.daemon = conversation.daemon
        self.state.daemon_time = conversation.daemon_time
        loops: list[asyncio.Task[None]] = []
        try:
            await self._watch_subscribed(conversation)
            # not a TaskGroup: before Python 3.13 an error and a cancellation at once would lose the cancellation
            loops = [
                asyncio.create_task(self._ping_loop(conversation), name="mirror.ping"),
                asyncio.create_task(self._watch_loop(conversation), name="mirror.watch"),
            ]
            await asyncio.wait([*loops, ended], return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()
        finally:
            self._conversation = None
            conversation.abort()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _ping_loop(self, conversation: Conversation) -> None:
        while True:
            await conversation.ping()
            await asyncio.sleep(PING_INTERVAL)

    async def _watch_loop(self, conversation: Conversation) -> None:
        """Keep the watched topics equal to the subscribed ones."""
        while True:
            await self._subscriptions_changed.wait()
            self._subscriptions_changed.clear()
            await self._watch_subscribed(conversation)

    async def _watch_subscribed(self, conversation: Conversation) -> None:
        """Watch what is subscribed and not watched yet, resuming where the daemon can; unwatch the rest.

        A topic that is not watched is not held: the replica's step passes its changes.
        """
        wanted = {*STATE_TOPICS, *self._subscribed}
        unwanted = self._watched - wanted
        for topic in unwanted.union(self._held_dynamic() - wanted):
            self.state.drop(topic)
        if unwanted:
            self._watched -= unwanted
            await conversation.unwatch(unwanted, WATCH_TIMEOUT)
        missing = wanted - self._watched - self._refused.keys()
        # in one call, so that all of them come to the same step together
        resumable = (
            missing.intersection(STATE_TOPICS, self._held_standing(conversation)) if not self._watched else set()
        )
        if resumable:
            resumable |= missing & self._held_dynamic()
        try:
            await self._watch(conversation, resumable, resume=True)
        except RpcError:  # one of the dynamic topics is refused now: those start from a snapshot, one by one
            for topic in resumable.difference(STATE_TOPICS):
                self.state.drop(topic)
            resumable = resumable.intersection(STATE_TOPICS)
            await self._watch(conversation, resumable, resume=True)
        missing -= resumable
        await self._watch(conversation, missing.intersection(STATE_TOPICS), resume=False)
        await self._watch_dynamic(conversation, missing.difference(STATE_TOPICS))

    def _held_dynamic(self) -> set[str]:
        """The quotes and bars in the replica."""
        replica = self.state.replica
        return set() if replica is None else {topic for topic in replica.topics() if ":" in topic}

    def _held_standing(self, conversation: Conversation) -> Collection[str]:
        """The standing topics, if the replica is of this daemon's epoch."""
        replica = self.state.replica
        return STATE_TOPICS if replica is not None and replica.epoch == conversation.epoch else ()

    async def _watch_dynamic(self, conversation: Conversation, topics: set[str]) -> None:
        """Watch quotes and bars; one that the daemon refuses does not affect the others."""
        try:
            await self._watch(conversation, topics, resume=False)
        except RpcError as error:
            if len(topics) == 1:
                self._refused |= dict.fromkeys(topics, problem_of(error))
                self._notify_listeners()
                return
            for topic in sorted(topics):
                await self._watch_dynamic(conversation, {topic})

    async def _watch(self, conversation: Conversation, topics: set[str], resume: bool) -> None:
        if not topics:
            return
        replica = self.state.replica
        epoch, since = (replica.epoch, replica.seq) if resume and replica is not None else (None, None)
        self._watched |= topics
        backlog: list[Delta] = []
        self._backlog = backlog
        try:
            watched = await conversation.watch(topics, epoch, since, WATCH_TIMEOUT)
            if watched.reset:
                self.state.expect_snapshot(watched.epoch, topics)
            elif self.state.replica is not None and self.state.replica.seq >= watched.seq:
                self._set_reachable(True)  # nothing was missed; otherwise the delta that follows sets it
        except RpcError:
            self._watched -= topics
            self._apply_all(backlog)  # it is about the topics that were watched before
            raise
        finally:
            self._backlog = None
        self._apply_all(backlog)

    def _apply_all(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            self._apply(delta)
        self._on_read()

    # --- what arrives ---

    def _on_delta(self, params: msgspec.Raw) -> None:
        try:
            delta = _delta.decode(params)
            if self._backlog is not None:
                self._backlog.append(delta)
            else:
                self._apply(delta)
        except (msgspec.DecodeError, ValueError) as error:
            if self._conversation is not None:
                self._conversation.abort(f"a delta that cannot be decoded: {error}")

    def _apply(self, delta: Delta) -> None:
        if not self._watched.issuperset(delta.topics):  # it crossed with our unwatch
            delta.topics = {topic: page for topic, page in delta.topics.items() if topic in self._watched}
        if self.state.apply(delta):
            self._set_reachable(True)
            self._folded = True

    def _on_read(self) -> None:
        """Notify listeners once, however many steps arrived together."""
        if self._folded:
            self._notify_listeners()

    def _set_reachable(self, reachable: bool) -> None:
        if self.state.reachable == reachable:
            return
        self.state.reachable = reachable
        self.state.resync_count += 1
        self.first_attempt_done.set()
        if reachable:
            self.last_error = ""
            log.info("mirror.reached", message="The daemon answers.", daemon=self.daemon)
        self._notify_listeners()

    def _disconnected(self, reason: str) -> None:
        """The conversation has ended: the last complete replica stays, marked stale."""
        self.state.discard_partial()
        if reason not in (self.last_error, "aborted"):
            self.last_error = reason
            log.warning("mirror.away", message="The daemon does not answer.", error=reason)
        self._set_reachable(False)

    def _notify_listeners(self) -> None:
        self._folded = False
        if self._topics_changed is not None:
            self._topics_changed.set_result(None)
            self._topics_changed = None
        self.state.notify_listeners()


def problem_of(error: RpcError) -> Problem:
    """The daemon's error as the problem it names."""
    data = error.data if isinstance(error.data, dict) else {}
    reason = data.get("reason")
    fallback = "invalidParameters" if error.code == INVALID_PARAMS else "brokerError"
    try:
        return Problem(
            reason if isinstance(reason, str) else fallback,
            str(data.get("detail") or "") or ("" if isinstance(reason, str) else error.message),
            ibCode=data.get("ibCode") if isinstance(data.get("ibCode"), int) else None,
            extra={"daemon": data},
        )
    except KeyError:  # a reason of a newer daemon
        return Problem("brokerError", error.message, extra={"daemon": data})
