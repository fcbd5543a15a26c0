"""Questions with one answer: contracts, symbols, option chains, bars. Each has a deadline and leaves nothing behind.

Never caches, never asks twice, and never makes an empty list of a failure.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import ib_async as ib
from ib_async.util import formatIBDatetime

from daemon.tws import rows
from daemon.tws.api import Api
from daemon.tws.bars import EPOCH_SECONDS
from daemon.tws.errors import LinkLost, TwsError, TwsRefused, TwsSilent
from daemon.tws.gate import Gate, Lane
from shared.messages import Bar, ContractDetails, ContractMatch, ContractQuery, OptionChain

PROOF = "IBM"
"""The pattern that a search always finds something for, if there are servers to search: TWS itself cannot."""


class Requests:
    """One session's questions. Each raises `TwsRefused`, `TwsSilent`, `TwsBusy` or `LinkLost`; `timeout` in s."""

    def __init__(self, api: Api, gate: Gate) -> None:
        self._api = api
        self._gate = gate

    async def contract_details(self, query: ContractQuery, timeout: float) -> list[ContractDetails]:
        """All contracts that fit. IBKR says “none” with 200."""
        client, wanted = self._api.client, contract(query)
        found = await self._ask(
            "the question for contract details",
            timeout,
            lambda request: client.reqContractDetails(request, wanted),
            wanted=wanted,
        )
        return [rows.details_row(details) for details in found]

    async def matching_symbols(self, pattern: str, timeout: float) -> list[ContractMatch]:
        """What IBKR's symbol search finds for the beginning of a symbol or a name."""
        client = self._api.client
        found = await self._ask(
            "the symbol search", timeout, lambda request: client.reqMatchingSymbols(request, pattern)
        )
        return [rows.match_row(description) for description in found]

    async def option_chain(
        self, symbol: str, exchange: str, secType: str, conId: int, timeout: float
    ) -> list[OptionChain]:
        """One row an exchange and trading class. `exchange` is empty but for options on futures."""
        client = self._api.client
        found = await self._ask(
            "the question for option chains",
            timeout,
            lambda request: client.reqSecDefOptParams(request, symbol, exchange, secType, conId),
        )
        return [rows.chain_row(chain) for chain in found]

    async def historical_bars(
        self,
        query: ContractQuery,
        *,
        endDateTime: datetime | None,
        durationStr: str,
        barSizeSetting: str,
        whatToShow: str,
        useRTH: bool,
        timeout: float,
    ) -> list[Bar]:
        """Bars, oldest first. `endDateTime` `None`: now."""
        client, wanted = self._api.client, contract(query)
        end = formatIBDatetime(endDateTime)
        found = await self._ask(
            "the question for bars",
            timeout,
            lambda request: client.reqHistoricalData(
                request, wanted, end, durationStr, barSizeSetting, whatToShow, useRTH, EPOCH_SECONDS, False, []
            ),
            client.cancelHistoricalData,
            wanted,
        )
        return [rows.bar_row(bar) for bar in found]

    async def prove_upstream(self, timeout: float) -> bool:
        """Whether IBKR's servers answer a question that TWS cannot answer alone."""
        try:
            return bool(await self.matching_symbols(PROOF, timeout))
        except TwsError:
            return False

    async def _ask(
        self,
        what: str,
        timeout: float,
        send: Callable[[int], object],
        cancel: Callable[[int], object] | None = None,
        wanted: ib.Contract | None = None,
    ) -> list[Any]:
        """Send one request and wait for its end. Whatever happens, ib_async forgets it; unanswered, it is cancelled."""
        wrapper = self._api.wrapper
        request: int | None = None
        answered = False
        try:
            async with asyncio.timeout(timeout):
                await self._gate.admit(Lane.READ)
                request = int(self._api.client.getReqId())
                answer = wrapper.startReq(request, wanted)
                send(request)
                found: list[Any] = await answer
                answered = True
                return found
        except TimeoutError:
            raise TwsSilent(what, timeout) from None
        except TwsRefused:
            answered = True
            raise
        except ConnectionError:
            raise LinkLost from None
        finally:
            if request is not None:
                wrapper._futures.pop(request, None)
                wrapper._results.pop(request, None)
                wrapper._reqId2Contract.pop(request, None)
                if cancel is not None and not answered:
                    self._gate.send(Lane.READ, lambda: cancel(request))


def contract(query: ContractQuery) -> ib.Contract:
    """ib_async's form of what is known of a contract."""
    return ib.Contract(
        secType=query.secType,
        conId=query.conId,
        symbol=query.symbol,
        lastTradeDateOrContractMonth=query.lastTradeDateOrContractMonth,
        strike=query.strike,
        right=query.right,
        multiplier=query.multiplier,
        exchange=query.exchange,
        primaryExchange=query.primaryExchange,
        currency=query.currency,
        localSymbol=query.localSymbol,
        tradingClass=query.tradingClass,
        includeExpired=query.includeExpired,
        secIdType=query.secIdType,
        secId=query.secId,
    )
