"""Look-ups: requests with one answer (contracts, symbols, option chains, bars). Each has a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import ib_async as ib

from daemon.tws.bars import EPOCH_SECONDS
from daemon.tws.client import GatewayClient
from daemon.tws.errors import TwsError, TwsRefused, TwsSilent, TwsUnreadable
from daemon.tws.pending import PendingRequests
from daemon.tws.send_queue import Lane, SendQueue
from shared.messages import Bar, ContractDetails, ContractMatch, ContractQuery, OptionChain

PROOF = "IBM"
"""A pattern for which a search finds something if IBKR's servers answer: TWS itself cannot."""


class Lookups:
    """One session's. Each raises `TwsError`; `timeout` in s."""

    def __init__(self, client: GatewayClient, queue: SendQueue, pending: PendingRequests) -> None:
        self._client = client
        self._queue = queue
        self._pending = pending

    async def contract_details(self, query: ContractQuery, timeout: float) -> list[ContractDetails]:
        """All contracts that fit. IBKR refuses with 200 where there is none."""
        client, wanted = self._client, contract(query)
        return await self._request(
            "the request for contract details",
            timeout,
            lambda request: client.reqContractDetails(request, wanted),
            wanted=wanted,
        )

    async def matching_symbols(self, pattern: str, timeout: float) -> list[ContractMatch]:
        """Contracts that IBKR's symbol search finds for the beginning of a symbol or a name."""
        client = self._client
        return await self._request(
            "the symbol search", timeout, lambda request: client.reqMatchingSymbols(request, pattern)
        )

    async def option_chain(
        self, symbol: str, exchange: str, secType: str, conId: int, timeout: float
    ) -> list[OptionChain]:
        """One row an exchange and trading class. `exchange` is empty but for options on futures."""
        client = self._client
        return await self._request(
            "the request for option chains",
            timeout,
            lambda request: client.reqSecDefOptParams(request, symbol, exchange, secType, conId),
        )

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
        client, wanted = self._client, contract(query)
        end = ib.util.formatIBDatetime(endDateTime)
        return await self._request(
            "the request for bars",
            timeout,
            lambda request: client.reqHistoricalData(
                request, wanted, end, durationStr, barSizeSetting, whatToShow, useRTH, EPOCH_SECONDS, False, []
            ),
            client.cancelHistoricalData,
            wanted,
        )

    async def prove_upstream(self, timeout: float) -> bool:
        """Whether IBKR's servers answer a request that TWS cannot answer alone."""
        try:
            return bool(await self.matching_symbols(PROOF, timeout))
        except TwsError:
            return False

    async def _request(
        self,
        what: str,
        timeout: float,
        send: Callable[[int], object],
        cancel: Callable[[int], object] | None = None,
        wanted: ib.Contract | None = None,
    ) -> list[Any]:
        """Send one request and wait for its end. Unanswered, it is cancelled."""
        request: int | None = None
        answered = False
        try:
            async with asyncio.timeout(timeout):
                await self._queue.admit(Lane.READ)
                request = self._client.getReqId()
                answer = self._pending.open(request, wanted.conId if wanted else None)
                send(request)
                found = await answer
                answered = True
                return found
        except TimeoutError:
            raise TwsSilent(what, timeout) from None
        except (TwsRefused, TwsUnreadable):
            answered = True
            raise
        finally:
            if request is not None:
                self._pending.close(request)
                if cancel is not None and not answered:
                    self._queue.send(Lane.READ, lambda: cancel(request))


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
