"""What an error message of IBKR's holds besides its code: link events, farms, a port; and its text as one line.

What a code means is in `daemon/codes.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from daemon.codes import meaning
from daemon.link.events import (
    CompetingSession,
    FarmChanged,
    PortMoved,
    RateExceeded,
    SessionEvent,
    UpstreamLost,
    UpstreamRestored,
)

LONGEST = 2000
"""Characters of a text that are kept: IBKR's longest real ones have a few hundred."""

# C0 and C1, DEL, line and paragraph separators, and the controls that turn the direction of text
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
NO_REQUEST = frozenset({-1, 0, 2_147_483_647})
"""Request ids that name no request; IBKR uses all three."""


ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([89a-f][0-9a-f])")


def clean(text: str) -> str:
    r"""IBKR's text as one line: control characters are spaces.

    What newer gateways write as `\u00e9` is a letter again, and so is a byte of Latin-1, in which TWS on Windows
    writes (FAULTS 53) and which arrives here as `\xe9`.
    """
    letters = ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text[:LONGEST])
    return CONTROL.sub(" ", letters).encode("utf-8", "replace").decode().strip()


NUMBERS = frozenset({"1", "2", "45"})
"""Messages with nothing but numbers in them: ticks, which are the most."""


def plain(fields: list[str]) -> list[str]:
    """A message's fields without control characters: account ids, symbols and order references become rows, and
    some of those reach a terminal. Nearly every message is returned as it came."""
    if not fields or fields[0] in NUMBERS or "".join(fields).isprintable():
        return fields
    return [CONTROL.sub(" ", field) for field in fields]


def farm_name(text: str) -> str:
    """The farm that a text ends with: after the last `:`, or in 2107 and 2108 after the `.` in its last word."""
    if ":" in text:
        return text.rpartition(":")[2].strip()
    word = text.split()[-1] if text.split() else ""
    return word.partition(".")[2] or word


FARM_NAME = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9]+)*")


def restored_farms(text: str) -> tuple[tuple[str, str, str], ...]:
    """(farm, type, state) of those that a 1101 or 1102 lists after a colon: either those that are connected, or those
    that are not."""
    head, _, tail = text.rpartition(":")
    state = "broken" if "not connected" in head else "ok"
    names = [name for name in re.split(r"[;,\s]+", tail.strip(" .")) if name]
    if not head or not all(map(FARM_NAME.fullmatch, names)):
        return ()
    return tuple((name, farm_type(name), state) for name in names)


def farm_type(name: str) -> str:
    return "hmds" if "hmds" in name else "secdef" if name.startswith("secdef") else "market"


def moved_port(text: str) -> int | None:
    """The new port that 1300 names."""
    ports = [int(digits) for digits in re.findall(r"\d+", text) if len(digits) <= 5]
    return next((port for port in reversed(ports) if 1 <= port <= 65535), None)


LINK: dict[int, Callable[[int, str], SessionEvent]] = {
    100: lambda session, text: RateExceeded(session=session, text=text),
    1100: lambda session, text: UpstreamLost(session=session, code=1100, text=text),
    1101: lambda session, text: UpstreamRestored(session=session, code=1101, text=text, dataLost=True),
    1102: lambda session, text: UpstreamRestored(session=session, code=1102, text=text, dataLost=False),
    1300: lambda session, text: PortMoved(session=session, port=moved_port(text), text=text),
    2110: lambda session, text: UpstreamLost(session=session, code=2110, text=text),
    10197: lambda session, text: CompetingSession(session=session, text=text),
}


def link_events(session: int, code: int, text: str) -> tuple[SessionEvent, ...]:
    """What a code reports of the link and its farms, with whatever request id it came."""
    if (farm := meaning(code).farm) is not None:
        kind, state = farm
        return (FarmChanged(session=session, farm=farm_name(text), type=kind, state=state),)
    if code not in LINK:
        return ()
    event = LINK[code](session, text)
    if not isinstance(event, UpstreamRestored):
        return (event,)
    farms = (
        FarmChanged(session=session, farm=farm, type=kind, state=state) for farm, kind, state in restored_farms(text)
    )
    return (event, *farms)


READ_ONLY = 321
"""Validation failed. A read-only API refuses requests for orders, which have no request id, with it (FAULTS 46)."""


def is_read_only(code: int, text: str, *, reading_orders: bool) -> bool:
    """Whether this error means that the API is read-only.

    `reading_orders`: a request for orders is open and the error names no other request. That decides where the text
    is in another language than the one whose words are known.
    """
    words = text.lower()
    return code == READ_ONLY and ("read-only" in words or (reading_orders and "validating request" not in words))
