"""Positions, orders, fills, quotes, curve and log: what is drawn of them, and that it stays quick and quiet."""

from __future__ import annotations

import asyncio
import csv
from typing import Any

import msgspec
import pytest
from playwright.async_api import Page, Route, expect

from shared.messages import AccountValue, Notice, PnL
from tests.browser.conftest import Desk, Shot, Visit
from tests.browser.desk import account, contract, fill, now, position, positions, quote, trouble

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROWS = "tbody tr:not(.spacer):not([hidden])"


def column(page: Page, topic: str, key: str) -> Any:
    return page.locator(f"#{topic}-table {ROWS} [data-column={key}] :is(.value, .name)")


# --- positions ------------------------------------------------------------------------------------------------------


async def test_positions_show_value_and_pnl_in_their_currency(desk: Desk, visit: Visit) -> None:
    """Right figures, with sign; the currency once where all have it; the unknown is a dash and sorts last."""
    unknown = msgspec.structs.replace(position(3), marketPrice=None, marketValue=None, unrealizedPNL=None)
    desk.daemon.set_rows("positions", {"a": position(1, price=98.5), "b": position(2, price=120.0), "c": unknown})

    page = await visit(desk.url)

    await expect(column(page, "positions", "contract")).to_have_text(["NVDA", "MSFT", "AMZN"])
    await expect(column(page, "positions", "value")).to_have_text(["12,000.00", "9,850.00", "—"])
    await expect(column(page, "positions", "unrealized")).to_have_text(["+2,000.00", "-150.00", "—"])
    await expect(column(page, "positions", "return")).to_have_text(["+20.00%", "-1.50%", "—"])
    await expect(column(page, "positions", "weight")).to_have_text(["1.2%", "1.0%", "—"])
    await expect(page.locator("#positions-note")).to_have_text("3 positions · in USD")
    units = page.locator(f"#positions-table {ROWS} [data-column=value] .unit")
    await expect(units).to_have_text(["", "", ""])
    await page.get_by_role("button", name="Value").click()
    await expect(column(page, "positions", "value")).to_have_text(["9,850.00", "12,000.00", "—"])

    desk.daemon.store.put({"positions": {"b": msgspec.structs.replace(position(2, price=120.0), currency="EUR")}})
    await expect(page.locator("#positions-note")).to_have_text("3 positions")
    await expect(units).to_have_text(["USD", "EUR", ""])


async def test_totals_are_converted_and_a_sum_without_a_part_is_none(reset: tuple[Desk, Page]) -> None:
    """Euros at the account's rate in dollars; without the rate the sum is a dash, not a smaller sum."""
    desk, page = reset
    in_euros = msgspec.structs.replace(position(2, price=120.0), currency="EUR")
    desk.daemon.set_rows("positions", {"a": position(1, price=98.5), "b": in_euros})
    total = page.locator("#positions-table .total")
    await expect(total.locator("[data-column=contract]")).to_have_text("Total of 2")
    await expect(total.locator("[data-column=value] .value")).to_have_text("—")

    rate = AccountValue(account="DU1234567", tag="ExchangeRate", value="1.10", currency="EUR")
    desk.daemon.store.put({"summary": {"DU1234567:ExchangeRate:EUR": rate}})
    desk.daemon.store.put({"positions": {"a": position(1, price=98.6)}})

    await expect(total.locator("[data-column=value] .value")).to_have_text("23,060.00")
    await expect(total.locator("[data-column=unrealized] .value")).to_have_text("+2,060.00")


async def test_a_position_with_a_quote_shows_its_day(desk: Desk, visit: Visit) -> None:
    """Since the last close, where a quote brings that; not where the contract was traded since."""
    for place in (0, 5):
        desk.daemon.store.put({f"quotes:{1000 + place}": {str(1000 + place): quote(place, 101.5)}})
    desk.daemon.set_rows("fills", {"f": msgspec.structs.replace(fill(5), execId="f")})
    page = await visit(desk.url, quotes=[contract(0), contract(5)])
    await page.get_by_role("button", name="Contract").first.click()

    await expect(column(page, "positions", "day")).to_have_text(["+150.00", *["—"] * 9])


async def test_a_table_is_filtered_and_saved_as_it_is_shown(desk: Desk, visit: Visit) -> None:
    """Symbols that match stay, the count is of how many; the CSV has those rows with every field."""
    page = await visit(desk.url)
    box = page.get_by_role("searchbox", name="Filter positions")
    await box.fill("msft")
    await expect(page.locator("#positions-note")).to_have_text("1 of 10 positions · in USD")
    await expect(column(page, "positions", "contract")).to_have_text(["MSFT"])

    async with page.expect_download() as saved:
        await page.get_by_role("button", name="Positions as CSV").click()
    text = (await (await saved.value).path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["symbol"], row["position"], row["marketValue"]) for row in rows] == [("MSFT", "100", "10100")]

    await box.fill("xyz")
    await expect(page.locator("#positions-table .nothing")).to_have_text("None of 10 positions matches “xyz”.")


async def test_a_position_opens_its_quote_and_the_days_chart(desk: Desk, visit: Visit, shot: Shot) -> None:
    """By a click on the row or by keyboard; the quote with sizes and range, the position, bars; and it closes again."""
    bars = [
        {"date": now(-600 + 300 * place).isoformat(), "open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0 + place}
        for place in range(3)
    ]
    desk.daemon.answer("bars.fetch", {"rows": bars})
    detailed = quote(1, 103.0, bidSize=300, askSize=200, high=104.5, low=98.25, volume=1234567)
    desk.daemon.store.put({"quotes:1001": {"1001": detailed}})
    page = await visit(desk.url)
    await page.locator(f"#positions-table {ROWS}").filter(has_text="MSFT").click()

    instrument = page.locator("#instrument")
    await expect(instrument.get_by_role("heading", name="MSFT")).to_be_focused()
    for text in ("103.00", "+3.00 (+3.00%)", "102.99 × 300", "103.01 × 200", "1,234,567", "104.50", "98.25"):
        await expect(instrument).to_contain_text(text)
    await expect(instrument).to_contain_text("100 at 100.00")
    await expect(instrument.locator("canvas")).to_be_visible()
    await shot(page, "instrument")
    await instrument.get_by_role("button", name="Add to quotes").click()
    await expect(column(page, "quotes", "contract")).to_have_text(["MSFT"])
    await page.keyboard.press("Escape")
    await expect(instrument).to_be_hidden()
    await page.get_by_role("button", name="AAPL: quote and chart").press("Enter")
    await expect(instrument.get_by_role("heading", name="AAPL")).to_be_visible()
    await expect(instrument).to_contain_text("waiting")


async def test_any_column_sorts_by_mouse_and_keyboard(desk: Desk, visit: Visit) -> None:
    """A second press turns the order around; aria-sort is its direction."""
    page = await visit(desk.url)
    head = page.get_by_role("region", name="Positions, scrollable").get_by_role("columnheader", name="Contract")
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")

    await head.get_by_role("button").click()
    await expect(head).to_have_attribute("aria-sort", "ascending")
    await expect(column(page, "positions", "contract").first).to_have_text("AAPL")
    await head.get_by_role("button").press("Enter")
    await expect(head).to_have_attribute("aria-sort", "descending")
    await expect(column(page, "positions", "contract").first).to_have_text("XOM")


async def test_a_thousand_positions_are_counted_whole_and_drawn_in_part(desk: Desk, visit: Visit, shot: Shot) -> None:
    """aria-rowcount counts all of them, some dozens are in the document; the last one is reached by scrolling."""
    desk.daemon.set_rows("positions", positions(1000))

    page = await visit(desk.url)

    await expect(page.locator("#positions-note")).to_have_text("1000 positions · in USD")
    table = page.get_by_role("table", name="Positions")
    await expect(table).to_have_attribute("aria-rowcount", "1001")
    assert await page.locator(f"#positions-table {ROWS}").count() < 60
    await shot(page, "thousand-positions")

    scroller = page.get_by_role("region", name="Positions, scrollable")
    await scroller.focus()
    await scroller.press("End")
    await expect(page.locator(f"#positions-table {ROWS}[aria-rowindex='1001']")).to_be_visible()
    assert await page.locator(f"#positions-table {ROWS}").count() < 60
    indexes = await page.locator(f"#positions-table {ROWS}").evaluate_all(
        "(rows) => rows.map((row) => Number(row.getAttribute('aria-rowindex')))"
    )
    assert len(set(indexes)) == len(indexes)


async def test_many_updates_cost_one_drawing_a_frame(reset: tuple[Desk, Page]) -> None:
    """However many deltas come between two frames, a table is written once; the last value is the one that stands."""
    desk, page = reset
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")
    await page.evaluate("""() => {
        window.frames_ = 0;
        window.writes = 0;
        const count = () => { frames_ += 1; requestAnimationFrame(count); };
        requestAnimationFrame(count);
        const cell = document.querySelector('#positions-table [data-column=price] .value');
        new MutationObserver(() => (writes += 1)).observe(cell, { characterData: true, subtree: true });
    }""")

    for step in range(500):
        desk.daemon.store.put({"positions": {"DU1234567:1009": position(9, price=200.0 + step / 100)}})
        await asyncio.sleep(0)

    await expect(column(page, "positions", "price").first).to_have_text("204.99")
    assert await page.evaluate("writes <= frames_")


async def test_values_change_without_moving_anything(desk: Desk, visit: Visit) -> None:
    """Longer figures and other signs leave every panel and row where it was."""
    places = """() => [...document.querySelectorAll('.panel, .fact, .figure, #positions-table th, #positions-table tr')]
        .map((node) => Object.values(node.getBoundingClientRect().toJSON()).join())"""
    page = await visit(desk.url)
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")
    await expect(page.locator("#timeline-reading")).to_contain_text("Not known")
    before = await page.evaluate(places)

    desk.daemon.store.put(
        {
            "positions": {"DU1234567:1009": position(9, price=98765.43)},
            "pnl": {"DU1234567": PnL(account="DU1234567", dailyPnL=-987654.32, unrealizedPnL=-1.0, realizedPnL=0.0)},
        }
    )
    desk.daemon.link(since=now(-400_000))

    await expect(column(page, "positions", "price").first).to_have_text("98,765.43")
    await expect(page.locator("#figures")).to_contain_text("-987,654.32")
    assert await page.evaluate(places) == before


async def test_an_account_is_chosen_for_every_table_and_total(desk: Desk, visit: Visit, shot: Shot) -> None:
    """All accounts first, summed; one of them on its own in figures, tables and totals, also after a reload."""
    second = account("DU7654321")
    topics = {topic: {**rows, **second[topic]} for topic, rows in account().items()}
    desk.daemon.set_all(**topics, positions={**positions(2), **positions(1, "DU7654321")})
    page = await visit(desk.url)
    figure = page.locator("#figures .large .value").first
    choice = page.get_by_role("combobox", name="Account")

    await expect(choice.locator("option:checked")).to_have_text("All 2 accounts")
    await expect(figure).to_have_text("2,048,636.84")
    await expect(column(page, "accounts", "id")).to_have_text(["DU1234567", "DU7654321"])
    await expect(column(page, "positions", "account")).to_have_text(["DU1234567", "DU1234567", "DU7654321"])
    await shot(page, "several-accounts", full=True)

    await choice.select_option("DU7654321")
    await expect(figure).to_have_text("1,024,318.42")
    await expect(page.locator("#positions-note")).to_have_text("1 position · in USD")
    await expect(column(page, "positions", "account").first).to_be_hidden()
    await page.reload()
    await expect(page.locator("#positions-note")).to_have_text("1 position · in USD")
    await page.get_by_role("button", name="Show all accounts").click()
    await expect(figure).to_have_text("2,048,636.84")


MARKS = """
window.marks = [];
const { fillText, clearRect } = CanvasRenderingContext2D.prototype;
Object.assign(CanvasRenderingContext2D.prototype, {
    clearRect(...box) { marks = []; return clearRect.apply(this, box); },
    fillText(text, ...place) { marks.push(text); return fillText.call(this, text, ...place); },
});
"""


async def test_no_two_marks_of_the_curve_say_the_same_time(desk: Desk, visit: Visit) -> None:
    """Also in its first seconds, when it is shorter than a mark is fine."""
    page = await visit("about:blank")
    await page.add_init_script(MARKS)
    await page.goto(desk.url)
    await expect(page.locator("#curve-reading")).to_contain_text("collecting")

    desk.daemon.store.put({"pnl": {"DU1234567": PnL(account="DU1234567", dailyPnL=2000.0)}})
    await expect(page.locator("#curve-reading")).to_contain_text("+2,000.00 USD")

    marks = await page.evaluate("marks")
    times = [mark for mark in marks if ":" in mark]
    assert len(marks) > len(times)
    assert len(times) == len(set(times))


async def test_the_curve_of_the_day_grows(desk: Desk, visit: Visit) -> None:
    """With two values there is a curve, and its newest value is in words."""
    page = await visit(desk.url)
    await expect(page.locator("#curve-reading")).to_contain_text("collecting")

    desk.daemon.store.put({"pnl": {"DU1234567": PnL(account="DU1234567", dailyPnL=2000.0)}})

    await expect(page.locator("#curve canvas")).to_be_visible()
    await expect(page.locator("#curve-reading")).to_contain_text("+2,000.00 USD")


# --- orders, fills --------------------------------------------------------------------------------------------------


async def test_open_orders_are_shown_and_done_ones_are_not(reset: tuple[Desk, Page]) -> None:
    """Side, filled of total, type, deciding price, status, and who placed it."""
    _, page = reset
    await expect(column(page, "orders", "contract")).to_have_text(["MSFT", "NVDA"])
    await expect(column(page, "orders", "side")).to_have_text(["BUY", "SELL"])
    await expect(column(page, "orders", "filled")).to_have_text(["0 / 100", "0 / 100"])
    await expect(column(page, "orders", "price")).to_have_text(["99.50", "95.00"])
    await expect(column(page, "orders", "by")).to_have_text(["here", "by hand"])


async def test_recovered_fills_are_marked(reset: tuple[Desk, Page]) -> None:
    """A fill read after a gap is marked in words; a new one comes on top."""
    desk, page = reset
    await expect(column(page, "fills", "mark")).to_have_text(["", "recovered", ""])
    await expect(page.locator("#fills-note")).to_have_text("3 fills · 1 recovered · in USD")

    desk.daemon.store.put({"fills": {"new": msgspec.structs.replace(fill(0), execId="new")}})

    await expect(column(page, "fills", "contract").first).to_have_text("AAPL")
    await expect(page.locator("#fills-note")).to_have_text("4 fills · 1 recovered · in USD")


# --- quotes ---------------------------------------------------------------------------------------------------------


async def test_a_quote_is_added_by_symbol_and_stays_over_a_reload(desk: Desk, visit: Visit, shot: Shot) -> None:
    """Typed, found, chosen with the keyboard: the row appears once, lives, and is there again after a reload."""
    found = [{**contract(place), "primaryExchange": "NASDAQ", "description": "SOME CORP"} for place in range(2)]
    desk.daemon.answer("contracts.search", {"rows": found})
    page = await visit(desk.url)

    box = page.get_by_role("combobox", name="Symbol or conId to add")
    await box.fill("aap")
    await expect(page.locator("#quote-found").get_by_role("option")).to_have_count(2)
    await shot(page, "search")
    await box.press("ArrowDown")
    await box.press("Enter")
    desk.daemon.store.put({"quotes:1001": {"1001": quote(1, 101.0)}})

    await expect(column(page, "quotes", "contract")).to_have_text(["MSFT"])
    await expect(column(page, "quotes", "last")).to_have_text(["101.00"])
    await expect(column(page, "quotes", "change")).to_have_text(["+1.00%"])
    desk.daemon.store.put({"quotes:1001": {"1001": quote(1, 99.0)}})
    await expect(column(page, "quotes", "change")).to_have_text(["-1.00%"])
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")

    await page.reload()
    await expect(column(page, "quotes", "last")).to_have_text(["99.00"])
    await page.get_by_role("button", name="Remove MSFT").click()
    await expect(page.locator("#quotes-table .nothing")).to_have_text(
        "No quotes yet: add a symbol above, or your positions."
    )


async def test_the_focus_stays_with_its_quote_when_the_order_changes(desk: Desk, visit: Visit) -> None:
    """Enter on "Remove MSFT" removes MSFT, wherever its row has gone meanwhile; then the focus is on the list still."""
    lasts = {0: 110.0, 1: 105.0, 2: 101.0}
    for place, last in lasts.items():
        desk.daemon.store.put({f"quotes:{1000 + place}": {str(1000 + place): quote(place, last)}})
    page = await visit(desk.url, quotes=[contract(place) for place in lasts])
    await page.locator("#quotes-table").get_by_role("button", name="Change").click()
    await expect(column(page, "quotes", "contract")).to_have_text(["AAPL", "MSFT", "NVDA"])
    await page.get_by_role("button", name="Remove MSFT").focus()

    desk.daemon.store.put({"quotes:1001": {"1001": quote(1, 90.0)}})

    await expect(column(page, "quotes", "contract")).to_have_text(["AAPL", "NVDA", "MSFT"])
    await expect(page.get_by_role("button", name="Remove MSFT")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(column(page, "quotes", "contract")).to_have_text(["AAPL", "NVDA"])
    await expect(page.get_by_role("button", name="Remove NVDA")).to_be_focused()


async def test_my_positions_are_added_to_the_quotes_at_once(desk: Desk, visit: Visit) -> None:
    """Each contract once, the largest first where there is not room for all of them."""
    desk.daemon.set_rows("positions", {**positions(55), "x": position(54, name="DU7654321")})
    page = await visit(desk.url)
    await expect(page.locator("#positions-note")).to_contain_text("56 positions")

    await page.get_by_role("button", name="Add my positions").click()

    await expect(page.locator("#quotes-note")).to_have_text("50 of 50")
    await expect(page.locator("#quote-problem")).to_contain_text("at most 50")


async def test_contracts_of_one_name_are_distinguished(desk: Desk, visit: Visit) -> None:
    """Three IBMs: exchange and currency are part of the row."""
    ibm = {"symbol": "IBM", "localSymbol": "IBM", "exchange": "SMART"}
    places = [("NYSE", "USD"), ("IBIS", "EUR"), ("LSE", "GBP")]
    page = await visit(
        desk.url,
        quotes=[
            {**contract(place), **ibm, "primaryExchange": exchange, "currency": currency}
            for place, (exchange, currency) in enumerate(places)
        ],
    )

    units = page.locator(f"#quotes-table {ROWS} [data-column=contract] .unit")
    await expect(units).to_have_text(["NYSE USD", "IBIS EUR", "LSE GBP"])


async def test_a_refused_search_shows_its_problem(reset: tuple[Desk, Page]) -> None:
    """IBKR's refusal is shown where the search was made."""
    desk, page = reset
    desk.daemon.refuse("contracts.search", "brokerTimeout")
    await page.locator("#quote-search").fill("aapl")
    await page.get_by_role("button", name="Find").click()

    await expect(page.locator("#quote-problem .reason")).to_have_text("brokerTimeout")


async def test_each_quote_says_what_kind_it_is(desk: Desk, visit: Visit) -> None:
    """Live, delayed, refused with IBKR's number, or not there yet; while the link is down all of them are old."""
    desk.daemon.store.put(
        {
            "quotes:1000": {"1000": quote(0)},
            "quotes:1001": {"1001": quote(1, marketDataType="delayed")},
            "quotes:1002": {"1002": quote(2, ibCode=354, last=1.0, marketDataType=None)},
        }
    )

    page = await visit(desk.url, quotes=[contract(place) for place in range(4)])

    await expect(column(page, "quotes", "contract")).to_have_text(["AAPL", "AMZN", "MSFT", "NVDA"])
    await expect(column(page, "quotes", "kind")).to_have_text(["live", "waiting", "delayed", "IBKR 354"])
    desk.daemon.link(**trouble("waiting", "socketLost", next_in=60))
    await expect(page.locator("#quotes-table table")).to_have_attribute("data-stale", "true")
    await expect(column(page, "quotes", "kind").first).to_contain_text("old")


# --- timeline and log -----------------------------------------------------------------------------------------------


def history(*events: tuple[float, str, str | None, float | None]) -> dict[str, Any]:
    """The daemon's answer: (hours ago, phase, reason, seconds)."""
    listed = [
        {
            "at": now(-3600 * ago).isoformat().replace("+00:00", "Z"),
            "phase": phase,
            "reason": reason,
            "durationS": seconds,
        }
        for ago, phase, reason, seconds in events
    ]
    uptime = {"ratio": 0.99999, "upS": 86000.0, "downS": 1.0, "plannedS": 0.0, "knownS": 86001.0}
    return {
        "events": [{**event, "expected": False} for event in listed],
        "uptime": {"24h": uptime, "7d": uptime, "30d": uptime},
    }


async def test_the_last_day_is_read_by_pointer_and_keyboard(desk: Desk, visit: Visit, shot: Shot) -> None:
    """Each part reads when, what, how long and why; uptime is never rounded up, and a dash where less was recorded."""
    desk.daemon.answer(
        "link.events",
        history((10, "ready", None, 18000), (5, "waiting", "socketLost", 3600), (4, "ready", None, None)),
    )
    page = await visit(desk.url)
    parts = page.locator("#timeline .part")
    await expect(parts).to_have_count(4)
    # of less than a day nothing is known of a week
    await expect(page.locator("#uptime")).to_have_text("23 h 53 min recorded99.99%24 h—7 d—30 d—")

    await parts.nth(3).focus()
    await expect(page.locator("#timeline-reading")).to_contain_text("Connected for 4 h")
    await page.keyboard.press("ArrowLeft")
    await expect(parts.nth(2)).to_be_focused()
    await expect(page.locator("#timeline-reading")).to_contain_text("Not connected for 1 h (waiting: socket lost)")
    await parts.nth(1).hover()
    await expect(page.locator("#timeline-reading")).to_contain_text("Connected for 5 h")
    await shot(page, "timeline")


async def test_a_change_of_the_link_is_in_the_log_at_once(desk: Desk, visit: Visit) -> None:
    """It comes with the stream, before the next read of the ledger."""
    desk.daemon.answer("link.events", history((4, "ready", None, None)))
    page = await visit(desk.url)
    what = page.locator(f"#log {ROWS} [data-column=what] .value")
    await expect(what).to_have_text(["Connected"])

    desk.daemon.link(**trouble("waiting", "socketLost", next_in=60, since=now()))

    await expect(what).to_have_text(["Waiting", "Connected"])


async def test_farm_status_is_hidden_unless_it_is_wanted(desk: Desk, visit: Visit) -> None:
    """IBKR's errors are in the log, "connection is OK" is not; both can be chosen."""
    desk.daemon.answer("link.events", history((4, "ready", None, None)))
    for seconds, code in enumerate((2104, 2105)):
        desk.daemon.store.notice(Notice(at=now(seconds - 5), code=code, text="Market data farm"))
    page = await visit(desk.url)
    what = page.locator(f"#log {ROWS} [data-column=what] .value")
    await expect(what).to_have_text(["IBKR 2105", "Connected"])

    await page.get_by_role("combobox", name="Show").select_option("farm status messages too")
    await expect(what).to_have_text(["IBKR 2105", "IBKR 2104", "Connected"])
    await page.get_by_role("combobox", name="Show").select_option("link only")
    await expect(what).to_have_text(["Connected"])


async def test_a_day_of_many_events_is_read_to_its_last_page(desk: Desk, visit: Visit) -> None:
    """The newest events come last: a page that stopped at the first thousands would show the past as the present."""
    first = history((10, "ready", None, 18000))
    last = history((5, "waiting", "socketLost", 3600), (4, "ready", None, None))

    async def events(route: Route) -> None:
        begun = "cursor" in route.request.url
        headers = {} if begun else {"Link": '</api/ibkr/link/events?cursor=more>; rel="next"'}
        await route.fulfill(headers=headers, json={"data": last if begun else first})

    page = await visit("about:blank")
    await page.route("**/api/ibkr/link/events?*", events)
    await page.goto(desk.url)

    await expect(page.locator("#timeline .part")).to_have_count(4)
    await expect(page.locator(f"#log {ROWS} [data-column=what] .value")).to_have_text(
        ["Connected", "Waiting", "Connected"]
    )


async def test_history_ends_where_knowledge_ends(desk: Desk, visit: Visit) -> None:
    """With the daemon away the last part is not "connected until now": it is not known."""
    desk.daemon.answer("link.events", history((4, "ready", None, None)))
    page = await visit(desk.url)
    await expect(page.locator("#timeline-reading")).to_contain_text("Connected for 4 h")

    await desk.daemon.stop()

    await expect(page.locator("#timeline-reading")).to_contain_text("now · Not known")
    await expect(page.locator("#timeline .part").last).to_have_attribute("data-kind", "unknown")
