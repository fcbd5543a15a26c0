"""The body of an alert: one JSON document, equal over all attempts to send it. Account ids are masked."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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
    # not in the encoded text: an account may have been requested whose name is that of a member
    shown = replace(
        data,
        sentence=masked(data.sentence),
        advice=tuple(map(masked, data.advice)),
        account=None if data.account is None else masked(data.account),
        details=_masked(msgspec.to_builtins(data.details)),
    )
    return _encode(Alert(type=f"ibkr.link.{kind}", timestamp=timestamp, data=shown))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def as_text(encoded: bytes) -> tuple[str, str]:
    """Title and text of an alert for a person."""
    alert = msgspec.json.decode(encoded, type=Alert)
    data, kind = alert.data, alert.type.rpartition(".")[2]
    title = f"IBKR {data.session}: {kind} ({data.state})"
    lasted = () if data.durationS is None else (f"It lasted {data.durationS:.0f} s.",)
    since = () if data.since is None else (f"Since {data.since:%Y-%m-%d %H:%M:%S} UTC.",)
    return title, "\n".join((data.sentence or kind, *since, *lasted, *(f"- {line}" for line in data.advice)))
