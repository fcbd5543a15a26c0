"""JSON-RPC 2.0, one object a line: splitting, decoding and encoding lines. Pure: no I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

MAX_LINE = 1 << 20
"""Bytes of a line without its newline: four times a page of a watch (256 KiB)."""

MAX_CALLS = 512
"""Concurrent calls of one connection: the facade serves 512 HTTP connections, each waits for at most one response."""

CALL_TIMEOUT = 3630.0
"""s for a method without a shorter deadline of its own: a connect may be given an hour, history waits ten minutes."""

CLOSE_TIMEOUT = 2.0
"""s for the peer to read the last response of a connection that is being closed."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
APPLICATION_ERROR = -32000
HELLO_REQUIRED = -32001


class RpcError(Exception):
    """A JSON-RPC error response: raised by a method to send one, and by `Client.call` when one was received.

    `data` of code `APPLICATION_ERROR` has `reason` (of `shared.reasons`) and its details.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class LineSplitter:
    """Splits received bytes into whole lines, in linear time. Buffers one unfinished line of at most `limit` bytes.

    `overlong`: a line exceeded the limit. The lines before it were returned; none are returned after it.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.overlong = False
        self._limit = limit
        self._partial = bytearray()

    @property
    def has_partial(self) -> bool:
        """Whether a line has started and not ended."""
        return bool(self._partial)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end within `data`, without their newlines."""
        if self.overlong:
            return []
        *lines, rest = data.split(b"\n")
        if lines and self._partial:
            self._partial += lines[0]
            lines[0] = bytes(self._partial)
            self._partial.clear()
        self._partial += rest
        for number, line in enumerate((*lines, self._partial)):
            if len(line) > self._limit:
                self.overlong = True
                self._partial.clear()
                return lines[:number]
        return lines


NULL = b"null"


@dataclass(frozen=True, slots=True)
class Request:
    """A request, or a notification where `id` is `None`. `id`: the client's encoded id, returned unchanged.

    `request_id`: the HTTP request behind it, a member of ours beside JSON-RPC's; empty where there is none.
    """

    method: str
    params: Raw
    id: bytes | None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """A line that is not a request: the error to respond with. `fatal`: the connection ends with it."""

    code: int
    message: str
    id: bytes = NULL
    fatal: bool = False


class _Envelope(Struct):
    jsonrpc: Raw = Raw()
    method: Raw = Raw()
    params: Raw = Raw(b"{}")
    id: Raw | UnsetType = UNSET


_envelope = msgspec.json.Decoder(_Envelope)
_text = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# a string, an integer of at most 40 digits, or null
_ID = re.compile(rb'"[^\0]{0,512}"|-?[0-9]{1,40}|null', re.DOTALL)

NOT_UTF8 = InvalidRequest(PARSE_ERROR, "The line is not UTF-8.", fatal=True)
OVERLONG = InvalidRequest(INVALID_REQUEST, "The line is over 1 MiB.", fatal=True)


def decode(line: bytes) -> Request | InvalidRequest:
    """The request in one line, without its newline. Raises nothing."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        return InvalidRequest(PARSE_ERROR, f"The line is not JSON ({short_reason(error)}).")
    if not isinstance(value, dict):
        return InvalidRequest(INVALID_REQUEST, "A request is one object; there are no batches.")
    envelope = _envelope.decode(line)
    client_id = bytes(envelope.id) if isinstance(envelope.id, Raw) else None
    if client_id is not None and not _ID.fullmatch(client_id):
        return InvalidRequest(INVALID_REQUEST, "An id is a string (of at most 512 bytes), an integer or null.")
    error_id = client_id or NULL
    if value.get("jsonrpc") != "2.0":
        return InvalidRequest(INVALID_REQUEST, 'A request has the member "jsonrpc": "2.0".', error_id)
    if not isinstance(value.get("method"), str):
        return InvalidRequest(INVALID_REQUEST, "A request names its method, a string.", error_id)
    if not isinstance(value.get("params", {}), dict):
        return InvalidRequest(INVALID_PARAMS, "Params are an object.", error_id)
    request_id = value.get("requestId")
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        request_id = ""
    return Request(value["method"], envelope.params.copy(), client_id, request_id)


def encode(value: Any) -> bytes:
    """JSON of a struct or mapping, on one line; `Raw` and `bytes` are already encoded."""
    return bytes(value) if isinstance(value, bytes | Raw) else _encoder.encode(value)


def request(number: int, method: str, params: Any, request_id: str = "") -> bytes:
    """The line of a request."""
    more = b',"requestId":%s' % _encoder.encode(request_id) if request_id else b""
    line = b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s%s}\n'
    return line % (number, _encoder.encode(method), encode(params), more)


def notification(method: str, params: Any) -> bytes:
    """The line of a notification."""
    return b'{"jsonrpc":"2.0","method":%s,"params":%s}\n' % (_encoder.encode(method), encode(params))


def response(id: bytes, result: Any) -> bytes:  # noqa: A002 - the protocol's word
    """The line of a result. `id`: encoded, as received."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}\n' % (id, encode(result))


def failure(id: bytes, code: int, message: str, data: Any = None) -> bytes:  # noqa: A002
    """The line of an error. `id`: encoded, as received."""
    error = {"code": code, "message": message} if data is None else {"code": code, "message": message, "data": data}
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}\n' % (id, _encoder.encode(error))


def short_reason(error: Exception) -> str:
    """Why a text cannot be decoded, in at most 200 characters."""
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
