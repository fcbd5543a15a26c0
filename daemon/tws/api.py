"""ib_async with its silences off: one `Api` a session, and the words its loggers may say.

What the library's own bookkeeping would invent (a Trade cancelled by an error code, an empty list for a failure, a
subscription renewed behind our back) never happens here; its decoder, requests and futures are used as they are.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import ib_async
from ib_async.client import Client
from ib_async.ib import IB
from ib_async.wrapper import Wrapper

from daemon.tws.receive import Wire

VERSION = "2.1.0"
"""What this package counts on: the order and the names inside exactly this release (`pyproject.toml` pins it)."""

LOWEST, HIGHEST = Client.MinClientVersion, Client.MaxClientVersion
"""Server versions that the decoder understands; we offer these."""

REQUEST_IDS, IDS_A_SESSION, SESSIONS = 1_000_000_000, 1_000_000, 1000
"""Our request ids begin far above any order id, so that an order's error can never be taken for a request's, and in
each session somewhere else, so that an old session's id names nothing in a new one. All stay below 2³¹."""

EXECUTION_TIME = 15
"""The field of an execDetails message that holds its time."""


def check_version() -> None:
    """Refuse to run on an ib_async whose insides nobody has looked at."""
    if ib_async.__version__ != VERSION:
        raise RuntimeError(
            f"daemon/tws was written for ib_async {VERSION}, but {ib_async.__version__} is installed: "
            f"run pip install 'ib_async=={VERSION}'"
        )


class Demoted(logging.Filter):
    """What ib_async logs is for who reads DEBUG: every fact of it reaches us as an event, and without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)


DEMOTED = Demoted()
for _name in ("client", "wrapper", "ib", "Decoder", "util"):
    logging.getLogger(f"ib_async.{_name}").addFilter(DEMOTED)


class Undecodable:
    """Stands where the decoder keeps its logger: what it could not decode is told, not printed."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told

    def exception(self, text: str) -> None:
        error = sys.exc_info()[1]
        self._told(f"{type(error).__name__}: {error}: {text}")


class Api(IB):
    """ib_async's face for one session over `wire`; never connects, reconnects or reacts by itself."""

    RaiseRequestErrors = True

    def __init__(
        self, wire: Wire, client_id: int, callbacks: Callable[[IB], Wrapper], told: Callable[[str], None]
    ) -> None:
        super().__init__()
        self.errorEvent -= self._onError  # renews the account summary at each 1102 and never ends it (FAULTS 49)
        self.wrapper = callbacks(self)
        self.wrapper.clientId = client_id
        self.client = Client(self.wrapper)
        self.client.conn = wire
        self.client.clientId = client_id
        self.client.MaxRequests = 0  # our gate limits, by priority; a second queue behind it would know none
        decoder = self.client.decoder
        decoder.logger = Undecodable(told)  # type: ignore[assignment] # all that the decoder asks of it
        decoder.handlers[11] = lenient(decoder.handlers[11])

    def greeted(self, version: int) -> None:
        """The server version is known: the decoder may start, and the client introduces itself."""
        client = self.client
        client._serverVersion = client.decoder.serverVersion = version
        client.connState = Client.CONNECTED
        client.startApi()

    def opened(self, session: int, accounts: list[str]) -> None:
        """Account list and next id are there: requests may be made."""
        self.client._accounts = accounts
        self.client.updateReqId(REQUEST_IDS + session % SESSIONS * IDS_A_SESSION)
        self.client._apiReady = True

    def over(self, error: Exception) -> None:
        """The session has ended: its questions fail, nothing can be sent, and the object may be forgotten silently."""
        for future in self.wrapper._futures.values():
            if not future.done():
                future.set_exception(error)
        self.client.reset()

    def __del__(self) -> None:
        """Nothing: ib_async would disconnect here, in whatever state the loop is."""


def lenient(handler: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    """Executions whose time ib_async would misread or refuse: an execution must not be lost for its time's spelling."""

    def exec_details(fields: list[str]) -> Any:
        fields[EXECUTION_TIME] = plain_time(fields[EXECUTION_TIME])
        return handler(fields)

    return exec_details


def plain_time(text: str) -> str:
    """`YYYYMMDD-HH:MM:SS` is UTC and is made to say so; a zone nobody knows (FAULTS 53) is read as the local one."""
    if " " not in text:
        day, _, clock = text.partition("-")
        return f"{day} {clock} UTC" if clock else text
    day, _, rest = text.partition(" ")
    clock, _, zone = rest.strip().partition(" ")
    return text if not zone or known_zone(zone) else f"{day}  {clock}"


def known_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not found; a directory's name; a path
        return False
    return True
