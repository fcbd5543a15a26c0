"""`GET /alerts`: incidents under way, and whether alerts and heartbeats reach their receivers, of both processes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import Session
from facade.http.responses import reply
from facade.http.routing import RequestContext
from shared.alerts.queue import Health
from shared.reasons import describe

Process = Literal["daemon", "facade"]


class Receiver(Struct, frozen=True, kw_only=True):
    """`receiver`: without path and secrets. `failing`: the last attempt failed. `failure`: why the last failed one did.
    `ended`: it answered 410 and gets nothing until the next start.
    """

    process: Process
    receiver: str
    delivered: int
    failed: int
    givenUp: int
    waiting: int
    failing: bool
    ended: bool
    deliveredAt: datetime | None = None
    failedAt: datetime | None = None
    failure: str = ""


class Incident(Struct, frozen=True, kw_only=True):
    """One that has lasted `IBKR_ALERTS_AFTER`. `reported`: the alerts about it so far."""

    process: Process
    id: str
    since: datetime
    reported: tuple[str, ...]
    reason: str | None
    sentence: str


class HeartbeatHealth(Struct, frozen=True, kw_only=True):
    """Of `IBKR_HEARTBEAT_URL`. `sent`: those that were accepted. `failing`: the last one was not; `failure`: why."""

    receiver: str
    sent: int
    failed: int
    failing: bool
    sentAt: datetime | None = None
    failedAt: datetime | None = None
    failure: str = ""


class AlertHealth(Struct, frozen=True, kw_only=True):
    """`known`: the daemon has answered; else only what the facade itself sends is listed. Counts are since the start of
    each process.
    """

    known: bool
    receivers: tuple[Receiver, ...]
    incidents: tuple[Incident, ...]
    heartbeat: HeartbeatHealth | None


_encode = msgspec.json.Encoder().encode


async def alerts(session: Session, _context: RequestContext) -> web.StreamResponse:
    """From the daemon, with a deadline, and from the facade itself."""
    info = await session.daemon_info()
    receivers = [_receiver("daemon", msgspec.convert(one, Health)) for one in info.get("alerts") or ()]
    incidents = [msgspec.convert({**one, "process": "daemon"}, Incident) for one in info.get("incidents") or ()]
    for watch in session.facade.alerts:
        if watch.session != session.name:
            continue
        receivers += [_receiver("facade", health) for health in watch.health()]
        if (absence := watch.absence) is not None and absence.reported:
            incidents.append(
                Incident(
                    process="facade",
                    id=absence.id,
                    since=absence.since,
                    reported=("daemon",),
                    reason="daemonUnreachable",
                    sentence=describe("daemonUnreachable")[0],
                )
            )
    health = AlertHealth(
        known=bool(info),
        receivers=tuple(receivers),
        incidents=tuple(incidents),
        heartbeat=_heartbeat(info.get("heartbeat")),
    )
    return reply(_encode(health))


def _receiver(process: Process, health: Health) -> Receiver:
    return Receiver(
        process=process,
        receiver=health.sink,
        delivered=health.delivered,
        failed=health.failed,
        givenUp=health.givenUp,
        waiting=health.pending,
        failing=bool(health.lastError),
        ended=health.ended,
        deliveredAt=health.deliveredAt,
        failedAt=health.failedAt,
        failure=health.failure,
    )


def _heartbeat(health: dict[str, Any] | None) -> HeartbeatHealth | None:
    if not health:
        return None
    return HeartbeatHealth(
        receiver=health["receiver"],
        sent=health["sent"],
        failed=health["failed"],
        failing=bool(health["lastError"]),
        sentAt=health["lastAt"],
        failedAt=health.get("failedAt"),
        failure=health["lastError"],
    )
