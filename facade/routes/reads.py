"""What is answered from the replica: status, link, and the rows of a topic, joined from bytes the daemon encoded once.

Nothing here waits or calls the daemon. Of rows only `link`, `sync`, an order's `done` and an account are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from facade.account_rows import accounts_of, belongs, check_account
from facade.app import Session
from facade.http.responses import matches, not_modified, reply
from facade.http.routing import RequestContext
from facade.replica.state import unreachable_link
from shared.messages import Phase
from shared.reasons import CATALOGUE, Problem
from shared.replica import NEVER

STATUS = {
    (connected, available): b'{"connected": %s, "available": %s}'
    % (b"true" if connected else b"false", b"true" if available else b"false")
    for connected in (False, True)
    for available in (False, True)
}
"""The two keys, in this order."""

JOINED = 256
"""Joined responses kept: accounts (60 at most) times topics with an account; replaced when their topic changes."""

Accounts = Annotated[str, Meta(max_length=32, description="Account id; needed where the login has several.")]
OneAccount = Annotated[str, Meta(max_length=32, description="Leave out the rows of other accounts.")]


class StaleQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`allowStale`: answer with the last known rows, marked stale, where the link is not proven."""

    allowStale: bool = False


class AccountQuery(StaleQuery, frozen=True, forbid_unknown_fields=True):
    account: Accounts = ""


class OrdersQuery(StaleQuery, frozen=True, forbid_unknown_fields=True):
    """`scope`: `open` or `completed`; both by default."""

    account: OneAccount = ""
    scope: Literal["open", "completed", ""] = ""


class Done(Struct):
    done: bool


_done = msgspec.json.Decoder(Done)
_encode = msgspec.json.Encoder().encode


# --- the link -------------------------------------------------------------------------------------------------------


async def status(session: Session, _context: RequestContext) -> web.StreamResponse:
    """Whether the session is proven, and whether the daemon answers."""
    state = session.mirror.state
    return reply(STATUS[state.connected, state.reachable])


async def link(session: Session, _context: RequestContext) -> web.StreamResponse:
    """The link row as the daemon wrote it; while it is unreachable, the last known one, marked stale."""
    state = session.mirror.state
    if not state.reachable:
        return reply(_encode(unreachable_link(state.link)))
    row = state.row("link", "link")
    if row is None or state.link is None:
        return reply(_encode(unreachable_link(None)))
    if state.link.connected and not state.connected:  # its proof has become too old since
        sentence = CATALOGUE["notConnected"].sentence
        row = _encode(msgspec.structs.replace(state.link, sentence=sentence, connected=False, stale=True))
    return reply(row)


async def livez(_session: Session, _context: RequestContext) -> web.StreamResponse:
    return reply(b'{"alive": true}')


class ReadyQuery(Struct, frozen=True):
    """`session`: that one alone; all of them by default. Other parameters are ignored."""

    session: Annotated[str, Meta(max_length=32)] = ""


async def readyz(session: Session, context: RequestContext) -> web.StreamResponse:
    """Whether every session, or the named one, is ready."""
    facade, name = session.facade, context.query.session
    if name and name not in facade.sessions:
        raise facade.no_such_session()
    for one in (facade.sessions[name],) if name else facade.sessions.values():
        try:
            require_connected(one)
        except Problem as problem:
            problem.extra["session"] = one.name
            raise
    return reply(b'{"ready": true}')


class SessionRow(Struct, frozen=True, kw_only=True):
    """A session that the facade serves. `paper`, `accounts`: null while the accounts are not known."""

    name: str
    default: bool
    connected: bool
    available: bool
    phase: Phase | None
    reason: str | None
    paper: bool | None
    accounts: tuple[str, ...] | None


async def sessions(session: Session, _context: RequestContext) -> web.StreamResponse:
    """The sessions that this facade serves, the default one first."""
    facade = session.facade
    rows = _encode([_session_row(one, default=one is facade.default) for one in facade.sessions.values()])
    now = facade.clock.now().isoformat().replace("+00:00", "Z")
    return reply(data(rows, now, False, "", 0, "live", None))


def _session_row(session: Session, *, default: bool) -> SessionRow:
    state = session.mirror.state
    known = accounts_of(state)
    link = state.link if state.reachable else None
    return SessionRow(
        name=session.name,
        default=default,
        connected=state.connected,
        available=state.reachable,
        phase=None if link is None else link.phase,
        reason="daemonUnreachable" if link is None else link.reason,
        paper=all(account.startswith("D") for account in known) if known else None,
        accounts=tuple(known) or None,
    )


# --- topics ---------------------------------------------------------------------------------------------------------


async def accounts(session: Session, context: RequestContext) -> web.StreamResponse:
    return topic_response(session, context, "accounts")


async def summary(session: Session, context: RequestContext) -> web.StreamResponse:
    return topic_response(session, context, "summary", account=_one_account(session, context))


async def pnl(session: Session, context: RequestContext) -> web.StreamResponse:
    return topic_response(session, context, "pnl", account=_one_account(session, context))


async def positions(session: Session, context: RequestContext) -> web.StreamResponse:
    return topic_response(session, context, "positions", account=_one_account(session, context))


async def orders(session: Session, context: RequestContext) -> web.StreamResponse:
    check_account(session.mirror.state, context.query.account)
    return topic_response(session, context, "orders", account=context.query.account, scope=context.query.scope)


def topic_response(
    session: Session, context: RequestContext, topic: str, *, account: str = "", scope: str = ""
) -> web.StreamResponse:
    """The rows of `topic`, all or those of `account` and `scope`, and whether they are current.

    Raises `Problem`: not connected (unless stale rows are allowed), or no complete list yet.
    """
    state = session.mirror.state
    replica = state.replica
    stale = not state.connected
    if stale and not context.query.allowStale:
        require_connected(session)
    known = state.sync(topic)
    if replica is None:
        raise Problem("daemonUnreachable")
    if known is None or not known.known:
        raise incomplete(topic)
    stale = stale or known.stale
    topic_state = replica.state(topic)
    tag = f'"{replica.epoch}-{topic_state.seq}{"-stale" if stale else ""}"'
    if "If-None-Match" in context.request.headers and matches(context.request.headers.getall("If-None-Match"), tag):
        return not_modified({"ETag": tag})
    joined = session.joined.get((topic, account, scope))
    if joined is None or joined[0] != tag:
        rows = [
            row
            for key, row in replica.rows(topic).items()
            if (not account or belongs(topic, key, row, account))
            and (not scope or _done.decode(row).done is (scope == "completed"))
        ]
        if len(session.joined) >= JOINED:
            session.joined.clear()
        body = data(
            b"[" + b",".join(rows) + b"]", topic_state.asOf, stale, replica.epoch, topic_state.seq, "live", session.name
        )
        joined = session.joined[topic, account, scope] = (tag, body)
    return reply(joined[1], headers={"ETag": tag})


def data(rows: bytes, as_of: str | None, stale: bool, epoch: str, seq: int, source: str, session: str | None) -> bytes:
    """`{"data": …, "meta": …}` around rows that are already encoded."""
    meta: dict[str, Any] = {"asOf": as_of or None, "stale": stale, "epoch": epoch, "seq": seq, "source": source}
    meta["session"] = session
    return b'{"data":' + rows + b',"meta":' + _encode(meta) + b"}"


def _one_account(session: Session, context: RequestContext) -> str:
    """The account of the query, else of the settings, else the only one. Raises `Problem`."""
    state = session.mirror.state
    if not state.connected and not context.query.allowStale:
        require_connected(session)  # before an account is looked for
    check_account(state, context.query.account)
    if context.query.account:
        return str(context.query.account)
    known = accounts_of(state)
    if session.settings.account in known:  # the environment's setting may be another session's account
        return session.settings.account
    if len(known) > 1:
        raise Problem("accountAmbiguous", extra={"accounts": known})
    return known[0] if known else ""


# --- whether there is an answer -------------------------------------------------------------------------------------


def require_connected(session: Session) -> None:
    """Raises the `Problem` because of which the link is not proven, where it is not."""
    state = session.mirror.state
    if state.connected:
        return
    if not state.reachable:
        raise Problem("daemonUnreachable")
    link = state.link
    if link is None or link.connected:  # the row's proof has become too old, whatever else it contains
        raise Problem("notConnected")
    entry = CATALOGUE.get(link.reason or "")
    if link.reason is not None and entry is not None and entry.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Problem(link.reason)
    # a reason of another status belongs to the attempt; to a reader the link is just not there
    raise Problem("notConnected", link.sentence)


def incomplete(topic: str) -> Problem:
    """Why `topic` is unknown, which is not empty."""
    return Problem(
        "snapshotIncomplete", f"The initial snapshot of {topic} is incomplete; an empty list would be wrong."
    )


def newest(session: Session, topics: Iterable[str]) -> tuple[int, str]:
    """The step and time of the last change of several topics."""
    return max((session.mirror.state.topic_state(topic) for topic in topics), default=NEVER)
