"""What a route is, and how the table of routes fills aiohttp's router.

The table itself is in `routes/paths.py`. Everything that the OpenAPI document contains about a route stands in its
`Route`; nothing is written twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
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

API = "/api/ibkr"
SESSIONS = f"{API}/sessions/"
EVERY_OTHER_PATH = "/{path:(?s:.*)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`answer`: type of a 200's JSON body, or its content type where it is not JSON. `reasons`: what it may refuse with
    beside what every route may. `query`: `None` ignores parameters; a struct refuses unknown ones."""

    method: str
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


def of_named_session(route: Route) -> Route:
    """`route` under the path of a named session; in the metrics they are the same."""
    template = SESSIONS + "{session}" + route.template.removeprefix(API)
    return replace(route, template=template, label=route.label or route.template)


def add_routes(router: web.UrlDispatcher, routes: Iterable[Route], session_of: Callable[[web.Request], Any]) -> None:
    """Each template with its own methods; every other method of a known path is refused with `Allow`.

    `session_of` is called for each request; it raises `Problem` for a session that is not served.
    """
    by_template: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        by_template[route.template].append(route)
    for template, methods in by_template.items():
        resource = router.add_resource(template)
        for route in methods:
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                resource.add_route(method, _endpoint(route, session_of), expect_handler=_after_the_guard)
        refuse = _refuse_method(", ".join(sorted(each.method for each in resource)), session_of)
        resource.add_route("*", refuse, expect_handler=_after_the_guard)
    router.add_route("*", EVERY_OTHER_PATH, _not_found, expect_handler=_after_the_guard)


async def _after_the_guard(_request: web.Request) -> None:
    """An `Expect` header is not answered here, which is before any middleware, but where the body is read."""


async def _not_found(_request: web.Request) -> web.StreamResponse:
    raise Problem("notFound", "There is no such path here.")


def _endpoint(
    route: Route, session_of: Callable[[web.Request], Any]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def endpoint(request: web.Request) -> web.StreamResponse:
        session = session_of(request)
        check_body_headers(request)
        query = None if route.query is None else parsed_query(request.raw_path, route.query)
        body = None if route.body is None else await parsed_body(request, route.body)
        return await route.handle(session, RequestContext(request, request.match_info, query, body))

    return endpoint


def _refuse_method(
    allow: str, session_of: Callable[[web.Request], Any]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def refuse(request: web.Request) -> web.StreamResponse:
        session_of(request)  # a session that is not served has no methods
        raise Problem("methodNotAllowed", extra={"allow": allow})

    return refuse
