from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import ib_async as ib
import pytest

from daemon.simulator import Gateway, World
from daemon.tws import LinkLost
from daemon.tws.send_queue import SendQueue
from daemon.tws.ticks import Ticks
from shared.messages import Bar, ContractQuery, Quote
from tests.clock import HandClock
from tests.daemon.tws.scripted import Peer, frame
from tests.daemon.tws.sessions import Session, joined, session
from tests.waiting import until

AAPL = ContractQuery(conId=265598, exchange="SMART")
MSFT = ContractQuery(conId=272093, exchange="SMART")
BARS: dict[str, Any] = {"durationStr": "1 D", "barSizeSetting": "1 min", "whatToShow": "TRADES", "useRTH": True}


class Reader:
    """All that a session publishes of its streams."""

    def __init__(self, made: Session) -> None:
        self.packets: list[list[tuple[int, Quote]]] = []
        self.bars: list[tuple[int, list[Bar]]] = []
        self.troubles: list[tuple[int, int]] = []
        made.tws.on_quotes = self.on_quotes
        made.tws.on_bars = lambda request, bars: self.bars.append((request, list(bars)))
        made.tws.on_trouble = lambda request, code, _text: self.troubles.append((request, code))

    def on_quotes(self, packet: Sequence[tuple[int, Quote]]) -> None:
        self.packets.append(list(packet))

    def last(self, request: int) -> Quote | None:
        return next((quote for packet in reversed(self.packets) for r, quote in packet if r == request), None)


@asynccontextmanager
async def line_with(
    ticks: Sequence[Sequence[object]], market_data_type: int = 1
) -> AsyncIterator[tuple[Session, Reader]]:
    """A line whose gateway sends `ticks` (REQUEST stands for its id) as one packet."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = (await peer.until(1))[2]
        peer.raw(b"".join(frame(*(request if field is REQUEST else field for field in tick)) for tick in ticks))
        await peer.finish()

    async with session(gateway) as made:
        reader = Reader(made)
        made.tws.subscribe_quote(AAPL, market_data_type)
        await until(lambda: reader.packets)
        yield made, reader


REQUEST = object()
BID = (1, 6, REQUEST, 1, "225.10", "300", 1)
ASK = (1, 6, REQUEST, 2, "225.12", "400", 1)


async def test_a_packet_of_ticks_is_one_call_with_the_whole_quote():
    rest = [
        (1, 6, REQUEST, 4, "225.11", "100", 0),
        (2, 6, REQUEST, 8, "123456"),
        (1, 6, REQUEST, 6, "226", "0", 0),
        (1, 6, REQUEST, 7, "224", "0", 0),
        (1, 6, REQUEST, 9, "223.5", "0", 0),
        (1, 6, REQUEST, 14, "224.5", "0", 0),
        (2, 6, REQUEST, 0, "500"),
        (46, 6, REQUEST, 45, "1700000000"),
        (45, 6, REQUEST, 49, "0"),
        (81, REQUEST, "0.01", "9c0001", 3),
    ]
    async with line_with([(58, 1, REQUEST, 1), BID, ASK, *rest]) as (_, reader):
        ((_, quote),) = reader.packets[0]

        assert (quote.conId, quote.marketDataType) == (265598, "live")
        assert (quote.bid, quote.bidSize, quote.ask, quote.askSize) == (225.10, 500, 225.12, 400)
        assert (quote.last, quote.lastSize, quote.volume) == (225.11, 100, 123456)
        assert (quote.open, quote.high, quote.low, quote.close) == (224.5, 226, 224, 223.5)
        assert quote.asOf is not None
        assert len(reader.packets) == 1


@pytest.mark.parametrize(
    ("nothing", "side"),
    [
        ((1, 6, REQUEST, 1, "-1", "0", 0), ("bid", "bidSize")),
        ((1, 6, REQUEST, 1, "0", "0", 0), ("bid", "bidSize")),
        ((2, 6, REQUEST, 0, "0"), ("bid", "bidSize")),
        ((1, 6, REQUEST, 1, "1.7976931348623157E308", "0", 0), ("bid", "bidSize")),
        ((1, 6, REQUEST, 4, "-1", "0", 0), ("last", "lastSize")),
        ((1, 6, REQUEST, 4, "0", "0", 0), ("last", "lastSize")),
        ((1, 6, REQUEST, 68, "0", "0", 0), ("last", "lastSize")),
        ((1, 6, REQUEST, 14, "0", "0", 0), ("open",)),
        ((1, 6, REQUEST, 6, "0", "0", 0), ("high",)),
        ((1, 6, REQUEST, 7, "0", "0", 0), ("low",)),
        ((1, 6, REQUEST, 75, "0", "0", 0), ("close",)),
        ((1, 6, REQUEST, 4, "", "", 0), ("last", "lastSize")),
        ((1, 6, REQUEST, 1, "-1.00", "", 0), ("bid", "bidSize")),
        ((1, 6, REQUEST, 9, "0", "", 0), ("close",)),
        ((2, 6, REQUEST, 8, "9223372036854775807"), ("volume",)),
        ((1, 6, REQUEST, 9, "NaN", "0", 0), ("close",)),
    ],
)
async def test_ibkrs_ways_to_say_nothing_are_null(nothing: Sequence[object], side: Sequence[str]):
    async with line_with([BID, ASK, nothing]) as (_, reader):
        ((_, quote),) = reader.packets[0]

        assert [getattr(quote, name) for name in side] == [None] * len(side)
        assert quote.ask == 225.12


@pytest.mark.parametrize(
    ("ticks", "quote"),
    [
        # below zero with a size
        ([(1, 6, REQUEST, 1, "-1", "5", 0), (1, 6, REQUEST, 2, "-0.5", "5", 0)], {"bid": -1.0, "ask": -0.5}),
        # zero with a size
        ([(1, 6, REQUEST, kind, "0", "5", 0) for kind in (1, 2, 4)], {"bid": 0, "ask": 0, "last": 0}),
        # zero whose size follows as zero
        ([(1, 6, REQUEST, 4, "0", "", 0), (2, 6, REQUEST, 5, "0")], {"last": None, "lastSize": None}),
        # an empty size is unknown and not zero: recorded of an index (E6)
        ([(1, 6, REQUEST, 4, "4594.45", "", 0)], {"last": 4594.45, "lastSize": None}),
        # delayed ticks fill the same fields
        (
            [
                (58, 1, REQUEST, 3),
                *((1, 6, REQUEST, kind, price, "300", 1) for kind, price in ((66, "1.5"), (67, "2.5"), (68, "2"))),
                (2, 6, REQUEST, 74, "1000"),
                (1, 6, REQUEST, 75, "223", "0", 0),
            ],
            {"marketDataType": "delayed", "bid": 1.5, "ask": 2.5, "last": 2, "volume": 1000, "close": 223},
        ),
    ],
)
async def test_ticks_become_fields_of_the_quote(ticks: Sequence[Sequence[object]], quote: dict[str, object]):
    async with line_with(ticks) as (_, reader):
        ((_, found),) = reader.packets[0]

        assert {name: getattr(found, name) for name in quote} == quote


def test_a_quote_shows_how_old_its_price_is():
    """Sizes alone make no price newer. Without a last trade it is the bid's or the ask's age."""
    clock, quotes = HandClock(), []
    queue = SendQueue(clock)
    ticks = Ticks(Numbered(), queue, clock, lambda packet: quotes.extend(quote for _, quote in packet))  # type: ignore[arg-type]
    request = ticks.subscribe(ib.Contract(conId=1), 1)

    def packet(act: Callable[..., None], *values: float) -> Quote:
        clock.jump(600)
        act(request, *values)
        ticks.flush()
        return quotes[-1]

    bid = packet(ticks.price, 1, 10.0, 5.0)
    assert bid.priceAsOf == bid.asOf
    last = packet(ticks.price, 4, 10.5, 1.0)
    assert last.priceAsOf == last.asOf
    for old in (packet(ticks.size, 5, 7.0), packet(ticks.size, 8, 100.0), packet(ticks.price, 1, 10.1, 5.0)):
        assert old.asOf > last.asOf
        assert old.priceAsOf == last.asOf
    gone = packet(ticks.price, 4, -1.0, 0.0)
    assert gone.last is None
    assert gone.priceAsOf is not None
    assert last.asOf < gone.priceAsOf < gone.asOf


class Numbered:
    """A client that gives request ids and sends nothing."""

    def getReqId(self) -> int:
        return 1

    def reqMktData(self, *_: object) -> None:
        pass


async def test_the_kind_of_data_alone_is_no_quote():
    async with line_with([(58, 1, REQUEST, 2), (46, 6, REQUEST, 45, "1"), (1, 6, REQUEST, 1, "5", "1", 0)]) as (
        _,
        reader,
    ):
        assert len(reader.packets) == 1
        assert reader.packets[0][0][1].marketDataType == "frozen"


async def test_a_line_lives_and_ends_without_a_trace():
    async with Gateway(World(), tick_rate=50) as gateway, joined(gateway.port) as made:
        reader = Reader(made)
        request = made.tws.subscribe_quote(AAPL, 1)
        await until(lambda: (quote := reader.last(request)) and quote.bid and quote.ask and quote.last)
        assert gateway.quotes.by_contract() == {265598: 1}

        made.tws.unsubscribe_quote(request)
        await until(lambda: gateway.quotes.by_contract() == {})
        count = len(reader.packets)
        await made.tws.probe(10)
        assert len(reader.packets) == count
        assert made.tws.decode_errors == {}


async def test_a_line_released_while_it_waits_is_not_requested():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        made.tws.queue.pause(paused=True)
        made.tws.unsubscribe_quote(made.tws.subscribe_quote(AAPL, 1))
        made.tws.queue.pause(paused=False)
        await made.tws.probe(10)

        assert "reqMktData" not in {seen.name for seen in gateway.requests}


async def test_the_kind_of_data_is_requested_once():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        for query in (AAPL, MSFT, AAPL):
            made.tws.subscribe_quote(query, 3)
        await until(lambda: sum(seen.name == "reqMktData" for seen in gateway.requests) == 3)

        assert [seen.name for seen in gateway.requests].count("reqMarketDataType") == 1


async def test_trouble_of_a_line_is_reported():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        reader = Reader(made)
        gateway.entitlement(354, "AAPL")
        request = made.tws.subscribe_quote(AAPL, 1)
        await until(lambda: reader.troubles)

        assert reader.troubles == [(request, 354)]
        (notice,) = [row for row in made.rows("notices").values() if row.code == 354]
        assert notice.conId == 265598


async def test_an_outage_is_no_trouble_of_a_line():
    """1100 with a line's id is the link's affair: what it means for lines, 1101 and 1102 say."""
    async with Gateway(World(), tick_rate=50) as gateway, joined(gateway.port) as made:
        reader = Reader(made)
        request = made.tws.subscribe_quote(AAPL, 1)
        gateway.send_error(1100, req_id=request)
        await made.tws.probe(10)

        assert reader.troubles == []


async def test_bars_come_with_their_past_and_then_grow():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        reader = Reader(made)
        request = made.tws.subscribe_bars(AAPL, **BARS)
        await until(lambda: len(reader.bars) >= 2)

        (first, past), (again, grown) = reader.bars[:2]
        assert first == again == request
        assert [bar.date for bar in past] == sorted(bar.date for bar in past)
        assert len(past) > 1
        assert grown[0].date >= past[-1].date
        made.tws.unsubscribe_bars(request)
        await until(lambda: any(seen.name == "cancelHistoricalData" for seen in gateway.requests))
        assert made.tws.decode_errors == {}


async def test_echoes_of_our_own_cancel_are_not_noted():
    """300, 366 and a cancelled query, for a stream that was given up (FAULTS 50)."""
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        reader = Reader(made)
        request = made.tws.subscribe_quote(AAPL, 1)
        await until(lambda: reader.packets)
        made.tws.unsubscribe_quote(request)
        for code in (162, 300, 366):
            gateway.send_error(code, req_id=request)
        await made.tws.probe(10)

        assert reader.troubles == []
        assert not {row.code for row in made.rows("notices").values()} & {162, 300, 366}


async def test_no_stream_begins_without_a_session():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        made.tws.abort()
        with pytest.raises(LinkLost):
            made.tws.subscribe_quote(AAPL, 1)
        with pytest.raises(LinkLost):
            made.tws.subscribe_bars(AAPL, **BARS)
