"""What a route is, and which route a path and a method mean.

The table itself is in `routes/paths.py`. Everything the OpenAPI document says of a route stands in its `Route`; nothing
is written twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from msgspec import Struct

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

    from facade.app import Facade
    from facade.http.answer import Answer


class Asked:
    """One request that has passed every guard. `args`: the path's parameters; `query`, `body`: the route's structs."""

    __slots__ = ("args", "body", "query", "request", "route")

    def __init__(self, request: BaseRequest, route: Route, args: Mapping[str, str], query: Any, body: Any) -> None:
        self.request = request
        self.route = route
        self.args = args
        self.query = query
        self.body = body


Handler = Callable[["Facade", Asked], "Answer | Awaitable[Answer]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`answer`: type of a 200's JSON body, or its content type where it is not JSON. `reasons`: what it may refuse with
    beside what every route may. `query`: `None` ignores parameters; a struct refuses those it does not know."""

    method: str
    template: str
    handle: Handler
    summary: str
    answer: Any
    reasons: tuple[str, ...] = ()
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    statuses: tuple[int, ...] = (200,)
    open: bool = False
    """Answered without a token: the page's own files and `/livez`."""
    tag: str = "state"
    hidden: bool = False
    """Not in the OpenAPI document: the page's files."""
    label: str = ""
    """What the metrics call it, where that is not its template."""


Methods = dict[str, Route]
NO_ARGS: Mapping[str, str] = {}


class Table:
    """Routes by exact path, and those with a `{parameter}` by their segments."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, Methods] = {}
        self._patterns: dict[tuple[str, ...], Methods] = {}
        for route in self.routes:
            if "{" in route.template:
                self._patterns.setdefault(tuple(route.template.split("/")), {})[route.method] = route
            else:
                self._exact.setdefault(route.template, {})[route.method] = route

    def find(self, path: str) -> tuple[Methods, Mapping[str, str]] | None:
        """The methods of `path` and its parameters. `path` as it came, without its query."""
        found = self._exact.get(path)
        if found is not None:
            return found, NO_ARGS
        if "%" in path:
            try:
                plain = unquote_to_bytes(path).decode()
            except UnicodeDecodeError:
                return None
            return self.find(plain) if "%" not in plain else None
        segments = path.split("/")
        for pattern, methods in self._patterns.items():
            args = _matched(pattern, segments)
            if args is not None:
                return methods, args
        return None

    def label(self, path: str) -> str:
        """The template of a path for the metrics; one label for every path there is not."""
        found = self.find(path)
        if found is None:
            return "unknown"
        route = next(iter(found[0].values()))
        return route.label or route.template


def _matched(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    args = {}
    for wanted, given in zip(pattern, segments, strict=True):
        if wanted[:1] == "{" and given:
            args[wanted[1:-1]] = given
        elif wanted != given:
            return None
    return args
