"""Market-data lines: ticks → quotes, handed on once a network packet and not once a tick, since waking costs more.

Takes the ticks straight from the decoder; ib_async's own tickers keep lists of them that nobody here reads. Never
decides which lines are wanted, and asks for none again by itself.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence

import ib_async as ib

from daemon.tws.api import Api
from daemon.tws.gate import Gate, Lane
from shared.clock import Clock
from shared.messages import MarketDataType, Quote

BID, BID_SIZE, ASK, ASK_SIZE, LAST, LAST_SIZE, VOLUME, OPEN, HIGH, LOW, CLOSE = range(11)
"""Where a line keeps what."""

NOWHERE = -1
PRICES = {
    1: (BID, BID_SIZE), 2: (ASK, ASK_SIZE), 4: (LAST, LAST_SIZE),
    6: (HIGH, NOWHERE), 7: (LOW, NOWHERE), 9: (CLOSE, NOWHERE), 14: (OPEN, NOWHERE),
    66: (BID, BID_SIZE), 67: (ASK, ASK_SIZE), 68: (LAST, LAST_SIZE),
    72: (HIGH, NOWHERE), 73: (LOW, NOWHERE), 75: (CLOSE, NOWHERE), 76: (OPEN, NOWHERE),
}  # fmt: skip
"""tickPrice's type → where price and size go. From 66 on: the delayed ones."""

SIZES = {
    0: BID_SIZE, 3: ASK_SIZE, 5: LAST_SIZE, 8: VOLUME,
    69: BID_SIZE, 70: ASK_SIZE, 71: LAST_SIZE, 74: VOLUME,
}  # fmt: skip
DELAYED = 66
PRICE_OF = {BID_SIZE: BID, ASK_SIZE: ASK}

TYPES: dict[int, MarketDataType] = {1: "live", 2: "frozen", 3: "delayed", 4: "delayedFrozen"}
LARGEST = 1e18
"""Beyond it are only IBKR's unset values."""


class Line:
    """One subscription, and what it has told."""

    __slots__ = ("con_id", "sent", "told", "type", "values")

    def __init__(self, con_id: int) -> None:
        self.con_id = con_id
        self.type: MarketDataType | None = None
        self.values: list[float | None] = [None] * 11
        self.sent = False
        self.told = False


class Ticks:
    """One session's lines. `told` gets (request, quote) of all that one packet changed."""

    def __init__(self, api: Api, gate: Gate, clock: Clock, told: Callable[[Sequence[tuple[int, Quote]]], None]) -> None:
        self._told = told
        self._api = api
        self._gate = gate
        self._clock = clock
        self._lines: dict[int, Line] = {}
        self._changed: dict[int, Line] = {}
        self._type = 1  # TWS's own at the start of a session

    def __contains__(self, request: int) -> bool:
        return request in self._lines

    def con_id(self, request: int) -> int | None:
        line = self._lines.get(request)
        return line.con_id if line else None

    # --- lines ------------------------------------------------------------------------------------------------------

    def subscribe(self, contract: ib.Contract, market_data_type: int) -> int:
        """Ask for a line; its request id. `market_data_type`: 1 live, 3 delayed where live is not subscribed."""
        client = self._api.client
        request = int(client.getReqId())
        line = self._lines[request] = Line(contract.conId)

        def ask() -> None:
            if request in self._lines:  # nobody has changed his mind
                line.sent = True
                client.reqMktData(request, contract, "", False, False, [])

        if market_data_type != self._type:  # it holds for all requests that follow
            self._type = market_data_type
            self._gate.send(Lane.RESUBSCRIBE, lambda: client.reqMarketDataType(market_data_type))
        self._gate.send(Lane.RESUBSCRIBE, ask)
        return request

    def unsubscribe(self, request: int) -> None:
        """End a line; what it may still tell is not handed on."""
        line = self._lines.pop(request, None)
        self._changed.pop(request, None)
        if line is not None and line.sent:
            self._gate.send(Lane.READ, lambda: self._api.client.cancelMktData(request))

    def clear(self) -> None:
        self._lines.clear()
        self._changed.clear()

    # --- ticks: the decoder's own calls, hence the names of its arguments --------------------------------------------

    def price(self, reqId: int, tickType: int, price: float, size: float) -> None:
        line = self._lines.get(reqId)
        place = PRICES.get(tickType)
        if line is None or place is None:
            return
        at, size_at = place
        values = line.values
        quoted = -LARGEST < price < LARGEST and not (size == 0 and (price == -1 or (price == 0 and at <= ASK)))
        values[at] = price if quoted else None
        if size_at >= 0:
            values[size_at] = size if quoted and 0 <= size < LARGEST else None
        if tickType >= DELAYED and line.type is None:
            line.type = "delayed"
        line.told = True
        self._changed[reqId] = line

    def size(self, reqId: int, tickType: int, size: float) -> None:
        line = self._lines.get(reqId)
        at = SIZES.get(tickType)
        if line is None or at is None:
            return
        line.values[at] = size if 0 <= size < LARGEST else None
        if size == 0 and at in PRICE_OF:  # nobody quotes on this side
            line.values[PRICE_OF[at]] = line.values[at] = None
        line.told = True
        self._changed[reqId] = line

    def market_data_type(self, reqId: int, marketDataId: int) -> None:
        line = self._lines.get(reqId)
        if line is None:
            return
        line.type = TYPES.get(marketDataId)
        if line.told:  # before the first tick there is nothing to show
            self._changed[reqId] = line

    def flush(self) -> None:
        """The packet is over."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        now = self._clock.now()
        packet = []
        for request, line in changed.items():
            bid, bid_size, ask, ask_size, last, last_size, volume, opened, high, low, close = line.values
            quote = Quote(
                conId=line.con_id,
                marketDataType=line.type,
                bid=bid,
                bidSize=bid_size,
                ask=ask,
                askSize=ask_size,
                last=last,
                lastSize=last_size,
                volume=volume,
                open=opened,
                high=high,
                low=low,
                close=close,
                asOf=now,
            )
            packet.append((request, quote))
        self._told(packet)
