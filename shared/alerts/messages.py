"""The body of an alert: one JSON document, equal over all attempts to send it. Account ids are masked."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from shared.log import masked

Kind = Literal["down", "action", "recovered", "gap", "fill", "daemon", "test"]


class AlertData(Struct, frozen=True, kw_only=True):
    """`since`: when the incident began. `durationS`: how long it lasted, once it is over."""

    incident: str
    state: Literal["firing", "resolved"]
    session: str
    phase: str | None = None
    reason: str | None = None
    sentence: str = ""
    advice: tuple[str, ...] = ()
    since: datetime | None = None
    durationS: float | None = None
    account: str | None = None
    details: dict[str, Any] = {}


class Alert(Struct, frozen=True, kw_only=True):
    """`type`: `ibkr.link.KIND`."""

    type: str
    timestamp: datetime
    data: AlertData


_encode = msgspec.json.Encoder().encode


def body(kind: Kind, timestamp: datetime, data: AlertData) -> bytes:
    """The bytes to send."""
    return masked(_encode(Alert(type=f"ibkr.link.{kind}", timestamp=timestamp, data=data)).decode()).encode()


def as_text(encoded: bytes) -> tuple[str, str]:
    """Title and text of an alert for a person."""
    alert = msgspec.json.decode(encoded, type=Alert)
    data, kind = alert.data, alert.type.rpartition(".")[2]
    title = f"IBKR {data.session}: {kind} ({data.state})"
    lasted = () if data.durationS is None else (f"It lasted {data.durationS:.0f} s.",)
    since = () if data.since is None else (f"Since {data.since:%Y-%m-%d %H:%M:%S} UTC.",)
    return title, "\n".join((data.sentence or kind, *since, *lasted, *(f"- {line}" for line in data.advice)))
