"""Historical bars: parameters checked, equal requests sent once within IBKR's pacing, the last answers kept briefly.

Also the parameters of streaming bars; the streams themselves are in `streams.py`.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from datetime import UTC, datetime, time
from typing import Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import replace

from daemon.market.coalescing import Requests, Spawn
from daemon.market.conditions import Conditions
from daemon.market.contracts import Contracts, Found, as_query
from daemon.market.pacing import IDENTICAL, SMALL_BAR, Request
from daemon.market.pacing_queue import PacingQueue
from daemon.market.refusals import history as meaning
from daemon.market.refusals import interrupted, problem, translated
from daemon.tws.errors import TwsRefused
from shared.clock import Clock
from shared.messages import Bar, BarsParams, ContractDetails, ContractQuery
from shared.reasons import Problem

LIMIT: Final = 60.0
"""s for an answer, waiting included: IBKR takes half a minute for a year of minutes."""
QUEUE_LIMIT: Final = 20.0
"""s of these that a request may wait for its turn, so that the rest suffices for the answer."""
REMEMBERED_BARS: Final = 20_000
"""Bars kept of answers younger than 15 s, about 7 MB; a larger answer is not kept."""

BAR_SIZES: Final[dict[str, int]] = {
    "1 secs": 1, "5 secs": 5, "10 secs": 10, "15 secs": 15, "30 secs": 30,
    "1 min": 60, "2 mins": 120, "3 mins": 180, "5 mins": 300, "10 mins": 600, "15 mins": 900, "20 mins": 1200,
    "30 mins": 1800, "1 hour": 3600, "2 hours": 7200, "3 hours": 10_800, "4 hours": 14_400, "8 hours": 28_800,
    "1 day": 86_400, "1 week": 604_800, "1 month": 2_629_800,
}  # fmt: skip
"""IBKR's bar sizes and their seconds."""

SHOWN: Final = (
    "TRADES", "MIDPOINT", "BID", "ASK", "BID_ASK", "ADJUSTED_LAST", "HISTORICAL_VOLATILITY",
    "OPTION_IMPLIED_VOLATILITY", "REBATE_RATE", "FEE_RATE", "YIELD_BID", "YIELD_ASK", "YIELD_BID_ASK", "YIELD_LAST",
    "AGGTRADES",
)  # fmt: skip
"""What bars can be made of. Not SCHEDULE, whose answer is no bars."""

DEFAULT_SHOW: Final = {"CASH": "MIDPOINT", "CFD": "MIDPOINT", "CMDTY": "MIDPOINT", "CRYPTO": "AGGTRADES"}
"""What bars are made of by kind of contract, where that is not TRADES: most of these have no trades of their own."""

STREAM_SPANS: Final = (
    (60, "1 D"), (180, "2 D"), (300, "1 W"), (900, "2 W"), (1800, "1 M"), (14_400, "6 M"), (28_800, "1 Y"),
    (86_400, "2 Y"), (math.inf, "10 Y"),
)  # fmt: skip
"""For bars up to so many seconds, how far back a stream begins: some hundred bars. Below a minute, 720 bars."""
STREAM_BARS: Final = 1000
"""Bars a streaming topic holds: what a chart shows at once; its rows stay below 150 KB."""

_DURATION: Final = re.compile(r"([1-9]\d{0,4}) ([SDWMY])")
_IBKR_TIME: Final = re.compile(r"(\d{8})(?:-(\d\d:\d\d:\d\d)|[ ]+(\d\d:\d\d:\d\d) ([A-Za-z][\w+/-]*))?")


class BarsQuestion(Struct, frozen=True, kw_only=True):
    """A checked request; equal ones are the same question. `endDateTime` `None`: now."""

    conId: int
    durationStr: str
    barSizeSetting: str
    whatToShow: str
    useRTH: bool
    endDateTime: datetime | None = None
    keepUpToDate: bool = False


class BarSource(Protocol):
    """A session, as far as bars go. Raises TwsError; `timeout` in s; cancelled, it cancels at the gateway too."""

    async def historical_bars(
        self,
        contract: ContractQuery,
        *,
        endDateTime: datetime | None,
        durationStr: str,
        barSizeSetting: str,
        whatToShow: str,
        useRTH: bool,
        timeout: float,
    ) -> list[Bar]: ...


class History:
    """`bars.fetch`. Raises `Problem`."""

    def __init__(self, spawn: Spawn, clock: Clock, conditions: Conditions, contracts: Contracts) -> None:
        self.queue = PacingQueue(clock)
        self._clock = clock
        self._conditions = conditions
        self._contracts = contracts
        self._tws: BarSource | None = None
        self._requests: Requests[Found[Bar]] = Requests(spawn)
        self._recent: OrderedDict[BarsQuestion, tuple[float, Found[Bar]]] = OrderedDict()

    def ready(self, tws: BarSource) -> None:
        self._tws = tws

    def lost(self) -> None:
        self._tws = None
        self.queue.lost()

    def upstream_lost(self) -> None:
        """No answer will come to what is in flight."""
        self._requests.interrupt(lambda: interrupted("the request for bars"))

    async def fetch(self, params: BarsParams) -> Found[Bar]:
        """The bars, oldest first; none is `[]`. Equal requests share one, also with an answer younger than 15 s."""
        unresolved = read(params)
        details = (await self._contracts.details(params.conId)).rows[0]
        question = replace(unresolved, whatToShow=unresolved.whatToShow or default_show(details.secType))
        recent = self._recall(question)
        if recent is not None:
            return recent
        if not self._conditions.upstream:
            raise interrupted("the request for bars")
        return await self._requests.ask(question, "the request for bars", lambda: self._ask(question, details), LIMIT)

    async def _ask(self, question: BarsQuestion, details: ContractDetails) -> Found[Bar]:
        request = paced(question, details, self._clock.monotonic() + QUEUE_LIMIT)
        slot = await self.queue.enter(request)
        try:
            with translated("the request for bars"):
                bars = await self._request(question, details, request)
        finally:
            slot.leave()
        found = Found(tuple(bars), self._clock.now())
        self._remember(question, found)
        return found

    async def _request(self, question: BarsQuestion, details: ContractDetails, request: Request) -> list[Bar]:
        if self._tws is None:
            raise Problem("notConnected", "Bars can be requested while there is a session with the gateway.")
        try:
            return await self._tws.historical_bars(
                as_query(details),
                endDateTime=question.endDateTime,
                durationStr=question.durationStr,
                barSizeSetting=question.barSizeSetting,
                whatToShow=question.whatToShow,
                useRTH=question.useRTH,
                timeout=LIMIT,
            )
        except TwsRefused as refused:
            kind = meaning(refused.text) if refused.code == 162 else "other"
            if kind == "pacing":
                refusal = problem(refused.code, refused.text)
                refusal.retryAfter = self.queue.violated(request)
                raise refusal from refused
            if kind != "empty":
                raise
            if not self._conditions.upstream or not self._conditions.farm("hmds"):
                raise Problem(
                    "upstreamLost", "IBKR has no data now because its history farm is broken.", ibCode=refused.code
                ) from refused
            return []

    def _recall(self, question: BarsQuestion) -> Found[Bar] | None:
        now = self._clock.monotonic()
        while self._recent and now - next(iter(self._recent.values()))[0] >= IDENTICAL:
            self._recent.popitem(last=False)
        held = self._recent.get(question)
        return held[1] if held else None

    def _remember(self, question: BarsQuestion, found: Found[Bar]) -> None:
        """By time of answer, oldest first; as many as the bound allows."""
        self._recent[question] = (self._clock.monotonic(), found)
        self._recent.move_to_end(question)
        while sum(len(each.rows) + 1 for _, each in self._recent.values()) > REMEMBERED_BARS:
            self._recent.popitem(last=False)


def read(params: BarsParams) -> BarsQuestion:
    """The checked question; `whatToShow` may still be empty. Raises `invalidParameters`, which names the field."""
    duration = _DURATION.fullmatch(params.durationStr)
    if not duration or (duration[2] == "S" and int(duration[1]) > 86_400):
        raise _invalid(
            "durationStr", params.durationStr, "a whole number, a space and S, D, W, M or Y (86400 S at most)"
        )
    if params.barSizeSetting not in BAR_SIZES:
        raise _invalid("barSizeSetting", params.barSizeSetting, ", ".join(BAR_SIZES))
    if params.whatToShow and params.whatToShow not in SHOWN:
        raise _invalid("whatToShow", params.whatToShow, ", ".join(SHOWN))
    end = _end(params.endDateTime)
    if end is not None and params.whatToShow == "ADJUSTED_LAST":
        raise _invalid("endDateTime", params.endDateTime, "nothing, with ADJUSTED_LAST: IBKR adjusts up to now only")
    return BarsQuestion(
        conId=params.conId,
        durationStr=params.durationStr,
        barSizeSetting=params.barSizeSetting,
        whatToShow=params.whatToShow,
        useRTH=params.useRTH,
        endDateTime=end,
    )


def _end(text: str) -> datetime | None:
    """The moment, which must name its zone: TWS would read it in that of the machine it runs on."""
    if not text:
        return None
    try:
        if match := _IBKR_TIME.fullmatch(text):
            day, utc, clock, zone = match.groups()
            if utc is None and clock is None:
                return datetime.combine(datetime.strptime(day, "%Y%m%d"), time.max, UTC).replace(microsecond=0)
            moment = datetime.strptime(f"{day} {utc or clock}", "%Y%m%d %H:%M:%S")
            return moment.replace(tzinfo=ZoneInfo(zone) if zone else UTC).astimezone(UTC)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError, OSError, ZoneInfoNotFoundError):
        pass
    raise _invalid(
        "endDateTime",
        text,
        "nothing (now), RFC 3339 with its offset, YYYYMMDD (the end of that day, UTC), YYYYMMDD-HH:MM:SS (UTC) or "
        "YYYYMMDD HH:MM:SS Zone/Name",
    )


def _invalid(name: str, value: str, accepted: str) -> Problem:
    return Problem("invalidParameters", f"{name} is {value[:40]!r}; accepted: {accepted}", extra={"field": name})


def default_show(secType: str) -> str:
    return DEFAULT_SHOW.get(secType, "TRADES")


def paced(question: BarsQuestion, details: ContractDetails, deadline: float) -> Request:
    """The question as IBKR's pacing rules see it."""
    return Request(
        key=question,
        group=(question.conId, details.exchange, question.whatToShow),
        small=BAR_SIZES[question.barSizeSetting] <= SMALL_BAR,
        weight=2 if question.whatToShow == "BID_ASK" else 1,
        deadline=deadline,
    )


def streaming(conId: int, size: str, secType: str) -> BarsQuestion:
    """What a topic `bars:CONID:SIZE` requests: all sessions, and a past that fills a chart."""
    seconds = BAR_SIZES[size]
    span = (
        f"{seconds * 720} S" if seconds <= SMALL_BAR else next(span for most, span in STREAM_SPANS if seconds <= most)
    )
    return BarsQuestion(
        conId=conId,
        durationStr=f"{seconds * 720} S" if seconds <= SMALL_BAR else span,
        barSizeSetting=size,
        whatToShow=default_show(secType),
        useRTH=False,
        keepUpToDate=True,
    )
