"""Look-ups: requested once, cached with their age, and never wrongly “not found”."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec
import pytest

from daemon.market.conditions import Conditions
from daemon.market.contracts import (
    DETAILS_TTL,
    KEPT,
    NEGATIVE_TTL,
    RECHECK,
    SEARCH_INTERVAL,
    Contracts,
    as_query,
    trading,
)
from daemon.tws.errors import LinkLost, TwsRefused, TwsSilent
from shared.messages import Contract, ContractDetails, ContractMatch, ContractQuery, FarmState, OptionChain, Upstream
from shared.reasons import Problem
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import START, FakeSession, Tasks, details
from tests.waiting import refused

AAPL = 265598
NOTHING = TwsRefused(200, "No security definition has been found for the request")


class Desk:
    def __init__(self, tasks: Tasks) -> None:
        self.clock, self.conditions, self.tws = HandClock(START), Conditions(), FakeSession()
        self.contracts = Contracts(tasks, self.clock, self.conditions)
        self.contracts.ready(self.tws)

    def link(self, upstream: Upstream = "ok", **farms: str) -> None:
        states = {f"{kind}farm": FarmState(state=state, type=kind) for kind, state in farms.items()}
        self.conditions.observe(upstream, states, self.clock.monotonic())


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    tasks = Tasks()
    yield Desk(tasks)
    await tasks.end()


async def test_details_are_requested_once_and_answered_with_their_age(desk: Desk) -> None:
    first = await desk.contracts.details(AAPL)
    await desk.clock.pass_(DETAILS_TTL - 1)
    again = await desk.contracts.details(AAPL)
    assert (again.rows[0].conId, again.asOf, desk.tws.count("details")) == (AAPL, first.asOf, 1)

    await desk.clock.pass_(1)
    assert (await desk.contracts.details(AAPL)).asOf == desk.clock.now()
    assert desk.tws.count("details") == 2


async def test_a_look_up_is_cancelled_with_its_last_client_only(desk: Desk) -> None:
    desk.tws.hold("details")
    first, second = (asyncio.ensure_future(desk.contracts.details(AAPL)) for _ in range(2))
    await settled()
    first.cancel()
    await settled()
    assert desk.tws.cancelled == 0

    second.cancel()
    await settled()
    assert desk.tws.cancelled == 1
    desk.tws.let_go()
    assert (await desk.contracts.details(AAPL)).rows


async def test_an_unknown_contract_is_not_found_and_that_is_remembered_for_a_while(desk: Desk) -> None:
    desk.tws.contracts[AAPL] = NOTHING
    for _ in range(2):
        raised = await refused(desk.contracts.details(AAPL))
        assert (raised.reason, raised.ibCode) == ("notFound", 200)
    assert desk.tws.count("details") == 2  # once more for a contract that has expired

    del desk.tws.contracts[AAPL]
    await desk.clock.pass_(NEGATIVE_TTL)
    assert (await desk.contracts.details(AAPL)).rows


async def test_an_expired_future_is_found_by_its_number(desk: Desk) -> None:
    """IBKR describes it only where `includeExpired` is set; its bars are then requested in the same way."""
    requests: list[ContractQuery] = []

    async def contract_details(query: ContractQuery, timeout: float) -> list[ContractDetails]:
        requests.append(query)
        if not query.includeExpired:
            raise NOTHING
        return [details(query.conId, secType="FUT", exchange="CME")]

    desk.tws.contract_details = contract_details
    found = (await desk.contracts.details(7)).rows[0]

    assert (found.secType, [query.includeExpired for query in requests]) == ("FUT", [False, True])
    assert as_query(found).includeExpired
    assert not as_query(details(AAPL)).includeExpired


OUTAGES = [{"upstream": "lost"}, {"secdef": "broken"}, {"market": "connecting"}]


@pytest.mark.parametrize("outage", OUTAGES[1:])
async def test_no_such_contract_means_little_in_an_outage(desk: Desk, outage: dict[str, str]) -> None:
    """FAULTS 10: a 200 from an outage is neither “not found” nor kept."""
    desk.tws.contracts[AAPL] = NOTHING
    desk.link(**outage)
    for _ in range(2):
        raised = await refused(desk.contracts.details(AAPL))
        assert (raised.reason, raised.ibCode) == ("upstreamLost", 200)

    assert desk.tws.count("details") == 4


@pytest.mark.parametrize("outage", OUTAGES)
async def test_just_after_an_outage_it_is_requested_again_and_then_not_found_with_a_note(
    desk: Desk, outage: dict[str, str]
) -> None:
    desk.tws.contracts[AAPL] = NOTHING
    desk.link(**outage)
    desk.link()
    for _ in range(2):
        requests = asyncio.ensure_future(desk.contracts.details(AAPL))
        await desk.clock.pass_(RECHECK)
        raised = await refused(requests)
        assert (raised.reason, raised.ibCode) == ("notFound", 200)
        assert "was down" in raised.detail
    assert desk.tws.count("details") == 8

    requests = asyncio.ensure_future(desk.contracts.details(AAPL))
    await settled()
    del desk.tws.contracts[AAPL]
    await desk.clock.pass_(RECHECK)
    assert (await requests).rows[0].conId == AAPL


async def test_finding_nothing_is_an_empty_list_but_not_in_an_outage(desk: Desk) -> None:
    assert (await desk.contracts.search("NOSUCH")).rows == ()

    desk.link(secdef="broken")
    requests = asyncio.ensure_future(desk.contracts.search("OTHER"))
    await desk.clock.pass_(SEARCH_INTERVAL)
    assert (await refused(requests)).reason == "upstreamLost"


async def test_searches_go_out_at_ibkrs_pace(desk: Desk) -> None:
    requests = [asyncio.ensure_future(desk.contracts.search(f"S{number}")) for number in range(12)]
    sent = []
    for _ in range(10):
        await settled()
        sent.append(desk.tws.count("search"))
        await desk.clock.pass_(SEARCH_INTERVAL)

    assert sent == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [what[1] for what in desk.tws.requests] == [f"S{number}" for number in range(9)]
    problems = [each.exception() for each in requests[9:]]
    assert [(each.reason, each.retryAfter) for each in problems if isinstance(each, Problem)] == [
        ("pacingBudget", 9.0)
    ] * 3
    assert all(each.result().rows == () for each in requests[:9])


async def test_an_upstream_loss_ends_what_is_in_flight_at_once(desk: Desk) -> None:
    await desk.contracts.details(1)
    desk.tws.hold("details")
    requests = asyncio.ensure_future(desk.contracts.details(AAPL))
    await settled()
    desk.link("lost")
    desk.contracts.upstream_lost()

    for each in (requests, asyncio.ensure_future(desk.contracts.details(2))):
        assert (await refused(each)).reason == "upstreamLost"
    assert (await desk.contracts.details(1)).rows


async def test_a_symbol_that_was_not_found_is_found_once_it_is_listed(desk: Desk) -> None:
    assert (await desk.contracts.search("NEW")).rows == ()
    desk.tws.matches = [ContractMatch(conId=7, symbol="NEW")]

    await desk.clock.pass_(NEGATIVE_TTL)
    assert [row.conId for row in (await desk.contracts.search("NEW")).rows] == [7]


async def test_search(desk: Desk) -> None:
    desk.tws.matches = [ContractMatch(conId=AAPL, symbol="AAPL")]

    assert (await desk.contracts.search(" aapl ")).rows == (ContractMatch(conId=AAPL, symbol="AAPL"),)
    await desk.contracts.search("AAPL")
    assert desk.tws.requests == [("search", "aapl")]


@pytest.mark.parametrize("q", ["", "  ", "x" * 65, "a\nb", "a\x00"])
async def test_what_cannot_be_searched_for(desk: Desk, q: str) -> None:
    assert (await refused(desk.contracts.search(q))).reason == "invalidParameters"


async def test_qualify_gives_the_one_contract(desk: Desk) -> None:
    """One contract on several exchanges is one: IBKR's own routing, unless an exchange was requested."""
    desk.tws.contracts[0] = [details(AAPL, exchange=name, strike=None) for name in ("NYSE", "SMART", "ISLAND")]

    smart = await desk.contracts.qualify(ContractQuery(symbol="AAPL", secType="STK"))
    island = await desk.contracts.qualify(ContractQuery(symbol="AAPL", secType="STK", exchange="ISLAND"))

    assert type(smart.rows[0]) is Contract
    assert (smart.rows[0].conId, smart.rows[0].exchange, island.rows[0].exchange) == (AAPL, "SMART", "ISLAND")


async def test_qualify_names_the_candidates_of_an_ambiguous_description(desk: Desk) -> None:
    desk.tws.contracts[0] = [details(number) for number in range(1, 71)]

    raised = await refused(desk.contracts.qualify(ContractQuery(symbol="ES", secType="FUT")))
    assert raised.reason == "contractAmbiguous"
    candidates = raised.extra["candidates"]
    assert [each["conId"] for each in candidates] == list(range(1, 51))
    assert "70 contracts, of which 50" in raised.detail


async def test_qualify_needs_a_name(desk: Desk) -> None:
    assert (
        await refused(desk.contracts.qualify(ContractQuery(secType="STK", exchange="SMART")))
    ).reason == "invalidParameters"


@pytest.mark.parametrize("name", ["symbol", "exchange", "secId", "lastTradeDateOrContractMonth"])
async def test_qualify_takes_no_field_that_would_end_one_on_the_wire(desk: Desk, name: str) -> None:
    """A NUL ends a field: what stands behind it would be read as the next, and the request be another one."""
    raised = await refused(
        desk.contracts.qualify(msgspec.structs.replace(ContractQuery(symbol="AAPL"), **{name: "AAPL\x00OPT"}))
    )
    assert (raised.reason, raised.extra) == ("invalidParameters", {"field": name})
    assert desk.tws.requests == []


async def test_option_chain_requests_that_of_the_underlying(desk: Desk) -> None:
    desk.tws.contracts[7] = [details(7, symbol="ES", secType="FUT", exchange="CME")]
    desk.tws.chain = [OptionChain(exchange="SMART", underlyingConId=AAPL)]

    assert len((await desk.contracts.option_chain(AAPL)).rows) == 1
    await desk.contracts.option_chain(7)

    chains = [what[1:] for what in desk.tws.requests if what[0] == "chain"]
    assert chains == [(f"S{AAPL}", "", "STK", AAPL), ("ES", "CME", "FUT", 7)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (TwsSilent("the details", 10), "brokerTimeout"),
        (LinkLost(), "notConnected"),
        (LinkLost("interrupted", 1100), "upstreamLost"),
        (TwsRefused(321, "Error validating request"), "invalidParameters"),
        (TwsRefused(9999, "what"), "brokerError"),
        (TwsRefused(200, "The contract description specified for AAPL is ambiguous."), "contractAmbiguous"),
    ],
)
async def test_failures_have_their_reason_and_the_passing_ones_are_not_cached(
    desk: Desk, failure: Exception, reason: str
) -> None:
    desk.tws.contracts[AAPL] = failure

    raised = await refused(desk.contracts.details(AAPL))
    assert raised.reason == reason
    if reason != "contractAmbiguous":
        del desk.tws.contracts[AAPL]
        assert (await desk.contracts.details(AAPL)).rows


async def test_without_a_session_only_what_is_remembered_is_known(desk: Desk) -> None:
    await desk.contracts.details(AAPL)
    desk.contracts.lost()

    assert (await desk.contracts.details(AAPL)).rows
    assert (await refused(desk.contracts.details(1))).reason == "notConnected"


async def test_the_cache_drops_what_was_requested_least_recently(desk: Desk) -> None:
    await desk.contracts.details(1)
    for number in range(2, KEPT["details"] + 1):
        await desk.contracts.details(number)
    await desk.contracts.details(1)  # is the most recent now
    await desk.contracts.details(KEPT["details"] + 1)
    desk.tws.requests.clear()

    await desk.contracts.details(1)
    assert desk.tws.requests == []
    await desk.contracts.details(2)
    assert desk.tws.count("details") == 1


@pytest.mark.parametrize(
    ("hours", "at", "is_open"),
    [
        ("20240722:0400-20240722:2000;20240723:CLOSED", "2024-07-22T10:00", True),
        ("20240722:0400-20240722:2000;20240723:CLOSED", "2024-07-22T02:00", False),
        ("20240722:0400-20240722:2000;20240723:CLOSED", "2024-07-23T18:00", False),
        ("20240722:0400-20240722:2000;20240723:CLOSED", "2024-07-24T18:00", None),
        ("20240721:1700-20240722:1600", "2024-07-21T23:00", True),
        ("20240722:0930-1600", "2024-07-22T19:59", True),
        ("20240722:0930-1600", "2024-07-22T20:00", False),
        ("nonsense", "2024-07-22T20:00", None),
        ("", "2024-07-22T20:00", None),
    ],
)
def test_trading_hours_are_read_in_their_own_zone(hours: str, at: str, is_open: bool | None) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    zone = "America/New_York" if "0930" in hours else "UTC"

    assert trading(details(1, tradingHours=hours, timeZoneId=zone), moment) is is_open


def test_an_unknown_zone_leaves_the_session_unknown() -> None:
    moment = datetime(2024, 7, 22, tzinfo=UTC)
    assert trading(details(1, tradingHours="20240722:CLOSED", timeZoneId="Mars/Base"), moment) is None
