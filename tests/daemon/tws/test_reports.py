"""What the accounts hold, as gateways report it in their less simple ways: each message as it was seen on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from daemon.tws import startup
from daemon.tws.times import read_bar_date, read_time
from tests.daemon.tws.recorded import AAPL, answering, completed_line, execution, order_line, send, status_line
from tests.daemon.tws.sessions import Session, session
from tests.waiting import until

NO_ORDERS: dict[str, Sequence[str]] = {"16": ("53|1",), "99": ("102",), "7": ("55|1|ID",)}


def before_probe(*lines: str) -> dict[str, Sequence[str]]:
    """These messages come, live, before the first answer to a probe."""
    return NO_ORDERS | {"49": lines}


async def settled(made: Session, *topics: str) -> None:
    """Read `topics`, then receive the messages of `before_probe`."""
    await made.tws.sync(topics)
    await made.tws.probe(60)


# --- fills ----------------------------------------------------------------------------------------------------------


async def test_a_pending_commission_is_unknown_and_a_rebate_is_one():
    pending, rebate = "59|1|0001.a.01|-1.0|USD|1.7976931348623157E308||", "59|1|0001.a.01|-0.35|USD|12.5||"
    async with session(answering(before_probe(execution("0001.a.01"), pending))) as made:
        await settled(made, "fills", "orders")
        assert made.rows("fills")["0001.a.01"].commission is None
    async with session(answering(before_probe(execution("0001.a.01"), pending, rebate))) as made:
        await settled(made, "fills", "orders")
        assert made.rows("fills")["0001.a.01"].commission == -0.35
        assert made.rows("fills")["0001.a.01"].realizedPNL == 12.5


async def test_empty_amounts_of_a_commission_report_are_unknown():
    async with session(answering(before_probe(execution("0001.a.01"), "59|1|0001.a.01||USD|||"))) as made:
        await settled(made, "fills", "orders")
        row = made.rows("fills")["0001.a.01"]

    assert (row.commission, row.commissionCurrency, row.realizedPNL) == (None, "USD", None)


async def test_a_correction_does_not_keep_the_profit_of_what_it_corrects():
    reports = ("59|1|0001.a.01|1.0|USD|12.5||", execution("0001.a.02"), "59|1|0001.a.02|2.0|USD|||")
    async with session(answering(before_probe(execution("0001.a.01"), *reports))) as made:
        await settled(made, "fills", "orders")
        row = made.rows("fills")["0001.a.02"]

    assert (row.commission, row.realizedPNL) == (2.0, None)


async def test_a_live_correction_of_a_recovered_fill_is_not_recovered():
    old = ("11|ID|5|" + execution("0001.a.01").split("|", 3)[3], "55|1|ID")
    async with session(answering(before_probe(execution("0001.a.02")) | {"7": old})) as made:
        await made.tws.sync({"fills", "orders"})
        assert made.rows("fills")["0001.a.01"].recovered
        await made.tws.probe(60)
        assert not made.rows("fills")["0001.a.02"].recovered


@pytest.mark.parametrize(
    ("text", "utc", "unknown"),
    [
        ("20261125 10:00:00 US/Eastern", "2026-11-25 15:00", ""),
        ("20261125 10:00:00 JST", "2026-11-25 01:00", ""),
        ("20261125 10:00:00 EST (Eastern Standard Time)", "2026-11-25 15:00", ""),
        ("20261125 10:00:00 GMT+08:00 中国", "2026-11-25 02:00", ""),
        ("20261125 10:00:00 GMT+08:00", "2026-11-25 02:00", ""),
        ("20261125 10:00:00 UTC-3", "2026-11-25 13:00", ""),
        ("20260918 08:30 CST", "2026-09-18 13:30", ""),
        ("20261125-10:00:00", "2026-11-25 10:00", ""),
        ("1764064800", "2025-11-25 10:00", ""),
    ],
)
def test_times_of_executions(text: str, utc: str, unknown: str):
    when, zone = read_time(text)

    assert (when.astimezone(UTC).strftime("%Y-%m-%d %H:%M"), zone) == (utc, unknown)


@pytest.mark.parametrize(
    ("text", "now", "utc"),
    [
        ("1125 10:00:00 US/Eastern", "2026-11-25", "2026-11-25 15:00"),
        ("1231 23:59:59 UTC", "2027-01-01", "2026-12-31 23:59"),
        ("0101 00:00:01 UTC", "2026-12-31", "2027-01-01 00:00"),
        ("0229 10:00:00 UTC", "2028-03-01", "2028-02-29 10:00"),
    ],
)
def test_a_time_without_a_year_is_of_the_nearest_year(text: str, now: str, utc: str):
    """E2, in messages without a header: executions and updates of bars."""
    near = datetime.fromisoformat(now).replace(tzinfo=UTC)
    when, zone = read_time(text, near)
    bar = read_bar_date(text, near=near)

    assert (when.astimezone(UTC).strftime("%Y-%m-%d %H:%M"), zone) == (utc, "")
    assert bar == when


@pytest.mark.parametrize("text", ["0229 10:00:00 UTC", "1399 10:00:00 UTC"])
def test_a_day_that_no_year_near_has_is_refused(text: str):
    with pytest.raises(ValueError, match="not a day"):
        read_time(text, datetime(2026, 11, 25, tzinfo=UTC))


async def test_an_execution_without_a_year_is_kept():
    line = execution("0001.a.01", time="1125 10:00:00 UTC")
    async with session(answering(before_probe(line))) as made:
        await made.tws.probe(60)
        assert (made.rows("fills")["0001.a.01"].time.month, made.tws.decode_errors) == (11, {})


@pytest.mark.parametrize("name", ["Nowhere/Atlantis", "中国标准时间", "GMT+99"])
def test_a_time_in_an_unknown_zone_is_local_and_is_reported(name: str):
    when, zone = read_time(f"20261125 10:00:00 {name}")

    assert when == datetime(2026, 11, 25, 10).astimezone()
    assert zone == name


@pytest.mark.parametrize("text", ["", "?", "yesterday", "20261399 10:00:00"])
def test_what_is_no_time_is_refused(text: str):
    for read in (read_time, read_bar_date):
        with pytest.raises(ValueError, match=r"time"):
            read(text)


# --- orders ---------------------------------------------------------------------------------------------------------


async def test_an_execution_that_does_not_fit_its_order_has_the_orders_read_again_at_once():
    requested: list[str] = []

    async def gateway(peer):
        await peer.shake(version=178)
        filled = False
        while True:
            fields = await peer.next()
            requested.append(fields[0])
            match fields[0]:
                case "16":
                    if not filled:
                        send(peer, order_line())
                        send(peer, status_line("Submitted", 0.0))
                    peer.send(53, 1)
                case "99":
                    if filled:
                        send(peer, completed_line())
                    peer.send(102)
                case "49":
                    if not filled:
                        filled = True
                        send(peer, execution("0001.a.01", total="100"))
                    peer.send(49, 1, 1700000000)

    async with session(gateway) as made:
        await made.tws.sync({"orders"})
        assert made.rows("orders")["77"].filled == 0.0
        await made.tws.probe(60)
        await until(lambda: made.rows("orders")["77"].done)

    assert requested.count("16") == 2


async def test_an_execution_while_the_orders_are_read_again_has_them_read_once_more(monkeypatch):
    monkeypatch.setattr(startup, "REFRESH", 3600.0)
    came = {"16": 0, "99": 0, "49": 0}

    async def gateway(peer):
        await peer.shake(version=178)
        while True:
            kind = (await peer.next())[0]
            came[kind] += 1
            match kind, came[kind]:
                case "16", 1 | 2 as times:
                    send(peer, order_line())
                    send(peer, status_line("Submitted", 0.0 if times == 1 else 10.0))
                    peer.send(53, 1)
                case "16", _:
                    peer.send(53, 1)
                case "99", 1:
                    peer.send(102)
                case "99", 2:
                    send(peer, execution("0002.a.01", total="100"))
                case "99", _:
                    send(peer, completed_line())
                    peer.send(102)
                case "49", times:
                    if times == 1:
                        send(peer, execution("0001.a.01"))
                    elif times == 3:
                        peer.send(102)
                    peer.send(49, 1, 1700000000)

    async with session(gateway) as made:
        await made.tws.sync({"orders"})
        for _ in range(3):
            await made.tws.probe(60)
        assert made.rows("orders")["77"].filled == 10.0
        assert came["16"] == 2
        monkeypatch.setattr(startup, "REFRESH", 0.0)
        await made.tws.probe(60)
        await until(lambda: made.rows("orders")["77"].done, limit=20)


async def test_an_execution_that_fits_has_nothing_read_again():
    first = (order_line(), status_line("Submitted", 0.0), "53|1")
    async with session(
        answering(before_probe(status_line("Submitted", 10.0), execution("0001.a.01")) | {"16": first})
    ) as made:
        await made.tws.sync({"orders"})
        before = made.tws.messages_out
        await made.tws.probe(60)

        assert made.rows("orders")["77"].filled == 10.0
        assert made.tws.messages_out == before + 1


async def test_a_terminal_state_stays_until_a_list_that_is_read_again_has_another():
    """A late openOrder and orderStatus come after the end of an order (A4)."""
    first = (order_line(), status_line("Filled", 100.0), "53|1")
    late = (order_line(), status_line("Submitted", 60.0))
    async with session(answering(before_probe(*late) | {"16": first})) as made:
        await settled(made, "orders")
        row = made.rows("orders")["77"]
        assert (row.status, row.done, row.filled) == ("Filled", True, 100.0)


async def test_an_order_that_ibkr_lists_as_open_again_is_open():
    lists = iter([(status_line("Filled", 100.0),), (status_line("Submitted", 60.0),)])

    async def gateway(peer):
        await peer.shake(version=178)
        while True:
            fields = await peer.next()
            if fields[0] == "16":
                for line in (order_line(), *next(lists), "53|1"):
                    send(peer, line)
            elif fields[0] == "99":
                peer.send(102)

    async with session(gateway) as made:
        await made.tws.sync({"orders"})
        assert made.rows("orders")["77"].done
        await made.tws.sync({"orders"})
        row = made.rows("orders")["77"]
        assert (row.status, row.done, row.filled) == ("Submitted", False, 60.0)


async def test_an_unset_order_id_is_a_manual_order():
    line = order_line(orderId=2147483647, clientId=0)
    async with session(answering(NO_ORDERS | {"16": (line, "53|1")})) as made:
        await made.tws.sync({"orders"})
        row = made.rows("orders")["77"]

    assert (row.orderId, row.clientId, row.placedBy) == (0, 0, "manual")


async def test_orders_without_an_order_id_are_rows_by_their_permid():
    lines = [order_line(perm, orderId=0, clientId=0) for perm in (77, 78, 4294967296123)]
    async with session(answering(NO_ORDERS | {"16": (*lines, "53|1")})) as made:
        await made.tws.sync({"orders"})

        assert set(made.rows("orders")) == {"77", "78", "4294967296123"}


async def test_trailing_orders_and_orders_by_cash_show_their_terms():
    trailing = order_line(77, orderType="TRAIL", wire={"trailingPercent": "2.5", "trailStopPrice": "219.5"})
    cash = order_line(78, totalQuantity=0, wire={"cashQty": "500"})
    async with session(answering(NO_ORDERS | {"16": (trailing, cash, "53|1")})) as made:
        await made.tws.sync({"orders"})
        first, second = made.rows("orders")["77"], made.rows("orders")["78"]

    assert (first.trailingPercent, first.trailStopPrice, first.cashQty, first.totalQuantity) == (2.5, 219.5, None, 100)
    assert (second.trailingPercent, second.cashQty, second.totalQuantity) == (None, 500.0, None)


# --- account values -------------------------------------------------------------------------------------------------


def values(*lines: str) -> dict[str, Sequence[str]]:
    return {"6": (*lines, "54|1|DU1234567")}


async def test_one_tag_has_one_spelling():
    """TWS 10.47 and later report cash balances under a prefix, one of its settings being on."""
    async with session(answering(values("6|2|$LEDGER-CashBalance|100.00|USD|DU1234567"))) as made:
        await made.tws.sync({"summary"})
        assert [(key, row.tag, row.value) for key, row in made.rows("summary").items()] == [
            ("DU1234567:CashBalance:USD", "CashBalance", "100.00")
        ]
        assert made.rows("notices") == {}


async def test_two_spellings_with_different_values_are_a_notice():
    plain, prefixed = "6|2|CashBalance|100.00|USD|DU1234567", "6|2|$LEDGER-CashBalance|200.00|USD|DU1234567"
    async with session(answering(values(plain, prefixed, plain, prefixed))) as made:
        await made.tws.sync({"summary"})
        await until(lambda: made.rows("notices"))
        (notice,) = made.rows("notices").values()

        assert made.rows("summary")["DU1234567:CashBalance:USD"].value == "200.00"
        assert "100.00" in notice.text
        assert "200.00" in notice.text


async def test_values_of_a_model_do_not_overwrite_the_accounts_own():
    multi = (
        "73|1|ID|DU2||NetLiquidation|5000.00|USD",
        "73|1|ID|DU2|Growth|NetLiquidation|1000.00|USD",
        "74|1|ID",
    )
    answers = values() | {"76": multi}
    async with session(answering(answers, accounts="DU1234567,DU2")) as made:
        await made.tws.sync({"summary"})
        rows = {key: (row.value, row.modelCode) for key, row in made.rows("summary").items()}

    assert rows == {"DU2:NetLiquidation:USD": ("5000.00", ""), "DU2:NetLiquidation:USD:Growth": ("1000.00", "Growth")}


async def test_positions_of_a_model_are_rows_of_their_own():
    names = [f"DU{number}" for number in range(1, 52)]
    multi = (f"71|1|ID|DU1|{AAPL}|10|100|", f"71|1|ID|DU1|{AAPL}|4|100|Growth", "72|1|ID")
    async with session(answering({"74": multi}, accounts=",".join(names))) as made:
        await made.tws.sync({"positions"})
        rows = {key: (row.position, row.modelCode) for key, row in made.rows("positions").items()}

    assert rows == {"DU1:265598": (10.0, ""), "DU1:265598:Growth": (4.0, "Growth")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.7976931348623157E308", None),
        ("NaN", None),
        ("-Infinity", None),
        ("1000.00", "1000.00"),
        ("MARGIN", "MARGIN"),
        ("0", "0"),
    ],
)
async def test_an_account_value_that_stands_for_none_is_null(text: str, value: str | None):
    async with session(answering(values(f"6|2|NetLiquidation|{text}|USD|DU1234567"))) as made:
        await made.tws.sync({"summary"})

        assert made.rows("summary")["DU1234567:NetLiquidation:USD"].value == value


async def test_one_tag_in_several_currencies_is_a_row_each():
    lines = [
        f"6|2|CashBalance|{amount}|{currency}|DU1234567" for amount, currency in ((1, "HKD"), (2, "USD"), (3, "BASE"))
    ]
    async with session(answering(values(*lines))) as made:
        await made.tws.sync({"summary"})

        assert {row.currency: row.value for row in made.rows("summary").values()} == {
            "HKD": "1",
            "USD": "2",
            "BASE": "3",
        }


# --- market figures of positions --------------------------------------------------------------------------------------


async def test_a_position_of_another_account_has_the_price_that_its_value_gives():
    """reqPnLSingle reports value and PnL; an option's price is for one of the hundred in a contract."""
    option = "1|SPY|OPT|20261218|500|C|100|SMART|USD|SPY C|SPY"
    answers = {"61": (f"61|3|DU2|{option}|-2|100", "62|1"), "94": ("95|ID|-2|1|2|3|-1040",)}
    async with session(answering(answers, accounts="DU1,DU2")) as made:
        await made.tws.sync({"positions"})
        await until(lambda: made.rows("positions")["DU2:1"].marketValue)
        row = made.rows("positions")["DU2:1"]

    assert (row.marketValue, row.marketPrice) == (-1040.0, 5.2)


async def test_a_position_without_figures_has_the_price_of_another_account():
    answers = {
        "61": (f"61|3|DU1|{AAPL}|10|100", f"61|3|DU2|{AAPL}|5|100", "62|1"),
        "6": (f"7|8|{AAPL}|10|225.5|2255|100|5|0|DU1", "54|1|DU1"),
        "76": ("74|1|ID",),
    }
    async with session(answering(answers, accounts="DU1,DU2")) as made:
        await made.tws.sync({"positions", "summary"})
        await until(lambda: made.rows("positions")["DU2:265598"].marketPrice)
        row = made.rows("positions")["DU2:265598"]

    assert (row.marketPrice, row.marketValue) == (225.5, None)


async def test_a_price_that_came_from_a_closed_position_is_not_shown_any_more():
    answers = {
        "61": (*(f"61|3|{name}|{AAPL}|{units}|100" for name, units in (("DU1", 10), ("DU2", 5), ("DU3", 5))), "62|1"),
        "6": (f"7|8|{AAPL}|10|225.5|2255|100|5|0|DU1", "54|1|DU1"),
        "76": ("74|1|ID",),
        "49": (f"61|3|DU1|{AAPL}|0|0",),
    }

    def prices(made: Session) -> list[float | None]:
        return [made.rows("positions")[f"{name}:265598"].marketPrice for name in ("DU2", "DU3")]

    async with session(answering(answers, accounts="DU1,DU2,DU3")) as made:
        await made.tws.sync({"positions"})
        made.tws.book.marks("DU2", 265598, (None, 1100.0, None, None))
        await made.tws.sync({"summary"})
        assert prices(made) == [220.0, 225.5]
        await made.tws.probe(60)

        assert set(made.rows("positions")) == {"DU2:265598", "DU3:265598"}
        assert prices(made) == [220.0, None]


async def test_empty_portfolio_figures_are_unknown():
    answers = {
        "61": (f"61|3|DU1|{AAPL}|10|100", "62|1"),
        "6": (f"7|8|{AAPL}|10|225.5||100||x|DU1", "54|1|DU1"),
    }
    async with session(answering(answers, accounts="DU1")) as made:
        await made.tws.sync({"positions", "summary"})
        row = await until(lambda: (row := made.rows("positions")["DU1:265598"]).marketPrice and row)

        assert (row.marketValue, row.unrealizedPNL, row.realizedPNL) == (None, None, None)
        assert made.tws.decode_errors == {"updatePortfolio.realizedPNL": 1}
