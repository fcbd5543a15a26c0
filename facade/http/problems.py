"""RFC 9457 problems, from the one catalogue of reasons.

Knows how a refusal is written, never why one is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import msgspec

from facade.http.answer import PROBLEM, Answer
from shared.reasons import Problem, describe

TYPES = "/docs/reasons#{}"

ENCODER = msgspec.json.Encoder()


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal. `nextAttemptAt`: when the link is tried next. `ibCode`: IBKR's own number."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reason: str | None
    phase: str | None
    advice: tuple[str, ...]
    retryable: bool
    nextAttemptAt: datetime | None
    ibCode: int | None


def refusal(
    problem: Problem,
    *,
    instance: str,
    phase: str | None = None,
    sentence: str = "",
    advice: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
    next_attempt: datetime | None = None,
    now: datetime | None = None,
    more: bytes = b"",
    close: bool = False,
) -> Answer:
    """`problem` as an answer. `facts` fill in the catalogue's words (`host`, `port`, `clientId`); `sentence` and
    `advice` replace them where a link row or the daemon has filled them in already.

    503 and 429 say when to come again: after `problem.retryAfter`, else at `next_attempt`, else in a second.
    """
    entry = problem.entry
    said, advised = describe(problem.reason, **(facts or {}))
    details = ProblemDetails(
        type=TYPES.format(problem.reason),
        title=entry.title,
        status=entry.status,
        detail=_text(problem.detail or sentence or said),
        instance=_reference(instance),
        reason=problem.reason,
        phase=phase,
        advice=advised if advice is None else tuple(advice),
        retryable=entry.retryable,
        nextAttemptAt=next_attempt,
        ibCode=problem.ibCode,
    )
    if entry.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        more += b"Retry-After: %d\r\n" % _seconds(problem.retryAfter, next_attempt, now)
    body = ENCODER.encode(_joined(details, problem.extra) if problem.extra else details)
    return Answer(entry.status, body, PROBLEM, more, close=close)


def fault(instance: str) -> Answer:
    """Our own mistake: no reason of the catalogue, nothing of its inside."""
    details = ProblemDetails(
        type="about:blank",
        title="Internal error",
        status=500,
        detail="The facade made a mistake; its log says which. The session is not touched.",
        instance=_reference(instance),
        reason=None,
        phase=None,
        advice=("Run `ibkr support-bundle` and report it.",),
        retryable=True,
        nextAttemptAt=None,
        ibCode=None,
    )
    return Answer(500, ENCODER.encode(details), PROBLEM, close=True)


def _seconds(wait: float | None, at: datetime | None, now: datetime | None) -> int:
    """Whole seconds until it makes sense to ask again, rounded up, at least 1."""
    if wait is None and at is not None and now is not None:
        wait = (at - now).total_seconds()
    return max(1, math.ceil(wait)) if wait is not None and math.isfinite(wait) else 1


def _text(told: str) -> str:
    """What came from outside may hold halves of characters, which no JSON can carry."""
    return told if told.isascii() else told.encode("utf-8", "replace").decode("utf-8")


def _reference(path: str) -> str:
    """`path` as a URI reference, whatever bytes it came as."""
    return path if path.isascii() else quote(path.encode("utf-8", "surrogateescape"), safe="/%:@!$&'()*+,;=~")


def _joined(details: ProblemDetails, extra: dict[str, Any]) -> dict[str, Any]:
    return msgspec.structs.asdict(details) | {key: value for key, value in extra.items() if key not in _OWN}


_OWN = frozenset(ProblemDetails.__struct_fields__)
