"""A request's query and JSON body, read strictly into the structs of its route.

What cannot be read is 400, what can be read and is not acceptable 422.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import HttpVersion11, web

from facade.http.guard import BODY_LIMIT
from shared.reasons import Problem
from shared.refusals import refusal

S = TypeVar("S", bound=msgspec.Struct)

BODY_TIMEOUT = 5.0
"""s for a body of at most 16 KiB to arrive."""

MAX_DEPTH = 64
"""Levels of nesting; no body the API takes has more than one."""

STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
BRACKETS = re.compile(rb"[\[\]{}]")

PARAMETERS = 32
"""Query parameters; no route takes more than six."""


def parsed_query(raw_path: str, wanted: type[S]) -> S:
    """The parameters as `wanted`. Raises `Problem` 422 for an unknown, doubled, unreadable or unacceptable one."""
    text = raw_path.partition("?")[2]
    if not text:
        defaults: S = _defaults(wanted)
        return defaults
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=PARAMETERS)
    except ValueError as error:
        raise Problem("invalidParameters", f"The query cannot be read: {error}.") from error
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise Problem("invalidParameters", f"The parameter {name} is given twice.")
        given[name] = value
    return converted(given, wanted, strict=False)


@cache  # bounded by the table; a required parameter that is missing raises and is not kept
def _defaults(wanted: type[msgspec.Struct]) -> Any:
    return converted({}, wanted, strict=False)


async def parsed_body(request: web.BaseRequest, wanted: type[S]) -> S:
    """The body as `wanted`; none at all is `{}`. Raises `Problem` 400, 408, 413 or 422."""
    raw = await _read(request)
    given = parsed_json(raw) if raw else {}
    if not isinstance(given, dict):
        raise Problem("invalidParameters", "The body must be one JSON object.")
    return converted(given, wanted, strict=True)


def parsed_json(raw: bytes) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN, no infinity, at most `MAX_DEPTH` deep. Raises `Problem` 400."""
    if _depth(raw) > MAX_DEPTH:
        raise Problem("badRequest", f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
        return value
    except UnicodeError:
        raise Problem("badRequest", "The body is not UTF-8.") from None
    except ValueError as error:
        raise Problem("badRequest", f"The body is not JSON: {error}.") from error


def converted(given: Mapping[str, Any], wanted: type[S], *, strict: bool) -> S:
    try:
        return msgspec.convert(given, wanted, strict=strict)
    except msgspec.ValidationError as error:
        raise Problem("invalidParameters", refusal(error, wanted)) from error


async def _read(request: web.BaseRequest) -> bytes:
    transport = request.transport
    if transport is not None and "Expect" in request.headers and request.version >= HttpVersion11:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError:
        raise Problem("bodyTimeout", f"The body did not arrive within {BODY_TIMEOUT:g} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise Problem("tooLarge", f"The body is larger than {BODY_LIMIT} bytes.") from None
    except web.RequestPayloadError as error:
        raise Problem("badRequest", "The body is not framed as its headers announce.") from error


def _depth(raw: bytes) -> int:
    """How deep arrays and objects are nested; a look at the brackets alone, since parsers differ in what they bear."""
    deepest = depth = 0
    for bracket in BRACKETS.findall(STRINGS.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
