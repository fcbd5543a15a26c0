"""The server side of a JSON-RPC connection: hello, calls, responses, and the limits that isolate clients.

The methods are the daemon's; encoding is `codec.py`'s; who may connect is decided in `shared.transport`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import msgspec
import structlog
from msgspec import Raw, Struct

from shared.jsonrpc.codec import (
    APPLICATION_ERROR,
    CALL_TIMEOUT,
    CLOSE_TIMEOUT,
    HELLO_REQUIRED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_CALLS,
    MAX_LINE,
    METHOD_NOT_FOUND,
    NULL,
    OVERLONG,
    InvalidRequest,
    LineSplitter,
    Request,
    RpcError,
    decode,
    encode,
    failure,
    notification,
    response,
)
from shared.log import REQUEST_ID
from shared.messages import PROTOCOL, Hello, Welcome
from shared.refusals import refusal
from shared.transport.address import DEFAULT_SESSION
from shared.transport.interfaces import PeerIdentity
from shared.transport.local_socket import peer_identity

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 256
"""Connections at once: room for each of a facade's 256 event streams, had each a connection of its own."""

HELLO_TIMEOUT = 5.0
"""s until the hello must have arrived. A program sends it at once; typing it by hand takes less than that."""

LINE_TIMEOUT = 10.0
"""s from the first byte of a line to its newline: 1 MiB on a local socket takes milliseconds."""

SLOW_READER_TIMEOUT = 30.0
"""s that the write buffer may stay above the low-water mark until the connection is dropped."""

HIGH_WATER = 64 * 1024
"""Bytes in the write buffer from which nothing new is written: small, because merging later gives fresher data."""

LINES_PER_ITERATION = 64
"""Lines of one connection in an iteration of the loop: about a millisecond, then the other connections follow."""

MAX_WRITE_BUFFER = 4 * MAX_LINE
"""Bytes in the write buffer at which a connection is dropped: responses to pending calls of a stopped client add up."""


class _Protocol(Struct):
    protocol: int


Method = Callable[["ServerConnection", Raw], Awaitable[Any]]
"""`async def method(connection, params) -> result`: a struct, a mapping, or `Raw`/`bytes` already encoded.

It decodes its params with msgspec (a `ValidationError` becomes −32602) and raises `RpcError` to respond with an error.
A callback that it passes to `loop.call_soon` right before it returns runs after its response has been written.
"""


class CallLater(Protocol):
    """The signature of `loop.call_later`."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Cancellable: ...


class Cancellable(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True)
class RpcService:
    """What all connections of a daemon share: the methods, the response to `hello`, the connections, counters."""

    daemon: str
    epoch: str
    methods: Mapping[str, Method]
    session: str = DEFAULT_SESSION
    call_limit: float = CALL_TIMEOUT
    connections: dict[ServerConnection, None] = field(default_factory=dict)
    """The open connections, oldest first."""
    rejected: int = 0
    """Connections beyond `MAX_CONNECTIONS`, closed without a byte."""
    dropped: int = 0
    """Connections aborted because the client did not read."""
    faults: int = 0
    """Methods that raised an undeclared exception."""

    def admit(self) -> bool:
        """Whether there is room for one more connection, if need be in place of the oldest without a hello."""
        if len(self.connections) < MAX_CONNECTIONS:
            return True
        silent = next((connection for connection in self.connections if not connection.client), None)
        if silent is None:
            return False
        self.rejected += 1
        del self.connections[silent]
        silent.abort("no hello yet, and the limit of connections is reached")
        return True

    async def close(self) -> None:
        """Close every connection, flushing for `CLOSE_TIMEOUT` at most, and wait for the last task."""
        connections = tuple(self.connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))


class ServerConnection(asyncio.Protocol):
    """One client's connection. Bounds: one line in, `MAX_CALLS` calls, `MAX_WRITE_BUFFER` bytes out.

    A subclass overrides `greeted()`, `drained()` and `lost(reason)`. `writable` is false while more than `HIGH_WATER`
    bytes are unread: write nothing new then (merge it until `drained()` is called). Nothing more is read from the
    client meanwhile, and after `SLOW_READER_TIMEOUT` s the connection is dropped.
    """

    def __init__(self, service: RpcService, call_later: CallLater | None = None) -> None:
        self.client = ""
        """The client's name and version; empty before its hello. Untrusted: log it only through `log.printable`."""
        self.writable = True
        self.reason = ""
        """Why the server ended the connection."""
        self._service = service
        self._call_later = call_later
        self._transport: asyncio.Transport | None = None
        self._lines = LineSplitter()
        self._received: deque[bytes] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timers: dict[str, Cancellable] = {}
        self._ended = asyncio.Event()
        self._half_closed = False
        self._reading = True

    # for subclasses to override

    def greeted(self) -> None:
        """Called after a valid hello; notifications may be written from now on."""

    def drained(self) -> None:
        """Called when `writable` is true again."""

    def lost(self, reason: str) -> None:
        """Called when the connection is closed, before its tasks are cancelled."""

    # for subclasses and the daemon

    @property
    def identity(self) -> PeerIdentity | None:
        """The client's process and user, for the log; `None` after the connection is closed."""
        return None if self.closing else peer_identity(cast("asyncio.Transport", self._transport))

    @property
    def closing(self) -> bool:
        """Whether the connection is closed or closing: writes are dropped."""
        return self._transport is None or self._transport.is_closing()

    def notify(self, method: str, params: Any) -> None:
        """Write a notification; only after `greeted`, and only while `writable` unless it must not be delayed."""
        self.write(notification(method, params))

    def write(self, line: bytes) -> None:
        """Write one or more whole encoded lines, with their newlines."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(line)
        if not self.writable and self._transport.get_write_buffer_size() > MAX_WRITE_BUFFER:
            self._drop("the write buffer is full")

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task that is cancelled when the connection is lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        if self._ended.is_set():
            task.cancel()
        return task

    def close(self, reason: str = "closed by the daemon") -> None:
        """Close after the write buffer is flushed, at the latest after `CLOSE_TIMEOUT`."""
        if self._transport is not None and not self._transport.is_closing():
            self.reason = self.reason or reason
            self._transport.close()
            self._set_timer("close", CLOSE_TIMEOUT, self._transport.abort)

    def abort(self, reason: str) -> None:
        """Close now, dropping the write buffer."""
        if self._transport is not None:
            self.reason = self.reason or reason
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed and its tasks have ended."""
        await self._ended.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        if not self._service.admit():
            self._service.rejected += 1
            self.abort("too many connections")
            return
        self._service.connections[self] = None
        transport.set_write_buffer_limits(HIGH_WATER)
        self._set_timer("hello", HELLO_TIMEOUT, self._no_hello)

    def connection_lost(self, error: Exception | None) -> None:
        self._service.connections.pop(self, None)
        self._received.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.lost(self.reason or (str(error) if error else "closed by the peer"))
        for task in self._tasks:
            task.cancel()
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        complete = self._lines.feed(data)
        self._received.extend(complete)
        if complete or not self._lines.has_partial:
            self._cancel_timer("line")
        if self._lines.has_partial and self.writable and "line" not in self._timers:
            self._set_timer("line", LINE_TIMEOUT, self._line_late)
        self._process()

    def eof_received(self) -> bool:
        """A client may close its sending side after its last request and still receive the responses."""
        self._half_closed = True
        self._cancel_timer("line")  # a partial line stays partial
        return not self._close_if_finished()

    def pause_writing(self) -> None:
        self.writable = False
        self._update_reading()
        self._cancel_timer("line")  # the server does not read meanwhile
        self._set_timer("unread", SLOW_READER_TIMEOUT, lambda: self._drop("the client does not read"))

    def resume_writing(self) -> None:
        self.writable = True
        self._cancel_timer("unread")
        if self._lines.has_partial:
            self._set_timer("line", LINE_TIMEOUT, self._line_late)
        self._process()
        if self.writable and not self.closing:
            self.drained()

    # processing lines

    def _process(self) -> None:
        """Process received lines while the client reads its responses: some in this iteration, the rest in the next."""
        for _ in range(LINES_PER_ITERATION):
            if not self._received or not self.writable or self.closing:
                break
            self._dispatch(decode(self._received.popleft()))
        if self._lines.overlong and not self._received and not self.closing:
            self._dispatch(OVERLONG)
        if self._received and self.writable and not self.closing:
            self._set_timer("turn", 0.0, self._process)
        else:
            self._cancel_timer("turn")
        self._update_reading()
        if self._half_closed:
            self._close_if_finished()

    def _dispatch(self, request: Request | InvalidRequest) -> None:
        if not self.client:
            self._hello(request)
        elif isinstance(request, InvalidRequest):
            self.write(failure(request.id, request.code, request.message))
            if request.fatal:
                self.close(request.message)
        elif request.method == "hello":
            self._hello(request)
        elif request.method == "ping":
            self._respond(request, b"{}")
        elif (method := self._service.methods.get(request.method)) is None:
            self._respond_error(request, METHOD_NOT_FOUND, f"There is no method {request.method[:100]}.")
        elif len(self._calls) >= MAX_CALLS:
            detail = f"More than {MAX_CALLS} calls of this connection are under way."
            self._respond_error(
                request, APPLICATION_ERROR, detail, {"reason": "pacingBudget", "detail": detail, "retryable": True}
            )
        else:
            task = self.start(self._run(method, request), f"rpc.{request.method}")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _hello(self, request: Request | InvalidRequest) -> None:
        """The first message must be a hello, of our protocol version."""
        if isinstance(request, InvalidRequest) or request.method != "hello":
            self._no_hello(request.id or NULL)
            return
        try:
            version = msgspec.json.decode(request.params, type=_Protocol).protocol
            if version != PROTOCOL:  # checked first: another version's hello may have other fields
                detail = f"This daemon speaks protocol {PROTOCOL}, not {version}: update the older of the two."
                self._respond_error(
                    request, APPLICATION_ERROR, detail, {"reason": "protocolUnsupported", "detail": detail}
                )
                self.close(detail)
                return
            hello = msgspec.json.decode(request.params, type=Hello)
        except msgspec.ValidationError as error:
            detail = f'hello takes {{"protocol": {PROTOCOL}, "client": "name/version"}}. {refusal(error)}'
            if self.client:
                self._respond_error(request, INVALID_PARAMS, detail)
            else:
                self._no_hello(request.id or NULL, detail)
            return
        first = not self.client
        self.client = hello.client[:100] or "?"
        self._cancel_timer("hello")
        service = self._service
        welcome = Welcome(protocol=PROTOCOL, daemon=service.daemon, epoch=service.epoch, session=service.session)
        self._respond(request, welcome)
        if first and not self.closing:
            self.greeted()

    async def _run(self, method: Method, request: Request) -> None:
        REQUEST_ID.set(request.request_id)  # of this task's own context
        try:
            async with asyncio.timeout(self._service.call_limit):
                result = encode(await method(self, request.params))
            if len(result) > MAX_LINE - 1024:
                raise RpcError(APPLICATION_ERROR, "The result is over 1 MiB: request less.", {"reason": "tooLarge"})
            self._respond(request, result)
        except RpcError as error:
            self._respond_error(request, error.code, error.message, error.data)
        except msgspec.ValidationError as error:
            detail = refusal(error)
            self._respond_error(request, INVALID_PARAMS, detail, {"reason": "invalidParameters", "detail": detail})
        except TimeoutError:
            detail = f"{request.method} did not finish in time."
            self._respond_error(
                request, APPLICATION_ERROR, detail, {"reason": "brokerTimeout", "detail": detail, "retryable": True}
            )
        except Exception as error:
            self._service.faults += 1
            log.exception("rpc.fault", message=f"{request.method} failed.", faults=self._service.faults)
            self._respond_error(
                request, INTERNAL_ERROR, f"{request.method} failed inside the daemon ({type(error).__name__})."
            )

    def _respond(self, request: Request, result: Any) -> None:
        if request.id is not None:
            self.write(response(request.id, result))

    def _respond_error(self, request: Request, code: int, message: str, data: Any = None) -> None:
        if request.id is not None:
            self.write(failure(request.id, code, message, data))

    # ends and timers

    def _no_hello(self, id: bytes = NULL, detail: str = "") -> None:  # noqa: A002
        message = f"The first message must be hello, within {HELLO_TIMEOUT:g} s. {detail}".rstrip()
        self.write(failure(id, HELLO_REQUIRED, message))
        self.close(message)

    def _line_late(self) -> None:
        message = f"The line did not end within {LINE_TIMEOUT:g} s."
        self.write(failure(NULL, INVALID_REQUEST if self.client else HELLO_REQUIRED, message))
        self.close(message)

    def _drop(self, reason: str) -> None:
        self._service.dropped += 1
        self.abort(reason)

    def _close_if_finished(self) -> bool:
        """Close a half-closed connection once every request has its response."""
        if self._received or self._calls:
            return False
        self.close("closed by the peer")
        return True

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._service.faults += 1
            log.error("rpc.fault", message=f"{task.get_name()} failed.", error=str(error))
        if self._half_closed:
            self._close_if_finished()

    def _update_reading(self) -> None:
        """Read from the socket only while no received line waits and the client reads its responses.

        Applied once an iteration: Windows' transport starts a second read when it is paused and resumed twice in one.
        """
        if self._reading != self._should_read() and "reading" not in self._timers:
            self._set_timer("reading", 0.0, self._update_reading_now)

    def _update_reading_now(self) -> None:
        del self._timers["reading"]
        self._reading = self._should_read()
        if self._transport is not None and not self._transport.is_closing():
            if self._reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _should_read(self) -> bool:
        return self.writable and not self._received

    def _set_timer(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._cancel_timer(name)
        later: CallLater = self._call_later or asyncio.get_running_loop().call_later
        self._timers[name] = later(seconds, then)

    def _cancel_timer(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
