"""TCP connections before their first request: how many there may be, what the parser refuses, accepts that fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web

from shared.transport.private_paths import EXHAUSTED

CONNECTIONS = 512
"""Twice the 256 event streams; a connection beyond it is closed without a byte."""

log = structlog.get_logger(__name__)


def bounded(server: web.Server, limit: int) -> Callable[[], asyncio.BaseProtocol]:
    """`server` as a protocol factory for at most `limit` connections at once."""
    loop = asyncio.get_running_loop()
    opening = refused = 0

    def opened() -> None:
        nonlocal opening
        opening -= 1

    def protocol() -> asyncio.BaseProtocol:
        nonlocal opening, refused
        if len(server.connections) + opening < limit:
            if refused:
                log.info("facade.accepting", message="Connections are accepted again.", refusedBefore=refused)
                refused = 0
            opening += 1
            loop.call_soon(loop.call_soon, opened)  # asyncio connects a protocol in the loop's next turn
            return server()
        refused += 1
        if refused == 1:
            log.warning("facade.full", message=f"More than {limit} connections; further ones are closed at once.")
        return _Refused()

    return protocol


class _Refused(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        transport.abort()


def server_logger() -> logging.Logger:
    """aiohttp's logger, for which a request that is not HTTP is an error with a traceback; here it is a DEBUG line."""
    logger = logging.getLogger("aiohttp.server")
    if _not_a_parse_error not in logger.filters:
        logger.addFilter(_not_a_parse_error)
    return logger


def _not_a_parse_error(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and type(error).__module__.startswith("aiohttp."):
        log.debug("facade.not_http", message="A client sent what is not HTTP.", error=str(error))
        return False
    return True


class AcceptErrors:
    """The loop's exception handler: accepts that fail for want of descriptors are one warning, and one line after."""

    QUIET = 2.5
    """s without such a failure that mean its end: asyncio tries to accept again every second."""

    def __init__(self) -> None:
        self._failures = 0
        self._recovery: asyncio.TimerHandle | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED):
            loop.default_exception_handler(context)
            return
        self._failures += 1
        if self._recovery is None:
            log.warning("facade.starved", message="accept() failed; connections wait in the backlog.", error=str(error))
        else:
            self._recovery.cancel()
        self._recovery = loop.call_later(self.QUIET, self._recovered)

    def _recovered(self) -> None:
        log.info("facade.accepting", message="Connections are accepted again.", refusedBefore=self._failures)
        self._failures, self._recovery = 0, None
