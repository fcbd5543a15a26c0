"""One call to the daemon and its result, without asyncio, for commands that make one call and exit.

Measured: a bare interpreter starts in 26 ms, with this module in 34 ms, with asyncio in 66 ms, with
`shared.jsonrpc.client` (for connections that stay open) in 156 ms; `ibkr status` may take four bare starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import monotonic  # the one clock outside clock.py, which would bring asyncio with it

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


def call_once(path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float = 2.0) -> Any:
    """`method`'s result, decoded. `timeout`: s for connecting, hello and the call together.

    Raises `CallError` with the daemon's error, an `OSError` where there is no answer (`FileNotFoundError`,
    `ConnectionRefusedError`, `TimeoutError`, `PermissionError` where another user listens at `path`).
    """
    deadline = monotonic() + timeout
    with _Connection(path, deadline) as connection:
        hello = {"protocol": PROTOCOL, "client": "ibkr/1"}
        connection.send({"jsonrpc": "2.0", "id": 0, "method": "hello", "params": hello})
        _result(connection, 0)
        connection.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}})
        return _result(connection, 1)


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
    """Sends and receives JSON objects, one a line, until `deadline` (of `monotonic`)."""

    def __init__(self, path: str, deadline: float) -> None:
        self._deadline = deadline
        self._stream = connect(path, deadline)
        self._buffer = bytearray()

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def send(self, message: Mapping[str, Any]) -> None:
        self._stream.settimeout(time_left(self._deadline))
        self._stream.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                raise ConnectionError("The daemon sent a line over 1 MiB.")
            self._stream.settimeout(time_left(self._deadline))
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
        if not isinstance(message, dict):
            raise ConnectionError(f"The program at the socket does not speak the daemon's protocol: {line[:80]!r}.")
        return message
