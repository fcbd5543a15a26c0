"""`GET /events`: which topics and account a reader may choose."""

from __future__ import annotations

import re
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from facade.account_rows import check_account
from facade.app import Session
from facade.events import stream
from facade.http.responses import reply
from facade.http.routing import RequestContext
from shared.messages import MAX_CON_ID, STATE_TOPICS
from shared.reasons import Problem

LINES = 128
"""Topics of one reader beside the standing ones: the market-data lines an ordinary login has, and some bars."""

TOPIC = re.compile(
    r"quotes:([1-9][0-9]{0,18})|bars:([1-9][0-9]{0,18}):([0-9]{1,2} ?(?:secs?|mins?|hours?|day|week|month))"
)


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`topics`: names separated by commas; all but quotes and bars by default. `account`: leave out other accounts."""

    topics: Annotated[str, Meta(max_length=8000)] = ",".join(STATE_TOPICS)
    account: Annotated[str, Meta(max_length=32, description="Leave out the rows of other accounts.")] = ""


async def events(session: Session, context: RequestContext) -> web.StreamResponse:
    """Server-Sent Events of the chosen topics."""
    topics = topics_of(context.query.topics)
    check_account(session.mirror.state, context.query.account)
    if context.request.method == "HEAD":
        return reply(None, headers=stream.HEADERS, content_type="")
    return await session.streams.serve(context.request, topics, context.query.account)


def topics_of(text: str) -> tuple[str, ...]:
    """The named topics, each once, in their own spelling. Raises `Problem` for a name that is none."""
    topics = tuple(dict.fromkeys(_topic(name.strip()) for name in text.split(",")))
    if sum(":" in topic for topic in topics) > LINES:
        raise Problem("invalidParameters", f"At most {LINES} quotes and bars on one stream.")
    return topics


def _topic(name: str) -> str:
    if name in STATE_TOPICS:
        return name
    found = TOPIC.fullmatch(name)
    if found is None or int(found[1] or found[2]) > MAX_CON_ID:
        raise Problem(
            "invalidParameters",
            f"There is no such topic. Known are {', '.join(STATE_TOPICS)}, quotes:CONID and bars:CONID:SIZE.",
        )
    return name.replace(" ", "")
