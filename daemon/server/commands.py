"""The methods of the local socket: method → coroutine, params read into structs, guards, limits, refusals.

Each call is carried out by the link, the market, the store or the ledger.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import structlog
from msgspec import UNSET, Raw, Struct

from daemon.alerts.watch import Alerts
from daemon.market import topics
from daemon.market.contracts import Found
from daemon.market.data import Market
from daemon.server.holdings import Holdings
from daemon.server.pages import Page, Pages
from daemon.server.params import (
    Bars,
    ConnectRequest,
    Executions,
    OfAccount,
    OfContract,
    OfContracts,
    Orders,
    Search,
    Since,
    Topics,
)
from daemon.session.supervisor import Supervisor
from daemon.state.feed import Feed
from daemon.state.ledger import Ledger, Slice
from daemon.state.pnl import PnLSeries
from daemon.state.store import Store
from shared.clock import Clock
from shared.jsonrpc.codec import APPLICATION_ERROR, RpcError
from shared.jsonrpc.server import ServerConnection
from shared.messages import (
    PROTOCOL,
    STATE_TOPICS,
    BarsParams,
    ConnectParams,
    ContractQuery,
    Link,
    Nothing,
    WatchParams,
)
from shared.reasons import Problem, describe
from shared.settings import LIVE_PORTS, Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Compared as text, before any look-up: a name that resolves to loopback today may not tomorrow."""

TARGET = ("host", "port", "clientId")
"""What the catalogue's words name of a gateway."""

EVENTS_SHOWN = timedelta(hours=24)
"""How far `link.events` looks back by default."""

P = TypeVar("P", bound=Struct)

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class Commands:
    """`table`: the methods of an `RpcService`. `stop` ends the daemon; `figures`: for the metrics."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        feed: Feed,
        ledger: Ledger,
        series: PnLSeries,
        alerts: Alerts,
        link: Supervisor,
        market: Market,
        clock: Clock,
        version: str,
        stop: Callable[[], None],
        figures: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._feed = feed
        self._ledger = ledger
        self._alerts = alerts
        self._link = link
        self._market = market
        self._clock = clock
        self._started = clock.monotonic()
        self._version = version
        self._stop = stop
        self._figures = figures
        self._pages = Pages()
        self._holdings = Holdings(settings, store, ledger, series, clock, self._pages)

    def table(self) -> dict[str, Callable[[ServerConnection, Raw], Awaitable[Any]]]:
        return {
            "watch": self._method(WatchParams, self._watch),
            "unwatch": self._method(Topics, self._unwatch),
            "link.get": self._method(Nothing, self._link_get),
            "link.connect": self._method(ConnectRequest, self._connect),
            "link.disconnect": self._method(Nothing, self._disconnect),
            "link.reconnect": self._method(Nothing, self._reconnect),
            "link.events": self._method(Since, self._events),
            "account.list": self._method(OfAccount, self._rows("accounts")),
            "account.summary": self._method(OfAccount, self._rows("summary")),
            "account.pnl": self._method(OfAccount, self._rows("pnl")),
            "account.pnl.history": self._method(OfAccount, self._pnl_history),
            "account.positions": self._method(OfAccount, self._rows("positions")),
            "account.orders": self._method(Orders, self._rows("orders")),
            "executions.list": self._method(Executions, self._executions),
            "contracts.search": self._method(Search, self._search),
            "contracts.get": self._method(OfContract, self._contract),
            "contracts.qualify": self._method(ContractQuery, self._qualify),
            "contracts.options": self._method(OfContract, self._options),
            "quotes.get": self._method(OfContracts, self._quotes),
            "bars.fetch": self._method(Bars, self._bars),
            "alerts.test": self._method(Nothing, self._alerts_test),
            "daemon.info": self._method(Nothing, self._info),
            "daemon.stop": self._method(Nothing, self._end),
        }

    def closed(self, peer: ServerConnection) -> None:
        """End what a closed connection watched and subscribed to."""
        self._feed.forget(peer)
        self._market.leave(peer)

    def _method(
        self, wanted: type[P], run: Callable[[ServerConnection, P], Awaitable[Any]]
    ) -> Callable[[ServerConnection, Raw], Awaitable[Any]]:
        decode = msgspec.json.Decoder(wanted).decode

        async def method(peer: ServerConnection, params: Raw) -> Any:
            try:
                return await run(peer, decode(params))
            except Problem as problem:
                raise self._refused(peer, problem) from problem
            except (sqlite3.Error, OSError) as error:  # of the ledger's file; nothing else here raises them
                unavailable = Problem("ledgerUnavailable", f"The ledger cannot be read: {error}.")
                raise self._refused(peer, unavailable) from error

        return method

    # --- watching ---------------------------------------------------------------------------------------------------

    async def _watch(self, peer: ServerConnection, params: WatchParams) -> Any:
        """`topics` in the answer are the names under which rows come."""
        names = {topic: _name(topic) for topic in params.topics}  # all of them are right before any is watched
        try:
            seq, reset = self._feed.watch(peer, names.values(), params.epoch, params.since)
        except ValueError as error:
            raise Problem("invalidParameters", f"topics: {error}") from error
        for name in _streams(names.values()):
            self._market.watch(name, peer)
        return {"epoch": self._store.epoch, "seq": seq, "reset": reset, "topics": list(names.values())}

    async def _unwatch(self, peer: ServerConnection, params: Topics) -> Any:
        names = [_name(topic) for topic in params.topics]
        self._feed.unwatch(peer, names)
        for name in _streams(names):
            self._market.unwatch(name, peer)
        return {"topics": sorted(self._feed.topics(peer))}

    # --- the link ---------------------------------------------------------------------------------------------------

    async def _link_get(self, _peer: ServerConnection, _params: Nothing) -> Any:
        """The row itself, as `GET /link` gives it."""
        row = self._store.replica.row("link", "link")
        if row is None:
            raise Problem("notConnected", "The daemon is starting.")
        return Raw(row)

    async def _connect(self, peer: ServerConnection, params: ConnectRequest) -> Any:
        _log_command(peer, "connect")
        self._may_be_dialled(params)
        given = {name: getattr(params, name) for name in ConnectParams.__struct_fields__}
        try:
            await self._link.connect(ConnectParams(**given), wait=params.wait)
        except Problem as problem:
            raise self._refused(peer, problem, params) from problem
        return self._done(peer)

    async def _disconnect(self, peer: ServerConnection, _params: Nothing) -> Any:
        _log_command(peer, "disconnect")
        await self._link.disconnect()
        return self._done(peer)

    async def _reconnect(self, peer: ServerConnection, _params: Nothing) -> Any:
        _log_command(peer, "reconnect")
        await self._link.reconnect()
        return self._done(peer)

    def _done(self, peer: ServerConnection) -> dict[str, Any]:
        """The answer to a command: the state of the link now, and the step that shows it to a reader."""
        row = self._link_row()
        facts = {} if row is None else {"connected": row.connected, "phase": row.phase}
        return {**facts, "seq": self._feed.request_ack(peer)}

    def _may_be_dialled(self, params: ConnectParams) -> None:
        """Nothing is dialled that the settings do not allow, for any client."""
        settings = self._settings
        if params.host is not UNSET and params.host not in (*LOOPBACK, settings.host, *settings.allowed_hosts):
            raise Problem("hostNotAllowed")
        if params.port in LIVE_PORTS and params.port != settings.port and not settings.allow_live:
            raise Problem("liveLocked")

    async def _events(self, peer: ServerConnection, params: Since) -> Any:
        now = self._clock.now()
        since = params.since or now - EVENTS_SHOWN
        planned = self._link.planned(now - timedelta(days=31), now)
        try:
            page = await self._ledger.history(since, now, planned, Slice(params.limit, params.cursor))
        except ValueError as error:
            raise Problem("invalidParameters", f"cursor: {error}", extra={"field": "cursor"}) from error
        return self._paged(peer, Page(page.rows, {"uptime": page.uptime}, page.next), "events")

    # --- what the account holds -------------------------------------------------------------------------------------

    def _rows(self, topic: str) -> Callable[[ServerConnection, Any], Awaitable[Any]]:
        async def rows(peer: ServerConnection, params: OfAccount) -> Any:
            return self._paged(peer, self._holdings.rows(topic, params))

        return rows

    async def _executions(self, peer: ServerConnection, params: Executions) -> Any:
        return self._paged(peer, await self._holdings.executions(params))

    async def _pnl_history(self, peer: ServerConnection, params: OfAccount) -> Any:
        return self._paged(peer, await self._holdings.pnl_history(params))

    # --- the market -------------------------------------------------------------------------------------------------

    async def _search(self, peer: ServerConnection, params: Search) -> Any:
        return await self._found(peer, params.after, lambda: self._market.contracts.search(params.q))

    async def _contract(self, peer: ServerConnection, params: OfContract) -> Any:
        return await self._found(peer, params.after, lambda: self._market.contracts.details(params.conId))

    async def _qualify(self, peer: ServerConnection, params: ContractQuery) -> Any:
        return await self._found(peer, "", lambda: self._market.contracts.qualify(params))

    async def _options(self, peer: ServerConnection, params: OfContract) -> Any:
        return await self._found(peer, params.after, lambda: self._market.contracts.option_chain(params.conId))

    async def _bars(self, peer: ServerConnection, params: Bars) -> Any:
        given = {name: getattr(params, name) for name in BarsParams.__struct_fields__}
        return await self._found(peer, params.after, lambda: self._market.history.fetch(BarsParams(**given)))

    async def _found(self, peer: ServerConnection, after: str, look_up: Callable[[], Awaitable[Found[Any]]]) -> Any:
        if after:
            return self._paged(peer, self._pages.following(after))
        found = await look_up()
        return self._paged(peer, self._pages.first([_encode(row) for row in found.rows], {"asOf": found.asOf}))

    async def _quotes(self, peer: ServerConnection, params: OfContracts) -> Any:
        self._holdings.require_connected()  # a quote of before the loss would pass for one of now
        rows = [_encode(row) for row in await self._market.quotes(params.conIds)]
        return self._paged(peer, Page(rows, {}, None))

    async def _alerts_test(self, peer: ServerConnection, _params: Nothing) -> Any:
        return {"sinks": await self._alerts.test(), "seq": self._feed.request_ack(peer)}

    # --- the daemon -------------------------------------------------------------------------------------------------

    async def _info(self, peer: ServerConnection, _params: Nothing) -> Any:
        return {
            "pid": os.getpid(),
            "version": self._version,
            "protocol": PROTOCOL,
            "epoch": self._store.epoch,
            "uptimeS": round(self._clock.monotonic() - self._started, 1),
            "watchers": self._feed.watchers,
            "deltasMerged": self._feed.merged,
            "ledgerFailed": self._ledger.failed,
            **self._figures(),
            "seq": self._feed.request_ack(peer),
        }

    async def _end(self, peer: ServerConnection, _params: Nothing) -> Any:
        self._stop()
        return {"stopping": True, "seq": self._feed.request_ack(peer)}

    # --- answers ----------------------------------------------------------------------------------------------------

    def _paged(self, peer: ServerConnection, page: Page, rows: str = "rows") -> Raw:
        facts = {**page.facts, "next": page.next, "seq": self._feed.request_ack(peer)}
        return Raw(b'{"%s":[%s],%s' % (rows.encode(), b",".join(page.rows), _encode(facts)[1:]))

    def _refused(self, peer: ServerConnection, problem: Problem, named: ConnectRequest | None = None) -> RpcError:
        """A failed call may have changed something too; `seq` is the step that shows it."""
        return refusal(problem, self._link_row(), self._feed.request_ack(peer), named)

    def _link_row(self) -> Link | None:
        row = self._store.row("link", "link")
        return row if isinstance(row, Link) else None


def refusal(problem: Problem, link: Link | None, seq: int, named: ConnectRequest | None = None) -> RpcError:
    """A problem on the wire: our code, a sentence, and in `data` all that an HTTP response has of it too.

    `named`: the gateway of the request, where it may be another than the link's.
    """
    facts = {} if link is None or link.gateway is None else msgspec.structs.asdict(link.gateway)
    if named is not None:
        facts |= {name: value for name in TARGET if (value := getattr(named, name)) is not UNSET}
    sentence, advice = describe(problem.reason, **facts)
    if link is not None and link.reason == problem.reason and not problem.detail:
        sentence, advice = link.sentence, link.advice
    data = {
        "reason": problem.reason,
        "phase": None if link is None else link.phase,
        "detail": problem.detail,
        "advice": advice,
        "retryable": problem.entry.retryable,
        "retryAfter": problem.retryAfter,
        "nextAttemptAt": None if link is None else link.nextAttemptAt,
        "ibCode": problem.ibCode,
        "seq": seq,
        **problem.extra,
    }
    return RpcError(APPLICATION_ERROR, problem.detail or sentence, data)


def _name(topic: str) -> str:
    """The one spelling of a topic. Raises `Problem` for one there is not."""
    return topic if topic in STATE_TOPICS else topics.read(topic).topic


def _streams(names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in STATE_TOPICS]


def _log_command(peer: ServerConnection, command: str) -> None:
    log.info("link.command", message=f"A client requests: {command}.", client=peer.client)
