"""The OpenAPI 3.1 document, generated from the table of routes and the structs they name when it is first requested."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_origin

import msgspec
from aiohttp import web
from msgspec import Struct

from facade.app import Session
from facade.http.problems import ProblemDetails
from facade.http.responses import JSON, PROBLEM, reply
from facade.http.routing import API, SESSIONS, RequestContext, Route
from shared.messages import MAX_CON_ID, LinkHistory
from shared.reasons import CATALOGUE
from shared.settings import SESSION_NAME

REF = "#/components/schemas/{name}"

EVERYWHERE = (
    "badRequest",
    "peerRejected",
    "originRejected",
    "hostRejected",
    "tooLarge",
    "unsupportedMediaType",
    "expectationFailed",
)
"""Reasons for which any request may be refused before its route's handler runs."""

WITH_BODY = ("bodyTimeout", "invalidParameters")

TAGS = {
    "link": "The link to Interactive Brokers",
    "account": "What the accounts hold",
    "market": "Contracts, quotes, bars",
    "events": "Everything as it happens",
    "operation": "Operation and monitoring",
}

BASE = re.compile(re.escape(SESSIONS) + r"\{session\}")
"""The path of a named session, whose responses are those of the default one."""


class Meta(Struct, frozen=True, kw_only=True):
    """What the data is worth: `asOf` and `seq` of its last change, `stale` where it may be old; of which `session`."""

    asOf: str | None
    stale: bool
    epoch: str
    seq: int
    source: str
    session: str | None


def document(routes: Iterable[Route], *, token: bool = False) -> dict[str, Any]:
    """The document of `routes`. `token`: a bearer token is required."""
    shown = [route for route in routes if not route.hidden]
    structs: list[Any] = [ProblemDetails, Meta]
    for route in shown:
        structs += [route.answer] if not isinstance(route.answer, str) else []
        structs += [route.body] if route.body is not None else []
    schemas, components = msgspec.json.schema_components(structs, ref_template=REF)
    bodies = {route.body.__name__ for route in shown if route.body is not None}
    for name, schema in components.items():
        _without_defaults(schema, always_present=name not in bodies)
    known = {_key(struct): schema for struct, schema in zip(structs, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in shown:
        if _has_envelope(route):
            components[_envelope_name(route)] = {
                "type": "object",
                "required": ["data", "meta"],
                "properties": {"data": known[_key(route.answer)], "meta": known[_key(Meta)]},
            }
        paths[route.template][route.method.lower()] = _operation(route, known, token=token)
    members: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "IBKR link",
            "version": "1",
            "summary": "One session with Interactive Brokers, and whether it can be trusted now",
            "description": "Unknown, empty and stale are three different answers. Every refusal is a problem "
            "(RFC 9457) with a `reason` of [the catalogue](/docs/reasons).",
            "license": {"name": "MIT", "identifier": "MIT"},
            "contact": {"name": "ibkr-link"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": dict(paths),
        "components": {"schemas": components},
    }
    members["security"] = []
    if token:
        members["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        members["security"] = [{"token": []}]
    return members


def _without_defaults(schema: dict[str, Any], *, always_present: bool) -> None:
    """Response members are always there, so that they are `required`; request members with a default are optional.

    A `default` in the document would make generated types require what a request may leave out.
    """
    properties = schema.get("properties", {})
    given = [name for name, of in properties.items() if "default" in of]
    for name in given:
        del properties[name]["default"]
    if given and always_present:
        schema["required"] = [name for name in properties if name in {*schema.get("required", ()), *given}]


def _has_envelope(route: Route) -> bool:
    """Whether rows come as `data` with `meta`: lists, and the link's history with its uptime."""
    return route.method == "GET" and (get_origin(route.answer) is list or route.answer is LinkHistory)


def _envelope_name(route: Route) -> str:
    """`PositionsAnswer` for `/positions`, also under a session's path."""
    return _capitalized(BASE.sub(API, route.template)) + "Answer"


def _capitalized(path: str) -> str:
    """`ContractsConId` for `/api/ibkr/contracts/{conId}`."""
    return "".join(word[:1].upper() + word[1:] for word in re.findall(r"\w+", path.removeprefix(API)))


def _operation(route: Route, known: dict[str, Any], *, token: bool) -> dict[str, Any]:
    members: dict[str, Any] = {
        "operationId": route.method.lower() + _capitalized(route.template),
        "summary": route.summary,
        "description": route.description,
        "tags": [route.tag],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {
            **{str(status): _success(route, status, known) for status in route.statuses},
            **_refusals(route, token=token and not route.open),
        },
    }
    if route.body is not None:
        members["requestBody"] = {"required": True, "content": {JSON: {"schema": known[_key(route.body)]}}}
    if token and route.open:
        members["security"] = []
    return members


def _success(route: Route, status: int, known: dict[str, Any]) -> dict[str, Any]:
    if status == 304:
        return {"description": "Not changed since", "headers": {"ETag": _header("Of what is held")}}
    if isinstance(route.answer, str):
        return {
            "description": route.summary,
            "content": {route.answer.partition(";")[0]: {"schema": {"type": "string"}}},
        }
    schema = {"$ref": REF.format(name=_envelope_name(route))} if _has_envelope(route) else known[_key(route.answer)]
    content = {"schema": schema}
    example = _examples().get(BASE.sub(API, route.template))
    if example is not None:
        content["example"] = example
    members: dict[str, Any] = {"description": route.summary, "content": {JSON: content}}
    if 304 in route.statuses:
        members["headers"] = {
            "ETag": _header('"EPOCH-SEQ" of the topic\'s last change, "EPOCH-SEQ-stale" where it may be old')
        }
    return members


def _refusals(route: Route, *, token: bool) -> dict[str, Any]:
    reasons = {*EVERYWHERE, *route.reasons, *(WITH_BODY if route.body is not None else ())}
    if "{session}" in route.template:
        reasons.add("notFound")
    if route.query is not None:
        reasons.add("invalidParameters")
    if token:
        reasons.add("tokenMissing")
    by_status: dict[int, list[str]] = defaultdict(list)
    for reason in sorted(reasons):
        by_status[CATALOGUE[reason].status].append(reason)
    return {
        str(status): {
            "description": "; ".join(f"`{reason}`: {CATALOGUE[reason].title}" for reason in given),
            "headers": {"Retry-After": _header("s until a retry may succeed")} if status in (429, 503) else {},
            "content": {PROBLEM: {"schema": {"$ref": REF.format(name="ProblemDetails")}}}
            | ({"text/plain": {"schema": {"type": "string"}}} if status == 400 else {}),  # by the parser: no HTTP
        }
        for status, given in sorted(by_status.items())
    }


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schemas = {
        "conId": {"type": "integer", "minimum": 1, "maximum": MAX_CON_ID},
        "session": {"type": "string", "pattern": f"^{SESSION_NAME.pattern}$"},
    }
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas[name]}
        for name in re.findall(r"{(\w+)}", route.template)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=REF)
    schema = components[route.query.__name__]
    parameters = []
    for name, of in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        parameter = {"name": name, "in": "query", "required": required, "schema": of}
        default = of.pop("default", None)
        if default not in (None, ""):
            parameter["description"] = f"Default: {json.dumps(default)}"
        parameters.append(parameter)
    return parameters


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    names = ["If-None-Match"] if 304 in route.statuses else []
    names += ["Last-Event-ID"] if route.template.endswith("/events") and route.tag == "events" else []
    return [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in names]


@cache
def _examples() -> dict[str, Any]:
    """What the demonstration has answered, by path; see `examples.py`."""
    return msgspec.json.decode((Path(__file__).parent / "examples.json").read_bytes(), type=dict[str, Any])


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _key(struct: Any) -> str:
    return repr(struct)


# --- the route ------------------------------------------------------------------------------------------------------


async def openapi(session: Session, _context: RequestContext) -> web.StreamResponse:
    """The document of this facade."""
    return reply(_encoded(session.facade.routes, session.settings.facade_token_file is not None))


@cache  # one table, one document
def _encoded(routes: tuple[Route, ...], token: bool) -> bytes:
    return msgspec.json.encode(document(routes, token=token))
