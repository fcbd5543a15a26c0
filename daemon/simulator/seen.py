"""What the gateway has received, for tests and people to look at. Nothing in this package decides by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECORDED: Final = 10_000
"""Requests that are remembered; a test looks at hundreds."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came: `time` in seconds since the epoch, `name` the API's method, `fields` as text."""

    time: float
    clientId: int
    name: str
    fields: dict[str, str]


@dataclass(slots=True)
class Connections:
    """Counts of connections: taken in so far, open now, sessions begun, and how they ended."""

    total: int = 0
    now: int = 0
    sessions: int = 0
    clean: int = 0
    resets: int = 0
    refused_ids: int = 0
    slow: int = 0
    over_rate: int = 0
