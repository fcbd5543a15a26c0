"""`GET /diagnostics`: the doctor's findings over HTTP, one examination at a time. What is checked is in `doctor/`."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import Session
from facade.http.responses import reply
from facade.http.routing import RequestContext


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
        session.examination = asyncio.create_task(asyncio.to_thread(_examine, session), name="diagnostics")
    # shielded: the thread goes on when its client has left, and no second one may dial beside it
    return reply(_encode(Diagnostics(await asyncio.shield(session.examination))))


def _examine(session: Session) -> tuple[Finding, ...]:
    from facade.doctor import checks as doctor  # psutil and more, only where it is used

    checks = doctor.examine({}, settings=session.settings)
    return tuple(
        Finding(name=c.name, result=c.result, evidence=c.evidence, remedy=c.remedy, reason=c.reason) for c in checks
    )
