"""Entitlements, lines, pacing and the other reasons why a gateway says no."""

from __future__ import annotations

import ib_async
import pytest

from daemon.simulator import Gateway, HistoryLimits, ManualClock, World
from daemon.simulator.pacing import HistoryPacing
from tests.daemon.simulator.waiting import APPLE, Connect, Raw, quote, ready
from tests.waiting import until

MICROSOFT = (272093, "MSFT", *APPLE[2:])


async def first(client: Raw, req_id: int) -> list[str]:
    """The first words about a request: an error's code, or the data type of its line with its first price tick."""
    while True:
        fields = await client.read()
        if fields[0] == "4" and fields[2] == str(req_id):
            return ["error", fields[3]]
        if fields[0] == "1" and fields[2] == str(req_id):
            return ["tick", fields[3]]


@pytest.mark.parametrize(
    ("code", "live", "delayed"),
    [
        (354, ["error", "354"], ["error", "354"]),
        (10089, ["error", "10089"], ["error", "10167"]),
        (10168, ["error", "10168"], ["error", "10167"]),
        (10167, ["error", "10168"], ["error", "10167"]),
        (10090, ["error", "10090"], ["error", "10090"]),
        (0, ["tick", "1"], ["tick", "1"]),
    ],
)
async def test_an_entitlement_decides_what_a_line_gets(
    gateway: Gateway, code: int, live: list[str], delayed: list[str]
) -> None:
    gateway.entitlement(code, "AAPL")
    client = await ready(gateway)
    quote(client, 1)
    assert await first(client, 1) == live
    client.send(59, 1, 3)
    quote(client, 2)
    assert await first(client, 2) == delayed
    if delayed[1] == "10167":
        assert (await client.until("58", "1", "2"))[3] == "3"
        assert await first(client, 2) == ["tick", "66"]
    quote(client, 3, MICROSOFT)
    assert await first(client, 3) == ["tick", "1"]


async def test_a_refused_line_has_its_terms_all_the_same(gateway: Gateway) -> None:
    """TWS sends the contract's terms before IBKR's data farm turns the line down, in these words."""
    gateway.entitlement(10089, "AAPL")
    client = await ready(gateway)
    quote(client, 1)

    assert (await client.read())[:3] == ["81", "1", "0.01"]
    said = await client.read()
    assert said[2:4] == ["1", "10089"]
    assert said[4].endswith("Delayed market data is available.AAPL NASDAQ.NMS/TOP/ALL")


async def test_a_competing_session_takes_every_line_and_each_new_one(gateway: Gateway) -> None:
    client = await ready(gateway)
    quote(client, 1)
    await until(lambda: gateway.quotes.lines)
    gateway.compete()
    assert (await client.until("4"))[2:4] == ["1", "10197"]
    quote(client, 2)
    assert (await client.until("4"))[2:4] == ["2", "10197"]
    assert gateway.quotes.by_contract() == {}

    gateway.compete(on=False)
    quote(client, 3)
    assert await first(client, 3) == ["tick", "1"]


async def test_lines_beyond_the_limit_are_refused_and_snapshots_need_none() -> None:
    async with Gateway(World(), lines=2) as gateway:
        client = await ready(gateway)
        for req_id in (1, 2, 3):
            quote(client, req_id)
        assert (await client.until("4"))[2:4] == ["3", "101"]
        quote(client, 4, snapshot=1)
        await client.until("57", "1", "4")
        client.send(2, 2, 1)
        quote(client, 5)
        assert await first(client, 5) == ["tick", "1"]
        assert gateway.quotes.by_contract() == {265598: 2}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        ((2, 2, 77), "300", "Can't find EId with tickerId:77"),
        ((25, 1, 77), "366", "No historical data query found for ticker id:77"),
        ((51, 1, 77), "300", "Can't find EId with tickerId:77"),
        ((4, 1, 77, ""), "10147", "OrderId 77 that needs to be cancelled is not found."),
        ((9, 8, 77, 0, "IBM", "STK", "", 0, "", "", "", "", "", "", "", 0, "", "", ""), "", ""),
        ((1, 11, 77, 0, "IBM", "STK", "", 0, "", "", "SMART", "", "", "", "", 0, "", 0, 0, ""), "200", "ambiguous"),
        ((1, 11, 77, 0, "", "STK", "", 0, "", "", "SMART", "", "", "", "", 0, "", 0, 0, ""), "321", "valid symbol"),
        ((6, 2, 1, "DU999"), "321", "Invalid account code"),
        ((10, 5, 77, 416904, *[""] * 11, 5, 0, ""), "10092", "Deep market data is not supported"),
        ((1, 11, 77, *APPLE, 0, "233", 1, 0, ""), "321", "not applicable to generic ticks"),
        ((18, 1, 1), "321", "FA data operations ignored for non FA customers"),
        ((19, 1, 1, "<ListOfGroups/>", 77), "321", "FA data operations ignored for non FA customers"),
        ((55, 1, 77, *APPLE, 0.3, 200, 0, ""), "321", "not an option"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused_with_its_code(
    gateway: Gateway, request_: tuple[object, ...], code: str, words: str
) -> None:
    client = await ready(gateway)
    client.send(*request_)
    if not code:
        assert [(await client.read())[0] for _ in range(4)] == ["10", "10", "10", "52"]
    else:
        said = await client.until("4")
        assert said[3] == code
        assert words in said[4]


async def test_a_third_account_summary_and_a_used_id_are_refused(gateway: Gateway) -> None:
    client = await ready(gateway)
    for req_id in (1, 2, 3, 2):
        client.send(62, 1, req_id, "All", "NetLiquidation")
    third = await client.until("4")
    assert (third[2], third[3]) == ("3", "322")
    assert "Maximum number of account summary requests exceeded" in third[4]
    assert (await client.until("4"))[2:4] == ["2", "322"]
    client.send(63, 1, 1)
    client.send(62, 1, 4, "All", "NetLiquidation")
    await client.until("64", "1", "4")


async def test_a_used_ticker_id_is_refused(gateway: Gateway) -> None:
    client = await ready(gateway)
    for _ in range(2):
        quote(client, 1)
        client.send(50, 3, 2, *APPLE, 5, "TRADES", 0, "")
        client.send(20, 3, *APPLE, 0, "", "1 hour", "1 D", 1, "TRADES", 1, 1, "")
        client.send(97, 4, *APPLE, "Last", 0, 1)
    for req_id in ("1", "2", "3", "4"):
        assert "Duplicate ticker id" in (await client.until("4", "2", req_id, "322"))[4]
    client.send(98, 4)
    client.send(2, 2, 1)

    await until(lambda: not gateway.quotes.lines)


async def test_a_display_group_shows_what_a_client_puts_there(gateway: Gateway) -> None:
    client = await ready(gateway)
    client.send(68, 1, 5, 1)
    assert await client.until("68") == ["68", "1", "5", "none"]
    client.send(69, 1, 5, "265598@SMART")
    assert await client.until("68") == ["68", "1", "5", "265598@SMART"]


async def test_real_time_bars_can_be_forbidden_for_a_contract(gateway: Gateway) -> None:
    gateway.refuse_bars("AAPL", "No market data permissions for NASDAQ STK")
    client = await ready(gateway)
    client.send(50, 3, 2, *APPLE, 5, "TRADES", 0, "")

    said = await client.until("4")
    assert said[2:5] == ["2", "420", "Invalid Real-time Query:No market data permissions for NASDAQ STK"]


# orders


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lmtPrice": 100.003}, 110),
        ({"totalQuantity": 0}, 434),
        ({"orderType": "NONSENSE"}, 321),
        ({"account": "DU999"}, 321),
        ({"account": "DU999", "whatIf": True}, 321),
    ],
)
async def test_an_order_that_cannot_be_is_refused_at_once(
    connect: Connect, change: dict[str, object], code: int
) -> None:
    ib = await connect()
    received: list[tuple[int, int]] = []
    ib.errorEvent += lambda req_id, code, *_: received.append((req_id, code))
    [contract] = await ib.qualifyContractsAsync(ib_async.Stock("AAPL", "SMART", "USD"))
    order = ib_async.LimitOrder("BUY", 1, 100.0)
    for name, value in change.items():
        setattr(order, name, value)

    trade = ib.placeOrder(contract, order)
    await until(lambda: (trade.order.orderId, code) in received)


async def test_a_filled_order_is_not_changed_and_a_done_id_not_used_again(connect: Connect) -> None:
    ib = await connect()
    received: list[tuple[int, int]] = []
    ib.errorEvent += lambda req_id, code, *_: received.append((req_id, code))
    [contract] = await ib.qualifyContractsAsync(ib_async.Stock("AAPL", "SMART", "USD"))
    filled = ib.placeOrder(contract, ib_async.MarketOrder("BUY", 1))
    resting = ib.placeOrder(contract, ib_async.LimitOrder("BUY", 1, 100.0))
    await until(lambda: filled.isDone() and resting.orderStatus.status == "Submitted")
    ib.cancelOrder(resting.order)
    await until(resting.isDone)

    for trade in (filled, resting):
        ib.client.placeOrder(trade.order.orderId, contract, trade.order)
    ib.client.cancelOrder(filled.order.orderId)

    await until(lambda: {(filled.order.orderId, 104), (resting.order.orderId, 103)} <= set(received))
    await until(lambda: (filled.order.orderId, 10148) in received)


async def test_children_wait_for_their_parent_and_end_with_it(gateway: Gateway, connect: Connect) -> None:
    ib = await connect()
    [contract] = await ib.qualifyContractsAsync(ib_async.Stock("AAPL", "SMART", "USD"))
    gateway.pin("AAPL", 200.0)
    bracket = ib.bracketOrder("BUY", 10, 190.0, 220.0, 180.0)
    for leg in bracket[1:]:
        leg.ocaGroup = "bracket"
    trades = [ib.placeOrder(contract, leg) for leg in bracket]
    await until(lambda: trades[0].orderStatus.status == "Submitted" and trades[2].orderStatus.status == "PreSubmitted")

    gateway.pin("AAPL", 189.0)
    await until(lambda: trades[0].orderStatus.status == "Filled" and trades[1].orderStatus.status == "Submitted")
    gateway.pin("AAPL", 230.0)
    await until(lambda: [t.orderStatus.status for t in trades[1:]] == ["Filled", "Cancelled"])


# history


def bars(
    client: Raw, req_id: int, size: str = "5 secs", span: str = "60 S", end: str = "", show: str = "TRADES"
) -> None:
    client.send(20, req_id, *APPLE, 0, end, size, span, 1, show, 1, 0, "")


async def test_small_bars_are_paced_like_ibkr_paces_them(clocked: Gateway, clock: ManualClock) -> None:
    """162 for an equal request within 15 s and for the sixth of a contract in 2 s; large bars are free."""
    client = await ready(clocked)
    bars(client, 1)
    await client.until("17", "1")
    bars(client, 2)
    said = await client.until("4", "2", "2", "162")
    assert said[4] == ("Historical Market Data Service error message:Historical data request pacing violation")
    clock.advance(16)
    bars(client, 3)
    await client.until("17", "3")
    clock.advance(16)
    for n in range(4, 10):
        bars(client, n, span=f"{n * 10} S")
    assert (await client.until("4"))[2:4] == ["9", "162"]
    for n in range(10, 18):
        bars(client, n, size="1 hour", span="1 D")
    await client.until("17", "17")
    assert clocked.history.violations == 2


async def test_pacing_can_end_the_connection() -> None:
    async with Gateway(World(), pacing_patience=2) as gateway:
        client = await ready(gateway)
        for n in range(3):
            bars(client, n)
        await client.rest()


def test_sixty_requests_fit_into_ten_minutes_and_bid_ask_counts_twice() -> None:
    """The sixty-first breaks the limit; after ten minutes there is room again."""
    pacing = HistoryPacing()
    admitted = [pacing.admit(n * 3.0, 5, n, n) for n in range(61)]
    doubled = HistoryPacing()
    twice = [doubled.admit(n * 3.0, 5, n, n, weight=2) for n in range(31)]

    assert admitted == [True] * 60 + [False]
    assert twice == [True] * 30 + [False]
    assert pacing.used(180.0) == 61
    assert pacing.admit(601.0 + 180, 5, "later", "later")


def test_unenforced_pacing_is_counted_all_the_same() -> None:
    pacing = HistoryPacing(HistoryLimits(requests=1), enabled=False)

    assert [pacing.admit(0.0, 5, n, n) for n in range(3)] == [True] * 3
    assert pacing.violations == 2


@pytest.mark.parametrize(
    ("size", "span", "end", "show", "code", "words"),
    [
        ("7 mins", "1 D", "", "TRADES", "321", "Legal ones are"),
        ("1 min", "1 fortnight", "", "TRADES", "321", "duration"),
        ("1 min", "1 D", "yesterday", "TRADES", "10314", "End Date/Time"),
        ("1 min", "1 D", "", "NOISE", "321", "whatToShow"),
        ("1 min", "1 D", "20251112 16:00:00 Moon/Crater", "TRADES", "10314", "time-zone"),
        ("1 min", "1 D", "19700105 00:00:00 UTC", "TRADES", "162", "HMDS query returned no data: AAPL@SMART Trades"),
        ("1 secs", "30 D", "", "TRADES", "162", "Time length exceed max"),
    ],
)
async def test_a_historical_request_that_makes_no_sense_is_explained(
    gateway: Gateway, size: str, span: str, end: str, show: str, code: str, words: str
) -> None:
    client = await ready(gateway)
    bars(client, 1, size, span, end, show)

    said = await client.until("4", "2", "1")
    assert said[3] == code
    assert words in said[4]


async def test_cancelling_a_query_or_a_stream_is_confirmed_with_162(gateway: Gateway) -> None:
    client = await ready(gateway)
    gateway.mute("historicalData")
    bars(client, 1, "1 hour", "1 D")
    client.send(25, 1, 1)
    assert (await client.until("4"))[2:4] == ["1", "162"]
    gateway.behave()
    client.send(20, 2, *APPLE, 0, "", "1 hour", "1 D", 1, "TRADES", 1, 1, "")
    await client.until("17", "2")
    client.send(25, 1, 2)
    assert (await client.until("4", "2", "2"))[4].endswith("API historical data query cancelled: 2")
    gateway.no_history("AAPL")
    bars(client, 3, "1 hour", "1 D")
    assert (await client.until("4", "2", "3"))[4].endswith("HMDS query returned no data: AAPL@SMART Trades")


async def test_account_updates_can_be_taken_away(gateway: Gateway) -> None:
    client = await ready(gateway)
    client.send(6, 2, 1, "DU1234567")
    await client.until("54")
    gateway.unsubscribe_accounts()
    await client.until("4", "2", "-1", "2100")
    gateway.update_accounts()
    assert await client.silent()


async def test_account_updates_that_are_subscribed_to_are_not_sent_in_full_again(gateway: Gateway) -> None:
    client = await ready(gateway)
    client.send(6, 2, 1, "DU1234567")
    await client.until("54")
    client.send(6, 2, 1, "DU1234567")
    client.send(49, 1)
    assert (await client.read())[0] == "49", "nothing but the time"
    client.send(6, 2, 0, "DU1234567")
    client.send(6, 2, 1, "DU1234567")
    await client.until("54")
