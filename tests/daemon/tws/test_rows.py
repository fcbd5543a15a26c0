from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta, timezone

import ib_async as ib
import pytest

from daemon.tws import rows


@pytest.mark.parametrize(
    "value",
    [
        1.7976931348623157e308,
        2147483647,
        9223372036854775807,
        9.223372036854775807e18,
        2.0**127,
        math.nan,
        math.inf,
        -math.inf,
        None,
    ],
)
def test_ibkrs_unset_values_are_null(value: float | None):
    assert rows.number(value) is None


@pytest.mark.parametrize("value", [0, -1, 1e-9, 2147483646, -2147483647, 1e300])
def test_every_other_number_stays(value: float):
    assert rows.number(value) == value


def test_a_contract_without_strike_or_right_has_none():
    stock = rows.contract_fields(ib.Contract(conId=1, right="?", strike=0.0, primaryExchange="NYSE"))
    option = rows.contract_fields(ib.Contract(conId=2, right="C", strike=100.0, exchange="SMART"))

    assert (stock["strike"], stock["right"], stock["exchange"]) == (None, "", "NYSE")
    assert (option["strike"], option["right"], option["exchange"]) == (100.0, "C", "SMART")


@pytest.mark.parametrize(("name", "paper"), [("DU1234567", True), ("DF1234567", True), ("U1234567", False)])
def test_paper_accounts_begin_with_d(name: str, paper: bool):
    assert rows.account_row(name).paper is paper


@pytest.mark.parametrize(
    ("client", "order_id", "ours", "who"),
    [
        (7, 5, 7, "thisClient"),
        (9, 5, 7, "otherClient"),
        (0, 5, 7, "otherClient"),
        (0, 5, 0, "thisClient"),
        (0, 0, 7, "manual"),
        (0, -3, 0, "manual"),
    ],
)
def test_who_placed_an_order(client: int, order_id: int, ours: int, who: str):
    assert rows.placed_by(client, order_id, ours) == who


def order(**terms: object) -> ib.Order:
    return ib.Order(permId=77, action="BUY", totalQuantity=10, account="DU1", **terms)


def test_openorder_keeps_what_only_orderstatus_reports():
    known = rows.open_order_row(ib.Contract(), order(orderId=5, clientId=7), "Submitted", 7, None)
    known = rows.replace(known, filled=3.0, remaining=7.0, avgFillPrice=100.5, lastFillPrice=101.0, whyHeld="locate")
    row = rows.open_order_row(ib.Contract(), order(orderId=5, clientId=7, lmtPrice=99.0), "Submitted", 7, known)

    assert (row.lmtPrice, row.filled, row.remaining, row.avgFillPrice, row.whyHeld) == (99.0, 3.0, 7.0, 100.5, "locate")


@pytest.mark.parametrize(
    ("status", "done"),
    [
        *((status, True) for status in ("Filled", "Cancelled", "ApiCancelled")),
        *((status, False) for status in ("ApiPending", "PendingSubmit", "PreSubmitted", "Submitted")),
        *((status, False) for status in ("PendingCancel", "Inactive")),
    ],
)
def test_an_order_is_done_only_where_ibkr_cannot_take_it_up_again(status: str, done: bool):
    row = rows.open_order_row(ib.Contract(conId=1), ib.Order(permId=1), status, 7, None)

    assert row.done is done


def test_an_order_known_only_as_completed_has_no_client():
    row = rows.completed_order_row(ib.Contract(), order(filledQuantity=10), "Filled", None)

    assert (row.placedBy, row.clientId, row.orderId) == (None, None, None)
    assert (row.filled, row.remaining, row.done, row.avgFillPrice) == (10, 0, True, None)


def fill(shares: float, price: float, second: int) -> rows.Fill:
    execution = ib.Execution(
        execId=f"1.{second}.01",
        time=datetime(2026, 11, 25, 10, 0, second, tzinfo=UTC),
        shares=shares,
        price=price,
        permId=77,
        clientId=9,
        orderId=5,
    )
    return rows.fill_row(ib.Contract(), execution, requested=True)


def test_its_executions_give_its_average():
    row = rows.completed_order_row(ib.Contract(), order(filledQuantity=10), "Filled", None)
    row = rows.with_fills(row, [fill(4, 101.0, 2), fill(6, 100.0, 1)], 7)

    assert (row.placedBy, row.clientId, row.orderId) == ("otherClient", 9, 5)
    assert row.avgFillPrice == pytest.approx(100.4)
    assert row.lastFillPrice == 101.0


def test_some_of_its_executions_give_no_average():
    row = rows.completed_order_row(ib.Contract(), order(filledQuantity=10), "Filled", None)

    assert rows.with_fills(row, [fill(4, 101.0, 2)], 7).avgFillPrice is None


def test_a_manual_order_of_tws_has_no_unset_id():
    execution = ib.Execution(execId="1.01", time=datetime(2026, 11, 25, tzinfo=UTC), orderId=2147483647)

    assert rows.fill_row(ib.Contract(), execution, requested=False).orderId == 0


def test_a_commission_without_pnl_has_none():
    report = ib.CommissionReport("1.1.01", 1.25, "USD", 1.7976931348623157e308)
    row = rows.with_commission(fill(1, 1, 1), report)

    assert (row.commission, row.commissionCurrency, row.realizedPNL) == (1.25, "USD", None)


def test_bars_without_trades_have_no_volume():
    bar = rows.bar_row(datetime(2026, 11, 25, 10, tzinfo=UTC), 1, 2, 0.5, 1.5, -1, -1, -1)

    assert (bar.open, bar.volume, bar.average, bar.barCount) == (1, None, None, None)


@pytest.mark.parametrize(
    ("when", "text"),
    [
        (date(2026, 11, 25), "2026-11-25"),
        (datetime(2026, 11, 25, 9, 30, tzinfo=timezone(timedelta(hours=-5))), "2026-11-25T14:30:00Z"),
    ],
)
def test_bars_are_dated_in_utc_or_by_day(when: date, text: str):
    assert rows.bar_date(when) == text
