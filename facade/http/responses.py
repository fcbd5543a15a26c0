"""Responses: content types, and the headers that every response carries."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from collections.abc import Iterable, Mapping

from aiohttp import web

from shared.log import REQUEST_ID

JSON = "application/json"
PROBLEM = "application/problem+json"
HTML = "text/html; charset=utf-8"
EVENTS = "text/event-stream"

NO_HEADERS: Mapping[str, str] = {}

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

COMMON = web.StreamResponse(headers={**SECURITY_HEADERS, "Cache-Control": "no-store"}).headers
"""A multidict, which a response copies four times as fast as a dict."""

REQUEST_ID_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}")

ROOM = 48 * 1024
"""Bytes of the write buffer for bodies: the rest of the 64 KiB at which asyncio pauses a writer is for headers."""

WRITE_TIMEOUT = 30.0
"""s for a client to read a large response; then its connection is aborted."""

_process, _numbers = secrets.token_hex(4), itertools.count(1)


def reply(
    body: bytes | None,
    content_type: str = JSON,
    *,
    status: int = 200,
    headers: Mapping[str, str] = NO_HEADERS,
) -> web.Response:
    response = web.Response(body=body, status=status, headers=COMMON)
    if content_type:
        response.headers["Content-Type"] = content_type
    if headers:
        response.headers.update(headers)
    return response


def not_modified(headers: Mapping[str, str]) -> web.Response:
    return reply(None, "", status=304, headers=headers)


def matches(if_none_match: Iterable[str], tag: str) -> bool:
    """Whether `If-None-Match` names `tag`, by the weak comparison that it is meant for."""
    return any(
        name in ("*", tag)
        for line in if_none_match
        for name in (part.strip().removeprefix("W/") for part in line.split(","))
    )


def request_id(given: str | None) -> str:
    """The client's own id where it is well-formed, else a new one."""
    if given is not None and REQUEST_ID_FORM.fullmatch(given):
        return given
    return f"{_process}-{next(_numbers):x}"


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """The headers of every response; a receiver of `on_response_prepare`, the one place that can drop `Server`."""
    headers = response.headers
    if "Content-Security-Policy" not in headers:  # an event stream, or a response of aiohttp's own
        headers.extend(SECURITY_HEADERS)
        headers.setdefault("Cache-Control", "no-store")
    headers["X-Request-Id"] = REQUEST_ID.get() or request_id(None)
    headers.popall("Server", None)


def may_wait(transport: asyncio.Transport | None, response: web.Response) -> bool:
    """Whether `response`, behind what the client has not read yet, may be more than the write buffer takes."""
    size = len(response.body) if isinstance(response.body, bytes) else 0
    return transport is not None and transport.get_write_buffer_size() + size > ROOM


async def send_in_time(request: web.Request, response: web.Response) -> None:
    """Send all of `response`; a client that does not read it within `WRITE_TIMEOUT` is disconnected."""
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        pass  # the client has left
