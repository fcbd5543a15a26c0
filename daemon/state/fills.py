"""One execution that is received again: pure rules, the same for the topic and for the ledger.

IBKR names an execution `0000e0d5.6534a1f2.01.01`; a correction comes with a higher number after the last dot and
replaces it.
"""

from __future__ import annotations

import binascii
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode

from msgspec.structs import replace

from shared.messages import Fill


def identity(exec_id: str) -> tuple[str, int]:
    """What an execution and its corrections have in common, and the correction's number (0 where there is none)."""
    base, dot, revision = exec_id.rpartition(".")
    return (base, int(revision)) if dot and revision.isascii() and revision.isdigit() else (exec_id, 0)


def newer(held: Fill | None, received: Fill) -> Fill | None:
    """The fill to hold from now on, or `None` when `received` adds nothing.

    An older revision changes nothing. A correction is a row of its own: how it was learnt and what it cost is its own.
    Of one and the same row, `recovered` stays as it was first, and a commission stays until a newer one comes, since
    IBKR reports it apart and only once.
    """
    if held is None:
        return received
    if identity(received.execId)[1] < identity(held.execId)[1]:
        return None
    if received.execId != held.execId:
        return received
    known: dict[str, object] = {"recovered": held.recovered}
    if received.commission is None:
        known |= {"commission": held.commission, "commissionCurrency": held.commissionCurrency}
    if received.realizedPNL is None:
        known |= {"realizedPNL": held.realizedPNL}
    merged = replace(received, **known)
    return None if merged == held else merged


Position = tuple[float, str]
"""Where a fill stands in a list by execution time: seconds since 1970, and what its corrections have in common."""


def position(fill: Fill) -> Position:
    return fill.time.timestamp(), identity(fill.execId)[0]


def cursor(last: Position) -> str:
    """An opaque text for the end of a page whose last fill is at `last`, safe in a URL."""
    return urlsafe_b64encode(f"{last[0]!r} {last[1]}".encode()).decode()


def read_cursor(text: str) -> Position:
    """The position that `cursor` encoded. Raises `ValueError` for any other text."""
    try:
        time, space, base = urlsafe_b64decode(text.encode("ascii")).decode().partition(" ")
    except (binascii.Error, UnicodeError) as error:
        raise ValueError(f"not a cursor: {error}") from error
    if not space or not math.isfinite(at := float(time)):
        raise ValueError("not a cursor")
    return at, base
