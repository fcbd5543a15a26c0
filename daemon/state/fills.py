"""What is known of one execution when it is told again: pure rules, the same for the topic and for the ledger.

IBKR names an execution `0000e0d5.6534a1f2.01.01`; a correction comes with a higher number after the last dot and
replaces it. Never decides how long a fill is kept or shown.
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


def newer(held: Fill | None, told: Fill) -> Fill | None:
    """The fill to hold from now on, or `None` when `told` adds nothing.

    An older revision changes nothing. How the fill was first learnt stays true; a commission once told stays until a
    newer one comes, since IBKR reports it apart and only once.
    """
    if held is None:
        return told
    if identity(told.execId)[1] < identity(held.execId)[1]:
        return None
    known: dict[str, object] = {"recovered": held.recovered}
    if told.commission is None:
        known |= {"commission": held.commission, "commissionCurrency": held.commissionCurrency}
    if told.realizedPNL is None:
        known |= {"realizedPNL": held.realizedPNL}
    merged = replace(told, **known)
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
