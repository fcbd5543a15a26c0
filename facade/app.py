"""The state that request handlers share, and the aiohttp application around it: one middleware, one router."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiohttp import web
from prometheus_client import Histogram

from facade.alerts import DaemonAlerts
from facade.events.stream import Streams
from facade.http.guard import BODY_LIMIT, Guard
from facade.http.problems import LinkState, fault, refusal
from facade.http.responses import add_headers, may_wait, request_id, send_in_time
from facade.http.routing import SESSION, SESSIONS, Route, add_routes
from facade.replica.mirror import Mirror
from shared.clock import Clock
from shared.log import REQUEST_ID
from shared.reasons import Problem
from shared.settings import Settings

log = structlog.get_logger(__name__)
_logger = logging.getLogger(__name__)  # for its level alone, where a line is rarely written

INFO_TIMEOUT = 1.0
"""s for the daemon's figures; an answer without them is better than none."""

EFFECT_TIMEOUT = 5.0
"""s for the replica to hold what a call has changed; the delta follows the daemon's answer at once."""

UNKNOWN = "unknown"
"""The metrics' label of every path without a route."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One daemon's session as the handlers see it. `settings`: the session's own, as its daemon reads them."""

    name: str
    settings: Settings
    facade: Facade
    mirror: Mirror
    streams: Streams
    joined: dict[tuple[str, str, str], tuple[str, bytes]] = field(default_factory=dict)
    """Data responses by topic, account and scope, each with its entity tag."""
    examination: asyncio.Task[Any] | None = None
    """The doctor's latest run, shared by all requests that come while it is under way."""

    async def daemon_info(self) -> dict[str, Any]:
        """The daemon's figures, empty where it does not answer."""
        try:
            return msgspec.json.decode(await self.mirror.call("daemon.info", {}, INFO_TIMEOUT), type=dict[str, Any])
        except (Problem, msgspec.DecodeError):
            return {}

    async def call(self, method: str, params: Any, timeout: float | None) -> msgspec.Raw:
        """The daemon's result. Raises `Problem`, after the replica holds what the failed call has changed."""
        try:
            return await self.mirror.call(method, params, timeout)
        except Problem as problem:
            seq = problem.extra.get("daemon", {}).get("seq")
            if isinstance(seq, int):
                with contextlib.suppress(Problem):
                    await self.mirror.state.wait_for_seq(seq, EFFECT_TIMEOUT)
            raise


@dataclass(slots=True, kw_only=True)
class Facade:
    """What belongs to the process. `counts`: requests by route, status and session.

    `sessions`: by name, the default one first. A request is about exactly one of them.
    """

    settings: Settings
    clock: Clock
    routes: tuple[Route, ...]
    guard: Guard
    sessions: dict[str, Session] = field(default_factory=dict)
    counts: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    durations: Histogram = field(default_factory=lambda: _durations())
    draining: bool = False
    """Every response ends its connection: this process is about to end."""
    server: web.Server | None = None
    alerts: list[DaemonAlerts] = field(default_factory=list)
    loop_lag: float = 0.0

    @property
    def default(self) -> Session:
        return next(iter(self.sessions.values()))

    @property
    def complete(self) -> bool:
        """Whether every session's replica is complete and current."""
        return all(session.mirror.state.complete for session in self.sessions.values())

    def session_of(self, request: web.Request) -> Session | None:
        """The session that `request` is about; `None` where its path names one that is not served."""
        name = request.match_info.get("session")
        if name is not None:
            return self.sessions.get(name)
        return None if request.path.startswith(SESSIONS) else self.default

    def no_such_session(self) -> Problem:
        served = ", ".join(self.sessions)
        detail = f"There is no such path or session here. The sessions are {served}."
        return Problem("notFound", detail, extra={"session": None})

    def about(self, problem: Problem, session: Session | None) -> tuple[str | None, LinkState | None]:
        """Name and state of the session that `problem` is about: the one in its `extra`, else `session`."""
        if "session" in problem.extra:
            session = self.sessions.get(problem.extra["session"])
        return (session.name, session.mirror.state) if session is not None else (None, None)


def _durations() -> Histogram:
    return Histogram(
        "ibkr_http_request_duration_seconds",
        "From the request's head to its response; event streams are not counted.",
        ["route", "status", "session"],
        buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0),
        registry=None,
    )


def application(facade: Facade) -> web.Application:
    """The routes of `facade` behind its guard."""
    labels = {route.template: route.label or route.template for route in facade.routes}

    @functools.cache  # of the routes' labels, the statuses in use and the sessions
    def duration(label: str, status: int, session: str) -> Histogram:
        return facade.durations.labels(label, status, session)

    @web.middleware
    async def respond(request: web.Request, handler: Any) -> web.StreamResponse:
        """Guard, route, response. Raises nothing but cancellation."""
        REQUEST_ID.set(request_id(request.headers.get("X-Request-Id")))  # of this request's own context
        path = request.raw_path.partition("?")[0]
        begun = facade.clock.monotonic()
        request[SESSION] = session = facade.session_of(request)
        name = session.name if session is not None else ""
        about: Session | None = None  # a refusal by the guard reveals nothing of the link
        response: web.StreamResponse
        try:
            facade.guard.admit(request, path)
            if session is None:
                raise facade.no_such_session()
            about = session
            response = await handler(request)
        except Problem as problem:
            response = refusal(problem, path, *facade.about(problem, about))
        except Exception:
            log.exception("facade.fault", message="A request failed inside the facade.", path=path)
            response = fault(path)
        resource = request.match_info.route.resource
        label = labels.get(resource.canonical, UNKNOWN) if resource is not None else UNKNOWN
        facade.counts[label, response.status, name] += 1
        if isinstance(response, web.Response):
            duration(label, response.status, name).observe(facade.clock.monotonic() - begun)
        if request.method == "POST" or _logger.isEnabledFor(logging.DEBUG):
            level = logging.INFO if request.method == "POST" else logging.DEBUG
            log.log(level, "facade.request", message=f"{request.method} {path}: {response.status}")
        # a body that was not read would be taken for the next request
        if facade.draining or not request.content.is_eof():
            response.force_close()
        if isinstance(response, web.Response) and may_wait(request.transport, response):
            await send_in_time(request, response)
        return response

    app = web.Application(middlewares=[respond], client_max_size=BODY_LIMIT)
    add_routes(app.router, facade.routes)
    app.on_response_prepare.append(add_headers)
    return app
