"""Bytes that no healthy gateway sends: in place of a handshake, and in the middle of a session."""

from __future__ import annotations

import struct
from typing import Final, Literal

from daemon.simulator.wire import framed

Malformed = Literal[
    "zeroLength", "hugeLength", "unknownId", "fewFields", "manyFields", "notNumber", "latin1", "notUtf8", "noFields"
]

MALFORMED: dict[str, bytes] = {
    "zeroLength": struct.pack(">I", 0),
    "hugeLength": struct.pack(">I", 0xFFFFFFFF),
    "unknownId": framed(b"9999\x001\x00what\x00"),
    "notNumber": framed(b"garbage\x00here\x00"),
    "fewFields": framed(b"61\x003\x00DU1234567\x00265598\x00"),
    "manyFields": framed(b"61\x003\x00" + b"x\x00" * 40),
    "latin1": framed(b"4\x002\x00-1\x002104\x00Verbindung f\xfcr Marktdaten ist in Ordnung:usfarm\x00\x00"),
    "notUtf8": framed(b"6\x002\x00Gru\xdf\xff\xfe\x001\x00USD\x00DU1234567\x00"),
    "noFields": framed(b"\x00"),
}
"""Bytes no healthy gateway sends, by name."""

NONSENSE: Final[dict[str, tuple[bytes, bool]]] = {
    "http": (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 11\r\nConnection: close\r\n\r\n"
        b"Bad Request",
        True,
    ),
    "tls": (b"\x15\x03\x03\x00\x02\x02\x32", True),
    "garbage": (bytes(range(256)) * 4, False),
    "hugeFrame": (b"\xff\xff\xff\xff" + b"178\x00", False),
}
"""What a port that is no TWS answers to the first bytes, and whether it closes then."""
