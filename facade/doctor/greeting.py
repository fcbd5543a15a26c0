"""One TWS handshake by hand, for the doctor: connect, shake hands, read until it is complete, close.

It sends nothing that changes anything or opens a dialog for an order, and keeps no session.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

DOCTOR_CLIENT_ID = 1_917_501
"""An id that no other program is likely to have, so that no session is disturbed."""

FIRST_FRAME_LIMIT = 64 * 1024
FRAME_LIMIT = 8 * 1024 * 1024
"""bytes; the first answer of a TWS is some 30 bytes, no message of a start-up comes near 8 MB."""

OLDEST_SERVER, NEWEST_SERVER = 157, 178
"""The versions that ib_async 2.1.0 offers."""

START_API, CURRENT_TIME = "71", "49"
ERROR, NEXT_ID, ACCOUNTS = "4", "9", "15"


@dataclass
class Greeting:
    """The result of one handshake. `reason`: the catalogue's name of how it failed, `None` where it did not."""

    reason: str | None = None
    detail: str = ""
    server_version: int | None = None
    accounts: tuple[str, ...] | None = None
    next_id: bool = False
    server_time: int | None = None  # s since the epoch
    answered_at: float | None = None  # this machine's clock when that came
    version_after: float | None = None  # s from the dial to the server version
    complete_after: float | None = None  # s from the dial to accounts and next id
    errors: list[tuple[int, str]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return self.server_version is not None and bool(self.accounts) and self.next_id


def greet(
    host: str, port: int, client_id: int, *, timeout: float, now: Callable[[], float], wall: Callable[[], float]
) -> Greeting:
    """Connect and read until account list, next id and time are there, at most `timeout` s. Raises nothing."""
    greeting = Greeting()
    begun = now()
    try:
        sock = socket.create_connection((host, port), timeout)
    except OSError as error:
        greeting.reason, greeting.detail = _dial_failure(error)
        return greeting
    with sock:
        try:
            _converse(sock, client_id, greeting, lambda: now() - begun, timeout, wall)
        except TimeoutError:
            greeting.reason = greeting.reason or (
                "sessionIncomplete" if greeting.server_version else "handshakeTimeout"
            )
        except OSError as error:
            greeting.reason, greeting.detail = greeting.reason or "closedDuringHandshake", str(error)
    if greeting.complete and greeting.reason == "sessionIncomplete":
        greeting.reason = None  # only the time was missing
    return greeting


def _dial_failure(error: OSError) -> tuple[str, str]:
    # decided by code, since Windows localises the text; 10061 and 1225 are its "refused"
    if isinstance(error, TimeoutError):
        return "dialTimeout", str(error)
    refused = error.errno == errno.ECONNREFUSED or getattr(error, "winerror", None) in (10061, 1225)
    return ("portClosed" if refused else "hostUnreachable"), str(error)


def _converse(
    sock: socket.socket,
    client_id: int,
    greeting: Greeting,
    elapsed: Callable[[], float],
    timeout: float,
    wall: Callable[[], float],
) -> None:
    offer = f"v{OLDEST_SERVER}..{NEWEST_SERVER}".encode()
    sock.sendall(b"API\0" + struct.pack(">I", len(offer)) + offer)
    frames = _frames(sock, greeting, lambda: timeout - elapsed())
    first = next(frames, None)
    if first is None:
        return
    if not first[0].isdigit():
        greeting.reason = "notTws"
        return
    greeting.server_version, greeting.version_after = int(first[0]), elapsed()
    if greeting.server_version < OLDEST_SERVER:
        greeting.reason = "versionUnsupported"
        return
    _send(sock, START_API, "2", str(client_id), "")
    _send(sock, CURRENT_TIME, "1")
    for fields in frames:
        _take(fields, greeting, wall)
        if greeting.complete and greeting.complete_after is None:
            greeting.complete_after = elapsed()
        if greeting.reason or (greeting.complete and greeting.server_time is not None):
            return


def _take(fields: list[str], greeting: Greeting, wall: Callable[[], float]) -> None:
    match fields:
        case [kind, _version, names, *_] if kind == ACCOUNTS:
            greeting.accounts = tuple(name for name in names.split(",") if name)
            if not greeting.accounts:
                greeting.reason, greeting.detail = "sessionIncomplete", "The account list was empty."
        case [kind, *_] if kind == NEXT_ID:
            greeting.next_id = True
        case [kind, _version, time, *_] if kind == CURRENT_TIME and time.isdigit():
            greeting.server_time, greeting.answered_at = int(time), wall()
        case [kind, _version, _request, code, text, *_] if kind == ERROR and code.lstrip("-").isdigit():
            greeting.errors.append((int(code), text))
            if code == "326":
                greeting.reason, greeting.detail = "clientIdInUse", text


def _send(sock: socket.socket, *fields: str) -> None:
    payload = "".join(f"{text}\0" for text in fields).encode()
    sock.sendall(struct.pack(">I", len(payload)) + payload)


def _frames(sock: socket.socket, greeting: Greeting, left: Callable[[], float]) -> Iterator[list[str]]:
    """The fields of each message. Ends where the peer sends other frames or closes; `greeting.reason` is which."""
    got = bytearray()
    limit = FIRST_FRAME_LIMIT
    while True:
        while len(got) >= 4:
            (size,) = struct.unpack_from(">I", got)
            if not 0 < size <= limit:
                greeting.reason = "notTws"
                return
            if len(got) < 4 + size:
                break
            text = bytes(got[4 : 4 + size]).decode("utf-8", "replace")
            del got[: 4 + size]
            limit = FRAME_LIMIT
            yield text.split("\0")
        if (seconds := left()) <= 0:
            raise TimeoutError
        sock.settimeout(seconds)
        data = sock.recv(1 << 16)
        if not data:
            greeting.reason, greeting.detail = "closedDuringHandshake", "The gateway closed the connection."
            return
        got += data
