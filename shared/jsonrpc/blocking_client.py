"""One call to the daemon and its result, without asyncio, for commands that make one call and exit.

Measured: a bare interpreter starts in 26 ms, with this module in 34 ms, with asyncio in 66 ms, with
`shared.jsonrpc.client` (for connections that stay open) in 156 ms; `ibkr status` may take four bare starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import monotonic  # the one clock outside clock.py, which would bring asyncio with it

from shared.transport.address import DEFAULT_SESSION, check_session
from shared.transport.blocking import connect, time_left

TYPE_CHECKING = False  # importing typing takes a tenth of the time of the whole program
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1  # messages.PROTOCOL, repeated because that module imports msgspec; a test compares them
MAX_LINE = 1 << 20  # codec.MAX_LINE, likewise


class CallError(Exception):
    """The daemon answered with an error: JSON-RPC's `code` and `message`, and `data` with its `reason`."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def call_once(
    path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float = 2.0, *, session: str = ""
) -> Any:
    """`method`'s result, decoded. `timeout`: s for connecting, hello and the call together.

    Raises `CallError` with the daemon's error, an `OSError` where there is no answer (`FileNotFoundError`,
    `ConnectionRefusedError`, `TimeoutError`, `PermissionError` where another user listens at `path`, `AnotherSession`
    where the daemon does not hold `session`; empty: whichever it holds).
    """
    with _Connection(path, monotonic() + timeout) as connection:
        _begin(connection, method, params, session)
        return _result(connection, 1)


def call_while_alive(
    path: str, method: str, params: Mapping[str, Any] | None = None, ping_timeout: float = 2.0, *, session: str = ""
) -> Any:
    """`method`'s result, decoded, however long the daemon takes: the daemon alone has a deadline for it.

    Raises what `call_once` raises, and `TimeoutError` once the daemon has not answered a ping for `ping_timeout` s.
    """
    with _Connection(path, monotonic() + ping_timeout) as connection:
        _begin(connection, method, params, session)
        pinged_at = -1  # what had been received by the last ping
        while True:
            connection.deadline = monotonic() + ping_timeout
            try:
                return _result(connection, 1)
            except TimeoutError:
                if connection.received == pinged_at:
                    raise
            pinged_at = connection.received
            connection.deadline = monotonic() + ping_timeout
            connection.send({"jsonrpc": "2.0", "id": 2, "method": "ping", "params": {}})


def _begin(connection: _Connection, method: str, params: Mapping[str, Any] | None, session: str) -> None:
    """Send hello and, once the daemon of `session` has answered it, the call with the id 1."""
    hello = {"protocol": PROTOCOL, "client": "ibkr/1"}
    connection.send({"jsonrpc": "2.0", "id": 0, "method": "hello", "params": hello})
    welcome = _result(connection, 0)
    check_session(connection.path, session, welcome.get("session", DEFAULT_SESSION))
    connection.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}})


def _result(connection: _Connection, number: int) -> Any:
    while True:  # ends with the connection's deadline
        message = connection.receive()
        if message.get("id") == number and ("result" in message or "error" in message):
            break
        if "error" in message and message.get("id") is None:
            break  # an error of the connection as a whole
    if "error" in message:
        error = message["error"]
        raise CallError(error["code"], error["message"], error.get("data"))
    return message["result"]


class _Connection:
    """Sends and receives JSON objects, one a line, until `deadline` (of `monotonic`). `received`: how many came."""

    def __init__(self, path: str, deadline: float) -> None:
        self.path = path
        self.deadline = deadline
        self.received = 0
        self._stream = connect(path, deadline)
        self._buffer = bytearray()

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def send(self, message: Mapping[str, Any]) -> None:
        self._stream.settimeout(time_left(self.deadline))
        self._stream.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise ConnectionError("The daemon sent a line over 1 MiB.")
            self._stream.settimeout(time_left(self.deadline))
            data = self._stream.recv(1 << 16)
            if not data:
                raise ConnectionResetError("The daemon closed the connection without an answer.")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        self.received += 1
        if not isinstance(message, dict):
            raise ConnectionError(f"The program at the socket does not speak the daemon's protocol: {line[:80]!r}.")
        return message
