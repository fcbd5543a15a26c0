"""The table of routes: what each path takes, returns and may refuse. The OpenAPI document is generated from it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from msgspec import Struct

from facade.http.responses import EVENTS, HTML
from facade.http.routing import API, Route, of_named_session
from facade.routes import alerts, commands, diagnostics, documentation, events, files, metrics, openapi, queries, reads
from shared.messages import (
    Account,
    AccountValue,
    Bar,
    ConnectParams,
    Contract,
    ContractDetails,
    ContractMatch,
    ContractQuery,
    Fill,
    Link,
    LinkHistory,
    Nothing,
    OptionChain,
    Order,
    PnL,
    PnLPoint,
    Position,
    Quote,
)
from shared.reasons import CATALOGUE, LINK_REASONS


class Status(Struct, frozen=True, kw_only=True):
    """`connected`: the session is proven, here and now. `available`: the daemon answers."""

    connected: bool
    available: bool


class Alive(Struct, frozen=True, kw_only=True):
    alive: bool


class Ready(Struct, frozen=True, kw_only=True):
    ready: bool


NOT_CONNECTED = (
    "daemonUnreachable",
    "notConnected",
    *(reason for reason in LINK_REASONS if CATALOGUE[reason].status == HTTPStatus.SERVICE_UNAVAILABLE),
)
"""What keeps a data route from answering."""

CALLED = ("brokerTimeout", "brokerError")
"""How a call of the daemon may fail besides; the document adds `invalidParameters` where there is a query."""

UNKNOWN = (*NOT_CONNECTED, "snapshotIncomplete")

_ROUTES = (
    Route(
        template=f"{API}/status",
        handle=reads.status,
        summary="Whether the session is proven and the daemon answers",
        description=(
            "Always 200. `available` is false while the daemon does not answer; `connected` is true only "
            "while the gateway answers."
        ),
        answer=Status,
        tag="link",
    ),
    Route(
        template=f"{API}/link",
        handle=reads.link,
        summary="The link: phase, reason, sentence, advice, proof, gateway, farms",
        description=(
            "Always 200. While the daemon does not answer, `phase` is null, `reason` is `daemonUnreachable`, "
            "and the rest is what was known last, marked `stale`."
        ),
        answer=Link,
        tag="link",
    ),
    Route(
        template=f"{API}/connect",
        handle=commands.connect,
        summary="Connect, now, and keep the link up",
        description=(
            "Answers when the session is ready or the attempt has failed, with the failure's reason. "
            "Parameters apply until the next connect, disconnect or restart of the daemon. `{}` joins an "
            "attempt under way. With `wait=false` it answers 202 at once."
        ),
        answer=Status,
        reasons=(
            *LINK_REASONS,
            "daemonUnreachable",
            "connectInProgress",
            "hostNotAllowed",
            "liveLocked",
            *CALLED,
        ),
        query=commands.ConnectQuery,
        body=ConnectParams,
        statuses=(200, 202),
        tag="link",
    ),
    Route(
        template=f"{API}/disconnect",
        handle=commands.disconnect,
        summary="Disconnect, and stay disconnected until the next connect",
        description=(
            "Closes the session and keeps the link down, also across restarts of the daemon, until the next connect."
        ),
        answer=Status,
        reasons=("daemonUnreachable", *CALLED),
        query=Nothing,
        body=Nothing,
        tag="link",
    ),
    Route(
        template=f"{API}/reconnect",
        handle=commands.reconnect,
        summary="Retry now instead of waiting",
        description="Ends the wait for the next attempt. Where nothing waits, nothing changes.",
        answer=Status,
        reasons=("daemonUnreachable", *CALLED),
        query=Nothing,
        body=Nothing,
        statuses=(202,),
        tag="link",
    ),
    Route(
        template=f"{API}/accounts",
        handle=reads.accounts,
        summary="The login's accounts, paper or live",
        description="Every account of the login. `paper`: a paper trading account, by its id.",
        answer=list[Account],
        reasons=UNKNOWN,
        query=reads.StaleQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/account/summary",
        handle=reads.summary,
        summary="An account's values, in IBKR's own text",
        description=(
            "Values by tag and currency, as IBKR sends them; a value that IBKR marks as unset is null. With "
            "several accounts and none named, 409 lists them."
        ),
        answer=list[AccountValue],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/account/pnl",
        handle=reads.pnl,
        summary="An account's profit and loss",
        description="Daily, unrealized and realized profit and loss. A figure that IBKR has not sent yet is null.",
        answer=list[PnL],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/account/pnl/history",
        handle=queries.pnl_history,
        summary="An account's profit and loss of today as a series, a point each 5 s while it changes",
        description=(
            "The daemon records the series, so that it survives restarts of facade and daemon. It "
            "starts again each trading day."
        ),
        answer=list[PnLPoint],
        reasons=(*NOT_CONNECTED, *CALLED, "ledgerUnavailable", "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        tag="account",
    ),
    Route(
        template=f"{API}/positions",
        handle=reads.positions,
        summary="An account's positions with market value and profit and loss",
        description=(
            "Positions of the account. With several accounts and none named, 409 lists them. 503 until the "
            "first complete snapshot: an empty array means that there are none."
        ),
        answer=list[Position],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/orders",
        handle=reads.orders,
        summary="Orders of all clients, open and completed",
        description=(
            "Open orders, and those completed today. Orders of other clients and manual ones are read again "
            "every 30 s and after each interruption."
        ),
        answer=list[Order],
        reasons=(*UNKNOWN, "notFound"),
        query=reads.OrdersQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/executions",
        handle=queries.executions,
        summary="Fills by execution time, the last 24 hours by default",
        description=(
            'Fills of the ledger, newest last, in pages of `limit`. `Link: rel="next"` leads to the next '
            "page. A fill stays after IBKR no longer lists it."
        ),
        answer=list[Fill],
        reasons=(*UNKNOWN, *CALLED, "ledgerUnavailable", "notFound"),
        query=queries.ExecutionsQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        template=f"{API}/link/events",
        handle=queries.link_events,
        summary="Every change of phase with its duration; uptime over 24 h, 7 d, 30 d",
        description=(
            "The history of the link, in pages of `limit`, and with the first page its uptime; planned windows "
            "such as the nightly reset are counted apart."
        ),
        answer=LinkHistory,
        reasons=("daemonUnreachable", *CALLED, "ledgerUnavailable"),
        query=queries.SinceQuery,
        tag="link",
    ),
    Route(
        template=f"{API}/contracts/search",
        handle=queries.search,
        summary="Contracts by symbol or name",
        description="Symbol search as in TWS, once a second at most; nothing found is an empty array.",
        answer=list[ContractMatch],
        reasons=(*NOT_CONNECTED, *CALLED, "pacingBudget"),
        query=queries.SearchQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/contracts/qualify",
        handle=queries.qualify,
        summary="The one contract that a description means",
        description=(
            "Completes a description to the one contract that it means. Several candidates are 422 with the "
            "list, none is 404."
        ),
        answer=Contract,
        reasons=(*NOT_CONNECTED, *CALLED, "contractAmbiguous", "notFound", "pacingBudget"),
        query=Nothing,
        body=ContractQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/contracts/{{conId}}",
        handle=queries.contract,
        summary="A contract's details",
        description=(
            "IBKR's contract details: names, trading hours in the contract's own time zone, price increments."
        ),
        answer=list[ContractDetails],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "contractAmbiguous", "pacingBudget"),
        query=reads.StaleQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/contracts/{{conId}}/options",
        handle=queries.options,
        summary="Which options of an underlying exist",
        description="Expirations and strikes by exchange and trading class.",
        answer=list[OptionChain],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "contractAmbiguous", "pacingBudget"),
        query=reads.StaleQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/quotes",
        handle=queries.quotes,
        summary="Quotes, each tagged live, delayed or frozen",
        description=(
            "The last values of each contract. The first request of a contract opens a market data line and "
            "waits up to 2 s for its first tick; the line is released 10 s after its last reader."
        ),
        answer=list[Quote],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "notSubscribed", "tooManySubscriptions", "pacingBudget"),
        query=queries.QuotesQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/bars",
        handle=queries.bars,
        summary="Historical bars",
        description=(
            "Historical bars. Equal requests are sent to IBKR once; the daemon keeps IBKR's pacing limits "
            "and answers 429 when they are used up. Dates are UTC."
        ),
        answer=list[Bar],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "notSubscribed", "pacingBudget", "contractAmbiguous", "tooLarge"),
        query=queries.BarsQuery,
        tag="market",
    ),
    Route(
        template=f"{API}/events",
        handle=events.events,
        summary="Server-Sent Events: a snapshot, then every change",
        description=(
            "First `snapshot` events, one topic a page, then `delta` events; null in a delta removes the "
            "row. Resume with `Last-Event-ID`; `reset` precedes a new snapshot where that is not possible. A "
            "slow reader gets merged deltas."
        ),
        answer=EVENTS,
        reasons=("tooManyStreams", "tooManySubscriptions", "notFound"),
        query=events.EventsQuery,
        tag="events",
    ),
    Route(
        template=f"{API}/alerts",
        handle=alerts.alerts,
        summary="Whether alerts and heartbeats reach their receivers, and the incidents under way",
        description=(
            "Always 200. `known` is false while the daemon does not answer; then only the alerts of the facade are "
            "listed. A receiver is shown without its path."
        ),
        answer=alerts.AlertHealth,
        query=Nothing,
        reasons=("invalidParameters",),
        tag="operation",
    ),
    Route(
        template=f"{API}/diagnostics",
        handle=diagnostics.diagnostics,
        summary="What the doctor finds between here and IBKR, with evidence and remedies",
        description="The checks of `ibkr doctor`, each with what it found and what to do.",
        answer=diagnostics.Diagnostics,
        query=Nothing,
        tag="operation",
    ),
    Route(
        template="/livez",
        handle=reads.livez,
        summary="Liveness probe",
        description="The serving process answers. Use it for liveness; it does not depend on the daemon or on IBKR.",
        answer=Alive,
        open=True,
        tag="operation",
    ),
    Route(
        template="/readyz",
        handle=reads.readyz,
        summary="The daemons answer and the links are ready",
        description=(
            "200 when every session is ready, or the one that `session` names; else 503. Not for liveness: a "
            "nightly reset must not restart a facade."
        ),
        answer=Ready,
        reasons=(*NOT_CONNECTED, "notFound"),
        query=reads.ReadyQuery,
        tag="operation",
    ),
    Route(
        template="/metrics",
        handle=metrics.metrics,
        summary="Prometheus' text",
        description="Metrics of facade, daemon and link in Prometheus' text format.",
        answer="text/plain",
        tag="operation",
    ),
    Route(
        template=f"{API}/openapi.json",
        handle=openapi.openapi,
        summary="This document",
        description="OpenAPI 3.1.",
        answer=dict[str, Any],
        tag="operation",
    ),
    Route(
        template="/docs",
        handle=files.docs,
        open=True,
        summary="A page to try it",
        description="Swagger UI, served locally.",
        answer=HTML,
        tag="operation",
    ),
    Route(
        template="/docs/reasons",
        handle=documentation.reasons,
        open=True,
        summary="What every reason means",
        description="Every reason with its sentence, advice and HTTP status.",
        answer=HTML,
        tag="operation",
    ),
)

ROUTES = (
    *_ROUTES,
    Route(
        template=f"{API}/sessions",
        handle=reads.sessions,
        summary="The sessions that this facade serves",
        description="One row a session, the default one first. Always 200.",
        answer=list[reads.SessionRow],
        query=Nothing,
        tag="link",
    ),
    *(of_named_session(route) for route in _ROUTES if route.template.startswith(f"{API}/")),
)
