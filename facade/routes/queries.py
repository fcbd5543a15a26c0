"""What only the daemon can answer: contracts, quotes, bars, older executions, the link's history.

Every query has a deadline, and ends when its client disconnects. Rows pass through as the bytes they came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from facade.account_rows import belongs, check_account
from facade.app import Session
from facade.http.responses import NO_HEADERS, reply
from facade.http.routing import RequestContext
from facade.routes.reads import OneAccount, StaleQuery, data, incomplete, newest, require_connected, topic_response
from shared.messages import MAX_CON_ID, BarsParams, ContractQuery
from shared.reasons import Problem

LEDGER_TIMEOUT = 10.0
"""s for what the daemon reads from its own disk."""

CONTRACT_TIMEOUT = 30.0
"""s for a contract: the gateway takes seconds for a search, and the daemon has its own, shorter limit."""

QUOTES_TIMEOUT = 10.0
"""s for quotes: a first tick is waited for two seconds at most."""

BARS_TIMEOUT = 75.0
"""s for bars: the daemon waits a minute for its turn and IBKR's answer together."""

PAGES = 128
"""The daemon's pages in one response, a megabyte each at most."""

CON_IDS = 100
"""Contracts of one query: the market-data lines an ordinary login has."""

LIMIT = 1000
MAX_LIMIT = 5000
"""Rows of one response: two megabytes or so."""

CON_ID = "([1-9][0-9]{0,17}|[1-8][0-9]{18})"
CON_ID_LIST = f"^{CON_ID}(,{CON_ID}){{0,{CON_IDS - 1}}}$"
"""As a pattern, so that the OpenAPI document has it; of the numbers with 64 bits the highest are left out."""

Moment = Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"})]


class Page(Struct, frozen=True):
    """A page of the daemon's: `rows`, or `events` of the link with its `uptime`. `next`: where the next one begins."""

    seq: int = 0
    next: str | None = None
    asOf: str | None = None
    rows: list[Raw] = []
    events: list[Raw] = []
    uptime: Raw = Raw(b"{}")


class SinceQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`since`: RFC 3339. `limit`, `cursor`: a page of the rows; the header `Link` names the next one."""

    since: Moment | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT)] = LIMIT
    cursor: Annotated[str, Meta(max_length=340)] = ""


class ExecutionsQuery(SinceQuery, frozen=True, forbid_unknown_fields=True):
    """`since`: RFC 3339, by execution time, inclusive; the last 24 hours by default."""

    allowStale: bool = False
    account: OneAccount = ""


class SearchQuery(StaleQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`q`: a symbol or part of a name."""

    q: Annotated[str, Meta(min_length=1, max_length=64)]


class QuotesQuery(StaleQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`conIds`: contract ids, separated by commas."""

    conIds: Annotated[str, Meta(max_length=2000, pattern=CON_ID_LIST)]


class BarsQuery(BarsParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ib_async's names. `endDateTime` empty: now. `whatToShow` empty: TRADES, or MIDPOINT where nothing trades."""


class Dated(Struct):
    asOf: str | None = None


_dated = msgspec.json.Decoder(Dated)
_page = msgspec.json.Decoder(Page)


# --- handlers -------------------------------------------------------------------------------------------------------


async def link_events(session: Session, context: RequestContext) -> web.StreamResponse:
    """Changes of phase and uptime, from the ledger; also while there is no link."""
    pages = await _slice(session, "link.events", context.query, {})
    body = b'{"events":%s,"uptime":%s}' % (_array(page.events for page in pages), bytes(pages[0].uptime))
    following = _next_link(session, context, pages[-1])
    return _data(session, body, None, pages[-1].seq, "ledger", stale=False, headers=following)


async def executions(session: Session, context: RequestContext) -> web.StreamResponse:
    """The last day from the replica where it fits into one page, else from the ledger."""
    query, state = context.query, session.mirror.state
    check_account(state, query.account)
    if query.since is UNSET and not query.cursor:
        fills = {} if state.replica is None else state.replica.rows("fills")
        if sum(not query.account or belongs("fills", *fill, query.account) for fill in fills.items()) <= query.limit:
            return topic_response(session, context, "fills", account=query.account)
    known = state.sync("fills")
    if not query.allowStale:
        require_connected(session)
        if known is None or not known.known:
            raise incomplete("fills")  # the ledger may lack some of them
    stale = not state.connected or known is None or not known.known or known.stale
    pages = await _slice(session, "executions.list", query, {"account": query.account} if query.account else {})
    seq, as_of = state.topic_state("fills")
    rows = _array(page.rows for page in pages)
    following = _next_link(session, context, pages[-1])
    return _data(session, rows, as_of, seq, "ledger", stale=stale, headers=following)


async def pnl_history(session: Session, context: RequestContext) -> web.StreamResponse:
    """Today's points, from the ledger; with `allowStale` also while there is no link."""
    params = {"account": context.query.account, "allowStale": context.query.allowStale}
    return await _found_rows(session, context, "account.pnl.history", params, LEDGER_TIMEOUT, "ledger")


async def search(session: Session, context: RequestContext) -> web.StreamResponse:
    return await _found_rows(session, context, "contracts.search", {"q": context.query.q}, CONTRACT_TIMEOUT)


async def contract(session: Session, context: RequestContext) -> web.StreamResponse:
    con_id = _con_id(context.args["conId"])
    return await _found_rows(session, context, "contracts.get", {"conId": con_id}, CONTRACT_TIMEOUT)


async def options(session: Session, context: RequestContext) -> web.StreamResponse:
    con_id = _con_id(context.args["conId"])
    return await _found_rows(session, context, "contracts.options", {"conId": con_id}, CONTRACT_TIMEOUT)


async def qualify(session: Session, context: RequestContext) -> web.StreamResponse:
    """One contract for one description."""
    require_connected(session)
    query: ContractQuery = context.body
    found = _page.decode(await session.call("contracts.qualify", msgspec.to_builtins(query), CONTRACT_TIMEOUT))
    if not found.rows:
        raise Problem("notFound", "No contract matches the description.")
    return reply(bytes(found.rows[0]))


async def quotes(session: Session, context: RequestContext) -> web.StreamResponse:
    con_ids = list(dict.fromkeys(map(int, context.query.conIds.split(","))))
    if context.query.allowStale and not session.mirror.state.connected:
        last_known = _last_known(session, con_ids)
        if last_known is not None:
            return last_known
    return await _found_rows(session, context, "quotes.get", {"conIds": con_ids}, QUOTES_TIMEOUT)


async def bars(session: Session, context: RequestContext) -> web.StreamResponse:
    return await _found_rows(session, context, "bars.fetch", msgspec.to_builtins(context.query), BARS_TIMEOUT)


# --- calling the daemon ---------------------------------------------------------------------------------------------


async def _found_rows(
    session: Session,
    context: RequestContext,
    method: str,
    params: Mapping[str, Any],
    timeout: float,
    source: str = "live",
) -> web.StreamResponse:
    """All rows of `method`. Raises `Problem` where the link is not proven and stale rows are not allowed."""
    stale = not session.mirror.state.connected
    if stale and not getattr(context.query, "allowStale", False):
        require_connected(session)
    pages = [_page.decode(await session.call(method, params, timeout))]
    while pages[-1].next is not None:
        if len(pages) == PAGES:
            raise Problem("tooLarge", "The response would be too large: request less at once.")
        pages.append(_page.decode(await session.call(method, {**params, "after": pages[-1].next}, timeout)))
    first = pages[0]
    rows = _array(page.rows for page in pages)
    return _data(session, rows, first.asOf or _newest(first.rows), first.seq, source, stale=stale)


async def _slice(session: Session, method: str, query: SinceQuery, params: Mapping[str, Any]) -> list[Page]:
    """The daemon's pages from `query.cursor` on, until together they have `query.limit` rows."""
    given: dict[str, Any] = {**params, **_since(query.since), "limit": query.limit}
    if query.cursor:
        given["cursor"], _, name = query.cursor.rpartition(".")
        if name != session.name or not given["cursor"]:
            raise Problem("invalidParameters", f"cursor: not one of the session {session.name}.")
    pages: list[Page] = []
    while True:
        page = _page.decode(await session.call(method, given, LEDGER_TIMEOUT))
        pages.append(page)
        given["limit"] -= len(page.rows) + len(page.events)
        if page.next is None or given["limit"] <= 0 or len(pages) == PAGES:
            return pages
        given["cursor"] = page.next


def _next_link(session: Session, context: RequestContext, page: Page) -> Mapping[str, str]:
    """The header that names the next page: the same query with another cursor, which is the session's own."""
    if page.next is None:
        return NO_HEADERS
    path, _, query = context.request.raw_path.partition("?")
    pairs = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "cursor"]
    return {"Link": f'<{path}?{urlencode([*pairs, ("cursor", f"{page.next}.{session.name}")])}>; rel="next"'}


def _array(pages: Iterable[Iterable[Raw]]) -> bytes:
    return b"[" + b",".join(bytes(row) for rows in pages for row in rows) + b"]"


def _newest(rows: Iterable[Raw]) -> str | None:
    """The latest `asOf` of rows that have one of their own: quotes."""
    return max((row.asOf for row in map(_dated.decode, rows) if row.asOf), default=None)


def _data(
    session: Session,
    rows: bytes,
    as_of: str | None,
    seq: int,
    source: str,
    *,
    stale: bool,
    headers: Mapping[str, str] = NO_HEADERS,
) -> web.StreamResponse:
    replica = session.mirror.state.replica
    epoch = replica.epoch if replica is not None else ""
    return reply(data(rows, as_of, stale, epoch, seq, source, session.name), headers=headers)


def _last_known(session: Session, con_ids: list[int]) -> web.StreamResponse | None:
    """The last rows of quotes that are watched; `None` where one of them is not."""
    rows = [session.mirror.state.row(f"quotes:{con_id}", str(con_id)) for con_id in con_ids]
    known = [row for row in rows if row is not None]
    if len(known) < len(con_ids):
        return None
    seq, as_of = newest(session, (f"quotes:{con_id}" for con_id in con_ids))
    return _data(session, b"[" + b",".join(known) + b"]", as_of, seq, "live", stale=True)


def _con_id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 1 <= int(text) <= MAX_CON_ID:
        raise Problem("invalidParameters", f"A conId is a whole number from 1 to {MAX_CON_ID}.")
    return int(text)


def _since(text: str | UnsetType) -> dict[str, str]:
    """RFC 3339 in, UTC out. In a query an unescaped plus sign arrives as a space."""
    if text is UNSET:
        return {}
    try:
        moment = msgspec.convert(re.sub(r" (?=\d\d:\d\d$)", "+", text), datetime)
    except msgspec.ValidationError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise Problem("invalidParameters", "since is a time as RFC 3339 writes it, such as 2026-01-31T09:30:00Z.")
    try:
        return {"since": moment.astimezone(UTC).isoformat().replace("+00:00", "Z")}
    except OverflowError:
        raise Problem("invalidParameters", "since is out of range.") from None
