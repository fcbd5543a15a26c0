"""JSON-RPC 2.0, one object a line: bytes ⇄ messages. Pure: no socket, no clock, and no error that is not declared."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

MAX_LINE = 1 << 20
"""Bytes of a line without its end. A page of a watch is 256 KiB; four times that leaves room and bounds a peer."""

MAX_CALLS = 512
"""Concurrent calls of one connection: the facade serves 512 HTTP connections, each waits for at most one response."""

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
    """An error of the protocol's: raised by a method to answer with it, raised by `Client.call` when it was answered.

    `data` of our own code −32000 has `reason` (of `shared.reasons`) and what goes with it.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


class LineSplitter:
    """Bytes in any pieces → whole lines, in time linear in the bytes. Holds one unfinished line, at most `limit` bytes.

    `overlong`: a line went over the limit; the lines before it were given out, nothing comes after it.
    """

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.overlong = False
        self._limit = limit
        self._begun = bytearray()

    @property
    def begun(self) -> bool:
        """Whether a line has begun and not ended."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end within `data`, without their ends."""
        if self.overlong:
            return []
        *lines, rest = data.split(b"\n")
        if lines and self._begun:
            self._begun += lines[0]
            lines[0] = bytes(self._begun)
            self._begun.clear()
        self._begun += rest
        for number, line in enumerate((*lines, self._begun)):
            if len(line) > self._limit:
                self.overlong = True
                self._begun.clear()
                return lines[:number]
        return lines


NULL = b"null"


@dataclass(frozen=True, slots=True)
class Request:
    """A request, or a notification where `id` is `None`. `id` is the peer's own text, given back as it came.

    `request_id`: the HTTP request behind it, a member of ours beside JSON-RPC's; empty where there is none.
    """

    method: str
    params: Raw
    id: bytes | None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """A line that is no call: the error it gets, and whether the connection ends with it."""

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
# a string, an integer of a size that anybody can mean, or null
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ID = re.compile(rb'"[^\0]{0,512}"|-?[0-9]{1,40}|null', re.DOTALL)

NOT_UTF8 = InvalidRequest(PARSE_ERROR, "The line is not UTF-8.", fatal=True)
OVERLONG = InvalidRequest(INVALID_REQUEST, "The line is over 1 MiB.", fatal=True)


def decode(line: bytes) -> Request | InvalidRequest:
    """What one line asks. Raises nothing."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        return InvalidRequest(PARSE_ERROR, f"The line is not JSON ({brief(error)}).")
    if not isinstance(value, dict):
        return InvalidRequest(INVALID_REQUEST, "A request is one object; there are no batches.")
    envelope = _envelope.decode(line)
    given = bytes(envelope.id) if isinstance(envelope.id, Raw) else None
    if given is not None and not _ID.fullmatch(given):
        return InvalidRequest(INVALID_REQUEST, "An id is a string (of at most 512 bytes), an integer or null.")
    known = given or NULL
    if value.get("jsonrpc") != "2.0":
        return InvalidRequest(INVALID_REQUEST, 'A request says "jsonrpc": "2.0".', known)
    if not isinstance(value.get("method"), str):
        return InvalidRequest(INVALID_REQUEST, "A request names its method, a string.", known)
    if not isinstance(value.get("params", {}), dict):
        return InvalidRequest(INVALID_PARAMS, "Params are an object.", known)
    request_id = value.get("requestId")
    if not isinstance(request_id, str) or not REQUEST_ID.fullmatch(request_id):
        request_id = ""
    return Request(value["method"], envelope.params.copy(), None if given is None else known, request_id)


def encode(value: Any) -> bytes:
    """JSON of one line: what a struct, a mapping or an already encoded `Raw` (or `bytes`) is on the wire."""
    return bytes(value) if isinstance(value, bytes | Raw) else _encoder.encode(value)


def request(number: int, method: str, params: Any, request_id: str = "") -> bytes:
    """A line that asks."""
    more = b',"requestId":%s' % _encoder.encode(request_id) if request_id else b""
    line = b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s%s}\n'
    return line % (number, _encoder.encode(method), encode(params), more)


def notification(method: str, params: Any) -> bytes:
    """A line that tells."""
    return b'{"jsonrpc":"2.0","method":%s,"params":%s}\n' % (_encoder.encode(method), encode(params))


def response(id: bytes, result: Any) -> bytes:  # noqa: A002 - the protocol's word
    """A line that answers."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}\n' % (id, encode(result))


def failure(id: bytes, code: int, message: str, data: Any = None) -> bytes:  # noqa: A002
    """A line that refuses."""
    error = {"code": code, "message": message} if data is None else {"code": code, "message": message, "data": data}
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}\n' % (id, _encoder.encode(error))


def brief(error: Exception) -> str:
    """What was wrong with a text, short enough to say."""
    return "nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
