"""`GET /diagnostics`: the doctor's findings over HTTP, one examination at a time. What is checked is in `doctor/`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import Session
from facade.http.responses import reply
from facade.http.routing import RequestContext
from shared.reasons import Problem
from shared.settings import GatewayClient, gateway_client, is_loopback

if TYPE_CHECKING:
    from facade.doctor.remote import RemoteDaemon

DAEMON_TIMEOUT = 2.0
"""s for each answer of a remote daemon, as for a ping."""


class Finding(Struct, frozen=True, kw_only=True):
    """The result of one check. `reason`: of the catalogue, where there is one; `remedy`: steps in order."""

    name: str
    result: Literal["ok", "failed", "unknown", "skipped"]
    evidence: str
    remedy: tuple[str, ...]
    reason: str | None


class Diagnostics(Struct, frozen=True):
    """In the order in which a person would look: this machine, the daemon, the gateway, IBKR."""

    checks: tuple[Finding, ...]


_encode = msgspec.json.Encoder().encode


async def diagnostics(session: Session, _context: RequestContext) -> web.StreamResponse:
    """Examine everything between here and IBKR. Each check has its own limit; a few seconds in all."""
    if session.examination is None or session.examination.done():
        session.examination = asyncio.create_task(_examination(session), name="diagnostics")
    # shielded: the thread goes on when its client has left, and no second one may dial beside it
    return reply(_encode(Diagnostics(await asyncio.shield(session.examination))))


async def _examination(session: Session) -> tuple[Finding, ...]:
    remote = await _ask(session) if session.facade.settings.is_remote(session.name) else None
    return await asyncio.to_thread(_examine, session, _other_gateways(session), remote)


def _examine(session: Session, others: Mapping[str, GatewayClient], remote: RemoteDaemon | None) -> tuple[Finding, ...]:
    from facade.doctor.checks import examine  # psutil and more, only where it is used
    from facade.doctor.remote import examine_remote

    if remote is None:
        checks = examine({}, settings=session.settings, others=others)
    else:
        checks = examine_remote({}, session.settings, remote, others)
    return tuple(
        Finding(name=c.name, result=c.result, evidence=c.evidence, remedy=c.remedy, reason=c.reason) for c in checks
    )


async def _ask(session: Session) -> RemoteDaemon:
    """What the daemon of a remote session answers now."""
    from facade.doctor.remote import RemoteDaemon

    mirror = session.mirror
    try:
        link = msgspec.json.decode(await mirror.call("link.get", {}, DAEMON_TIMEOUT))
        answered_at = session.facade.clock.now().timestamp()
        info = msgspec.json.decode(await mirror.call("daemon.info", {}, DAEMON_TIMEOUT))
    except Problem as problem:
        return RemoteDaemon(None, None, problem.detail or mirror.last_error or problem.entry.sentence)
    return RemoteDaemon(link, info, "", answered_at)


def _other_gateways(session: Session) -> dict[str, GatewayClient]:
    """Gateway and client id of the other sessions that are in use, where they can be compared with this one's.

    A loopback address means the same gateway only on one machine.
    """
    is_remote = session.facade.settings.is_remote
    found = {}
    for name, other in session.facade.sessions.items():
        link = other.mirror.state.link
        if other is session or link is None or link.gateway is None or link.phase in ("held", "disabled"):
            continue
        host = link.gateway.host
        if not is_loopback(host) or not (is_remote(name) or is_remote(session.name)):
            found[name] = gateway_client(host, link.gateway.port, link.gateway.clientId)
    return found
