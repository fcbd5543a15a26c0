"""Frames and fields: bytes to text fields and back, and how TWS writes numbers.

Pure. What a message means is in `requests` (from clients) and `messages` (from the gateway).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SERVER_VERSION: Final = 178
OLDEST_VERSION: Final = 136
"""The lowest version this gateway can still write; a client that stops below it is refused."""

UNSET_DOUBLE: Final = "1.7976931348623157E308"
UNSET_INTEGER: Final = "2147483647"

LARGEST_REQUEST: Final = 1 << 20
"""Bytes a client may put in one message: far above the largest order, far below what would hurt."""

_LENGTH = struct.Struct(">I")
_VERSIONS = re.compile(rb"v(\d+)(?:\.\.(\d+))?(?: (.*))?", re.DOTALL)


class BadFrameError(Exception):
    """What came is not the TWS API."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A client's first message: the versions it speaks and its connect options."""

    lowest: int
    highest: int
    options: str = ""


def text(value: object) -> str:
    """One field: empty for None, 1 and 0 for truth, whole numbers without a fraction."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


def escaped(words: str) -> str:
    """Text as ASCII with `\\uXXXX`, as servers from version 153 write messages and names."""
    return words.encode("ascii", "backslashreplace").decode("ascii")


def frame(*fields: object) -> bytes:
    """One message: every field followed by NUL, the whole preceded by its length."""
    payload = ("\0".join([field if type(field) is str else text(field) for field in fields]) + "\0").encode()
    return _LENGTH.pack(len(payload)) + payload


def framed(payload: bytes) -> bytes:
    """`payload` preceded by its length."""
    return _LENGTH.pack(len(payload)) + payload


class Inbox:
    """The bytes of one client, cut into messages. Linear in what comes, bounded by `LARGEST_REQUEST`."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def greeting(self) -> Offer | None:
        """The `API` prefix and the versions behind it, None while incomplete. BadFrameError: this is no API client."""
        data = self._data
        if not b"API\0".startswith(data[:4]):
            raise BadFrameError("not an API client")
        if len(data) < 8:
            return None
        (length,) = _LENGTH.unpack_from(data, 4)
        if length > 1024:
            raise BadFrameError("the version message is too long")
        if len(data) < 8 + length:
            return None
        match = _VERSIONS.fullmatch(bytes(data[8 : 8 + length]))
        if not match:
            raise BadFrameError("the version message is not one")
        del data[: 8 + length]
        return Offer(int(match[1]), int(match[2] or match[1]), (match[3] or b"").decode("utf-8", "replace"))

    def messages(self) -> Iterator[list[str]]:
        """Every complete message as its fields."""
        data = self._data
        start, end = 0, len(data)
        try:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(data, start)
                if length > LARGEST_REQUEST:
                    raise BadFrameError(f"a message of {length} bytes")
                if end - start - 4 < length:
                    return
                payload = bytes(data[start + 4 : start + 4 + length])
                start += 4 + length
                yield payload.decode("utf-8", "backslashreplace").split("\0")[:-1]
        finally:
            del data[:start]
