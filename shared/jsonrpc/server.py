"""The daemon's end of one conversation: hello, calls, answers, and what a peer may not do to anybody else.

What a method does is the daemon's table; bytes and messages are `lines.py`'s; who may connect is `local.py`'s.
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
    brief,
    decode,
    encode,
    failure,
    notification,
    response,
)
from shared.log import REQUEST_ID
from shared.messages import PROTOCOL, Hello, Welcome
from shared.transport.interfaces import PeerIdentity
from shared.transport.local_socket import peer_identity

log = structlog.get_logger(__name__)

MAX_PEERS = 256
"""Connections at once: as many browsers' streams as one facade serves, each through an own client, would still fit."""

HELLO_TIMEOUT = 5.0
"""s until the first message must be there. A program says hello at once; who types it by hand can be that fast."""

LINE_TIMEOUT = 10.0
"""s from the first byte of a line to its end: 1 MiB on a local socket takes milliseconds."""

CALL_TIMEOUT = 900.0
"""s for a method that set itself no shorter limit: history may wait a whole ten-minute pacing window for its turn."""

SLOW_READER_TIMEOUT = 30.0
"""s that a peer's unread bytes may stand above the low-water mark: by then it is stopped, not slow."""

HIGH_WATER = 64 * 1024
"""Unread bytes from which a peer gets nothing new: small, because what is merged later is fresher than what waits."""

LINES_PER_ITERATION = 64
"""Lines of one connection in an iteration of the loop: about a millisecond, then the other connections follow."""

MAX_WRITE_BUFFER = 4 * MAX_LINE
"""Unread bytes at which a peer is dropped: answers to calls that were under way when it stopped reading may add up."""


class _Protocol(Struct):
    protocol: int


Method = Callable[["ServerConnection", Raw], Awaitable[Any]]
"""`async def method(peer, params) -> result`: a struct, a mapping, or `Raw`/`bytes` already encoded.

It decodes its params with msgspec (a `ValidationError` becomes −32602), raises `RpcError` to refuse, keeps its own
deadline. What it gives to `loop.call_soon` right before it returns runs after its answer has been written.
"""


class CallLater(Protocol):
    """`loop.call_later`, or a test's."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Cancellable: ...


class Cancellable(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True)
class RpcService:
    """What all peers of a daemon share: the table of methods, the answer to `hello`, who is here, what went wrong."""

    daemon: str
    epoch: str
    methods: Mapping[str, Method]
    call_limit: float = CALL_TIMEOUT
    peers: dict[ServerConnection, None] = field(default_factory=dict)
    """Who is here, in the order of coming."""
    turned_away: int = 0
    """Peers beyond `MAX_PEERS`, closed without a byte."""
    dropped: int = 0
    """Peers that did not read."""
    faults: int = 0
    """Methods that failed in a way they had not declared."""

    def has_room(self) -> bool:
        """Whether one more may come; the first that has not said who it is goes for who comes."""
        if len(self.peers) < MAX_PEERS:
            return True
        silent = next((peer for peer in self.peers if not peer.client), None)
        if silent is None:
            return False
        self.turned_away += 1
        del self.peers[silent]
        silent.abort("its place was needed")
        return True

    async def close(self) -> None:
        """Close every connection, flushing for `CLOSE_TIMEOUT` at most, and wait for the last task."""
        peers = tuple(self.peers)
        for peer in peers:
            peer.close()
        await asyncio.gather(*(peer.wait_closed() for peer in peers))


class ServerConnection(asyncio.Protocol):
    """The daemon's end of one conversation. Bound: one line in, `MAX_CALLS` calls, `MAX_WRITE_BUFFER` bytes out.

    A subclass sees `greeted()`, `drained()` and `lost(reason)`. `writable` is false while the peer leaves more than
    `HIGH_WATER` bytes unread: then nothing new is written (merge it, and go on when `drained()` is called), nothing
    more is read from it, and after `SLOW_READER_TIMEOUT` s it is dropped.
    """

    def __init__(self, service: RpcService, call_later: CallLater | None = None) -> None:
        self.client = ""
        """What the peer calls itself; empty before its hello. From outside: not for a log without `log.printable`."""
        self.writable = True
        self.reason = ""
        """Why the conversation ended, from our side."""
        self._service = service
        self._call_later = call_later
        self._transport: asyncio.Transport | None = None
        self._lines = LineSplitter()
        self._kept: deque[bytes] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._limits: dict[str, Cancellable] = {}
        self._ended = asyncio.Event()
        self._half_closed = False
        self._reads = True

    # what a subclass may override

    def greeted(self) -> None:
        """The hello was right; notifications may be written from now on."""

    def drained(self) -> None:
        """`writable` is true again."""

    def lost(self, reason: str) -> None:
        """The conversation is over; its tasks are cancelled after this."""

    # what a subclass and the daemon use

    @property
    def who(self) -> PeerIdentity | None:
        """Process and user at the other end, for the log; `None` once the connection is gone."""
        return None if self.closing else peer_identity(cast("asyncio.Transport", self._transport))

    @property
    def closing(self) -> bool:
        """Whether the end has begun: what is written now goes nowhere."""
        return self._transport is None or self._transport.is_closing()

    def notify(self, method: str, params: Any) -> None:
        """Tell the peer; only after `greeted`, and for what may wait only while `writable`."""
        self.write(notification(method, params))

    def write(self, line: bytes) -> None:
        """A whole encoded line, or several, with their ends."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(line)
        if not self.writable and self._transport.get_write_buffer_size() > MAX_WRITE_BUFFER:
            self._drop("too many bytes unread")

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task of this conversation's: it is cancelled when the connection is lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        if self._ended.is_set():
            task.cancel()
        return task

    def close(self, reason: str = "closed by the daemon") -> None:
        """End the conversation after what is written has been read, at the latest after `CLOSE_TIMEOUT`."""
        if self._transport is not None and not self._transport.is_closing():
            self.reason = self.reason or reason
            self._transport.close()
            self._limit("close", CLOSE_TIMEOUT, self._transport.abort)

    def abort(self, reason: str) -> None:
        """End the conversation now."""
        if self._transport is not None:
            self.reason = self.reason or reason
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Until the connection is gone and its tasks have ended."""
        await self._ended.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)
        if not self._service.has_room():
            self._service.turned_away += 1
            self.abort("too many peers")
            return
        self._service.peers[self] = None
        transport.set_write_buffer_limits(HIGH_WATER)
        self._limit("hello", HELLO_TIMEOUT, self._no_hello)

    def connection_lost(self, error: Exception | None) -> None:
        self._service.peers.pop(self, None)
        self._kept.clear()
        for limit in self._limits.values():
            limit.cancel()
        self._limits.clear()
        self.lost(self.reason or (str(error) if error else "closed by the peer"))
        for task in self._tasks:
            task.cancel()
        self._ended.set()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        ended = self._lines.feed(data)
        self._kept.extend(ended)
        if ended or not self._lines.begun:
            self._no_limit("line")
        if self._lines.begun and self.writable and "line" not in self._limits:
            self._limit("line", LINE_TIMEOUT, self._line_late)
        self._go_on()

    def eof_received(self) -> bool:
        """A peer may ask, close its sending side and still hear its answers."""
        self._half_closed = True
        self._no_limit("line")  # what has no end by now never gets one
        return not self._finish()

    def pause_writing(self) -> None:
        self.writable = False
        self._listen()
        self._no_limit("line")  # it is we who do not listen
        self._limit("unread", SLOW_READER_TIMEOUT, lambda: self._drop("nothing was read for a while"))

    def resume_writing(self) -> None:
        self.writable = True
        self._no_limit("unread")
        if self._lines.begun:
            self._limit("line", LINE_TIMEOUT, self._line_late)
        self._go_on()
        if self.writable and not self.closing:
            self.drained()

    # one line at a time

    def _go_on(self) -> None:
        """What was received, as long as answers are read, some lines in this turn and the rest in the next."""
        for _ in range(LINES_PER_ITERATION):
            if not self._kept or not self.writable or self.closing:
                break
            self._take(decode(self._kept.popleft()))
        if self._lines.overlong and not self._kept and not self.closing:
            self._take(OVERLONG)
        if self._kept and self.writable and not self.closing:
            self._limit("turn", 0.0, self._go_on)
        else:
            self._no_limit("turn")
        self._listen()
        if self._half_closed:
            self._finish()

    def _take(self, said: Request | InvalidRequest) -> None:
        if not self.client:
            self._greet(said)
        elif isinstance(said, InvalidRequest):
            self.write(failure(said.id, said.code, said.message))
            if said.fatal:
                self.close(said.message)
        elif said.method == "hello":
            self._greet(said)
        elif said.method == "ping":
            self._answer(said, b"{}")
        elif (method := self._service.methods.get(said.method)) is None:
            self._refuse(said, METHOD_NOT_FOUND, f"There is no method {said.method[:100]}.")
        elif len(self._calls) >= MAX_CALLS:
            detail = f"More than {MAX_CALLS} calls of this connection are under way."
            self._refuse(
                said, APPLICATION_ERROR, detail, {"reason": "pacingBudget", "detail": detail, "retryable": True}
            )
        else:
            task = self.start(self._run(method, said), f"rpc.{said.method}")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _greet(self, said: Request | InvalidRequest) -> None:
        """The first message must be a hello, in our protocol."""
        if isinstance(said, InvalidRequest) or said.method != "hello":
            self._no_hello(said.id or NULL)
            return
        try:
            theirs = msgspec.json.decode(said.params, type=_Protocol).protocol
            if theirs != PROTOCOL:  # looked at first: the rest of another protocol's hello may look different
                detail = f"This daemon speaks protocol {PROTOCOL}, not {theirs}: update the older of the two."
                self._refuse(said, APPLICATION_ERROR, detail, {"reason": "protocolUnsupported", "detail": detail})
                self.close(detail)
                return
            hello = msgspec.json.decode(said.params, type=Hello)
        except msgspec.ValidationError as error:
            detail = f'hello takes {{"protocol": {PROTOCOL}, "client": "name/version"}} ({brief(error)}).'
            if self.client:
                self._refuse(said, INVALID_PARAMS, detail)
            else:
                self._no_hello(said.id or NULL, detail)
            return
        first = not self.client
        self.client = hello.client[:100] or "?"
        self._no_limit("hello")
        self._answer(said, Welcome(protocol=PROTOCOL, daemon=self._service.daemon, epoch=self._service.epoch))
        if first and not self.closing:
            self.greeted()

    async def _run(self, method: Method, call: Request) -> None:
        REQUEST_ID.set(call.request_id)  # of this task's own context
        try:
            async with asyncio.timeout(self._service.call_limit):
                result = encode(await method(self, call.params))
            if len(result) > MAX_LINE - 1024:
                raise RpcError(APPLICATION_ERROR, "The answer is over 1 MiB: ask for less.", {"reason": "tooLarge"})
            self._answer(call, result)
        except RpcError as error:
            self._refuse(call, error.code, error.message, error.data)
        except msgspec.ValidationError as error:
            detail = f"{brief(error)}."
            self._refuse(call, INVALID_PARAMS, detail, {"reason": "invalidParameters", "detail": detail})
        except TimeoutError:
            detail = f"{call.method} was not answered in time."
            self._refuse(
                call, APPLICATION_ERROR, detail, {"reason": "brokerTimeout", "detail": detail, "retryable": True}
            )
        except Exception as error:
            self._service.faults += 1
            log.exception("rpc.fault", message=f"{call.method} failed.", faults=self._service.faults)
            self._refuse(call, INTERNAL_ERROR, f"{call.method} failed inside the daemon ({type(error).__name__}).")

    def _answer(self, call: Request, result: Any) -> None:
        if call.id is not None:
            self.write(response(call.id, result))

    def _refuse(self, call: Request, code: int, message: str, data: Any = None) -> None:
        if call.id is not None:
            self.write(failure(call.id, code, message, data))

    # ends and limits

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

    def _finish(self) -> bool:
        """Close a conversation whose peer has said its last word and has had every answer."""
        if self._kept or self._calls:
            return False
        self.close("closed by the peer")
        return True

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._service.faults += 1
            log.error("rpc.fault", message=f"{task.get_name()} failed.", error=str(error))
        if self._half_closed:
            self._finish()

    def _listen(self) -> None:
        """Read on only when what was read has been dealt with, and the answers are read too.

        Looked at once a turn: Windows' transport starts a second read when it is stopped and resumed twice in one.
        """
        if self._reads != self._wants() and "listen" not in self._limits:
            self._limit("listen", 0.0, self._listen_now)

    def _listen_now(self) -> None:
        del self._limits["listen"]
        self._reads = self._wants()
        if self._transport is not None and not self._transport.is_closing():
            if self._reads:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _wants(self) -> bool:
        return self.writable and not self._kept

    def _limit(self, name: str, seconds: float, then: Callable[[], None]) -> None:
        self._no_limit(name)
        later: CallLater = self._call_later or asyncio.get_running_loop().call_later
        self._limits[name] = later(seconds, then)

    def _no_limit(self, name: str) -> None:
        if (limit := self._limits.pop(name, None)) is not None:
            limit.cancel()
