"""Shared market data over a real store, with a session and a clock in the test's hands."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.market.data import FIRST_TICK, Market
from daemon.market.streams import LINGER
from daemon.state.store import Store
from shared.messages import Bar, FarmState, Quote, Sync, Upstream
from shared.reasons import Problem
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import START, FakeSession, Tasks, details
from tests.waiting import refused

AAPL, IBM, MSFT = 265598, 8314, 272093


class House:
    """A market with its store, its session and its clock."""

    def __init__(self, tasks: Tasks, **options: Any) -> None:
        self.clock = HandClock(START)
        self.store = Store("E", self.clock)
        self.market = Market(tasks, self.clock, self.store, **options)
        self.tws = FakeSession()
        tasks(self.market.run(), "market")

    async def pass_time(self, seconds: float) -> None:
        await self.clock.pass_(seconds)

    async def ready(self, tws: FakeSession | None = None) -> int:
        self.tws = tws or FakeSession()
        count = self.market.ready(self.tws)
        await settled()
        return count

    async def watch(self, *topics: str, who: object = "facade") -> None:
        for topic in topics:
            self.market.watch(topic, who)
        await settled()

    def link(self, upstream: Upstream = "ok", farms: dict[str, FarmState] | None = None) -> None:
        self.market.link_changed(upstream, farms or {})

    def quote(self, conId: int) -> Quote | None:
        return self.store.row(f"quotes:{conId}", str(conId))

    def sync(self, topic: str) -> Sync | None:
        return self.store.row("sync", topic)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    group = Tasks()
    yield group
    await group.end()


@pytest.fixture
async def house(tasks: Tasks) -> House:
    house = House(tasks)
    house.link()
    await house.ready()
    return house


async def test_two_hundred_watchers_cost_one_line_and_the_last_one_frees_it(house: House) -> None:
    for who in range(200):
        await house.watch(f"quotes:{AAPL}", who=who)
    assert (house.tws.count("details"), house.tws.count("quote")) == (1, 1)
    house.tws.tick(AAPL, bid=227.4)

    for who in range(199):
        house.market.leave(who)
    await house.pass_time(LINGER * 2)
    assert list(house.tws.lines.values()) == [AAPL]

    house.market.leave(199)
    await house.pass_time(LINGER - 1)
    assert list(house.tws.lines.values()) == [AAPL]
    await house.pass_time(2)
    assert house.tws.lines == {}
    assert house.quote(AAPL) is None
    assert house.sync(f"quotes:{AAPL}") is None

    await house.watch(f"quotes:{AAPL}")
    house.tws.on_quotes([(house.tws.request_of(AAPL), Quote(conId=AAPL, ask=2.0))])
    assert house.quote(AAPL) == Quote(conId=AAPL, ask=2.0), "a new line begins without the old one's values"


async def test_a_facade_restart_is_no_leaving_reader(house: House) -> None:
    await house.watch(f"quotes:{AAPL}", who="before")
    house.market.leave("before")
    await house.pass_time(LINGER - 1)
    await house.watch(f"quotes:{AAPL}", who="after")
    await house.pass_time(60)

    assert (house.tws.count("quote"), house.tws.count("unquote")) == (1, 0)


async def test_the_tickers_of_one_packet_are_one_step(house: House) -> None:
    await house.watch(f"quotes:{AAPL}", f"quotes:{IBM}", f"quotes:{MSFT}")
    house.tws.tick(AAPL, IBM, MSFT)
    before = house.store.seq

    house.tws.tick(AAPL, IBM, MSFT, bid=2.0)

    assert house.store.seq == before + 1
    assert house.quote(IBM) == Quote(conId=IBM, bid=2.0)


async def test_a_line_wanted_while_the_link_is_down_is_requested_once_when_it_is_ready(tasks: Tasks) -> None:
    house = House(tasks)
    await house.watch(f"quotes:{AAPL}")
    await house.pass_time(100)
    assert house.market.streams().wanted == 1

    assert await house.ready() == 1
    await house.pass_time(100)

    assert house.tws.count("quote") == 1


async def test_messages_of_an_old_session_are_ignored(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    old = house.tws
    await house.ready()
    await house.watch(f"quotes:{IBM}")

    old.on_quotes([(77, Quote(conId=AAPL, bid=1.0))])

    assert house.quote(AAPL) is None


async def test_after_1101_each_wanted_line_is_requested_again_exactly_once(house: House) -> None:
    topics = [f"quotes:{conId}" for conId in range(1, 31)]
    await house.watch(*topics, f"bars:{AAPL}:5mins")
    house.tws.tick(*range(1, 31))
    house.link("lost")
    await house.pass_time(5)
    house.tws.requests.clear()

    house.link()
    assert house.market.ready(house.tws) == 31
    await settled()
    house.tws.tick(*range(1, 31))
    await house.pass_time(30)

    assert sorted(what[1] for what in house.tws.requests if what[0] == "quote") == list(range(1, 31))
    assert house.tws.count("stream") == 1
    assert len(house.tws.lines) == 30  # the old ids are cancelled, whatever IBKR kept


async def test_while_upstream_is_lost_the_topics_are_stale_and_nothing_is_requested(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    house.tws.tick(AAPL)
    house.link("lost")
    await house.watch(f"quotes:{IBM}")
    await house.pass_time(30)

    assert house.sync(f"quotes:{AAPL}").stale
    assert house.tws.count("quote") == 1

    house.link()
    await house.pass_time(1)
    assert house.tws.count("quote") == 2


async def test_after_1102_only_the_silent_are_requested_again(house: House) -> None:
    """“Data maintained” is accepted for a line with ticks, and checked for one without."""
    await house.watch(f"quotes:{AAPL}", f"quotes:{IBM}")
    for _ in range(30):
        house.tws.tick(AAPL, IBM)
        await house.pass_time(1)
    house.link("lost")
    await house.pass_time(20)
    house.link()
    for _ in range(15):
        house.tws.tick(AAPL)
        await house.pass_time(1)

    assert [what[1] for what in house.tws.requests if what[0] == "quote"] == [AAPL, IBM, IBM]
    assert not house.sync(f"quotes:{AAPL}").stale


async def test_bars_that_go_on_after_1102_keep_their_past(house: House) -> None:
    topic = f"bars:{AAPL}:5mins"
    await house.watch(topic)
    request = next(iter(house.tws.bar_lines))
    house.tws.on_bars(request, [bar("2026-11-25T14:55:00Z"), bar("2026-11-25T15:00:00Z")])
    house.link("lost")
    assert house.sync(topic).stale
    house.link()
    assert house.sync(topic).stale, "nothing has come yet"
    house.tws.on_bars(request, [bar("2026-11-25T15:00:00Z")])

    assert list(house.store.rows(topic)) == ["2026-11-25T14:55:00Z", "2026-11-25T15:00:00Z"]
    assert not house.sync(topic).stale
    assert house.tws.count("stream") == 1


async def test_bars_that_began_in_the_loss_are_requested_with_their_past(house: House) -> None:
    """A new bar after 1102: how the one before ended, and whether others lie between, was missed."""
    topic = f"bars:{AAPL}:5mins"
    await house.watch(topic)
    request = next(iter(house.tws.bar_lines))
    house.tws.on_bars(request, [bar("2026-11-25T15:00:00Z")])
    house.link("lost")
    house.link()
    house.tws.on_bars(request, [bar("2026-11-25T15:10:00Z")])
    await house.pass_time(20)  # IBKR wants 15 s between identical requests
    assert house.sync(topic).stale
    assert (house.tws.count("stream"), list(house.store.rows(topic))) == (2, ["2026-11-25T15:00:00Z"])

    house.tws.on_bars(
        next(iter(house.tws.bar_lines)), [bar(f"2026-11-25T15:{minute}:00Z") for minute in ("00", "05", "10")]
    )
    assert len(house.store.rows(topic)) == 3
    assert not house.sync(topic).stale


async def test_a_lively_line_that_falls_silent_is_requested_again_once(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    for _ in range(30):
        house.tws.tick(AAPL)
        await house.pass_time(1)
    await house.pass_time(25)
    assert house.tws.count("quote") == 1

    await house.pass_time(300)

    assert (house.tws.count("quote"), house.tws.count("unquote")) == (2, 1)
    assert house.sync(f"quotes:{AAPL}").stale


async def test_the_silence_of_a_quiet_line_or_a_closed_session_is_no_fault(house: House) -> None:
    """Only a line that was lively is missed, and only while its exchange is open and its farm is up."""
    closed = "20261125:0800-20261125:1500;20261126:CLOSED"
    house.tws.contracts[IBM] = [details(IBM, tradingHours=closed)]
    await house.watch(f"quotes:{AAPL}", f"quotes:{IBM}")
    house.tws.tick(AAPL)
    for _ in range(30):
        house.tws.tick(IBM)
        await house.pass_time(1)
    await house.pass_time(600)

    assert house.tws.count("quote") == 2


async def test_a_silent_line_waits_for_its_broken_farm(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    for _ in range(30):
        house.tws.tick(AAPL)
        await house.pass_time(1)
    house.link(farms={"usfarm": FarmState(state="broken", type="market")})
    await house.pass_time(300)
    assert house.tws.count("quote") == 1

    house.link(farms={"usfarm": FarmState(state="ok", type="market")})
    await house.pass_time(1)
    assert house.tws.count("quote") == 2


async def test_10182_is_requested_again_when_the_farm_is_back(house: House) -> None:
    """FAULTS 3: a farm blip kills the stream while everything else is green."""
    await house.watch(f"bars:{AAPL}:5mins")
    request = next(iter(house.tws.bar_lines))
    house.tws.on_bars(request, [bar("2026-11-25T14:55:00Z"), bar("2026-11-25T15:00:00Z")])
    house.link(farms={"ushmds": FarmState(state="broken", type="hmds")})
    house.tws.on_trouble(request, 10182, "Failed to request live updates (disconnected).")
    await house.pass_time(30)
    assert house.tws.count("stream") == 1
    assert house.sync(f"bars:{AAPL}:5mins").stale

    house.link(farms={"ushmds": FarmState(state="ok", type="hmds")})
    await house.pass_time(20)  # IBKR wants 15 s between identical requests

    assert house.tws.count("stream") == 2
    house.tws.on_bars(next(iter(house.tws.bar_lines)), [bar("2026-11-25T15:00:00Z")])
    assert list(house.store.rows(f"bars:{AAPL}:5mins")) == ["2026-11-25T15:00:00Z"]
    assert not house.sync(f"bars:{AAPL}:5mins").stale


async def test_a_farm_that_stays_broken_keeps_no_stream_dead_that_is_not_its_own(house: House) -> None:
    """IBKR does not say which farm a stream is from: after a minute it is requested again in any case."""
    await house.watch(f"bars:{AAPL}:5mins")
    request = next(iter(house.tws.bar_lines))
    house.link(farms={"euhmds": FarmState(state="broken", type="hmds")})
    house.tws.on_trouble(request, 10182, "Failed to request live updates (disconnected).")
    await house.pass_time(50)
    assert house.tws.count("stream") == 1
    await house.pass_time(30)

    assert house.tws.count("stream") == 2


async def test_a_competing_session_is_in_the_row_and_tried_again_after_minutes(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    house.tws.tick(AAPL, bid=5.0)
    for _ in range(5):
        house.tws.say(AAPL, 10197, "No market data during competing live session")
        await house.pass_time(1)

    assert house.quote(AAPL) == Quote(conId=AAPL, bid=5.0, ibCode=10197)
    assert house.sync(f"quotes:{AAPL}").stale
    await house.pass_time(290)
    assert house.tws.count("quote") == 1
    await house.pass_time(10)
    assert house.tws.count("quote") == 2

    house.tws.tick(AAPL, bid=6.0)
    assert house.quote(AAPL) == Quote(conId=AAPL, bid=6.0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (101, "tooManySubscriptions"),
        (200, "notFound"),
        (321, "invalidParameters"),
        (322, "invalidParameters"),
        (354, "notSubscribed"),
        (420, "brokerError"),
        (10089, "notSubscribed"),
        (10168, "notSubscribed"),
        (10197, "competingSession"),
        (10182, "brokerError"),
    ],
)
async def test_what_stands_against_a_quote_is_raised_for_one_and_a_row_for_several(
    house: House, code: int, reason: str
) -> None:
    requests = asyncio.ensure_future(house.market.quotes([AAPL]))
    await settled()
    house.tws.say(AAPL, code, "IBKR's text")
    raised = await refused(requests)
    assert (raised.reason, raised.ibCode) == (reason, code)

    requests = asyncio.ensure_future(house.market.quotes([IBM, AAPL]))
    await settled()
    house.tws.tick(IBM, bid=3.0)
    if AAPL in house.tws.lines.values():
        house.tws.say(AAPL, code, "IBKR's text")
    assert await requests == [Quote(conId=IBM, bid=3.0), Quote(conId=AAPL, ibCode=code)]


@pytest.mark.parametrize("code", [10090, 10167, 2104, 300])
async def test_remarks_leave_the_stream_alone(house: House, code: int) -> None:
    await house.watch(f"quotes:{AAPL}")
    house.tws.say(AAPL, code, "remark")
    house.tws.tick(AAPL, bid=5.0, marketDataType="delayed")

    assert house.quote(AAPL) == Quote(conId=AAPL, bid=5.0, marketDataType="delayed")


@pytest.mark.parametrize(("setting", "number"), [("live", 1), ("delayed", 3)])
async def test_the_data_type_follows_the_setting(tasks: Tasks, setting: str, number: int) -> None:
    house = House(tasks, marketData=setting)
    await house.ready()
    await house.watch(f"quotes:{AAPL}")

    assert ("quote", AAPL, number) in house.tws.requests


async def test_a_full_account_releases_the_line_least_recently_wanted(tasks: Tasks) -> None:
    house = House(tasks, lines=3)
    await house.ready()
    await house.watch("quotes:1", "quotes:2", who="watcher")
    first = asyncio.ensure_future(house.market.quotes([3]))
    await settled()
    house.tws.tick(3)
    await first

    second = asyncio.ensure_future(house.market.quotes([4]))
    await settled()
    house.tws.tick(4)

    assert (await second)[0].conId == 4
    assert sorted(house.tws.lines.values()) == [1, 2, 4]


async def test_of_several_lines_without_a_watcher_the_one_left_first_makes_room(tasks: Tasks) -> None:
    house = House(tasks, lines=3)
    await house.ready()
    for number in (1, 2, 3):
        await house.watch(f"quotes:{number}", who=number)
    for number in (2, 3):
        house.market.leave(number)
        await house.pass_time(1)

    await house.watch("quotes:4", who=4)
    assert sorted(house.tws.lines.values()) == [1, 3, 4]


async def test_too_many_subscriptions_are_refused_with_the_count_and_served_when_a_line_is_free(tasks: Tasks) -> None:
    house = House(tasks, lines=2)
    await house.ready()
    await house.watch("quotes:1", "quotes:2", who="first")
    await house.watch("quotes:3", who="second")

    assert house.quote(3) == Quote(conId=3, ibCode=101)
    raised = await refused(house.market.quotes([4]))
    assert raised.reason == "tooManySubscriptions"
    assert raised.extra == {"lines": 2, "limit": 2}

    house.market.unwatch("quotes:1", "first")
    await house.pass_time(1)
    assert sorted(house.tws.lines.values()) == [2, 3]


async def test_a_line_that_ibkr_had_no_room_for_is_requested_when_one_of_ours_is_free(house: House) -> None:
    """TWS's own screen uses lines too, so 101 may come long before our own count is full."""
    await house.watch(f"quotes:{IBM}", who="one")
    await house.watch(f"quotes:{AAPL}", who="two")
    house.tws.say(AAPL, 101, "Max number of tickers has been reached")
    await house.pass_time(30.0)
    assert house.tws.count("quote") == 2

    house.market.leave("one")
    await house.pass_time(LINGER + 1.0)
    assert [what for what in house.tws.requests if what[0] == "quote"][2:] == [("quote", AAPL, 1)]


async def test_a_first_quote_waits_for_its_first_tick_but_not_for_long(house: House) -> None:
    requests = asyncio.ensure_future(house.market.quotes([AAPL]))
    await house.pass_time(FIRST_TICK - 0.1)
    assert not requests.done()
    await house.pass_time(0.2)
    assert await requests == [Quote(conId=AAPL)]

    house.tws.tick(AAPL, bid=4.0)
    assert await house.market.quotes([AAPL, AAPL]) == [Quote(conId=AAPL, bid=4.0)] * 2
    assert house.tws.count("quote") == 1


async def test_a_quote_without_a_tick_leaves_no_exception_behind(house: House) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    for _ in range(2):
        requests = asyncio.ensure_future(house.market.quotes([AAPL, IBM]))
        await house.pass_time(FIRST_TICK + 0.1)
        await requests
    cancelled = asyncio.ensure_future(house.market.quotes([1]))
    await settled()
    cancelled.cancel()
    await settled()
    gc.collect()
    await settled()

    assert reported == []


async def test_an_upstream_loss_ends_the_wait_for_a_first_tick(house: House) -> None:
    requests = asyncio.ensure_future(house.market.quotes([AAPL]))
    await settled()
    house.link(upstream="lost")

    assert (await refused(requests)).reason == "upstreamLost"


async def test_an_unknown_contract_has_no_quote(house: House) -> None:
    house.tws.contracts[AAPL] = []

    assert (await refused(house.market.quotes([AAPL]))).reason == "notFound"


@pytest.mark.parametrize("conIds", [[], [0], [-1], [2**63], list(range(1, 102))])
async def test_quotes_of_what_is_no_contract_are_refused(house: House, conIds: list[int]) -> None:
    with pytest.raises(Problem, match="conIds"):
        await house.market.quotes(conIds)


async def test_quotes_without_a_session_are_refused(tasks: Tasks) -> None:
    assert (await refused(House(tasks).market.quotes([AAPL]))).reason == "notConnected"


async def test_a_refused_line_is_not_repeated_but_requested_again_for_a_new_client(house: House) -> None:
    await house.watch(f"quotes:{AAPL}")
    house.tws.say(AAPL, 354, "Requested market data is not subscribed.")
    await house.watch(f"quotes:{AAPL}", who="another")
    await house.pass_time(59)
    assert house.tws.count("quote") == 1

    await house.pass_time(2)
    await house.watch(f"quotes:{AAPL}", who="a third")
    assert house.tws.count("quote") == 2


async def test_a_refusal_in_a_time_of_trouble_is_not_final(house: House) -> None:
    """FAULTS 48: 354 during a farm bounce is no entitlement fact."""
    await house.watch(f"quotes:{AAPL}")
    house.link(farms={"usfarm": FarmState(state="broken", type="market")})
    house.tws.say(AAPL, 354, "Requested market data is not subscribed.")
    await settled()
    house.link(farms={"usfarm": FarmState(state="ok", type="market")})
    await house.pass_time(61)

    assert house.tws.count("quote") == 2


def bar(date: str, close: float = 1.0) -> Bar:
    return Bar(date=date, open=1.0, high=1.0, low=1.0, close=close)


async def test_streaming_bars_are_shared_and_follow_their_past(house: House) -> None:
    for who, spelling in enumerate(("5mins", "5 mins", "5mins")):
        assert house.market.watch(f"bars:{AAPL}:{spelling}", who) == f"bars:{AAPL}:5mins"
    await settled()
    assert house.tws.count("stream") == 1
    request = next(iter(house.tws.bar_lines))
    house.tws.on_bars(request, [bar("2026-11-25T14:50:00Z"), bar("2026-11-25T14:55:00Z")])
    house.tws.on_bars(request, [bar("2026-11-25T14:55:00Z", 2.0)])
    house.tws.on_bars(request, [bar("2026-11-25T15:00:00Z", 3.0)])

    rows = house.store.rows(f"bars:{AAPL}:5mins")
    assert {date: row.close for date, row in rows.items()} == {
        "2026-11-25T14:50:00Z": 1.0,
        "2026-11-25T14:55:00Z": 2.0,
        "2026-11-25T15:00:00Z": 3.0,
    }


async def test_streaming_bars_are_bounded(house: House) -> None:
    await house.watch(f"bars:{AAPL}:5secs")
    request = next(iter(house.tws.bar_lines))
    house.tws.on_bars(request, [bar(f"{number:05}") for number in range(1200)])
    house.tws.on_bars(request, [bar("01200")])

    dates = list(house.store.rows(f"bars:{AAPL}:5secs"))
    assert (len(dates), dates[0], dates[-1]) == (1000, "00201", "01200")


async def test_a_streams_request_holds_one_of_the_open_fifty_until_it_is_released(house: House) -> None:
    await house.watch(f"bars:{AAPL}:5secs")
    assert (house.market.history.queue.budget.open, house.market.pacing().used) == (1, 1)

    house.market.leave("facade")
    await house.pass_time(LINGER + 1)

    assert house.market.history.queue.budget.open == 0
    assert house.tws.bar_lines == {}


async def test_a_streams_pacing_violation_spends_the_budget(house: House) -> None:
    await house.watch(f"bars:{AAPL}:5secs")
    request = next(iter(house.tws.bar_lines))
    house.tws.on_trouble(
        request, 162, "Historical Market Data Service error message:Historical data request pacing violation"
    )

    assert house.market.pacing().used == 60


async def test_a_fault_of_ours_costs_one_stream_and_nothing_else(house: House, caplog: Any) -> None:
    def broken(contract: object, marketDataType: int) -> int:
        raise ZeroDivisionError("a bug")

    healthy, house.tws.subscribe_quote = house.tws.subscribe_quote, broken
    await house.watch(f"quotes:{AAPL}")
    house.tws.subscribe_quote = healthy
    await house.watch(f"quotes:{IBM}")

    assert list(house.tws.lines.values()) == [IBM]
    await house.pass_time(10)
    assert sorted(house.tws.lines.values()) == [IBM, AAPL]
