"""Bars: checked, requested once, paced, cancelled with their last client; 162's meanings distinguished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from daemon.market.conditions import Conditions
from daemon.market.contracts import Contracts
from daemon.market.history import BAR_SIZES, QUEUE_LIMIT, History, default_show, paced, read, streaming
from daemon.market.pacing import IDENTICAL, LIMIT, OPEN, SLACK, WINDOW
from daemon.tws.errors import TwsRefused
from shared.messages import Bar, BarsParams, FarmState
from shared.reasons import Problem
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import LOST, START, FakeSession, Tasks, details
from tests.waiting import refused

AAPL = 265598
BARS = [Bar(date="2026-11-24", open=1.0, high=2.0, low=0.5, close=1.5)]
ERROR = "Historical Market Data Service error message:"


class Desk:
    def __init__(self, tasks: Tasks) -> None:
        self.clock, self.conditions, self.tws = HandClock(START), Conditions(), FakeSession()
        self.contracts = Contracts(tasks, self.clock, self.conditions)
        self.history = History(tasks, self.clock, self.conditions, self.contracts)
        self.contracts.ready(self.tws)
        self.history.ready(self.tws)
        self.tws.bars = BARS
        tasks(self._look(), "looks at the queue")

    async def _look(self) -> None:
        """As the market does."""
        while True:
            self.history.queue.admit()
            await self.clock.sleep(0.5)

    def ask(self, conId: int = AAPL, **params: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.history.fetch(BarsParams(conId=conId, **params)))


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    tasks = Tasks()
    yield Desk(tasks)
    await tasks.end()


async def test_equal_requests_share_one_and_its_answer_for_15_s(desk: Desk) -> None:
    """IBKR forbids identical requests within 15 s; a request in that time gets the last answer."""
    desk.tws.hold("bars")
    requests = [desk.ask(barSizeSetting="5 secs") for _ in range(20)]
    await settled()
    desk.tws.let_go()
    answers = [await each for each in requests]
    assert all(each is answers[0] for each in answers)

    await desk.clock.pass_(IDENTICAL - 1)
    assert await desk.ask(barSizeSetting="5 secs") is answers[0]
    assert desk.tws.count("bars") == 1

    later = desk.ask(barSizeSetting="5 secs")
    await desk.clock.pass_(2)
    later = desk.ask(barSizeSetting="5 secs")
    await desk.clock.pass_(2 * SLACK)
    assert (await later).asOf > answers[0].asOf
    assert desk.tws.count("bars") == 2


async def test_an_implied_default_is_the_same_question(desk: Desk) -> None:
    desk.tws.contracts[12087792] = [details(12087792, secType="CASH", exchange="IDEALPRO")]
    await desk.ask()
    await desk.ask(whatToShow="TRADES")
    await desk.ask(12087792)
    await desk.ask(12087792, whatToShow="MIDPOINT")

    assert desk.tws.count("bars") == 2


async def test_a_burst_is_answered_or_truthfully_refused_and_never_above_the_limits(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number % 250 + 1, barSizeSetting="5 secs") for number in range(500)]
    for _ in range(20):
        await settled()
    assert desk.tws.most_open <= OPEN
    desk.tws.let_go()
    for _ in range(20):
        await settled()
    await desk.clock.pass_(QUEUE_LIMIT + 1)

    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    problems = [each for each in outcomes if isinstance(each, Problem)]
    assert {each.reason for each in problems} == {"pacingBudget"}
    assert all(QUEUE_LIMIT < each.retryAfter <= 5 * (WINDOW + SLACK) for each in problems)
    assert (len(outcomes) - len(problems), desk.tws.count("bars")) == (2 * LIMIT, LIMIT)
    assert desk.history.queue.figures().used == LIMIT
    assert desk.history.queue.waiting == 0


async def test_large_bars_wait_only_for_the_fifty_that_may_be_open(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number + 1, barSizeSetting="1 day") for number in range(200)]
    for _ in range(10):
        await settled()
    assert desk.tws.open == OPEN

    desk.tws.let_go()
    assert [len((await each).rows) for each in requests] == [1] * 200
    assert desk.tws.most_open == OPEN


async def test_a_request_that_waits_too_long_for_one_of_the_fifty_is_refused(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number + 1, barSizeSetting="1 day") for number in range(OPEN + 1)]
    for _ in range(10):
        await settled()
    await desk.clock.pass_(QUEUE_LIMIT + 1)

    assert (await refused(requests[-1])).reason == "pacingBudget"
    assert not any(each.done() for each in requests[:-1])


async def test_the_last_client_leaving_cancels_at_the_gateway_and_frees_the_place(desk: Desk) -> None:
    desk.tws.hold("bars")
    first, second = desk.ask(), desk.ask()
    await settled()
    first.cancel()
    await settled()
    assert (desk.tws.cancelled, desk.history.queue.budget.open) == (0, 1)

    second.cancel()
    await settled()
    assert (desk.tws.cancelled, desk.history.queue.budget.open) == (1, 0)


async def test_a_waiting_request_leaves_the_queue_with_its_client(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number + 1, barSizeSetting="1 day") for number in range(OPEN + 2)]
    for _ in range(10):
        await settled()
    requests[-1].cancel()
    await settled()
    assert desk.history.queue.waiting == 1

    desk.tws.let_go()
    for _ in range(10):
        await settled()
    assert desk.tws.count("bars") == OPEN + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Historical data request pacing violation", "pacingBudget"),
        ("API historical data query cancelled: 5", "brokerError"),
        ("No market data permissions for NYSE STK", "notSubscribed"),
        ("Trading TWS session is connected from a different IP address", "competingSession"),
        ("Time length exceed max.", "invalidParameters"),
        ("HMDS server disconnect occurred.  Attempting reconnection...", "upstreamLost"),
        ("Abfrage historischer Daten fehlgeschlagen", "brokerError"),
    ],
)
async def test_the_meanings_of_162_are_distinguished(desk: Desk, text: str, reason: str) -> None:
    desk.tws.bars = TwsRefused(162, ERROR + text)

    raised = await refused(desk.ask())
    assert (raised.reason, raised.ibCode) == (reason, 162)


@pytest.mark.parametrize(
    "text",
    ["HMDS query returned no data: AAPL@SMART Trades", "No historical market data for EUR/CASH@IDEALPRO Last 60"],
)
async def test_no_data_is_an_empty_answer(desk: Desk, text: str) -> None:
    desk.tws.bars = TwsRefused(162, ERROR + text)

    assert (await desk.ask()).rows == ()


async def test_no_data_from_a_broken_farm_is_no_empty_answer(desk: Desk) -> None:
    farm = {"ushmds": FarmState(state="broken", type="hmds")}
    desk.conditions.observe("ok", farm, 0.0)
    desk.tws.bars = TwsRefused(162, ERROR + "HMDS query returned no data: AAPL@SMART Trades")

    assert (await refused(desk.ask())).reason == "upstreamLost"


async def test_a_violation_by_daily_bars_holds_that_request_alone(desk: Desk) -> None:
    desk.tws.bars = TwsRefused(162, ERROR + "Historical data request pacing violation")
    raised = await refused(desk.ask(barSizeSetting="1 day"))
    assert (raised.reason, raised.retryAfter) == ("pacingBudget", IDENTICAL + SLACK)
    desk.tws.bars = BARS

    assert (await desk.ask(1, barSizeSetting="1 day")).rows
    assert (await desk.ask(1, barSizeSetting="5 secs")).rows
    again = desk.ask(barSizeSetting="1 day")
    await desk.clock.pass_(IDENTICAL - 1)
    assert (again.done(), desk.history.queue.figures().used) == (False, 1)
    await desk.clock.pass_(2)
    assert (await again).rows


async def test_the_figures_are_published_before_a_refusal(desk: Desk) -> None:
    published: list[int] = []
    desk.history.queue.on_refusal = lambda: published.append(desk.history.queue.figures().used)
    desk.tws.bars = TwsRefused(162, ERROR + "Historical data request pacing violation")
    assert (await refused(desk.ask(barSizeSetting="5 secs"))).reason == "pacingBudget"
    assert published == [LIMIT]

    assert (await refused(desk.ask(1, barSizeSetting="5 secs"))).reason == "pacingBudget"
    assert published == [LIMIT, LIMIT]


@pytest.mark.parametrize(("secType", "show"), [("STK", "TRADES"), ("CASH", "MIDPOINT"), ("CRYPTO", "AGGTRADES")])
def test_bars_are_made_of_what_the_kind_of_contract_has(secType: str, show: str) -> None:
    assert default_show(secType) == streaming(1, "1 min", secType).whatToShow == show


async def test_an_upstream_loss_ends_what_is_in_flight_at_once(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number + 1, barSizeSetting="1 day") for number in range(OPEN + 1)]
    for _ in range(10):
        await settled()
    desk.conditions.observe("lost", {}, 0.0)
    desk.history.upstream_lost()

    assert {(await refused(each)).reason for each in requests} == {"upstreamLost"}
    assert (await refused(desk.ask(1, barSizeSetting="1 hour"))).reason == "upstreamLost"
    assert (desk.history.queue.budget.open, desk.history.queue.waiting) == (0, 0)


async def test_a_violation_spends_the_budget_for_every_client(desk: Desk) -> None:
    desk.tws.bars = TwsRefused(162, ERROR + "Historical data request pacing violation")
    assert (await refused(desk.ask(barSizeSetting="5 secs"))).reason == "pacingBudget"
    desk.tws.bars = BARS

    assert (await refused(desk.ask(1, barSizeSetting="5 secs"))).reason == "pacingBudget"
    assert (await desk.ask(1, barSizeSetting="1 day")).rows
    assert desk.tws.count("bars") == 2
    assert desk.history.queue.figures().used == LIMIT

    await desk.clock.pass_(WINDOW + 2 * SLACK)
    assert (await desk.ask(1, barSizeSetting="5 secs")).rows


async def test_a_lost_link_ends_open_and_waiting_requests(desk: Desk) -> None:
    desk.tws.hold("bars")
    requests = [desk.ask(number + 1, barSizeSetting="1 day") for number in range(OPEN + 1)]
    for _ in range(10):
        await settled()
    desk.tws.bars = LOST
    desk.history.lost()
    desk.tws.let_go()

    assert {(await refused(each)).reason for each in requests} == {"notConnected"}
    assert (desk.history.queue.budget.open, desk.history.queue.waiting) == (0, 0)


async def test_what_was_sent_in_an_earlier_session_still_counts(desk: Desk) -> None:
    await desk.ask(barSizeSetting="5 secs")
    desk.history.lost()
    desk.history.ready(desk.tws)

    assert desk.history.queue.figures().used == 1
    assert desk.history.queue.figures().resetsAt > desk.clock.now()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("durationStr", "1"),
        ("durationStr", "1 X"),
        ("durationStr", "0 D"),
        ("durationStr", "1.5 D"),
        ("durationStr", "-1 D"),
        ("durationStr", "86401 S"),
        ("durationStr", "1 D\n"),
        ("barSizeSetting", "7 mins"),
        ("barSizeSetting", "5mins"),
        ("whatToShow", "trades"),
        ("whatToShow", "SCHEDULE"),
        ("endDateTime", "yesterday"),
        ("endDateTime", "20261125 10:00:00"),
        ("endDateTime", "20261125 10:00:00 Mars/Base"),
        ("endDateTime", "20261399"),
        ("endDateTime", "2026-11-25T10:00:00"),
        ("endDateTime", "20261125-25:00:00"),
    ],
)
async def test_a_bad_parameter_is_named_with_what_is_accepted(desk: Desk, field: str, value: str) -> None:
    raised = await refused(desk.ask(**{field: value}))
    assert raised.reason == "invalidParameters"
    assert raised.detail.startswith(f"{field} is ")
    assert raised.extra == {"field": field}
    assert desk.tws.requests == []


async def test_adjusted_bars_end_now(desk: Desk) -> None:
    with pytest.raises(Problem, match="ADJUSTED_LAST"):
        await desk.ask(whatToShow="ADJUSTED_LAST", endDateTime="20261124")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("", None),
        ("20261124", datetime(2026, 11, 24, 23, 59, 59, tzinfo=UTC)),
        ("20261124-10:00:00", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        ("20261124 10:00:00 US/Eastern", datetime(2026, 11, 24, 15, tzinfo=UTC)),
        ("20261124 10:00:00 UTC", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        ("2026-11-24T10:00:00.5+01:00", datetime(2026, 11, 24, 9, tzinfo=UTC)),
    ],
)
def test_an_end_is_read_in_the_zone_it_names(text: str, moment: datetime | None) -> None:
    assert read(BarsParams(conId=1, endDateTime=text)).endDateTime == moment


@pytest.mark.parametrize("size", BAR_SIZES)
def test_a_stream_of_every_size_begins_with_a_past_that_fits_its_topic(size: str) -> None:
    question = streaming(1, size, "STK")

    assert read(BarsParams(conId=1, durationStr=question.durationStr, barSizeSetting=size))
    assert question.keepUpToDate


def test_bid_and_ask_bars_count_twice_against_the_budget() -> None:
    """IBKR counts them so; counted once, the sixtieth request would already be a violation."""
    params = {"conId": 1, "durationStr": "1 D", "barSizeSetting": "5 secs"}

    weights = [
        paced(read(BarsParams(**params, whatToShow=what)), details(1), 0.0).weight for what in ("TRADES", "BID_ASK")
    ]

    assert weights == [1, 2]
