"""What a route is, and how the table of routes fills aiohttp's router.

The table itself is in `routes/paths.py`. Everything that the OpenAPI document contains about a route stands in its
`Route`; nothing is written twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from aiohttp import web
from msgspec import Struct

from facade.http.guard import check_body_headers
from facade.http.request_data import parsed_body, parsed_query
from shared.reasons import Problem


@dataclass(slots=True)
class RequestContext:
    """One request that has passed the guard. `args`: the path's parameters; `query`, `body`: the route's structs."""

    request: web.Request
    args: Mapping[str, str]
    query: Any
    body: Any


Handle = Callable[[Any, RequestContext], Awaitable[web.StreamResponse]]
"""`async def handle(session, context) -> response`; raises `Problem` to refuse."""

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]

API = "/api/ibkr"
SESSIONS = f"{API}/sessions/"
SESSION: web.RequestKey[Any] = web.RequestKey("session", object)
"""The session that a request is about."""
EVERY_OTHER_PATH = "/{path:(?s:.*)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`answer`: type of a 200's JSON body, or its content type where it is not JSON. `reasons`: what it may refuse with
    beside what every route may. `query`: `None` ignores parameters; a struct refuses unknown ones."""

    template: str
    handle: Handle
    summary: str
    answer: Any
    description: str = ""
    reasons: tuple[str, ...] = ()
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    statuses: tuple[int, ...] = (200,)
    open: bool = False
    """Answered without a token: the page's own files, the help and `/livez`."""
    tag: str = "state"
    hidden: bool = False
    """Not in the OpenAPI document: the page's files."""
    label: str = ""
    """Its name in the metrics, where that is not its template."""

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def of_named_session(route: Route) -> Route:
    """`route` under the path of a named session; in the metrics they are the same."""
    template = SESSIONS + "{session}" + route.template.removeprefix(API)
    return replace(route, template=template, label=route.label or route.template)


def add_routes(router: web.UrlDispatcher, routes: Iterable[Route]) -> None:
    """Each template with its own methods; every other method of a known path is refused with `Allow`."""
    by_template: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        by_template[route.template].append(route)
    for template, methods in by_template.items():
        resource = router.add_resource(template)
        for route in methods:
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                resource.add_route(method, _endpoint(route), expect_handler=_after_the_guard)
        allow = ", ".join(sorted(each.method for each in resource))
        resource.add_route(
            "*", _refuse(partial(Problem, "methodNotAllowed", extra={"allow": allow})), expect_handler=_after_the_guard
        )
    router.add_route(
        "*",
        EVERY_OTHER_PATH,
        _refuse(partial(Problem, "notFound", "There is no such path here.")),
        expect_handler=_after_the_guard,
    )


async def _after_the_guard(_request: web.Request) -> None:
    """An `Expect` header is not answered here, which is before any middleware, but where the body is read."""


def _endpoint(route: Route) -> Endpoint:
    async def endpoint(request: web.Request) -> web.StreamResponse:
        check_body_headers(request)
        query = None if route.query is None else parsed_query(request.raw_path, route.query)
        body = None if route.body is None else await parsed_body(request, route.body)
        return await route.handle(request[SESSION], RequestContext(request, request.match_info, query, body))

    return endpoint


def _refuse(problem: Callable[[], Problem]) -> Endpoint:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        raise problem()

    return refuse
