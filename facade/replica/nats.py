"""The conversation with a daemon on another machine, over NATS: JetStream for deltas, requests for calls.

Leases keep quotes and bars while they are watched. The stream's own sequence shows whether a message is missing.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from facade.replica.conversation import Connect, Conversation, Watched
from shared import scaleout
from shared.clock import Clock
from shared.jsonrpc.client import ConnectionLost
from shared.jsonrpc.codec import APPLICATION_ERROR, CALL_TIMEOUT, RpcError, encode
from shared.messages import STATE_TOPICS
from shared.scaleout import EPOCH, FRESH, LEASE, NEXT, SINCE, Alive, DaemonTime, Subjects, pass_cancellation

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

ALIVE_TIMEOUT = 2.5
"""s without a sign of life (one each second) until the daemon is unreachable; the contract allows 3."""

LATE = 2.5
"""s after a sign of life until the step that it names must have arrived."""

CLOCK_KEPT = 60.0
"""s for which the best measurement of the daemon's clock is used: two clocks drift apart by some ms a minute."""

ERROR, VIOLATION = "Nats-Service-Error", re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


class _Error(Struct):
    code: int
    message: str
    data: Any = None


class _Line(Struct):
    params: Raw


class _Params(Struct):
    epoch: str
    topics: dict[str, Raw]
    seq: int | None = None
    floor: int = 0


class _Leased(Struct):
    epoch: str
    seq: int


_alive = msgspec.json.Decoder(Alive)
_error = msgspec.json.Decoder(_Error)
_line = msgspec.json.Decoder(_Line)
_params = msgspec.json.Decoder(_Params)
_leased = msgspec.json.Decoder(_Leased)
_time = msgspec.json.Decoder(DaemonTime)


@dataclass(slots=True)
class Position:
    """Where in the stream the replica is: after message `stream_seq`, which completed step `seq` of `epoch`.

    `number`: the daemon's number of that message, 0 for none.

    `created`: when the stream was, which distinguishes it from one of the same name that has replaced it.
    """

    created: datetime | None = None
    epoch: str = ""
    seq: int = -1
    stream_seq: int = 0
    number: int = 0


@dataclass(slots=True)
class _Message:
    """A delta's page from the stream. `seq`: the step that the whole delta completes.

    `number`: ascending in a daemon's run, the same where a page was stored twice.
    """

    stream_seq: int
    number: int
    epoch: str
    seq: int
    since: int
    fresh: frozenset[str]
    params: Raw


@dataclass(slots=True, eq=False)
class NatsConversation:
    """Implements `Conversation`. `position` is kept from one conversation to the next."""

    subjects: Subjects
    position: Position
    clock: Clock
    on_delta: Callable[[Raw], None]
    on_read: Callable[[], None]
    on_close: Callable[[str], None]
    daemon: str = ""
    epoch: str = ""
    _nc: Client | None = None
    _opened: bool = False
    _end_reason: str = ""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _alive_at: float = 0.0  # monotonic; when the daemon's last sign of life was sent, at the earliest
    _clock_ahead: float = 0.0  # s, at most, by which the daemon's wall clock is ahead of the monotonic clock here
    _clock_measured: float | None = None  # monotonic
    _expected: list[tuple[int, float]] = field(default_factory=list)  # steps of signs of life not yet reached, and when
    _first_alive: asyncio.Event = field(default_factory=asyncio.Event)
    _lease: str = field(default_factory=lambda: secrets.token_hex(8))
    _leased: set[str] = field(default_factory=set)
    _awaited: set[str] = field(default_factory=set)  # leased topics whose whole rows have not arrived
    _calls: dict[str, set[asyncio.Future[Any]]] = field(default_factory=dict)
    _backlog: list[_Message] | None = None
    _seq: int = -1
    _last: int | None = None
    _number: int = 0
    _inside: bool = False
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    # --- opening and closing ---

    async def open(self, server: scaleout.Server, timeout: float) -> None:
        """Connect, wait for the daemon's first sign of life, measure its clock.

        Raises `OSError`, `RpcError`, `TimeoutError`.
        """
        try:
            async with asyncio.timeout(timeout):
                with _translated():
                    self._nc = await scaleout.connect(
                        server, f"ibkr-facade {self.subjects.session}", self._failed, self._closed
                    )
                    await self._nc.subscribe(self.subjects.alive, cb=self._on_alive)
                    await self._first_alive.wait()
                    await self._measure_clock(timeout)
        except BaseException:
            self.abort()
            raise
        if self._end_reason:
            raise ConnectionLost(self._end_reason)
        self._opened = True
        self._start(self._renew(), "nats.renew")

    def abort(self, reason: str = "aborted") -> None:
        self._end(reason)
        for task in tuple(self._tasks):
            task.cancel()
        nc, self._nc = self._nc, None
        if nc is not None:
            self._start(scaleout.close(nc), "nats.close")

    def _end(self, reason: str) -> None:
        if self._ended.is_set():
            return
        self._end_reason = reason
        self._ended.set()
        for futures in self._calls.values():
            for future in futures:
                if not future.done():
                    future.set_exception(ConnectionLost(reason))
        if self._opened:
            self.on_close(reason)

    def _closed(self) -> None:
        self._end("The connection to NATS was closed.")

    def _failed(self, error: Exception) -> None:
        if refused := VIOLATION.search(str(error)):
            detail = f"The permissions of this facade's NATS credentials do not include {refused[1]}."
            for future in self._calls.get(refused[1], ()):
                if not future.done():
                    data = {"reason": "notPermitted", "detail": detail, "retryable": False}
                    future.set_exception(RpcError(APPLICATION_ERROR, detail, data))
        elif "slow consumer" in str(error):
            self._end("The facade was too slow for the stream of deltas.")

    def _start(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the conversation ---

    async def call(self, method: str, params: Any, timeout: float | None) -> Raw:
        message = await self._request(method, encode(params), timeout)
        return Raw(message.data)

    async def _request(self, method: str, payload: bytes, timeout: float | None) -> Msg:
        nc = self._nc
        if nc is None or self._ended.is_set():
            raise ConnectionLost(self._end_reason)
        subject = self.subjects.call(method)
        loop = asyncio.get_running_loop()
        refused: asyncio.Future[Any] = loop.create_future()  # by a permission, or by the end of the conversation
        self._calls.setdefault(subject, set()).add(refused)
        request = asyncio.create_task(
            nc.request(subject, payload, timeout or CALL_TIMEOUT + LATE, headers={EPOCH: self.epoch}),
            name=f"nats.{method}",
        )
        try:
            await asyncio.wait([request, refused], return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                refused.result()
            with _translated():
                message = request.result()
        finally:
            self._calls[subject].discard(refused)
            if not refused.cancel() and not refused.cancelled():
                refused.exception()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        if message.headers and ERROR in message.headers:
            refusal = _error.decode(message.data)
            raise RpcError(refusal.code, refusal.message, refusal.data)
        return message

    async def watch(self, topics: Collection[str], epoch: str | None, since: int | None, timeout: float) -> Watched:
        dynamic = set(topics).difference(STATE_TOPICS)
        if len(dynamic) == len(topics):
            return await self._watch_dynamic(dynamic, timeout)
        if dynamic:
            raise RpcError(APPLICATION_ERROR, "Quotes and bars are watched from their next whole rows on.")
        with _translated():
            async with asyncio.timeout(timeout):
                if epoch is not None and await self._resume(epoch, since):
                    return Watched(self.epoch, self._expected[-1][0] if self._expected else self._seq, False)
                return await self._begin(timeout)

    async def unwatch(self, topics: Collection[str], timeout: float) -> None:
        self._leased -= set(topics)
        self._awaited -= set(topics)
        await self.call(scaleout.RELEASE, {"lease": self._lease, "topics": sorted(topics)}, timeout)

    async def ping(self) -> None:
        now = self.clock.monotonic()
        if now - self._alive_at > ALIVE_TIMEOUT:
            raise TimeoutError("The daemon gives no sign of life on NATS.")
        if self._expected and now - self._expected[0][1] > LATE:
            self.position.epoch = ""  # a snapshot instead: the stream may be another one than it was
            raise TimeoutError("The deltas that the daemon has published do not arrive.")

    async def _watch_dynamic(self, topics: set[str], timeout: float) -> Watched:
        self._awaited |= topics
        try:
            params = {"lease": self._lease, "topics": sorted(topics)}
            leased = _leased.decode(await self.call(scaleout.LEASE_METHOD, params, timeout))
        except BaseException:
            self._awaited -= topics
            raise
        self._leased |= topics
        return Watched(leased.epoch, leased.seq, True)

    async def _renew(self) -> None:
        while True:
            await self.clock.sleep(LEASE / 3)
            try:
                await self._measure_clock(LEASE / 3)
                if self._leased:
                    await self.call(scaleout.RENEW, {"lease": self._lease}, LEASE / 3)
            except (RpcError, msgspec.DecodeError) as error:
                self.abort(f"The daemon does not renew the conversation ({error}).")
            except (OSError, TimeoutError):
                pass  # pings decide whether the conversation has ended

    # --- the daemon's clock ---

    def daemon_time(self) -> datetime:
        return datetime.fromtimestamp(self.clock.monotonic() + self._clock_ahead, UTC)

    async def _measure_clock(self, timeout: float) -> None:
        """The response was made after the request was sent: the daemon's clock cannot be ahead by more."""
        sent = self.clock.monotonic()
        reply = await self._request(scaleout.TIME, b"{}", timeout)
        ahead = _time.decode(reply.data).now.timestamp() - sent
        received = self.clock.monotonic()
        if self._clock_measured is None:
            self._alive_at = sent  # signs of life before it may have been under way for long
        if self._clock_measured is None or received - self._clock_measured > CLOCK_KEPT or ahead < self._clock_ahead:
            self._clock_ahead, self._clock_measured = ahead, received

    # --- the stream ---

    async def _resume(self, epoch: str, since: int | None) -> bool:
        """Whether the stream still has everything after the position of `since`."""
        position = self.position
        if self._nc is None or (epoch, since) != (position.epoch, position.seq) or epoch != self.epoch:
            return False
        stream = await self._nc.jetstream().stream_info(self.subjects.stream)
        pass_cancellation()
        state = stream.state
        if stream.created != position.created:
            return False
        if not state.first_seq - 1 <= position.stream_seq <= state.last_seq:
            return False
        self._seq, self._last, self._number = position.seq, position.stream_seq, position.number
        self._backlog = None
        self._prune()
        await self._consume(position.stream_seq + 1)
        return True

    async def _begin(self, timeout: float) -> Watched:
        """Consume from the stream's next message on, then request a snapshot and join the two."""
        if self._nc is None:
            raise ConnectionLost(self._end_reason)
        stream = await self._nc.jetstream().stream_info(self.subjects.stream)
        pass_cancellation()
        state = stream.state
        self._last, self._number, self._backlog = state.last_seq, 0, []
        await self._consume(state.last_seq + 1)
        token, pages = b"", []
        while True:
            message = await self._request(scaleout.SNAPSHOT, token, timeout)
            pages.append(_line.decode(message.data).params)
            token = (message.headers or {}).get(NEXT, "").encode()
            if not token:
                break
        last = _params.decode(pages[-1])
        if last.epoch != self.epoch or last.seq is None:
            raise ConnectionLost("The daemon was restarted during its snapshot.")
        self._seq = last.seq
        self._prune()
        position = self.position
        position.created, position.stream_seq = stream.created, state.last_seq
        position.epoch, position.seq, position.number = last.epoch, last.seq, 0
        # the pages follow the response, as they do on the local socket
        asyncio.get_running_loop().call_soon(self._deliver, pages)
        return Watched(last.epoch, last.seq, True)

    def _deliver(self, pages: list[Raw]) -> None:
        if self._ended.is_set():
            return
        for page in pages:
            self.on_delta(page)
        backlog, self._backlog = self._backlog, None
        for message in backlog or ():
            self._take(message)
        self.on_read()

    async def _consume(self, start: int) -> None:
        from nats.js.api import ConsumerConfig, DeliverPolicy

        if self._nc is None:
            raise ConnectionLost(self._end_reason)
        await self._nc.jetstream().subscribe(
            self.subjects.delta,
            stream=self.subjects.stream,
            cb=self._on_message,
            ordered_consumer=True,
            idle_heartbeat=1.0,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start),
        )
        pass_cancellation()

    async def _on_message(self, message: Msg) -> None:
        if self._ended.is_set():
            return
        headers = message.headers or {}
        stream_seq = message.metadata.sequence.stream
        if self._last is not None and stream_seq <= self._last:
            return  # delivered again
        if self._last is not None and stream_seq != self._last + 1:
            self.position.epoch = ""
            self.abort(f"The stream lost messages ({self._last} is followed by {stream_seq}).")
            return
        self._last = stream_seq
        try:
            epoch, seq, number = headers["Nats-Msg-Id"].rsplit("-", 2)
            fresh = frozenset(filter(None, headers.get(FRESH, "").split(",")))
            params = _line.decode(message.data).params
            one = _Message(stream_seq, int(number), epoch, int(seq), int(headers[SINCE]), fresh, params)
        except (KeyError, ValueError, msgspec.DecodeError) as error:
            self.abort(f"A message of the stream cannot be decoded: {error}.")
            return
        if self._backlog is not None:
            self._backlog.append(one)
            return
        self._take(one)
        self.on_read()

    def _take(self, message: _Message) -> None:
        """Hand a page on, unless the replica has it already; end the conversation where one before it is missing."""
        if message.epoch != self.epoch or self._ended.is_set():
            return
        if message.number <= self._number:
            return  # stored twice
        if self._inside:
            missing = message.number != self._number + 1
        elif message.seq < self._seq:
            return  # within the snapshot
        else:
            missing = message.since > self._seq
            if not missing:
                self._awaited -= message.fresh
        if missing:
            self.position.epoch = ""
            self.abort(f"The stream lacks steps after {self._seq}: the next message is of {message.since}.")
            return
        self._number = message.number
        params = message.params
        decoded = _params.decode(params)
        if hidden := self._awaited.intersection(decoded.topics):  # a part of their rows would pass for all of them
            decoded.topics = {topic: page for topic, page in decoded.topics.items() if topic not in hidden}
            params = Raw(msgspec.json.encode(decoded))
        self._inside = decoded.seq is None
        if not self._inside:
            self._seq = message.seq
            self.position.epoch, self.position.seq = message.epoch, message.seq
            self.position.stream_seq, self.position.number = message.stream_seq, message.number
            self._prune()
        self.on_delta(params)

    def _prune(self) -> None:
        self._expected = [(seq, at) for seq, at in self._expected if seq > self._seq]

    async def _on_alive(self, message: Msg) -> None:
        try:
            alive = _alive.decode(message.data)
        except msgspec.DecodeError:
            return
        if not self.epoch:
            self.daemon, self.epoch = alive.daemon, alive.epoch
        elif alive.epoch != self.epoch:
            self.abort("Another daemon publishes the session.")
            return
        sent, now = alive.now.timestamp(), self.clock.monotonic()
        if self._clock_measured is not None:
            self._clock_ahead = max(self._clock_ahead, sent - now)  # the daemon's clock was set forward
            self._alive_at = max(self._alive_at, sent - self._clock_ahead)
        if alive.seq > self._seq:
            self._expected.append((alive.seq, now))
        self._first_alive.set()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of nats-py, which have no base of their own, as `ConnectionLost`."""
    try:
        yield
    except (OSError, TimeoutError, RpcError, msgspec.DecodeError):
        pass_cancellation()
        raise
    except Exception as error:
        pass_cancellation()
        raise ConnectionLost(f"NATS: {str(error) or type(error).__name__}") from error


def nats_connector(server: scaleout.Server, subjects: Subjects, clock: Clock) -> Connect:
    """Opens conversations with the daemon that publishes the session of `subjects`."""
    position = Position()

    async def connect(
        on_delta: Callable[[Raw], None],
        on_read: Callable[[], None],
        on_close: Callable[[str], None],
        timeout: float,
    ) -> Conversation:
        conversation = NatsConversation(subjects, position, clock, on_delta, on_read, on_close)
        await conversation.open(server, timeout)
        return conversation

    return connect
