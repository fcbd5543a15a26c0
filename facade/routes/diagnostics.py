"""`GET /diagnostics`: the doctor's findings over HTTP, one examination at a time. What is checked is in `doctor/`."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import Facade
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


async def diagnostics(facade: Facade, _context: RequestContext) -> web.StreamResponse:
    """Examine everything between here and IBKR. Each check has its own limit; a few seconds in all."""
    if facade.examination is None or facade.examination.done():
        facade.examination = asyncio.create_task(asyncio.to_thread(_examine, facade), name="diagnostics")
    # shielded: the thread goes on when its client has left, and no second one may dial beside it
    return reply(_encode(Diagnostics(await asyncio.shield(facade.examination))))


def _examine(facade: Facade) -> tuple[Finding, ...]:
    from facade.doctor import checks as doctor  # psutil and more, only where it is used

    checks = doctor.examine({}, settings=facade.settings)
    return tuple(
        Finding(name=c.name, result=c.result, evidence=c.evidence, remedy=c.remedy, reason=c.reason) for c in checks
    )
