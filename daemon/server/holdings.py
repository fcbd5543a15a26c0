"""What an account holds and has traded, for requests on the socket: rows of a topic, fills by time.

Unknown, stale and empty are three answers here, as on HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

import msgspec
from msgspec import Struct

from daemon.server.pages import Page, Pages
from daemon.server.params import Executions, OfAccount, Orders
from daemon.state.fills import cursor, position, read_cursor
from daemon.state.ledger import Ledger, Slice, cut
from daemon.state.pnl import PnLSeries
from daemon.state.store import FILLS_SHOWN, Store
from shared.clock import Clock
from shared.messages import Link, Sync
from shared.reasons import Problem
from shared.settings import Settings

ONE_ACCOUNT = frozenset({"summary", "pnl", "positions"})
"""Topics that are read for one account at a time, since adding up several means nothing."""

_encode = msgspec.json.Encoder().encode


class Holdings:
    """Reads the store and the ledger. Raises `Problem`."""

    def __init__(
        self, settings: Settings, store: Store, ledger: Ledger, series: PnLSeries, clock: Clock, pages: Pages
    ) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._series = series
        self._clock = clock
        self._pages = pages

    def rows(self, topic: str, params: OfAccount) -> Page:
        """The rows of a topic, of one account or scope where one is named."""
        if params.after:
            return self._pages.following(params.after)
        stale = self._staleness(topic, allowed=params.allowStale)
        wanted: dict[str, object] = {}
        if account := self._account(params.account, needed=topic in ONE_ACCOUNT):
            wanted["account"] = account
        if isinstance(params, Orders) and params.scope:
            wanted["done"] = params.scope == "completed"
        typed = self._store.rows(topic)
        rows = [row for key, row in self._store.replica.rows(topic).items() if _has(typed[key], wanted)]
        return self._pages.first(rows, {"asOf": self._store.replica.state(topic).asOf or None, "stale": stale})

    async def executions(self, params: Executions) -> Page:
        """Fills by execution time: from memory where that has all of them, written to disk or not.

        `known`: whether the gateway has listed its fills to their end. `stale`: whether later ones may be missing.
        """
        account = self._account(params.account, needed=False, known=self._is_known("accounts"))
        since = params.since or self._clock.now() - FILLS_SHOWN
        try:
            start = read_cursor(params.cursor) if params.cursor else None
        except ValueError as error:
            raise Problem("invalidParameters", f"cursor: {error}", extra={"field": "cursor"}) from error
        fills = self._store.fills(since)
        facts = {
            "known": self._is_known("fills"),
            "asOf": self._store.replica.state("fills").asOf or None,
            "stale": self._is_stale("fills"),
        }
        if fills is None:
            found = await self._ledger.fills(since, Slice(params.limit, params.cursor), account)
            return Page(found.rows, {"source": "ledger", **facts}, found.next)
        keyed = ((position(fill), fill) for fill in fills if account in ("", fill.account))
        rest = sorted((each for each in keyed if start is None or each[0] > start), key=itemgetter(0))
        rows, last = cut(((key, _encode(fill)) for key, fill in rest), params.limit)
        return Page(rows, {"source": "live", **facts}, None if last is None else cursor(last))

    async def pnl_history(self, params: OfAccount) -> Page:
        """Today's PnL of one account; without a list of accounts, of the one that has points."""
        if params.after:
            return self._pages.following(params.after)
        if not params.allowStale:
            self.require_connected()
        known = self._is_known("accounts")
        account = self._account(params.account, needed=True, known=known)
        if not account:
            found = sorted(self._store.rows("accounts")) if known else await self._series.accounts()
            if len(found) > 1:
                raise Problem("accountAmbiguous", extra={"accounts": found})
            account = found[0] if found else ""
        rows = [_encode(point) for point in await self._series.today(account)]
        return self._pages.first(rows, {"source": "ledger", "stale": not self._connected()})

    def require_connected(self) -> None:
        """Raises `Problem` with the link's own reason."""
        if not self._connected():
            link = self._store.row("link", "link")
            raise Problem((link.reason if isinstance(link, Link) else None) or "notConnected")

    def _connected(self) -> bool:
        link = self._store.row("link", "link")
        return isinstance(link, Link) and link.connected

    def _staleness(self, topic: str, *, allowed: bool) -> bool:
        """Raises `Problem` where the topic is not known, or is stale where stale rows are not allowed."""
        if not allowed:
            self.require_connected()
        if not self._is_known(topic):
            raise Problem("snapshotIncomplete", f"The initial snapshot of the {topic} is incomplete.")
        return self._is_stale(topic)

    def _is_stale(self, topic: str) -> bool:
        sync = self._store.row("sync", topic)
        return not isinstance(sync, Sync) or sync.stale or not self._connected()

    def _is_known(self, topic: str) -> bool:
        sync = self._store.row("sync", topic)
        return isinstance(sync, Sync) and sync.known

    def _account(self, named: str, *, needed: bool, known: bool = True) -> str:
        """The named account; where one is needed, else the one of the settings, else the only one.

        `known`: whether the list of accounts is, without which no account is refused.
        """
        accounts = sorted(self._store.rows("accounts"))
        if named and known and named not in accounts:
            raise Problem("notFound", "This login has no such account.")
        account = named or (self._settings.account if needed else "")
        if needed and not account and len(accounts) > 1:
            raise Problem("accountAmbiguous", extra={"accounts": accounts})
        return account


def _has(row: Struct, wanted: Mapping[str, object]) -> bool:
    return all(getattr(row, name, None) == value for name, value in wanted.items())
