"""Contract look-ups: symbol search, details, the one contract that a description means, option chains; and their cache.

Contracts change rarely, so answers are kept and given with their age. A “no such contract” is not kept from a time in
which IBKR could not look (FAULTS 10).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime, timedelta
from typing import Final, Generic, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Struct

from daemon.market.coalescing import Requests, Spawn
from daemon.market.conditions import SETTLING, Conditions, Trust
from daemon.market.refusals import interrupted, translated
from daemon.tws.errors import TwsRefused
from shared.clock import Clock
from shared.messages import Contract, ContractDetails, ContractMatch, ContractQuery, OptionChain
from shared.reasons import Problem

DETAILS_TTL: Final = 4 * 3600.0
"""s: trading hours are given for a few days ahead and roll over in the night."""
SEARCH_TTL: Final = 3600.0
CHAIN_TTL: Final = 3600.0
"""s: exchanges list new strikes during the day."""
NEGATIVE_TTL: Final = 300.0
"""s for which “there is none” stands: long enough for a search on each key, short enough for a new listing."""
RECHECK: Final = 2.0
"""s until a “there is none” of just after an outage is checked again; TWS may have answered from the outage."""
KEPT: Final = {"details": 2048, "search": 256, "chain": 32}
"""Answers kept: contracts of a large account and its look-ups, about 4 MB; chains of an index have 100 KB each."""

SEARCH_INTERVAL: Final = 1.0
"""s between symbol searches: IBKR's limit."""
SEARCH_WAIT: Final = 8.0
"""s that a search may wait for its turn; a page that searches on each key must not wait longer."""

LIMIT: Final = 10.0
"""s for one answer of the session: IBKR's take well under a second, several when its secdef farm wakes up."""
CHAIN_LIMIT: Final = 25.0
"""s: the chain of an index comes in dozens of messages."""
OUTER_LIMIT: Final = 28.0
"""s for a look-up with all that it may take: its turn, its answer, the same again. Below the facade's 30."""
CANDIDATES: Final = 50
"""Candidates named for an ambiguous description: as many as a person looks through."""
LONGEST_SEARCH: Final = 64

Row = TypeVar("Row", bound=Struct)


class Lookups(Protocol):
    """A session, as far as look-ups go. Each raises TwsError; `timeout` in s."""

    async def contract_details(self, query: ContractQuery, timeout: float) -> list[ContractDetails]: ...

    async def matching_symbols(self, pattern: str, timeout: float) -> list[ContractMatch]: ...

    async def option_chain(
        self, symbol: str, exchange: str, secType: str, conId: int, timeout: float
    ) -> list[OptionChain]: ...


class Found(NamedTuple, Generic[Row]):
    """An answer and when IBKR gave it."""

    rows: Sequence[Row]
    asOf: datetime


class _Kept(NamedTuple):
    found: Found[Struct] | Problem
    until: float


class _Memory:
    """The latest answers, each until its time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, now: float) -> Found[Struct] | Problem | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if now >= kept.until:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept.found

    def keep(self, key: Hashable, found: Found[Struct] | Problem, until: float) -> None:
        self._kept[key] = _Kept(found, until)
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)


class Contracts:
    """Look-ups, each sent once however many callers wait for it, and remembered. Raises `Problem`."""

    def __init__(self, spawn: Spawn, clock: Clock, conditions: Conditions) -> None:
        self._clock = clock
        self._conditions = conditions
        self._tws: Lookups | None = None
        self._requests: Requests[Found[Struct]] = Requests(spawn)
        self._next_search = 0.0  # monotonic s
        self._memories = {kind: _Memory(size) for kind, size in KEPT.items()}

    def ready(self, tws: Lookups) -> None:
        self._tws = tws

    def lost(self) -> None:
        self._tws = None

    def upstream_lost(self) -> None:
        """No answer will come to what is in flight."""
        self._requests.interrupt(lambda: interrupted("the look-up"))

    async def search(self, q: str) -> Found[ContractMatch]:
        """Underlyings whose symbol or name begins like `q`; none is `[]`."""
        pattern = q.strip()
        if not pattern or len(pattern) > LONGEST_SEARCH or not pattern.isprintable():
            raise Problem("invalidParameters", f"q: 1 to {LONGEST_SEARCH} characters of a symbol or a company's name")
        return await self._look_up("search", pattern.upper(), SEARCH_TTL, lambda tws: self._search(tws, pattern))

    async def _search(self, tws: Lookups, pattern: str) -> list[ContractMatch]:
        """One search a second goes out; the others wait for their turn."""
        now = self._clock.monotonic()
        at = max(now, self._next_search)
        if at - now > SEARCH_WAIT:
            raise Problem(
                "pacingBudget",
                f"IBKR takes one symbol search a second, and {math.ceil(at - now)} are waiting already.",
                retryAfter=at - now,
            )
        self._next_search = at + SEARCH_INTERVAL
        if at > now:
            await self._clock.sleep(at - now)
        return await tws.matching_symbols(pattern, LIMIT)

    async def details(self, conId: int) -> Found[ContractDetails]:
        """The one contract with this number; a future also after it has expired."""
        found = await self._look_up(
            "details", ContractQuery(conId=conId), DETAILS_TTL, lambda tws: by_number(tws, conId)
        )
        if not found.rows:
            raise Problem("notFound", "IBKR has no such contract.")
        return Found((chosen(found.rows, ""),), found.asOf)

    def known(self, conId: int) -> ContractDetails | None:
        """The details that are remembered."""
        kept = self._memories["details"].get(ContractQuery(conId=conId), self._clock.monotonic())
        return chosen(kept.rows, "") if isinstance(kept, Found) and kept.rows else None

    async def qualify(self, query: ContractQuery) -> Found[Contract]:
        """The one contract that `query` means; `contractAmbiguous` with candidates where it means several."""
        if not (query.conId or query.symbol or query.localSymbol or query.secId):
            raise Problem("invalidParameters", "Name the contract by conId, symbol, localSymbol or secId.")
        for name in query.__struct_fields__:
            # on the wire a NUL ends a field: what follows would be read as the next one
            if isinstance(value := getattr(query, name), str) and not value.isprintable():
                raise Problem("invalidParameters", f"{name}: printable characters only", extra={"field": name})
        found = await self._described(query)
        by_id: dict[int, list[ContractDetails]] = {}
        for row in found.rows:
            by_id.setdefault(row.conId, []).append(row)
        several = [plain(chosen(rows, query.exchange)) for rows in by_id.values()]
        if len(several) == 1:
            return Found(several, found.asOf)
        shown = several[:CANDIDATES]
        more = f", of which {len(shown)} are shown" if len(several) > len(shown) else ""
        raise Problem(
            "contractAmbiguous",
            f"This describes {len(several)} contracts{more}: name one by its conId, or describe it further.",
            extra={"candidates": msgspec.to_builtins(shown)},
        )

    async def option_chain(self, conId: int) -> Found[OptionChain]:
        """Which options of the underlying `conId` exist, per exchange and trading class; none is `[]`."""
        under = (await self.details(conId)).rows[0]
        exchange = under.exchange if under.secType == "FUT" else ""
        return await self._look_up(
            "chain",
            conId,
            CHAIN_TTL,
            lambda tws: tws.option_chain(under.symbol, exchange, under.secType, conId, CHAIN_LIMIT),
        )

    async def _described(self, query: ContractQuery) -> Found[ContractDetails]:
        """At least one row."""
        found = await self._look_up("details", query, DETAILS_TTL, lambda tws: tws.contract_details(query, LIMIT))
        if not found.rows:
            raise Problem("notFound", "IBKR has no such contract.")
        return found

    async def _look_up(
        self,
        kind: str,
        key: Hashable,
        ttl: float,
        question: Callable[[Lookups], Awaitable[Sequence[Row]]],
    ) -> Found[Row]:
        memory = self._memories[kind]
        kept = memory.get(key, self._clock.monotonic())
        if isinstance(kept, Problem):
            raise again(kept)
        if kept is not None:
            return kept  # type: ignore[return-value] # a kind of question has one kind of row
        tws = self._tws
        if tws is None:
            raise Problem("notConnected", "Contracts can be looked up while the session is there.")

        async def ask() -> Found[Struct]:
            answer = await self._answer(question, tws)
            if self._trust() == "settling" and (not answer or isinstance(answer, Problem)):
                await self._clock.sleep(RECHECK)
                answer = await self._answer(question, tws)
            trust, nothing = self._trust(), not answer or isinstance(answer, Problem)
            if not answer and trust == "impaired":
                answer = Problem(
                    "upstreamLost",
                    "IBKR found nothing while its link or a data farm is down, which may only mean that.",
                    retryAfter=SETTLING,
                )
            found = answer if isinstance(answer, Problem) else Found[Struct](tuple(answer), self._clock.now())
            if trust == "sound" or not nothing:
                kept = again(found) if isinstance(found, Problem) else found
                memory.keep(key, kept, self._clock.monotonic() + (NEGATIVE_TTL if nothing else ttl))
            if isinstance(found, Problem):
                raise found
            return found

        if not self._conditions.upstream:
            raise interrupted("the look-up")
        return await self._requests.ask((kind, key), "the look-up", ask, OUTER_LIMIT)  # type: ignore[return-value]

    async def _answer(
        self, question: Callable[[Lookups], Awaitable[Sequence[Row]]], tws: Lookups
    ) -> Sequence[Row] | Problem:
        """IBKR's answer; a problem that is one (there is none, there are several) is returned and not raised."""
        try:
            with translated("the look-up", self._trust):
                return await question(tws)
        except Problem as problem:
            if problem.reason in ("notFound", "contractAmbiguous"):
                return problem
            raise

    def _trust(self) -> Trust:
        return self._conditions.trust(self._clock.monotonic())


def again(problem: Problem) -> Problem:
    """The same problem without where it was raised."""
    return Problem(problem.reason, problem.detail, ibCode=problem.ibCode)


def chosen(rows: Sequence[ContractDetails], exchange: str) -> ContractDetails:
    """Of one contract on several exchanges, the wanted one, else IBKR's own routing, else the first."""
    return min(rows, key=lambda row: (row.exchange != exchange, row.exchange != "SMART"))


def plain(details: ContractDetails) -> Contract:
    return Contract(**{name: getattr(details, name) for name in Contract.__struct_fields__})


def as_query(details: ContractDetails) -> ContractQuery:
    """The description by which data of this contract is requested: of futures also when they have expired."""
    fields = {name: getattr(details, name) for name in Contract.__struct_fields__}
    return ContractQuery(
        **{**fields, "strike": details.strike or 0.0},
        primaryExchange=details.primaryExchange,
        includeExpired=details.secType == "FUT",
    )


async def by_number(tws: Lookups, conId: int) -> list[ContractDetails]:
    """The details of contract `conId`, also where it has expired."""
    try:
        return await tws.contract_details(ContractQuery(conId=conId), LIMIT)
    except TwsRefused as refused:
        if refused.code != 200:
            raise
    return await tws.contract_details(ContractQuery(conId=conId, includeExpired=True), LIMIT)


def trading(details: ContractDetails, at: datetime) -> bool | None:
    """Whether the contract's session is open at `at`; `None` where that day is not among its hours.

    `tradingHours` reads `20240722:0400-20240722:2000;20240723:CLOSED`, sessions in `timeZoneId`.
    """
    try:
        zone = ZoneInfo(details.timeZoneId)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
    local = at.astimezone(zone)
    spans = [_span(part, zone) for part in details.tradingHours.split(";") if part]
    if any(span is not None and span[0] <= local < span[1] for span in spans):
        return True
    days = {part[:8] for part in details.tradingHours.split(";")}
    return False if local.strftime("%Y%m%d") in days else None


def _span(text: str, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
    opens, dash, closes = text.partition("-")
    if not dash:
        return None  # CLOSED
    try:
        start = datetime.strptime(opens, "%Y%m%d:%H%M")
        end = datetime.strptime(closes if ":" in closes else f"{opens[:8]}:{closes}", "%Y%m%d:%H%M")
    except ValueError:
        return None
    if end <= start:
        end += timedelta(days=1)
    return start.replace(tzinfo=zone), end.replace(tzinfo=zone)
