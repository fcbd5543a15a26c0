"""What a request asks: its query and its JSON body, read strictly into the structs of the route.

What cannot be read is 400, what is read and not acceptable 422. Never decides what an acceptable request means.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp.web_protocol import RequestPayloadError
from aiohttp.web_request import BaseRequest

from facade.http.guard import BODY_LIMIT
from shared.reasons import Problem

S = TypeVar("S", bound=msgspec.Struct)

BODY_SECONDS = 5.0
"""s for a body of at most 16 KiB to arrive."""

PARAMETERS = 32
"""Query parameters; no route takes more than six."""


def parsed_query(raw_path: str, wanted: type[S]) -> S:
    """The parameters as `wanted`. Raises `Problem` 422 for an unknown, doubled, unreadable or unacceptable one."""
    text = raw_path.partition("?")[2]
    if not text:
        asked: S = _nothing_asked(wanted)
        return asked
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


@cache  # bounded by the table; a wanted parameter that is missing is not kept
def _nothing_asked(wanted: type[msgspec.Struct]) -> Any:
    return converted({}, wanted, strict=False)


async def parsed_body(request: BaseRequest, wanted: type[S]) -> S:
    """The body as `wanted`; none at all is `{}`. Raises `Problem` 400, 408, 413 or 422."""
    raw = await _read(request)
    given = parsed_json(raw) if raw else {}
    if not isinstance(given, dict):
        raise Problem("invalidParameters", "The body must be one JSON object.")
    return converted(given, wanted, strict=True)


def parsed_json(raw: bytes) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN, no infinity, not too deep. Raises `Problem` 400."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
        return value
    except RecursionError:
        raise Problem("badRequest", "The body is nested too deep.") from None
    except UnicodeError:
        raise Problem("badRequest", "The body is not UTF-8.") from None
    except ValueError as error:
        raise Problem("badRequest", f"The body is not JSON: {error}.") from error


def converted(given: Mapping[str, Any], wanted: type[S], *, strict: bool) -> S:
    try:
        return msgspec.convert(given, wanted, strict=strict)
    except msgspec.ValidationError as error:
        raise Problem("invalidParameters", f"{error}.") from error


async def _read(request: BaseRequest) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while not request.content.at_eof():
                body += await request.content.readany()
                if len(body) > BODY_LIMIT:
                    raise Problem("tooLarge", f"The body is larger than {BODY_LIMIT} bytes.")
    except TimeoutError:
        raise Problem("bodyTimeout", f"The body did not arrive within {BODY_SECONDS:g} s.") from None
    except RequestPayloadError as error:
        raise Problem("badRequest", "The body is not framed as its headers say.") from error
    return bytes(body)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is given twice")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
