"""Connect, disconnect, reconnect: carried out by the daemon, answered once the replica holds the effect."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import EFFECT_TIMEOUT, Session
from facade.http.responses import reply
from facade.http.routing import RequestContext
from facade.routes.reads import STATUS, require_connected
from shared.messages import ConnectParams


class ConnectQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`wait=false`: answer 202 at once; events have the outcome."""

    wait: bool = True


class Done(Struct):
    """The result of every command: the step that holds its effect."""

    seq: int = 0


_done = msgspec.json.Decoder(Done)


async def connect(session: Session, context: RequestContext) -> web.StreamResponse:
    given: ConnectParams = context.body
    params = msgspec.to_builtins(given)
    if not context.query.wait:
        params["wait"] = False
    await _run(session, "link.connect", params)
    if context.query.wait:
        require_connected(session)  # a link that was lost since, or whose proof is too old, is no success
    return _status(session, 200 if context.query.wait else 202)


async def disconnect(session: Session, _context: RequestContext) -> web.StreamResponse:
    await _run(session, "link.disconnect", {})
    return _status(session, 200)


async def reconnect(session: Session, _context: RequestContext) -> web.StreamResponse:
    await _run(session, "link.reconnect", {})
    return _status(session, 202)


async def _run(session: Session, method: str, params: dict[str, Any]) -> None:
    """Carry it out. The daemon has the only deadline; the call ends without it where the daemon stops answering."""
    done = _done.decode(await session.call(method, params, None))
    await session.mirror.state.wait_for_seq(done.seq, EFFECT_TIMEOUT)


def _status(session: Session, status: int) -> web.StreamResponse:
    state = session.mirror.state
    return reply(STATUS[state.connected, state.reachable], status=status)
