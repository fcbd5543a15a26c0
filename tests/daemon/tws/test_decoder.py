"""What gateways send and ib_async reads wrongly or not at all; and what a message costs that cannot be read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.link.events import Lost
from daemon.tws import TwsUnreadable
from daemon.tws.callbacks import Callbacks
from daemon.tws.decode_errors import ANSWERS, LISTS
from daemon.tws.decoder import MessageDecoder
from daemon.tws.errors import DECODE_KINDS
from shared.clock import SystemClock
from shared.messages import ContractQuery
from tests.daemon.tws.recorded import answering, execution, order_line, send
from tests.daemon.tws.scripted import Peer
from tests.daemon.tws.sessions import session
from tests.waiting import until

QUERY = ContractQuery(conId=265598, exchange="SMART")
DAYS: dict[str, Any] = {
    "endDateTime": None,
    "durationStr": "2 Y",
    "barSizeSetting": "1 day",
    "whatToShow": "TRADES",
    "useRTH": True,
    "timeout": 60,
}
HEADER = "17|ID|20180423  14:00:22|20200423  14:00:22"
DETAILS = (
    "10|ID|AAPL|STK|{last}|0||SMART|USD|AAPL|NMS|NMS|265598|0.01||LMT,MKT|SMART,NASDAQ|1|0|{name}|NASDAQ||Technology"
    "|Computers|Computers|US/Central|20261125:0930-20261125:1600|20261125:0930-20261125:1600|||0|1|||26|20261218|COMMON|1|1|100"
)
BOND = (
    "18|ID|IBM|BOND|459200AG6|3.875|20451103|20151103||CORP|FIXED|0|0|0||SMART|USD|IBM|IBM|12345|0.001|LMT|SMART||||"
    "||||0|1|26|0.001|0.001|0.001"
)
SEARCH = "79|ID|2|265598|AAPL|STK|NASDAQ|USD|1|OPT|APPLE INC||-1|IBM|BOND|||0|INTL BUSINESS MACHINES|e1400715"


async def bars(*lines: str) -> list[Any]:
    async with session(answering({"20": lines})) as made:
        return await made.tws.historical_bars(QUERY, **DAYS)


def test_every_kind_that_is_counted_from_0_on_is_a_message_or_a_part_of_one():
    names = set(MessageDecoder(Callbacks, lambda *_: None, SystemClock.now).names.values())

    assert set(DECODE_KINDS) - names == {"unknown", "timezone"}
    assert {*LISTS, *ANSWERS} - {*DECODE_KINDS, "contractDetailsEnd", "securityDefinitionOptionParameterEnd"} == set()


# --- bars -----------------------------------------------------------------------------------------------------------


async def test_unknown_prices_of_bars_are_null():
    """Recorded: daily bars of a contract that was not traded (E1)."""
    first, second = await bars(f"{HEADER}|2|20180424|?|?|?|?|-1|-1.00|-1|20180425|1.5|2|1|1.75|100|1.6|7")

    assert first.date == "2018-04-24"
    assert (first.open, first.high, first.low, first.close, first.volume) == (None, None, None, None, None)
    assert (second.open, second.close, second.volume, second.barCount) == (1.5, 1.75, 100, 7)


async def test_dates_of_bars_without_a_year_have_the_headers():
    """Recorded (E2): the last year is that of the header's end, and what would be after it was a year before."""
    rows = await bars(f"{HEADER}|2|1214 09:30:00 US/Eastern|1|1|1|1|1|1|1|0414 09:30:00 US/Eastern|2|2|2|2|2|2|2")

    assert [row.date for row in rows] == ["2019-12-14T14:30:00Z", "2020-04-14T13:30:00Z"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (f"{HEADER}|1|20180424|1|x|1|1|1|1|1", "high"),
        (f"{HEADER}|1|yesterday|1|1|1|1|1|1|1", "date"),
        (f"{HEADER}|2|20180424|1|1|1|1|1|1|1", "bars"),
        (f"{HEADER}|1|20180424|1|1|1|1|1|1|1|1", "bars"),
    ],
)
async def test_an_answer_that_cannot_be_read_fails_its_request_at_once(line: str, field: str):
    with pytest.raises(TwsUnreadable) as unreadable:
        await bars(line)

    assert unreadable.value.field == field


async def test_empty_fields_of_a_bar_update_are_null():
    """Recorded (E6): ib_async makes prices of 0.0 of them."""
    received: list[Any] = []
    update = "90|ID|-1|20200424||||||-1.0|-1"
    async with session(answering({"20": (f"{HEADER}|1|20200423|1|1|1|1|1|1|1", update)})) as made:
        made.tws.on_bars = lambda _, rows: received.extend(rows)
        made.tws.subscribe_bars(QUERY, durationStr="2 D", barSizeSetting="1 day", whatToShow="TRADES", useRTH=True)
        await until(lambda: len(received) == 2)

    assert (received[1].date, received[1].open, received[1].close) == ("2020-04-24", None, None)


async def test_a_bar_update_without_a_year_is_shown():
    """It has no header: the year is the one in which its day is nearest to now (E2)."""
    received: list[Any] = []
    today = SystemClock.now()
    update = f"90|ID|5|{today:%m%d} 00:00:00 UTC|1|2|3|0.5|1.5|10|7"
    async with session(answering({"20": (f"{HEADER}|1|20200423|1|1|1|1|1|1|1", update)})) as made:
        made.tws.on_bars = lambda _, rows: received.extend(rows)
        made.tws.subscribe_bars(QUERY, durationStr="2 D", barSizeSetting="1 day", whatToShow="TRADES", useRTH=True)
        await until(lambda: len(received) == 2)

    assert received[1].date == f"{today:%Y-%m-%d}T00:00:00Z"


async def test_a_stream_whose_past_cannot_be_read_is_in_trouble():
    troubles: list[str] = []
    async with session(answering({"20": (f"{HEADER}|1|20200423|x|1|1|1|1|1|1",)})) as made:
        made.tws.on_trouble = lambda _, code, text: troubles.append(text)
        made.tws.subscribe_bars(QUERY, durationStr="2 D", barSizeSetting="1 day", whatToShow="TRADES", useRTH=True)
        await until(lambda: troubles)

    assert "open" in troubles[0]


# --- contracts ------------------------------------------------------------------------------------------------------


async def details(line: str, version: int = 178) -> Any:
    async with session(answering({"9": (line, "52|1|ID")}, version=version)) as made:
        (row,) = await made.tws.contract_details(QUERY, 60)
        return row


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("APPLE INC\\", "APPLE INC\\"),
        (r"A \N{X} B", r"A \N{X} B"),
        (r"CAF\u00c9 SA", "CAFÉ SA"),
        ("CAFÉ SA", "CAFÉ SA"),
    ],
)
async def test_a_name_with_a_backslash_or_an_accent_is_read(name: str, shown: str):
    assert (await details(DETAILS.format(last="", name=name))).longName == shown


@pytest.mark.parametrize(
    ("text", "date", "time"),
    [
        ("20230714 22:00:00 Europe/Prague", "20230714", "22:00:00 Europe/Prague"),
        ("20200918 08:30 CST", "20200918", "08:30 CST"),
        ("20240402-17:10:00", "20240402", "17:10:00"),
        ("20240402 17:10:00 America/Port-au-Prince", "20240402", "17:10:00"),
        ("20261218", "20261218", ""),
    ],
)
async def test_the_zone_of_the_last_trade_time_is_not_that_of_the_trading_hours(text: str, date: str, time: str):
    row = await details(DETAILS.format(last=text, name="APPLE INC"))

    assert (row.lastTradeDateOrContractMonth, row.lastTradeTime, row.timeZoneId) == (date, time, "US/Central")


async def test_a_bond_with_a_coupon_is_a_contract():
    assert (await details(BOND)).conId == 12345


async def test_a_field_of_contract_details_that_cannot_be_read_is_lost_and_not_the_answer():
    line = DETAILS.format(last="", name="APPLE INC").replace("|0.01|", "|cheap|")
    async with session(answering({"9": (line, "52|1|ID")})) as made:
        (row,) = await made.tws.contract_details(QUERY, 60)

        assert (row.conId, row.minTick) == (265598, None)
        assert made.tws.decode_errors == {"contractDetails.minTick": 1}


async def test_contract_details_without_a_contract_fail_the_request():
    """It is not “no such contract”, which would be remembered (A7)."""
    line = DETAILS.format(last="", name="APPLE INC").replace("|265598|", "||")
    async with session(answering({"9": (line, "52|1|ID")})) as made:
        with pytest.raises(TwsUnreadable) as unreadable:
            await made.tws.contract_details(QUERY, 60)

    assert unreadable.value.field == "conId"


async def test_issuers_of_bonds_have_an_issuer_id_and_no_con_id():
    """Recorded: a symbol search finds them with `conId: -1` (A27). Before server version 176 they have no id at all."""
    async with session(answering({"81": (SEARCH,)})) as made:
        found = await made.tws.matching_symbols("IBM", 60)
    assert [(row.conId, row.issuerId) for row in found] == [(265598, ""), (None, "e1400715")]

    old = "79|ID|2|265598|AAPL|STK|NASDAQ|USD|1|OPT|-1|IBM|BOND|||0"
    async with session(answering({"81": (old,)}, version=170)) as made:
        assert [row.conId for row in await made.tws.matching_symbols("IBM", 60)] == [265598]


async def test_ids_of_64_bits_are_whole():
    line = DETAILS.format(last="", name="APPLE INC").replace("|265598|", "|9007199254740993|")
    assert (await details(line)).conId == 9007199254740993


# --- lists ----------------------------------------------------------------------------------------------------------


def positions(*third: str) -> list[str]:
    rows = [f"61|3|DU1234567|{100 + number}|S{number}|STK||0|||NASDAQ|USD|S{number}|NMS|10|1.5" for number in range(5)]
    return [*rows[:2], *third, *rows[3:], "62|1"]


@pytest.mark.parametrize(
    "bad", ["x|1.5", "|1.5", "?|1.5", "NaN|1.5", "1.7976931348623157E308|1.5", "10|x", "10|1.5|7", "10"]
)
async def test_a_position_that_cannot_be_read_makes_the_list_unknown_and_not_shorter(bad: str):
    line = f"61|3|DU1234567|102|S2|STK||0|||NASDAQ|USD|S2|NMS|{bad}"
    async with session(answering({"61": positions(line)})) as made:
        assert await made.tws.sync({"positions"}) == {"positions"}
        await made.tws.probe(60)

        assert not made.is_current("positions")
        assert made.rows("positions") == {}
        assert made.tws.decode_errors == {"position": 1}


async def test_a_cost_that_the_gateway_does_not_know_is_null():
    line = "61|3|DU1234567|102|S2|STK||0|||NASDAQ|USD|S2|NMS|10|"
    async with session(answering({"61": positions(line)})) as made:
        await made.tws.sync({"positions"})

        assert made.rows("positions")["DU1234567:102"].avgCost is None


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("positions", "61|3|DU1234567|102|S2|STK||0|||NASDAQ|USD|S2|NMS|x|1.5"),
        ("orders", "3|5|Submitted|x|90|100.5|77|0|100.5|7||0"),
        ("orders", order_line(77, totalQuantity="x")),
        ("orders", order_line(77, lmtPrice="x")),
        ("orders", order_line(77).replace("|265598|", "||")),
        ("fills", execution("0001.a.01", total="x")),
        ("fills", "59|1|0001.a.01|x|USD|0||"),
        ("summary", "6|2|NetLiquidation"),
        ("pnl", "94|ID|x|1|1"),
    ],
)
async def test_a_live_update_that_cannot_be_read_makes_its_list_stale_until_it_is_read_again(topic: str, line: str):
    more = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.shake(version=178)
        pnl = ""
        while True:
            fields = await peer.next()
            match fields[0]:
                case "61":
                    send(peer, "62|1")
                case "16":
                    send(peer, "53|1")
                case "99":
                    send(peer, "102")
                case "7":
                    send(peer, f"55|1|{fields[2]}")
                case "6":
                    send(peer, "54|1|DU1234567")
                case "92":
                    pnl = fields[1]
                    send(peer, f"94|{pnl}|1|1|1")
                case "49":
                    if not more.is_set():
                        more.set()
                        send(peer, line.replace("ID", pnl))
                    send(peer, "49|1|1700000000")

    async with session(gateway) as made:
        assert await made.tws.sync() == frozenset()
        assert made.is_current(topic)
        await made.tws.probe(60)
        assert not made.is_current(topic)
        assert sum(made.tws.decode_errors.values()) == 1

        assert await made.tws.sync({topic}) == frozenset()
        assert made.is_current(topic)


async def test_what_no_row_holds_costs_nothing():
    """A field of an order that no row shows, an option's greeks, times of ticks (E3)."""
    strange = order_line(77).split("|")
    strange[28] = "?"  # discretionaryAmt
    answers = {
        "16": ("|".join(strange), "53|1"),
        "99": ("102",),
        "1": ("21|ID|11|0|0.12502290549746|||", "21|ID|11|0|0.1|0.2|0.3|0.4|0.5|0.6|0.7|0.8|0.9", "1|6|ID|1|9|9|0"),
    }
    quotes: list[Any] = []
    async with session(answering(answers)) as made:
        made.tws.on_quotes = quotes.extend
        assert await made.tws.sync({"orders"}) == frozenset()
        assert set(made.rows("orders")) == {"77"}
        made.tws.subscribe_quote(QUERY, 1)
        await until(lambda: quotes)

        assert made.tws.decode_errors["tickOptionComputation"] == 2


async def test_any_number_of_ticks_that_cannot_be_read_leaves_the_session_alone():
    bad = ["21|ID|11|0|0.1|||"] * 50 + ["1|6|ID|1|cheap|9|0"] * 50 + ["1|6|ID|1|9|9|0"]
    quotes: list[Any] = []
    with capture_logs() as lines:
        async with session(answering({"1": bad})) as made:
            made.tws.on_quotes = quotes.extend
            made.tws.subscribe_quote(QUERY, 1)
            await until(lambda: quotes)

            assert made.tws.decode_errors == {"tickOptionComputation": 50, "priceSizeTick": 50}
            assert not made.of(Lost)

    assert quotes[-1][1].bid == 9
    assert [(line["kind"], line["log_level"]) for line in lines if line["event"] == "tws.undecodable"] == [
        ("tickOptionComputation", "warning"),
        ("priceSizeTick", "warning"),
    ]
