"""What IBKR says of contracts: search, details, the one contract a description means, option chains; and their cache.

Contracts change rarely, so answers are kept and told with their age. Never keeps a “no such contract” from a time in
which IBKR could not look (FAULTS 10), and knows nothing of prices.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime, timedelta
from typing import Final, Generic, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Struct

from daemon.market.conditions import Conditions
from daemon.market.questions import Questions, Spawn
from daemon.market.refusals import translated
from shared.clock import Clock
from shared.messages import Contract, ContractDetails, ContractMatch, ContractQuery, OptionChain
from shared.reasons import Problem

DETAILS_TTL: Final = 4 * 3600.0
"""s: trading hours are told for a few days ahead and roll over in the night."""
SEARCH_TTL: Final = 3600.0
CHAIN_TTL: Final = 3600.0
"""s: exchanges list new strikes during the day."""
NEGATIVE_TTL: Final = 300.0
"""s for which “there is none” stands: long enough for a page that asks on each key, short enough for a new listing."""
KEPT: Final = {"details": 2048, "search": 256, "chain": 32}
"""Answers kept: contracts of a large account and its look-ups, about 4 MB; chains of an index have 100 KB each."""

LIMIT: Final = 10.0
"""s for an answer: IBKR's take well under a second, several when its secdef farm wakes up."""
CHAIN_LIMIT: Final = 30.0
"""s: the chain of an index comes in dozens of messages."""
CANDIDATES: Final = 50
"""Candidates named for an ambiguous description: as many as a person looks through."""
LONGEST_SEARCH: Final = 64

Row = TypeVar("Row", bound=Struct)


class Lookups(Protocol):
    """What a session answers. Each raises TwsError; `timeout` in s."""

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
    """Look-ups, each asked once however many want it, and remembered. Raises `Problem`."""

    def __init__(self, spawn: Spawn, clock: Clock, conditions: Conditions) -> None:
        self._clock = clock
        self._conditions = conditions
        self._tws: Lookups | None = None
        self._questions: Questions[Found[Struct]] = Questions(spawn)
        self._memories = {kind: _Memory(size) for kind, size in KEPT.items()}

    def ready(self, tws: Lookups) -> None:
        self._tws = tws

    def lost(self) -> None:
        self._tws = None

    async def search(self, q: str) -> Found[ContractMatch]:
        """Underlyings whose symbol or name begins like `q`; none is `[]`."""
        pattern = q.strip()
        if not pattern or len(pattern) > LONGEST_SEARCH or not pattern.isprintable():
            raise Problem("invalidParameters", f"q: 1 to {LONGEST_SEARCH} characters of a symbol or a company's name")
        return await self._look_up(
            "search", pattern.upper(), SEARCH_TTL, LIMIT, lambda tws: tws.matching_symbols(pattern, LIMIT)
        )

    async def details(self, conId: int) -> Found[ContractDetails]:
        """The one contract with this number."""
        found = await self._described(ContractQuery(conId=conId))
        return Found((chosen(found.rows, ""),), found.asOf)

    def known(self, conId: int) -> ContractDetails | None:
        """The details where they need not be asked for."""
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
            f"This describes {len(several)} contracts{more}: name one by its conId, or say more of it.",
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
            CHAIN_LIMIT,
            lambda tws: tws.option_chain(under.symbol, exchange, under.secType, conId, CHAIN_LIMIT),
        )

    async def _described(self, query: ContractQuery) -> Found[ContractDetails]:
        """At least one row."""
        found = await self._look_up(
            "details", query, DETAILS_TTL, LIMIT, lambda tws: tws.contract_details(query, LIMIT)
        )
        if not found.rows:
            raise Problem("notFound", "IBKR knows no such contract.")
        return found

    async def _look_up(
        self,
        kind: str,
        key: Hashable,
        ttl: float,
        limit: float,
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
            try:
                with translated("the look-up", self._doubtful):
                    rows = await question(tws)
            except Problem as problem:
                if problem.reason in ("notFound", "contractAmbiguous"):
                    self._keep(memory, key, again(problem), NEGATIVE_TTL)
                raise
            if not rows and self._doubtful():
                raise Problem(
                    "upstreamLost",
                    "IBKR found nothing, but its link or a data farm is or was just broken: "
                    "that cannot be believed yet.",
                    retryAfter=60.0,
                )
            found = Found[Struct](tuple(rows), self._clock.now())
            self._keep(memory, key, found, ttl if rows else NEGATIVE_TTL)
            return found

        # a second beyond the session's own deadline, which says more precisely what was missing
        return await self._questions.ask((kind, key), "the look-up", ask, limit + 1.0)  # type: ignore[return-value]

    def _keep(self, memory: _Memory, key: Hashable, found: Found[Struct] | Problem, ttl: float) -> None:
        memory.keep(key, found, self._clock.monotonic() + ttl)

    def _doubtful(self) -> bool:
        return self._conditions.doubtful(self._clock.monotonic())


def again(problem: Problem) -> Problem:
    """The same problem without where it was raised."""
    return Problem(problem.reason, problem.detail, ibCode=problem.ibCode)


def chosen(rows: Sequence[ContractDetails], exchange: str) -> ContractDetails:
    """Of one contract on several exchanges, the wanted one, else IBKR's own routing, else the first."""
    return min(rows, key=lambda row: (row.exchange != exchange, row.exchange != "SMART"))


def plain(details: ContractDetails) -> Contract:
    return Contract(**{name: getattr(details, name) for name in Contract.__struct_fields__})


def as_query(details: ContractDetails) -> ContractQuery:
    """The description by which data of this contract is asked for."""
    fields = {name: getattr(details, name) for name in Contract.__struct_fields__}
    return ContractQuery(**{**fields, "strike": details.strike or 0.0}, primaryExchange=details.primaryExchange)


def trading(details: ContractDetails, at: datetime) -> bool | None:
    """Whether the contract's session is open at `at`; `None` where IBKR has not said so for that day.

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
