"""RFC 9457 problems as responses, from the one catalogue of reasons."""

from __future__ import annotations

import math
from datetime import datetime
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from aiohttp import web

from facade.http.responses import PROBLEM, reply
from shared.messages import Link
from shared.reasons import LINK_REASONS, Problem, describe

TYPES = "/docs/reasons#{}"

ENCODER = msgspec.json.Encoder()


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every refusal. `session`: the one that the request is about; null where it names none of ours,
    and in refusals of the guard.

    `nextAttemptAt`: when the link is tried next. `ibCode`: IBKR's own number.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reason: str | None = None
    session: str | None = None
    phase: str | None = None
    advice: tuple[str, ...]
    retryable: bool
    nextAttemptAt: datetime | None = None
    ibCode: int | None = None


OWN_MEMBERS = frozenset(ProblemDetails.__struct_fields__) | {"daemon", "sentence", "allow", "retryAfter", "seq"}
"""Members of a problem that are set here; others (`candidates`, `accounts` …) pass through."""

ABOUT_LINK = frozenset(LINK_REASONS) | {"notConnected"}
"""Problems that the next attempt to connect may end."""


class LinkState(Protocol):
    """`link`: the last row, which is of now while the daemon is `reachable`. `next_attempt_in`: s."""

    link: Link | None
    reachable: bool

    @property
    def next_attempt_in(self) -> float | None: ...


def refusal(problem: Problem, path: str, session: str | None, state: LinkState | None) -> web.Response:
    """`problem` as the response to a request for `path`, about `session` whose link is in `state`.

    A link row of the same reason, or the daemon's own answer, replaces the catalogue's words. 503 and 429 have
    `Retry-After`: the problem's, the daemon's, else, of a problem of the link, the time to the next attempt, else a
    second.
    """
    entry = problem.entry
    from_daemon: dict[str, Any] = problem.extra.get("daemon") or {}
    last = state.link if state is not None else None
    link = last if state is not None and state.reachable else None
    facts = msgspec.structs.asdict(last.gateway) if last is not None and last.gateway is not None else {}
    sentence, advice = describe(problem.reason, **facts)
    if link is not None and link.reason == problem.reason and not problem.detail:
        sentence, advice = link.sentence or sentence, link.advice
    details = ProblemDetails(
        type=TYPES.format(problem.reason),
        title=entry.title,
        status=entry.status,
        detail=_text(problem.detail or sentence),
        instance=_reference(path),
        reason=problem.reason,
        session=session,
        phase=link.phase if link is not None else None,
        advice=tuple(from_daemon.get("advice") or advice),
        retryable=entry.retryable,
        nextAttemptAt=link.nextAttemptAt if link is not None else None,
        ibCode=problem.ibCode,
    )
    headers = {}
    if problem.reason == "methodNotAllowed":
        headers["Allow"] = problem.extra["allow"]
    elif problem.reason == "tokenMissing":
        headers["WWW-Authenticate"] = 'Bearer realm="ibkr"'
    elif entry.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        waits = link is not None and problem.reason in ABOUT_LINK
        planned = state.next_attempt_in if state is not None and waits else None
        headers["Retry-After"] = _retry_after(problem.retryAfter, from_daemon.get("retryAfter"), planned)
    extra = {key: value for key, value in {**problem.extra, **from_daemon}.items() if key not in OWN_MEMBERS}
    return reply(ENCODER.encode(msgspec.structs.asdict(details) | extra), PROBLEM, status=entry.status, headers=headers)


def fault(instance: str) -> web.Response:
    """An internal error: no reason of the catalogue, and nothing of its cause."""
    details = ProblemDetails(
        type="about:blank",
        title="Internal error",
        status=500,
        detail="Internal error; see facade.log. The session is not touched.",
        instance=_reference(instance),
        advice=("Run `ibkr support-bundle` and report it.",),
        retryable=True,
    )
    response = reply(ENCODER.encode(details), PROBLEM, status=500)
    response.force_close()
    return response


def _retry_after(*waits: Any) -> str:
    """The first of `waits` that is known, in whole seconds, rounded up, at least 1."""
    wait = next((wait for wait in waits if isinstance(wait, int | float)), 1)
    return str(max(1, math.ceil(wait)) if math.isfinite(wait) else 1)


def _text(text: str) -> str:
    """Text from outside may hold lone surrogates, which JSON cannot carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _reference(path: str) -> str:
    """`path` as a URI reference, whatever bytes it came as."""
    return path if path.isascii() else quote(path.encode("utf-8", "surrogateescape"), safe="/%:@!$&'()*+,;=~")
