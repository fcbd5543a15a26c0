"""One HTTP answer as bytes: status line, the headers every answer carries, body, written in one piece.

aiohttp parses requests and keeps connections; what goes back is already encoded here. Never decides what is answered.
"""

from __future__ import annotations

import asyncio
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp.helpers import rfc822_formatted_time

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

    from facade.http.connection import Connection

JSON = "application/json"
PROBLEM = "application/problem+json"
HTML = "text/html; charset=utf-8"
EVENTS = "text/event-stream"

WRITE_LIMIT = 30.0
"""s for a client to take an answer that did not fit into the socket's buffer; then the connection is cut."""

GUARDING = (
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'\r\n"
    "X-Frame-Options: DENY\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Cross-Origin-Opener-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
)
"""What a browser is told on every answer, whatever it is."""


@cache  # bounded: statuses and content types of the table, about forty
def head(status: int, content_type: str, caching: str = "no-store") -> bytes:
    """Status line and the headers that do not depend on the request."""
    typed = f"Content-Type: {content_type}\r\n" if content_type else ""
    return (f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{typed}{GUARDING}Cache-Control: {caching}\r\n").encode(
        "latin-1"
    )


class Answer:
    """What a handler returns. `more`: further header lines, each ended by CRLF. `close`: the connection ends after it.

    aiohttp's connection calls `prepare`, then `write_eof`, then looks at `keep_alive`.
    """

    __slots__ = ("body", "close", "content_type", "head", "keep_alive", "more", "status")

    def __init__(
        self,
        status: int,
        body: bytes,
        content_type: str = JSON,
        more: bytes = b"",
        *,
        caching: str = "no-store",
        close: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.more = more
        self.head = head(status, content_type, caching)
        self.close = close
        self.keep_alive = False

    async def prepare(self, request: BaseRequest) -> None:
        """Write everything. Raises `ConnectionError` where the client has left."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        message = request._message
        connection: Connection = request.protocol  # type: ignore[assignment]
        # a body that was not read to its end, or a protocol nobody switches to, would be taken for the next request
        self.keep_alive = not (
            self.close
            or message.should_close
            or message.upgrade
            or message.version != (1, 1)
            or not request.content.is_eof()
            or connection.nothing_follows
        )
        lengthless = self.status == HTTPStatus.NOT_MODIFIED or self.content_type == EVENTS  # HEAD of what has no end
        length = b"" if lengthless else b"Content-Length: %d\r\n" % len(self.body)
        transport.write(
            b"".join(
                (
                    self.head,
                    self.more,
                    length,
                    b"" if self.keep_alive else b"Connection: close\r\n",
                    b"Date: ",
                    rfc822_formatted_time().encode("ascii"),
                    b"\r\n\r\n",
                    b"" if message.method == "HEAD" else self.body,
                )
            )
        )

        if connection.writing_paused:
            await _taken(request)

    async def write_eof(self) -> None:
        """Nothing is left to write."""


async def _taken(request: BaseRequest) -> None:
    """Until the client has taken what did not fit into the socket's buffer, so that a connection holds one answer."""
    try:
        async with asyncio.timeout(WRITE_LIMIT):
            await request.protocol._drain_helper()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None
