"""Publishes one session over NATS: deltas into a JetStream stream, methods as a micro service, signs of life.

A publisher is one reader of the feed like any other: encoded once, merged while NATS is slow or away. Everything here
is rebuilt after each loss of the connection; nothing that NATS does delays the daemon or its local readers.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from msgspec import Raw, Struct

from daemon.scaleout.leases import Leases
from daemon.scaleout.outbox import Outbox
from daemon.state.feed import Feed, delta_lines
from daemon.state.store import Store
from shared import scaleout
from shared.clock import Clock
from shared.jsonrpc.codec import (
    APPLICATION_ERROR,
    CALL_TIMEOUT,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MAX_CALLS,
    MAX_LINE,
    RpcError,
    encode,
)
from shared.jsonrpc.server import Method, ServerConnection
from shared.messages import STATE_TOPICS, Link
from shared.reasons import Problem
from shared.refusals import refusal
from shared.scaleout import (
    ALIVE_INTERVAL,
    EPOCH,
    FRESH,
    NEXT,
    SINCE,
    Alive,
    DaemonTime,
    LeaseParams,
    Subjects,
    pass_cancellation,
)

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.micro.request import Request

    from daemon.market.data import Market

log = structlog.get_logger(__name__)

RETRY_DELAY = 1.0
"""s between connection attempts."""

CLAIM_TIME = 2.5
"""s without another daemon's sign of life (one each second) until the session's name counts as free."""

TAKEN_RETRY = 10.0
"""s between looks at a name that another daemon has."""

PUBLISH_TIMEOUT = 5.0
"""s for the stream to store a message; then it is published again, under the same id."""

STREAM_CHECK = 5.0
"""s between checks whether the stream still exists: without a change to publish nothing else shows that."""

MAX_AGE, MAX_BYTES = 3600.0, 64 * 1024 * 1024
"""Limits of the stream, s and bytes: what a facade may have missed and still resume."""

SNAPSHOTS = 8
"""Snapshots whose rest may be fetched; beyond it the oldest is dropped."""


class _Claimed(Struct):
    """What every version's sign of life has."""

    epoch: str


_claimed = msgspec.json.Decoder(_Claimed)
_lease = msgspec.json.Decoder(LeaseParams)


class NameTaken(Exception):  # noqa: N818 - what is the case
    """Another daemon publishes a session of this name."""


class Publisher:
    """`methods`: those of the local socket. `run` publishes until it is cancelled."""

    def __init__(
        self,
        *,
        server: scaleout.Server,
        subjects: Subjects,
        daemon: str,
        store: Store,
        feed: Feed,
        market: Market,
        methods: Mapping[str, Method],
        clock: Clock,
    ) -> None:
        self.publishing = False
        """Whether the stream is being written."""
        self._server = server
        self._subjects = subjects
        self._daemon = daemon
        self._store = store
        self._feed = feed
        self._market = market
        self._clock = clock
        self._leases = Leases()
        self._snapshots: OrderedDict[str, Iterator[bytes]] = OrderedDict()
        self._calls: set[asyncio.Task[None]] = set()
        self._misdelivered: set[str] = set()  # methods of which that was logged
        self._last_error = ""
        self._numbers = itertools.count(1)
        self._outbox: Outbox | None = None  # none before the name was claimed
        local = {"watch", "unwatch", "daemon.stop"}
        self._methods: dict[str, Callable[[Raw], Any]] = {
            name: self._local(method) for name, method in methods.items() if name not in local
        }
        self._methods |= {
            scaleout.LEASE_METHOD: self._lease_topics,
            scaleout.RELEASE: self._release,
            scaleout.RENEW: self._renew,
            scaleout.TIME: self._time,
        }

    async def run(self) -> None:
        """Publish, reconnecting automatically."""
        while True:
            delay = RETRY_DELAY
            try:
                await self._serve()
            except NameTaken as error:
                delay = TAKEN_RETRY
                self._forget()
                self._warn("scaleout.name_taken", str(error))
            except asyncio.CancelledError:
                raise
            except Exception as error:  # nats-py's errors have no common base beside it
                pass_cancellation()
                self._warn("scaleout.away", f"NATS is not available; only local readers are served ({_text(error)}).")
            self._expire()
            await self._clock.sleep(delay)

    def _warn_misdelivered(self, subject: str, method: str) -> None:
        if method not in self._misdelivered:
            self._misdelivered.add(method)
            message = f"A message of {subject} was delivered as a call of {method} and was not carried out."
            log.warning("scaleout.refused", message=message)

    def _warn(self, event: str, message: str) -> None:
        if message != self._last_error:
            self._last_error = message
            log.warning(event, message=message)

    async def _serve(self) -> None:
        """One connection, from its opening to its end. Raises the error that ended it."""
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()  # with the reason

        def end(error: Exception) -> None:
            if not ended.done():
                ended.set_result(error)

        nc = await scaleout.connect(
            self._server,
            f"ibkr-daemon {self._subjects.session}",
            lambda error: log.debug("scaleout.error", message=_text(error)),
            lambda: end(ConnectionError("the connection was closed")),
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._claim(nc, end, ended)
            js = nc.jetstream(timeout=PUBLISH_TIMEOUT)
            await self._ensure_stream(js)
            if self._outbox is None:
                self._begin()
            await self._add_service(nc)
            pass_cancellation()
            tasks = [
                asyncio.create_task(self._publish(js), name="scaleout.publish"),
                asyncio.create_task(self._beat(nc), name="scaleout.alive"),
                asyncio.create_task(self._check_stream(js), name="scaleout.stream"),
            ]
            self.publishing = True
            self._last_error = ""
            log.info("scaleout.publishing", message=f"Publishing the session on NATS as {self._subjects.delta}.")
            waited: list[asyncio.Future[Any]] = [*tasks, ended]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            raise ended.result()
        finally:
            self.publishing = False
            for task in (*tasks, *self._calls):
                task.cancel()
            await scaleout.close(nc)
            await asyncio.gather(*tasks, *self._calls, return_exceptions=True)

    def _forget(self) -> None:
        """Watch nothing more."""
        if self._outbox is not None:
            self._feed.forget(self._outbox)
            self._outbox = None
        for lease in self._leases.clear():
            self._market.leave(lease)

    async def _claim(self, nc: Client, end: Callable[[Exception], None], ended: asyncio.Future[Exception]) -> None:
        """Wait until no other daemon publishes this session, and yield later to one that started before this one."""
        epoch = self._store.epoch
        claimed = False

        async def on_alive(message: Msg) -> None:
            try:
                other = _claimed.decode(message.data).epoch
            except msgspec.DecodeError:
                return
            if other != epoch and (not claimed or other < epoch):  # two that claimed together: the older one stays
                end(self._taken(other))

        await nc.subscribe(self._subjects.alive, cb=on_alive)
        claim = asyncio.create_task(self._clock.sleep(CLAIM_TIME), name="scaleout.claim")
        waited: list[asyncio.Future[Any]] = [ended, claim]
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            claim.cancel()
        if ended.done():
            raise ended.result()
        claimed = True

    def _taken(self, other: str) -> NameTaken:
        return NameTaken(
            f"Another daemon (epoch {other}) publishes the session {self._subjects.session!r} on NATS: this one serves "
            "its local socket alone. Give one of them another IBKR_SESSION."
        )

    async def _ensure_stream(self, js: JetStreamContext) -> None:
        from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig
        from nats.js.errors import NotFoundError

        config = StreamConfig(
            name=self._subjects.stream,
            subjects=[self._subjects.delta],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_age=MAX_AGE,
            max_bytes=MAX_BYTES,
        )
        try:
            await js.stream_info(self._subjects.stream)
        except NotFoundError:
            await js.add_stream(config)
        pass_cancellation()

    # --- deltas -----------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Watch from the present step on; a facade takes what was before it from a snapshot."""
        store = self._store
        if self._outbox is not None:
            self._feed.forget(self._outbox)
        outbox = Outbox(store.epoch, store.seq, lambda: store.seq, lambda: self._feed.drained(outbox), self._numbers)
        self._outbox = outbox
        self._feed.watch(outbox, STATE_TOPICS, store.epoch, store.seq)
        self._watch_whole(self._leases.topics())

    def _watch_whole(self, topics: set[str]) -> None:
        if topics and self._outbox is not None:
            self._feed.watch(self._outbox, topics, None, None)
            self._outbox.whole(topics)

    def _acked_seq(self) -> int:
        """The present step, which the stream will name."""
        return self._store.seq if self._outbox is None else self._feed.request_ack(self._outbox)

    async def _publish(self, js: JetStreamContext) -> None:
        from nats.js.api import Header

        while True:
            assert self._outbox is not None  # noqa: S101 - begun
            message = await self._outbox.next()
            if message is None:
                self._begin()
                continue
            headers = {Header.MSG_ID: message.id, SINCE: str(message.since)}
            if message.fresh:
                headers[FRESH] = ",".join(message.fresh)
            await js.publish(self._subjects.delta, message.line, PUBLISH_TIMEOUT, self._subjects.stream, headers)
            self._outbox.done()
            pass_cancellation()

    async def _beat(self, nc: Client) -> None:
        while True:
            self._expire()
            link = self._store.row("link", "link")
            alive = Alive(
                epoch=self._store.epoch,
                seq=self._acked_seq(),
                daemon=self._daemon,
                now=self._clock.now(),
                proof=link.proof.at if isinstance(link, Link) else None,
            )
            await nc.publish(self._subjects.alive, msgspec.json.encode(alive))
            await nc.flush(timeout=int(PUBLISH_TIMEOUT))
            pass_cancellation()
            await self._clock.sleep(ALIVE_INTERVAL)

    async def _check_stream(self, js: JetStreamContext) -> None:
        """Raises an error of nats-py when the stream was deleted, or JetStream does not answer."""
        while True:
            await self._clock.sleep(STREAM_CHECK)
            await js.stream_info(self._subjects.stream)
            pass_cancellation()

    def _expire(self) -> None:
        for lease in self._leases.expire(self._clock.monotonic()):
            self._market.leave(lease)
        self._unwatch_unused()

    def _unwatch_unused(self) -> None:
        if self._outbox is None:
            return
        watched = {topic for topic in self._feed.topics(self._outbox) if ":" in topic}
        if unused := watched - self._leases.topics():
            self._feed.unwatch(self._outbox, unused)

    # --- calls ------------------------------------------------------------------------------------------------------

    async def _add_service(self, nc: Client) -> Any:
        from nats.micro import add_service
        from nats.micro.service import EndpointConfig, ServiceConfig

        session = self._subjects.session
        # a queue group of its own: a half-open connection, of this daemon or of one before it, stays in its group
        # until the server notices, minutes later, and would be given a part of the requests
        config = ServiceConfig(
            name=f"ibkr-{session}",
            version="1.0.0",
            description=f"IBKR session {session}",
            queue_group=f"{self._store.epoch}-{secrets.token_hex(4)}",
        )
        service = await add_service(nc, config)
        for method in (*self._methods, scaleout.SNAPSHOT):
            await service.add_endpoint(
                EndpointConfig(
                    name=method.replace(".", "-"), subject=self._subjects.call(method), handler=self._endpoint(method)
                )
            )
        return service

    def _endpoint(self, method: str) -> Callable[[Request], Any]:
        subject = self._subjects.call(method)

        async def handle(request: Request) -> None:
            if request.subject != subject:
                # a stream's message: whoever may make a consumer may have the server deliver it here, without its body
                self._warn_misdelivered(request.subject, method)
                return
            if len(self._calls) >= MAX_CALLS:
                data: dict[str, Any] = {"reason": "pacingBudget", "retryable": True}
                await _respond_error(request, RpcError(APPLICATION_ERROR, "Too many calls are pending.", data))
                return
            # a task of its own: the service handles the requests of an endpoint one after the other
            task = asyncio.create_task(self._respond(method, request), name=f"scaleout.{method}")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

        return handle

    async def _respond(self, method: str, request: Request) -> None:
        params = Raw(request.data or b"{}")
        try:
            if (request.headers or {}).get(EPOCH, self._store.epoch) != self._store.epoch:
                return  # for another daemon of this name, which answers it
            if method == scaleout.SNAPSHOT:
                line, token = self._snapshot(bytes(params))
                await request.respond(line, {NEXT: token} if token else None)
                return
            async with asyncio.timeout(CALL_TIMEOUT):
                result = encode(await self._methods[method](params))
            if len(result) > MAX_LINE - 1024:
                raise RpcError(APPLICATION_ERROR, "The result is over 1 MiB: request less.", {"reason": "tooLarge"})
            await request.respond(result)
        except RpcError as error:
            await _respond_error(request, error)
        except msgspec.DecodeError as error:
            detail = refusal(error)
            data = {"reason": "invalidParameters", "detail": detail}
            await _respond_error(request, RpcError(INVALID_PARAMS, detail, data))
        except TimeoutError:
            detail = f"{method} did not finish in time."
            timed_out: dict[str, Any] = {"reason": "brokerTimeout", "detail": detail, "retryable": True}
            await _respond_error(request, RpcError(APPLICATION_ERROR, detail, timed_out))
        except Exception as error:
            log.exception("rpc.fault", message=f"{method} failed.")
            detail = f"{method} failed inside the daemon ({type(error).__name__})."
            await _respond_error(request, RpcError(INTERNAL_ERROR, detail))

    def _local(self, method: Method) -> Callable[[Raw], Any]:
        # the methods use their connection to request a step to be named on it, and its client's name for the log
        return lambda params: method(cast(ServerConnection, self._outbox), params)

    def _snapshot(self, token: bytes) -> tuple[bytes, str]:
        """A page of the standing topics' rows at one step, as a delta; and the token of the next page."""
        name = token.decode(errors="replace")
        if name in ("", "{}"):
            replica = self._store.replica
            pages = delta_lines(replica.epoch, replica.snapshot(STATE_TOPICS), replica.seq, replica.floor)
            name = secrets.token_hex(8)
        else:
            known = self._snapshots.pop(name, None)
            if known is None:
                detail = "This snapshot is no longer held; request it again from the start."
                raise RpcError(APPLICATION_ERROR, detail, {"reason": "invalidParameters", "detail": detail})
            pages = known
        line = next(pages)
        if b'"seq":null,"floor"' not in line[-64:]:
            return line, ""
        self._snapshots[name] = pages
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return line, name

    async def _lease_topics(self, params: Raw) -> Any:
        """Publish the topics, each as a whole in the next delta, until the lease expires or releases them."""
        lease = _lease.decode(params)
        if not self._leases.add(lease.lease, (), self._clock.monotonic()):
            raise self._refused(Problem("tooManySubscriptions", "Too many facades hold quotes and bars."))
        topics: set[str] = set()
        try:
            for topic in lease.topics:
                topics.add(self._market.watch(topic, lease.lease))
        except Problem as problem:
            for topic in topics - self._leases.topics():
                self._market.unwatch(topic, lease.lease)
            raise self._refused(problem) from problem
        self._leases.add(lease.lease, topics, self._clock.monotonic())
        try:
            self._watch_whole(topics)
        except ValueError as error:
            raise self._refused(Problem("invalidParameters", f"topics: {error}")) from error
        return {"epoch": self._store.epoch, "seq": self._acked_seq()}

    async def _release(self, params: Raw) -> Any:
        lease = _lease.decode(params)
        self._leases.remove(lease.lease, lease.topics)
        for topic in lease.topics:
            self._market.unwatch(topic, lease.lease)
        self._unwatch_unused()
        return {}

    async def _renew(self, params: Raw) -> Any:
        if not self._leases.renew(_lease.decode(params).lease, self._clock.monotonic()):
            raise RpcError(APPLICATION_ERROR, "The lease has expired.", {"reason": "notFound"})
        return {}

    async def _time(self, _params: Raw) -> Any:
        return DaemonTime(self._clock.now())

    def _refused(self, problem: Problem) -> RpcError:
        data = {"reason": problem.reason, "detail": problem.detail, "seq": self._acked_seq()}
        return RpcError(APPLICATION_ERROR, problem.detail or problem.entry.sentence, data)


async def _respond_error(request: Request, error: RpcError) -> None:
    body = {"code": error.code, "message": error.message, "data": error.data}
    description = error.message.replace("\r", " ").replace("\n", " ")[:200]
    await request.respond_error(str(error.code), description, encode(body))


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
