"""What the daemon must be asked for: contracts, quotes, bars, older executions, the link's history.

Every question has a deadline, and ends when its asker leaves. Rows pass through as the bytes they came in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from facade.http.answer import Answer
from facade.http.table import Asked
from facade.routes.reads import StaleQuery, data, newest, require_connected, topic_answer
from shared.messages import BarsParams, ContractQuery
from shared.reasons import Problem

if TYPE_CHECKING:
    from facade.app import Facade

LOCAL = 10.0
"""s for what the daemon reads from its own disk."""

LOOK_UP = 30.0
"""s for a contract: the gateway takes seconds for a search, and the daemon has its own, shorter limit."""

QUOTES = 10.0
"""s for quotes: a first tick is waited for two seconds at most."""

HISTORY = 75.0
"""s for bars: the daemon waits a minute for its turn and IBKR's answer together."""

PAGES = 128
"""Pages of one answer, a megabyte each at most: more fills than ten busy years have."""

PLACE = {"executions.list": "cursor", "link.events": "cursor"}
"""The parameter that names a page's beginning, where it is not `after`."""

CON_IDS = 100
"""Contracts of one question: the market-data lines an ordinary login has."""

MAX_CON_ID = 2_147_483_647
CON_ID = "([1-9][0-9]{0,8}|1[0-9]{9})"
CON_ID_LIST = f"^{CON_ID}(,{CON_ID}){{0,{CON_IDS - 1}}}$"
"""As a pattern, so that the document says it; IBKR's numbers have nine digits."""

Moment = Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"})]


class Page(Struct, frozen=True):
    """A page of what was asked for. `next`: where the next one begins."""

    seq: int = 0
    next: str | None = None


class Found(Page, frozen=True):
    rows: list[Raw] = []
    asOf: str | None = None


class History(Page, frozen=True):
    events: list[Raw] = []
    uptime: Raw = Raw()


P = TypeVar("P", bound=Page)


class SinceQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`since`: RFC 3339."""

    since: Moment | UnsetType = UNSET


class ExecutionsQuery(StaleQuery, frozen=True, forbid_unknown_fields=True):
    """`since`: RFC 3339, by execution time, inclusive; the last 24 hours by default."""

    since: Moment | UnsetType = UNSET


class SearchQuery(StaleQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`q`: a symbol or part of a name."""

    q: Annotated[str, Meta(min_length=1, max_length=64)]


class QuotesQuery(StaleQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`conIds`: contract ids, separated by commas."""

    conIds: Annotated[str, Meta(max_length=1100, pattern=CON_ID_LIST)]


class BarsQuery(BarsParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ib_async's names. `endDateTime` empty: now. `whatToShow` empty: TRADES, or MIDPOINT where nothing trades."""


class Dated(Struct):
    asOf: str | None = None


_dated = msgspec.json.Decoder(Dated)
_found = msgspec.json.Decoder(Found)
_history = msgspec.json.Decoder(History)


# --- handlers -------------------------------------------------------------------------------------------------------


async def link_events(facade: Facade, asked: Asked) -> Answer:
    """Changes of phase and uptime, from the ledger; also while there is no link."""
    pages = await _pages(facade, _history, "link.events", _since(asked.query.since), LOCAL)
    events = b",".join(bytes(event) for page in pages for event in page.events)
    uptime = next((bytes(page.uptime) for page in reversed(pages) if bytes(page.uptime)), b"{}")
    written = b'{"events":[' + events + b'],"uptime":' + uptime + b"}"
    return _told(facade, written, None, pages[-1].seq, "ledger", stale=False)


def executions(facade: Facade, asked: Asked) -> Any:
    """The last day from the replica, more from the ledger."""
    if asked.query.since is UNSET:
        return topic_answer(facade, asked, "fills")
    return _older(facade, asked)


async def _older(facade: Facade, asked: Asked) -> Answer:
    rows, _, stale = await _asked_rows(facade, asked, "executions.list", _since(asked.query.since), LOCAL)
    seq, as_of = facade.mirror.state.topic_state("fills")
    return _told(facade, rows, as_of, seq, "ledger", stale=stale)


async def search(facade: Facade, asked: Asked) -> Answer:
    return await _rows(facade, asked, "contracts.search", {"q": asked.query.q}, LOOK_UP)


async def contract(facade: Facade, asked: Asked) -> Answer:
    return await _rows(facade, asked, "contracts.get", {"conId": _con_id(asked.args["conId"])}, LOOK_UP)


async def options(facade: Facade, asked: Asked) -> Answer:
    return await _rows(facade, asked, "contracts.options", {"conId": _con_id(asked.args["conId"])}, LOOK_UP)


async def qualify(facade: Facade, asked: Asked) -> Answer:
    """One contract for one description."""
    require_connected(facade)
    query: ContractQuery = asked.body
    found = _found.decode(await facade.mirror.call("contracts.qualify", msgspec.to_builtins(query), LOOK_UP))
    if not found.rows:
        raise Problem("notFound", "No contract matches the description.")
    return Answer(200, bytes(found.rows[0]))


async def quotes(facade: Facade, asked: Asked) -> Answer:
    con_ids = list(dict.fromkeys(map(int, asked.query.conIds.split(","))))
    known = None
    if asked.query.allowStale and not facade.mirror.state.connected:
        known = _last_known(facade, con_ids)
    return known or await _rows(facade, asked, "quotes.get", {"conIds": con_ids}, QUOTES)


async def bars(facade: Facade, asked: Asked) -> Answer:
    require_connected(facade)
    return await _rows(facade, asked, "bars.fetch", msgspec.to_builtins(asked.query), HISTORY)


# --- how they ask ---------------------------------------------------------------------------------------------------


async def _rows(facade: Facade, asked: Asked, method: str, params: Mapping[str, Any], limit: float) -> Answer:
    rows, page, stale = await _asked_rows(facade, asked, method, params, limit)
    return _told(facade, rows, page.asOf or _newest(page.rows), page.seq, "live", stale=stale)


async def _asked_rows(
    facade: Facade, asked: Asked, method: str, params: Mapping[str, Any], limit: float
) -> tuple[bytes, Found, bool]:
    """All rows that `method` answers, its first page, and whether they may be old.

    Raises `Problem` where the link is not proven and stale rows are not welcome.
    """
    stale = not facade.mirror.state.connected
    if stale and not getattr(asked.query, "allowStale", False):
        require_connected(facade)
    pages = await _pages(facade, _found, method, params, limit)
    lines = b",".join(bytes(row) for page in pages for row in page.rows)
    return b"[" + lines + b"]", pages[0], stale


async def _pages(
    facade: Facade, decoder: msgspec.json.Decoder[P], method: str, params: Mapping[str, Any], limit: float
) -> list[P]:
    """Every page that `method` answers. Raises `Problem`, also rather than leave out what is beyond the last."""
    pages: list[P] = []
    while len(pages) < PAGES:
        page = decoder.decode(await facade.mirror.call(method, params, limit))
        pages.append(page)
        if page.next is None:
            return pages
        params = {**params, PLACE.get(method, "after"): page.next}
    raise Problem("tooLarge", "There is more than one answer holds: ask with a later since.")


def _newest(rows: Iterable[Raw]) -> str | None:
    """The latest `asOf` of rows that have one of their own: quotes."""
    return max((row.asOf for row in map(_dated.decode, rows) if row.asOf), default=None)


def _told(facade: Facade, written: bytes, as_of: str | None, seq: int, source: str, *, stale: bool) -> Answer:
    replica = facade.mirror.state.replica
    epoch = replica.epoch if replica is not None else ""
    return Answer(200, data(written, as_of, stale, epoch, seq, source))


def _last_known(facade: Facade, con_ids: list[int]) -> Answer | None:
    """Quotes that somebody watches, as they were last told; `None` where one of them was not."""
    rows = [facade.mirror.state.row(f"quotes:{con_id}", str(con_id)) for con_id in con_ids]
    known = [row for row in rows if row is not None]
    if len(known) < len(con_ids):
        return None
    seq, as_of = newest(facade, (f"quotes:{con_id}" for con_id in con_ids))
    return _told(facade, b"[" + b",".join(known) + b"]", as_of, seq, "live", stale=True)


def _con_id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 1 <= int(text) <= MAX_CON_ID:
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
