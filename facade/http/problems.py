"""RFC 9457 problems as responses, from the one catalogue of reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from facade.http.responses import NO_HEADERS, PROBLEM, reply
from shared.reasons import Problem, describe

TYPES = "/docs/reasons#{}"

ENCODER = msgspec.json.Encoder()


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal. `session`: the one that the request is about; null where it names none of ours.

    `nextAttemptAt`: when the link is tried next. `ibCode`: IBKR's own number.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reason: str | None
    session: str | None
    phase: str | None
    advice: tuple[str, ...]
    retryable: bool
    nextAttemptAt: datetime | None
    ibCode: int | None


def refusal(
    problem: Problem,
    *,
    instance: str,
    session: str | None = None,
    phase: str | None = None,
    sentence: str = "",
    advice: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
    next_attempt: datetime | None = None,
    now: datetime | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> web.Response:
    """`problem` as a response. `facts` fill in the catalogue's words (`host`, `port`, `clientId`); `sentence` and
    `advice` replace them where a link row or the daemon has filled them in already.

    503 and 429 have `Retry-After`: `problem.retryAfter`, else the time to `next_attempt`, else a second.
    """
    entry = problem.entry
    default_sentence, default_advice = describe(problem.reason, **(facts or {}))
    details = ProblemDetails(
        type=TYPES.format(problem.reason),
        title=entry.title,
        status=entry.status,
        detail=_text(problem.detail or sentence or default_sentence),
        instance=_reference(instance),
        reason=problem.reason,
        session=session,
        phase=phase,
        advice=default_advice if advice is None else tuple(advice),
        retryable=entry.retryable,
        nextAttemptAt=next_attempt,
        ibCode=problem.ibCode,
    )
    if entry.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        headers = {**headers, "Retry-After": str(_seconds(problem.retryAfter, next_attempt, now))}
    body = ENCODER.encode(_merged(details, problem.extra) if problem.extra else details)
    return reply(body, PROBLEM, status=entry.status, headers=headers)


def fault(instance: str) -> web.Response:
    """An internal error: no reason of the catalogue, and nothing of its cause."""
    details = ProblemDetails(
        type="about:blank",
        title="Internal error",
        status=500,
        detail="Internal error; see facade.log. The session is not touched.",
        instance=_reference(instance),
        reason=None,
        session=None,
        phase=None,
        advice=("Run `ibkr support-bundle` and report it.",),
        retryable=True,
        nextAttemptAt=None,
        ibCode=None,
    )
    response = reply(ENCODER.encode(details), PROBLEM, status=500)
    response.force_close()
    return response


def _seconds(wait: float | None, at: datetime | None, now: datetime | None) -> int:
    """Whole seconds until a retry may succeed, rounded up, at least 1."""
    if wait is None and at is not None and now is not None:
        wait = (at - now).total_seconds()
    return max(1, math.ceil(wait)) if wait is not None and math.isfinite(wait) else 1


def _text(text: str) -> str:
    """Text from outside may hold lone surrogates, which JSON cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _reference(path: str) -> str:
    """`path` as a URI reference, whatever bytes it came as."""
    return path if path.isascii() else quote(path.encode("utf-8", "surrogateescape"), safe="/%:@!$&'()*+,;=~")


def _merged(details: ProblemDetails, extra: dict[str, Any]) -> dict[str, Any]:
    return msgspec.structs.asdict(details) | {key: value for key, value in extra.items() if key not in _OWN}


_OWN = frozenset(ProblemDetails.__struct_fields__)
