"""What changes something: connect, disconnect, reconnect. Decided here before anything is dialled, done by the daemon.

An answer is given only once the replica holds the deed's effect, so that the next read tells of it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct

from facade.http.answer import Answer
from facade.http.table import Asked
from facade.routes.reads import STATUS, require_connected
from shared.messages import ConnectParams
from shared.reasons import Problem
from shared.settings import LIVE_PORTS

if TYPE_CHECKING:
    from facade.app import Facade

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""As text, before any look-up: a name that resolves to loopback today may not tomorrow."""

DEED = 10.0
"""s for the daemon to do what needs no gateway: closing a session politely takes two at most."""

EFFECT = 5.0
"""s for the replica to hear of it; the news follows the answer at once."""

MARGIN = 5.0
"""s beyond the daemon's own limits, so that its reason arrives and not our impatience."""


class ConnectQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`wait=false`: answer 202 at once, and let events tell what becomes of it."""

    wait: bool = True


class Done(Struct):
    """What every deed answers: the step that holds its effect."""

    seq: int = 0


_done = msgspec.json.Decoder(Done)


async def connect(facade: Facade, asked: Asked) -> Answer:
    params: ConnectParams = asked.body
    _may_be_dialled(facade, params)
    limit = facade.settings.connect_timeout if params.timeout is UNSET else params.timeout
    told = msgspec.to_builtins(params)
    if not asked.query.wait:
        told["wait"] = False
    # one limit for the session, as long again for its first snapshots, and what closing an old session takes
    await _do(facade, "link.connect", told, 2 * limit + DEED + MARGIN)
    if asked.query.wait:
        require_connected(facade)  # a link that is gone again, or whose proof has grown old, is no success
    mirror = facade.mirror
    return Answer(200 if asked.query.wait else 202, STATUS[mirror.state.connected, mirror.state.reachable])


async def disconnect(facade: Facade, _asked: Asked) -> Answer:
    await _do(facade, "link.disconnect", {}, DEED + MARGIN)
    return Answer(200, STATUS[facade.mirror.state.connected, facade.mirror.state.reachable])


async def reconnect(facade: Facade, _asked: Asked) -> Answer:
    await _do(facade, "link.reconnect", {}, DEED)
    return Answer(202, STATUS[facade.mirror.state.connected, facade.mirror.state.reachable])


async def _do(facade: Facade, method: str, params: dict[str, Any], limit: float) -> None:
    try:
        done = _done.decode(await facade.mirror.call(method, params, limit))
    except Problem as problem:
        seq = problem.extra.get("daemon", {}).get("seq")
        if isinstance(seq, int):  # what failed has its effect too: the link is back where it was
            with contextlib.suppress(Problem):
                await facade.mirror.state.wait_for_seq(seq, EFFECT)
        raise
    await facade.mirror.state.wait_for_seq(done.seq, EFFECT)


def _may_be_dialled(facade: Facade, params: ConnectParams) -> None:
    """Raises `Problem` for a host or a live port that nobody has named in the settings."""
    settings = facade.settings
    if params.host is not UNSET and params.host not in (*LOOPBACK, settings.host, *settings.allowed_hosts):
        raise Problem("hostNotAllowed")
    if params.port is UNSET or params.port not in LIVE_PORTS or params.port == settings.port:
        return
    if not settings.allow_live:
        raise Problem("liveLocked")
