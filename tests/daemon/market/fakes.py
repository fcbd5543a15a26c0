"""A clock that is turned by hand, and a session at the seam through which market data is requested."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.tws.errors import LinkLost, TwsRefused
from shared.messages import Bar, ContractDetails, ContractMatch, ContractQuery, OptionChain, Quote

START = datetime(2026, 11, 25, 15, 0, tzinfo=UTC)  # a Wednesday, 10:00 in New York


def details(conId: int, **more: Any) -> ContractDetails:
    fields = {"symbol": f"S{conId}", "secType": "STK", "exchange": "SMART", "currency": "USD", "timeZoneId": "UTC"}
    return ContractDetails(conId=conId, **{**fields, **more})


class FakeSession:
    """Its `requests`, in order, and answers made by the test."""

    def __init__(self) -> None:
        self.on_quotes: Callable[[Sequence[tuple[int, Quote]]], None] = lambda packet: None
        self.on_bars: Callable[[int, Sequence[Bar]], None] = lambda request, bars: None
        self.on_trouble: Callable[[int, int, str], None] = lambda request, code, text: None
        self.requests: list[Any] = []
        self.contracts: dict[int, list[ContractDetails] | Exception] = {}
        self.matches: list[ContractMatch] | Exception = []
        self.chain: list[OptionChain] | Exception = []
        self.bars: list[Bar] | Exception = []
        self._held: dict[str, asyncio.Event] = {}
        self.cancelled = 0
        self.open = 0
        self.most_open = 0
        self.lines: dict[int, int] = {}  # request -> conId
        self.bar_lines: dict[int, tuple[int, str]] = {}
        self._ids = itertools.count(1)

    def hold(self, kind: str) -> None:
        """Questions of this kind are not answered before `let_go`."""
        self._held[kind] = asyncio.Event()

    def let_go(self) -> None:
        for held in self._held.values():
            held.set()

    async def _answer(self, what: Any, answer: Any) -> Any:
        self.requests.append(what)
        self.open += what[0] == "bars"
        self.most_open = max(self.most_open, self.open)
        try:
            if what[0] in self._held:
                await self._held[what[0]].wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open -= what[0] == "bars"
        answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def contract_details(self, query: ContractQuery, timeout: float) -> list[ContractDetails]:
        unknown = TwsRefused(200, "No security definition has been found for the request")
        found = self.contracts.get(query.conId, [details(query.conId)] if query.conId else unknown)
        return await self._answer(("details", query), lambda: found)

    async def matching_symbols(self, pattern: str, timeout: float) -> list[ContractMatch]:
        return await self._answer(("search", pattern), lambda: self.matches)

    async def option_chain(self, symbol: str, exchange: str, secType: str, conId: int, timeout: float) -> Any:
        return await self._answer(("chain", symbol, exchange, secType, conId), lambda: self.chain)

    async def historical_bars(self, contract: ContractQuery, *, timeout: float, **question: Any) -> Any:
        return await self._answer(("bars", contract.conId, question["barSizeSetting"]), lambda: self.bars)

    def subscribe_quote(self, contract: ContractQuery, marketDataType: int) -> int:
        request = next(self._ids)
        self.lines[request] = contract.conId
        self.requests.append(("quote", contract.conId, marketDataType))
        return request

    def unsubscribe_quote(self, reqId: int) -> None:
        self.requests.append(("unquote", self.lines.pop(reqId, None)))

    def subscribe_bars(self, contract: ContractQuery, **question: Any) -> int:
        request = next(self._ids)
        self.bar_lines[request] = (contract.conId, question["barSizeSetting"])
        self.requests.append(("stream", contract.conId, question["barSizeSetting"]))
        return request

    def unsubscribe_bars(self, reqId: int) -> None:
        self.requests.append(("unstream", self.bar_lines.pop(reqId, None)))

    def count(self, kind: str) -> int:
        return sum(what[0] == kind for what in self.requests)

    def request_of(self, conId: int) -> int:
        return next(request for request, wanted in self.lines.items() if wanted == conId)

    def tick(self, *conIds: int, **fields: Any) -> None:
        """One packet with a change of each contract's quote."""
        self.on_quotes([(self.request_of(conId), Quote(conId=conId, **{"bid": 1.0, **fields})) for conId in conIds])

    def say(self, conId: int, code: int, text: str = "") -> None:
        self.on_trouble(self.request_of(conId), code, text)


class Tasks:
    """Spawns as the daemon's group does, and remembers what failed."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    def __call__(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.running.add(task)
        return task

    async def end(self) -> None:
        """Cancel what runs; raise what had failed."""
        for task in self.running:
            task.cancel()
        for ended in await asyncio.gather(*self.running, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


LOST = LinkLost()
