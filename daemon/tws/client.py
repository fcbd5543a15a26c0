"""Requests → messages to the gateway: ib_async's client, of which only the writing of requests is used.

Its connection, its queue, its bookkeeping and its decoder are not: see `receive.py`, `send_queue.py`, `decoder.py`.
"""

from __future__ import annotations

import ib_async
from ib_async.client import Client

from daemon.tws.receive import Wire

VERSION = "2.1.0"
"""The release whose order of fields this package was tried with (`pyproject.toml` pins it)."""

LOWEST, HIGHEST = Client.MinClientVersion, Client.MaxClientVersion
"""Server versions that the decoder understands; we offer these."""

REQUEST_IDS, IDS_A_SESSION, SESSIONS = 1_000_000_000, 1_000_000, 1000
"""Our request ids begin far above any order id, so that an order's error can never be taken for a request's, and in
each session somewhere else, so that an old session's id names nothing in a new one. All stay below 2³¹."""


def check_version() -> None:
    """Refuse to run on another ib_async than the one that this package was tried with."""
    if ib_async.__version__ != VERSION:
        raise RuntimeError(
            f"daemon/tws was written for ib_async {VERSION}, but {ib_async.__version__} is installed: "
            f"run pip install 'ib_async=={VERSION}'"
        )


class GatewayClient(Client):
    """One session's. Writes each request to `wire` at once: callers have been admitted by the send queue."""

    def __init__(self, wire: Wire, client_id: int, session: int) -> None:
        super().__init__(wrapper=None)  # type: ignore[no-untyped-call]
        self.clientId = client_id
        self._wire = wire
        self._version = 0
        self._next_id = REQUEST_IDS + session % SESSIONS * IDS_A_SESSION

    def greeted(self, version: int) -> None:
        """The server version is known: introduce ourselves."""
        self._version = version
        self.startApi()

    def serverVersion(self) -> int:  # noqa: N802 - ib_async's name
        return self._version

    def isConnected(self) -> bool:  # noqa: N802 - ib_async's name
        return bool(self._version)

    def getReqId(self) -> int:  # noqa: N802 - ib_async's name
        """A new request id."""
        self._next_id += 1
        return self._next_id

    def sendMsg(self, msg: str) -> None:  # noqa: N802 - ib_async's name
        data = msg.encode()
        self._wire.send(len(data).to_bytes(4, "big") + data)
