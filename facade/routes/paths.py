"""The table of routes: what each path takes, returns and may refuse. The OpenAPI document is generated from it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from facade.http.responses import EVENTS, HTML
from facade.http.routing import API, Route, of_named_session
from facade.routes import commands, diagnostics, documentation, events, files, metrics, openapi, queries, reads
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
from shared.reasons import LINK_REASONS


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
    "portClosed",
    "hostUnreachable",
    "socketLost",
    "closedDuringHandshake",
    "sessionIncomplete",
    "portMoved",
    "loginRequired",
    "upstreamLost",
    "competingSession",
    "autoConnectOff",
    "manual",
    "shuttingDown",
)
"""What keeps a data route from answering."""

CALLED = ("brokerTimeout", "brokerError", "invalidParameters")
"""How a call of the daemon may fail besides."""

UNKNOWN = (*NOT_CONNECTED, "snapshotIncomplete", "invalidParameters")

_ROUTES = (
    Route(
        method="GET",
        template=f"{API}/status",
        handle=reads.status,
        summary="Whether the session is proven and the daemon answers",
        answer=Status,
        tag="link",
    ),
    Route(
        method="GET",
        template=f"{API}/link",
        handle=reads.link,
        summary="The link: phase, reason, sentence, advice, proof, gateway, farms",
        answer=Link,
        tag="link",
    ),
    Route(
        method="POST",
        template=f"{API}/connect",
        handle=commands.connect,
        summary="Connect, now, and keep the link up",
        answer=Status,
        reasons=(
            *LINK_REASONS,
            "daemonUnreachable",
            "connectInProgress",
            "hostNotAllowed",
            "liveLocked",
            "brokerTimeout",
            "brokerError",
            "invalidParameters",
        ),
        query=commands.ConnectQuery,
        body=ConnectParams,
        statuses=(200, 202),
        tag="link",
    ),
    Route(
        method="POST",
        template=f"{API}/disconnect",
        handle=commands.disconnect,
        summary="Disconnect, and stay disconnected until the next connect",
        answer=Status,
        reasons=("daemonUnreachable", "brokerTimeout", "brokerError", "invalidParameters"),
        query=Nothing,
        body=Nothing,
        tag="link",
    ),
    Route(
        method="POST",
        template=f"{API}/reconnect",
        handle=commands.reconnect,
        summary="Retry now instead of waiting",
        answer=Status,
        reasons=("daemonUnreachable", "brokerTimeout", "brokerError", "invalidParameters"),
        query=Nothing,
        body=Nothing,
        statuses=(202,),
        tag="link",
    ),
    Route(
        method="GET",
        template=f"{API}/accounts",
        handle=reads.accounts,
        summary="The login's accounts, paper or live",
        answer=list[Account],
        reasons=UNKNOWN,
        query=reads.StaleQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/account/summary",
        handle=reads.summary,
        summary="An account's values, in IBKR's own text",
        answer=list[AccountValue],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/account/pnl",
        handle=reads.pnl,
        summary="An account's profit and loss",
        answer=list[PnL],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/account/pnl/history",
        handle=queries.pnl_history,
        summary="An account's profit and loss of today as a series, a point each 5 s while it changes",
        answer=list[PnLPoint],
        reasons=(*NOT_CONNECTED, *CALLED, "ledgerUnavailable", "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/positions",
        handle=reads.positions,
        summary="An account's positions with market value and profit and loss",
        answer=list[Position],
        reasons=(*UNKNOWN, "accountAmbiguous", "notFound"),
        query=reads.AccountQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/orders",
        handle=reads.orders,
        summary="Orders of all clients, open and completed",
        answer=list[Order],
        reasons=(*UNKNOWN, "notFound"),
        query=reads.OrdersQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/executions",
        handle=queries.executions,
        summary="Fills by execution time, the last 24 hours by default",
        answer=list[Fill],
        reasons=(*UNKNOWN, *CALLED, "ledgerUnavailable", "notFound"),
        query=queries.ExecutionsQuery,
        statuses=(200, 304),
        tag="account",
    ),
    Route(
        method="GET",
        template=f"{API}/link/events",
        handle=queries.link_events,
        summary="Every change of phase with its duration; uptime over 24 h, 7 d, 30 d",
        answer=LinkHistory,
        reasons=("daemonUnreachable", *CALLED, "ledgerUnavailable"),
        query=queries.SinceQuery,
        tag="link",
    ),
    Route(
        method="GET",
        template=f"{API}/contracts/search",
        handle=queries.search,
        summary="Contracts by symbol or name",
        answer=list[ContractMatch],
        reasons=(*NOT_CONNECTED, *CALLED, "pacingBudget"),
        query=queries.SearchQuery,
        tag="market",
    ),
    Route(
        method="POST",
        template=f"{API}/contracts/qualify",
        handle=queries.qualify,
        summary="The one contract that a description means",
        answer=Contract,
        reasons=(*NOT_CONNECTED, *CALLED, "contractAmbiguous", "notFound", "pacingBudget"),
        query=Nothing,
        body=ContractQuery,
        tag="market",
    ),
    Route(
        method="GET",
        template=f"{API}/contracts/{{conId}}",
        handle=queries.contract,
        summary="A contract's details",
        answer=list[ContractDetails],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "contractAmbiguous", "pacingBudget"),
        query=reads.StaleQuery,
        tag="market",
    ),
    Route(
        method="GET",
        template=f"{API}/contracts/{{conId}}/options",
        handle=queries.options,
        summary="Which options of an underlying exist",
        answer=list[OptionChain],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "contractAmbiguous", "pacingBudget"),
        query=reads.StaleQuery,
        tag="market",
    ),
    Route(
        method="GET",
        template=f"{API}/quotes",
        handle=queries.quotes,
        summary="Quotes, each tagged live, delayed or frozen",
        answer=list[Quote],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "notSubscribed", "tooManySubscriptions", "pacingBudget"),
        query=queries.QuotesQuery,
        tag="market",
    ),
    Route(
        method="GET",
        template=f"{API}/bars",
        handle=queries.bars,
        summary="Historical bars",
        answer=list[Bar],
        reasons=(*NOT_CONNECTED, *CALLED, "notFound", "notSubscribed", "pacingBudget", "contractAmbiguous", "tooLarge"),
        query=queries.BarsQuery,
        tag="market",
    ),
    Route(
        method="GET",
        template=f"{API}/events",
        handle=events.events,
        summary="Server-Sent Events: a snapshot, then every change",
        answer=EVENTS,
        reasons=("tooManyStreams", "invalidParameters", "tooManySubscriptions", "notFound"),
        query=events.EventsQuery,
        tag="events",
    ),
    Route(
        method="GET",
        template=f"{API}/diagnostics",
        handle=diagnostics.diagnostics,
        summary="What the doctor finds between here and IBKR, with evidence and remedies",
        answer=diagnostics.Diagnostics,
        query=Nothing,
        reasons=("invalidParameters",),
        tag="operation",
    ),
    Route(
        method="GET",
        template="/livez",
        handle=reads.livez,
        summary="Liveness probe",
        answer=Alive,
        open=True,
        tag="operation",
    ),
    Route(
        method="GET",
        template="/readyz",
        handle=reads.readyz,
        summary="The daemons answer and the links are ready",
        answer=Ready,
        reasons=(*NOT_CONNECTED, "notFound", "invalidParameters"),
        query=reads.ReadyQuery,
        tag="operation",
    ),
    Route(
        method="GET",
        template="/metrics",
        handle=metrics.metrics,
        summary="Prometheus' text",
        answer="text/plain",
        tag="operation",
    ),
    Route(
        method="GET",
        template=f"{API}/openapi.json",
        handle=openapi.openapi,
        summary="This document",
        answer=dict[str, Any],
        tag="operation",
    ),
    Route(
        method="GET",
        template="/docs",
        handle=files.docs,
        open=True,
        summary="A page to try it",
        answer=HTML,
        tag="operation",
    ),
    Route(
        method="GET",
        template="/docs/reasons",
        handle=documentation.reasons,
        open=True,
        summary="What every reason means",
        answer=HTML,
        tag="operation",
    ),
)

ROUTES = (
    *_ROUTES,
    Route(
        method="GET",
        template=f"{API}/sessions",
        handle=reads.sessions,
        summary="The sessions that this facade serves",
        answer=list[reads.SessionRow],
        query=Nothing,
        reasons=("invalidParameters",),
        tag="link",
    ),
    *(of_named_session(route) for route in _ROUTES if route.template.startswith(f"{API}/")),
)
