"""Market-data lines: ticks → quotes, published once a network packet and not once a tick, since a wake-up is dear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import ib_async as ib

from daemon.tws.client import GatewayClient
from daemon.tws.send_queue import Lane, SendQueue
from shared.clock import Clock
from shared.messages import MarketDataType, Quote

BID, BID_SIZE, ASK, ASK_SIZE, LAST, LAST_SIZE, VOLUME, OPEN, HIGH, LOW, CLOSE = range(11)
"""The places of a line's values."""

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
"""Without a size there is no quote on this side."""

TYPES: dict[int, MarketDataType] = {1: "live", 2: "frozen", 3: "delayed", 4: "delayedFrozen"}
LARGEST = 1e18
"""Beyond it are only IBKR's unset values."""


class Line:
    """One subscription and its latest values. `request`: its id; `source`: that of the request which brings the data,
    another one where IBKR has rerouted it to the underlying. `last_moved`, `quote_moved`: this packet has a price of
    the last trade, or of bid or ask; `last_at`, `quote_at`: when one came."""

    __slots__ = (
        "con_id",
        "has_ticks",
        "last_at",
        "last_moved",
        "quote_at",
        "quote_moved",
        "request",
        "sent",
        "source",
        "type",
        "values",
    )

    def __init__(self, con_id: int, request: int) -> None:
        self.request = self.source = request
        self.con_id = con_id
        self.type: MarketDataType | None = None
        self.values: list[float | None] = [None] * 11
        self.sent = False
        self.has_ticks = False
        self.last_moved = self.quote_moved = False
        self.last_at: datetime | None = None
        self.quote_at: datetime | None = None


class Ticks:
    """One session's lines. `publish` gets (request, quote) of all that one packet changed."""

    def __init__(
        self,
        client: GatewayClient,
        queue: SendQueue,
        clock: Clock,
        publish: Callable[[Sequence[tuple[int, Quote]]], None],
    ) -> None:
        self._publish = publish
        self._client = client
        self._queue = queue
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
        """Request a line; its request id. `market_data_type`: 1 live, 3 delayed where live is not subscribed."""
        client = self._client
        request = client.getReqId()
        line = self._lines[request] = Line(contract.conId, request)

        def send() -> None:
            if request in self._lines:  # else it was cancelled while it waited
                line.sent = True
                client.reqMktData(request, contract, "", False, False, [])

        if market_data_type != self._type:  # it holds for all requests that follow
            self._type = market_data_type
            self._queue.send(Lane.RESUBSCRIBE, lambda: client.reqMarketDataType(market_data_type))
        self._queue.send(Lane.RESUBSCRIBE, send)
        return request

    def unsubscribe(self, request: int) -> None:
        """End a line; late ticks of it are dropped."""
        line = self._lines.pop(request, None)
        self._changed.pop(request, None)
        if line is not None and line.sent:
            source = line.source
            self._lines.pop(source, None)
            self._queue.send(Lane.READ, lambda: self._client.cancelMktData(source))

    def clear(self) -> None:
        self._lines.clear()
        self._changed.clear()

    def owner(self, request: int) -> int:
        """The subscription that `request` brings data for: `request` itself, unless it was rerouted."""
        line = self._lines.get(request)
        return request if line is None else line.request

    def reroute(self, reqId: int, conId: int, exchange: str) -> None:
        """IBKR has no data of its own for this contract (a share CFD): its underlying's are requested in its place."""
        line = self._lines.get(reqId)
        if line is None or line.source != reqId or line.request != reqId:
            return
        client = self._client
        source = line.source = client.getReqId()
        self._lines[source] = line

        def send() -> None:
            if source in self._lines:
                client.reqMktData(source, ib.Contract(conId=conId, exchange=exchange), "", False, False, [])

        self._queue.send(Lane.RESUBSCRIBE, send)

    # --- ticks: the decoder's own calls, hence the names of its arguments --------------------------------------------

    def price(self, reqId: int, tickType: int, price: float, size: float) -> None:
        line = self._lines.get(reqId)
        place = PRICES.get(tickType)
        if line is None or place is None:
            return
        at, size_at = place
        values = line.values
        quoted = -LARGEST < price < LARGEST and (size > 0 or price not in (0, -1))
        values[at] = price if quoted else None
        if size_at >= 0:
            values[size_at] = size if quoted and 0 <= size < LARGEST else None
        if at == LAST:
            line.last_moved = True
        elif at <= ASK:
            line.quote_moved = True
        if tickType >= DELAYED and line.type is None:
            line.type = "delayed"
        line.has_ticks = True
        self._changed[line.request] = line

    def size(self, reqId: int, tickType: int, size: float) -> None:
        line = self._lines.get(reqId)
        at = SIZES.get(tickType)
        if line is None or at is None:
            return
        line.values[at] = size if 0 <= size < LARGEST else None
        if size == 0:
            if at in PRICE_OF:
                line.values[PRICE_OF[at]] = line.values[at] = None
            elif at == LAST_SIZE and not line.values[LAST]:  # 0 or unknown: there is no last trade
                line.values[LAST] = line.values[LAST_SIZE] = None
        line.has_ticks = True
        self._changed[line.request] = line

    def market_data_type(self, reqId: int, marketDataId: int) -> None:
        line = self._lines.get(reqId)
        if line is None:
            return
        line.type = TYPES.get(marketDataId)
        if line.has_ticks:  # before the first tick there is nothing to show
            self._changed[line.request] = line

    def flush(self) -> None:
        """The packet is over."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        now = self._clock.now()
        packet = []
        for request, line in changed.items():
            bid, bid_size, ask, ask_size, last, last_size, volume, opened, high, low, close = line.values
            if line.last_moved:
                line.last_moved, line.last_at = False, now
            if line.quote_moved:
                line.quote_moved, line.quote_at = False, now
            priced = line.last_at if last is not None else None if bid is None and ask is None else line.quote_at
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
                priceAsOf=priced,
            )
            packet.append((request, quote))
        self._publish(packet)
