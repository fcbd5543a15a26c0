"""The HTTP server's end of connections: aiohttp's parser and keep-alive with our answers to what it cannot parse, a
bound on how many there are, and who holds the other end.

Knows nothing of routes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from facade.http.guard import same_user
from facade.http.problems import fault, refusal
from shared.reasons import Problem

CONNECTIONS = 512
"""Twice the 256 event streams; beyond it the one that was idle for the longest makes room."""

KEEP_ALIVE = 15.0
"""s that a connection may be idle, or take for a request's headers."""

LINGER = 1.0
"""s in which the rest of a refused body is read and thrown away, so that the refusal arrives before the close."""

LAST_ANSWERS = 1.0
"""s in which a client that has closed its sending side still gets its answers: it cannot be told from one that left."""

log = logging.getLogger(__name__)


class Connection(RequestHandler):
    """One client's connection. `resumed` is called when its socket takes bytes again."""

    __slots__ = ("_admitted", "_heard_out", "resumed")

    def __init__(self, manager: Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._admitted: bool | None = None
        self._heard_out = False
        self.resumed: Callable[[], None] | None = None

    @property
    def admitted(self) -> bool:
        """Whether the other end belongs to this user; asked once a connection, when its first request is here."""
        if self._admitted is None:
            self._admitted = self.transport is not None and same_user(self.transport)
        return self._admitted

    @property
    def idle_since(self) -> float | None:
        """When the last answer ended, by the loop's clock; `None` while a request is served."""
        waiting = self._waiter is not None and not self._waiter.done()
        return self._next_keepalive_close_time - KEEP_ALIVE if waiting else None

    @property
    def nothing_follows(self) -> bool:
        """The client has closed its sending side, and this is the last of what it had asked."""
        return self._heard_out and not self._messages

    def no_linger(self) -> None:
        """The rest of the body is not waited for."""
        self._lingering_time = 0.0

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.resumed is not None:
            self.resumed()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own type; aiohttp narrows it
        """A client may ask, close its sending side and still hear its answers; a stream's reader has left."""
        if self.idle_since is not None or self.resumed is not None:
            return False
        self._heard_out = True
        self._loop.call_later(LAST_ANSWERS, self.force_close)
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.resumed = None
        super().connection_lost(exc)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Any:
        """aiohttp's own refusals, 400 for what is no HTTP among them, with our headers and without a traceback."""
        path = request.rel_url.raw_path
        if status != 500:
            first = (message or "").strip().partition("\n")[0][:200].rstrip(" :.")
            return refusal(Problem("badRequest", f"This is no HTTP request: {first}."), instance=path, close=True)
        log.error("a request failed in the facade", exc_info=exc)
        return fault(path)


class HttpServer(Server):
    """Makes a `Connection` of each socket. `answer` gets each request; `draining`: answers end their connection."""

    def __init__(self, answer: Callable[[BaseRequest], Any], *, limit: int = CONNECTIONS) -> None:
        super().__init__(answer, handler_cancellation=True)
        self._limit = limit
        self.turned_away = 0

    def __call__(self) -> Connection:
        return Connection(
            self,
            loop=self._loop,
            keepalive_timeout=KEEP_ALIVE,
            access_log=None,
            auto_decompress=False,
            lingering_time=LINGER,
        )

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) <= self._limit:
            return
        self.turned_away += 1
        idle = [
            (since, number, other)
            for number, other in enumerate(self._connections)
            if other is not handler and isinstance(other, Connection) and (since := other.idle_since) is not None
        ]
        (min(idle)[2] if idle else handler).force_close()
