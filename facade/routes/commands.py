"""Connect, disconnect, reconnect: carried out by the daemon, answered once the replica holds the effect."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct

from facade.app import Facade
from facade.http.responses import reply
from facade.http.routing import RequestContext
from facade.routes.reads import STATUS, require_connected
from shared.messages import ConnectParams

COMMAND_TIMEOUT = 10.0
"""s for a command that needs no gateway: closing a session cleanly takes two at most."""

EFFECT_TIMEOUT = 5.0
"""s for the replica to hold a command's effect; the delta follows the daemon's answer at once."""

MARGIN = 5.0
"""s beyond the daemon's own deadlines, so that its reason arrives before this one expires."""


class ConnectQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`wait=false`: answer 202 at once; events have the outcome."""

    wait: bool = True


class Done(Struct):
    """The result of every command: the step that holds its effect."""

    seq: int = 0


_done = msgspec.json.Decoder(Done)


async def connect(facade: Facade, context: RequestContext) -> web.StreamResponse:
    given: ConnectParams = context.body
    limit = facade.settings.connect_timeout if given.timeout is UNSET else given.timeout
    params = msgspec.to_builtins(given)
    if not context.query.wait:
        params["wait"] = False
    # one limit for the session, as long again for its first snapshots, and what closing an old session takes
    await _run(facade, "link.connect", params, 2 * limit + COMMAND_TIMEOUT + MARGIN)
    if context.query.wait:
        require_connected(facade)  # a link that is gone again, or whose proof is too old, is no success
    return _status(facade, 200 if context.query.wait else 202)


async def disconnect(facade: Facade, _context: RequestContext) -> web.StreamResponse:
    await _run(facade, "link.disconnect", {}, COMMAND_TIMEOUT + MARGIN)
    return _status(facade, 200)


async def reconnect(facade: Facade, _context: RequestContext) -> web.StreamResponse:
    await _run(facade, "link.reconnect", {}, COMMAND_TIMEOUT)
    return _status(facade, 202)


async def _run(facade: Facade, method: str, params: dict[str, Any], timeout: float) -> None:
    done = _done.decode(await facade.call(method, params, timeout))
    await facade.mirror.state.wait_for_seq(done.seq, EFFECT_TIMEOUT)


def _status(facade: Facade, status: int) -> web.StreamResponse:
    state = facade.mirror.state
    return reply(STATUS[state.connected, state.reachable], status=status)
