"""The facade: what its handlers share, and the way of one request through guard, route and handler to its answer.

Never talks to the daemon itself (`replica/`), knows no route (`routes/`) and no rule (`http/guard.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from aiohttp.web_request import BaseRequest

from facade.http.answer import Answer
from facade.http.asking import parsed_body, parsed_query
from facade.http.guard import Guard
from facade.http.problems import ProblemDetails, fault, refusal
from facade.http.table import Asked, Table
from shared.reasons import Problem

if TYPE_CHECKING:
    from facade.events.stream import Streams
    from facade.http.connection import Connection, HttpServer
    from facade.replica.mirror import Mirror
    from shared.clock import Clock
    from shared.settings import Settings

log = structlog.get_logger(__name__)

STATED = frozenset(ProblemDetails.__struct_fields__) | {"sentence", "allow", "retryAfter", "seq"}
"""Members of a problem that are ours to say; the daemon's others (`candidates`, `accounts` …) pass through."""


@dataclass(slots=True, kw_only=True)
class Facade:
    """What the handlers share. `counts`: requests by route template and status."""

    settings: Settings
    mirror: Mirror
    streams: Streams
    clock: Clock
    table: Table
    guard: Guard
    joined: dict[tuple[str, str, str], tuple[bytes, bytes]] = field(default_factory=dict)
    """Data answers by topic, account and scope, each with its entity tag."""
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    draining: bool = False
    """Every answer ends its connection: this process is about to go."""
    http: HttpServer | None = None
    loop_lag: float = 0.0
    examination: asyncio.Task[Any] | None = None
    """The doctor's latest, for all who ask while it is under way."""

    async def answer(self, request: BaseRequest) -> Answer:
        """The one way through: guard, route, parameters, body, handler. Raises nothing but cancellation."""
        path = request.raw_path.partition("?")[0]
        try:
            route, args = self.guard.admit(request, path)
            template = route.label or route.template
            query = None if route.query is None else parsed_query(request.raw_path, route.query)
            body = None if route.body is None else await parsed_body(request, route.body)
            answer = route.handle(self, Asked(request, route, args, query, body))
            if not isinstance(answer, Answer):
                answer = await answer
        except Problem as problem:
            template = self.table.label(path)
            answer = self.refuse(problem, request, path)
        except Exception:
            log.exception("facade.fault", message="A request failed inside the facade.", path=path)
            template = self.table.label(path)
            answer = fault(path)
        if self.draining:
            answer.close = True
        self.counts[template, answer.status] += 1
        return answer

    def refuse(self, problem: Problem, request: BaseRequest, path: str) -> Answer:
        """`problem` with what the link row, or the daemon's own answer, says of it."""
        told: dict[str, Any] = problem.extra.get("daemon") or {}
        extra = {key: value for key, value in problem.extra.items() if key not in ("daemon", "allow")}
        extra |= {key: value for key, value in told.items() if key not in STATED}
        link = self.mirror.state.link if self.mirror.state.reachable else None
        facts: dict[str, Any] = {}
        if self.mirror.state.link is not None and self.mirror.state.link.gateway is not None:
            facts = msgspec.structs.asdict(self.mirror.state.link.gateway)
        about_link = link is not None and link.reason == problem.reason and not problem.detail
        advice = told.get("advice") or (link.advice if link is not None and about_link else None)
        next_attempt = link.nextAttemptAt if link is not None else None
        more = b""
        if problem.reason == "methodNotAllowed":
            more = b"Allow: " + problem.extra["allow"].encode("ascii") + b"\r\n"
        elif problem.reason == "tokenMissing":
            more = b'WWW-Authenticate: Bearer realm="ibkr"\r\n'
        close = problem.reason == "bodyTimeout"
        if close:
            connection: Connection = request.protocol  # type: ignore[assignment]
            connection.no_linger()
        return refusal(
            Problem(
                problem.reason,
                problem.detail,
                ibCode=problem.ibCode,
                retryAfter=problem.retryAfter if problem.retryAfter is not None else _seconds(told.get("retryAfter")),
                extra=extra,
            ),
            instance=path,
            phase=link.phase if link is not None else None,
            sentence=link.sentence if link is not None and about_link else "",
            advice=advice,
            facts=facts,
            next_attempt=next_attempt,
            now=self.clock.now(),
            more=more,
            close=close,
        )


def _seconds(told: Any) -> float | None:
    return float(told) if isinstance(told, int | float) else None
