"""What the daemon is asked for: pages joined, deadlines kept, its refusals passed on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.messages import Account, Fill, Quote
from tests.facade.conftest import House
from tests.waiting import until

API = "/api/ibkr"
NOW = "2026-01-02T12:00:00Z"


def fill(name: str, account: str = "DU1") -> Fill:
    return Fill(
        execId=name,
        time=datetime.now(UTC),
        account=account,
        side="BOT",
        shares=1.0,
        price=1.0,
        permId=1,
        orderId=1,
        clientId=1,
    )


def paged(pages: list[list[Any]], **more: Any) -> Any:
    """A method that answers in pages."""

    async def reply(params: Mapping[str, Any]) -> Any:
        number = int(params.get("cursor") or params.get("after", "0"))
        last = number + 1 >= len(pages)
        return {"rows": pages[number], "asOf": NOW, "next": None if last else str(number + 1), **more}

    return reply


async def test_older_executions_come_from_the_ledger_in_one_piece(house: House) -> None:
    house.daemon.replies["executions.list"] = paged([[{"execId": "a"}], [], [{"execId": "b"}]])
    status, body, _ = await house.get(f"{API}/executions?since=2026-01-01T10:00:00%2B01:00")
    assert (status, [row["execId"] for row in body["data"]]) == (200, ["a", "b"])
    state = house.daemon.store.replica.state("fills")
    meta = {
        "asOf": state.asOf,
        "stale": False,
        "epoch": "e1",
        "seq": state.seq,
        "source": "ledger",
        "session": "default",
    }
    assert body["meta"] == meta
    assert [params["since"] for _, params in house.daemon.asked] == ["2026-01-01T09:00:00Z"] * 3


def ledger(count: int, at_most: int) -> Any:
    """A method that pages through `count` rows by `limit` and `cursor`, `at_most` at once."""

    async def reply(params: Mapping[str, Any]) -> Any:
        begin = int(params.get("cursor", "0"))
        end = min(count, begin + min(params["limit"], at_most))
        rows = [{"execId": str(number)} for number in range(begin, end)]
        return {"rows": rows, "events": rows, "uptime": {}, "next": str(end) if end < count else None}

    return reply


@pytest.mark.parametrize(("path", "method"), [("executions", "executions.list"), ("link/events", "link.events")])
async def test_a_long_list_comes_in_pages_that_name_the_next(house: House, path: str, method: str) -> None:
    """`limit` rows in each though the daemon gives fewer at once; the `Link` keeps the rest of the query."""
    house.daemon.replies[method] = ledger(12, 3)
    target: str | None = f"{API}/{path}?since={NOW}&limit=5"
    sizes, seen = [], []
    while target is not None:
        status, body, headers = await house.get(target)
        assert status == 200
        rows = body["data"] if path == "executions" else body["data"]["events"]
        sizes.append(len(rows))
        seen += [int(row["execId"]) for row in rows]
        link = re.fullmatch(r'<(.*)>; rel="next"', headers.get("Link", ""))
        target = link and link[1]
        assert target is None or (target.startswith(f"{API}/{path}?since=") and "limit=5" in target)
    assert (sizes, seen) == ([5, 5, 2], list(range(12)))


@pytest.mark.parametrize("query", ["limit=0", "limit=5001", "limit=x", "cursor=" + "x" * 301, "limit=1&limit=2"])
async def test_a_page_must_be_one(house: House, query: str) -> None:
    for path in ("executions", "link/events"):
        assert (await house.get(f"{API}/{path}?{query}"))[0] == 422
    assert house.daemon.asked == []


async def test_more_of_the_last_day_than_a_page_holds_comes_from_the_ledger(house: House) -> None:
    house.daemon.know("fills", {str(number): fill(str(number)) for number in range(3)})
    await until(lambda: house.facade.default.mirror.state.row("fills", "2"))
    house.daemon.replies["executions.list"] = ledger(3, 10)
    assert (await house.get(f"{API}/executions?limit=3"))[1]["meta"]["source"] == "live"
    _, body, headers = await house.get(f"{API}/executions?limit=2")
    assert (len(body["data"]), body["meta"]["source"]) == (2, "ledger")
    assert "cursor=2" in headers["Link"]


async def test_executions_of_one_account(house: House) -> None:
    house.daemon.know("accounts", {name: Account(account=name, paper=True) for name in ("DU1", "DU2")})
    house.daemon.know("fills", {name: fill(name, f"DU{name}") for name in ("1", "2")})
    await until(lambda: house.facade.default.mirror.state.row("fills", "2"))
    _, body, _ = await house.get(f"{API}/executions?account=DU2")
    assert [row["execId"] for row in body["data"]] == ["2"]
    await house.get(f"{API}/executions?account=DU2&since={NOW}")
    assert house.daemon.asked[-1][1]["account"] == "DU2"


async def test_the_last_days_executions_are_the_topic(house: House) -> None:
    status, body, headers = await house.get(f"{API}/executions")
    assert (status, body["data"], body["meta"]["source"]) == (200, [], "live")
    assert "ETag" in headers
    assert house.daemon.asked == []


@pytest.mark.parametrize(
    "since", ["yesterday", "2026-01-01", "2026-01-01T10:00:00", "2026-13-01T10:00:00Z", "1", "%00"]
)
@pytest.mark.parametrize("path", ["executions", "link/events"])
async def test_a_time_must_be_one(house: House, path: str, since: str) -> None:
    status, body, _ = await house.get(f"{API}/{path}?since={since}")
    assert (status, body["reason"]) == (422, "invalidParameters")
    assert house.daemon.asked == []


async def test_a_plus_sign_that_nobody_escaped_is_understood(house: House) -> None:
    house.daemon.replies["executions.list"] = paged([[]])
    assert (await house.get(f"{API}/executions?since=2026-01-01T10:00:00+01:00"))[0] == 200


async def test_without_a_link_the_ledger_is_read_for_who_asks_for_what_may_be_old(house: House) -> None:
    house.daemon.replies["executions.list"] = paged([[{"execId": "a"}]])
    house.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await until(lambda: not house.facade.default.mirror.state.connected)
    assert (await house.get(f"{API}/executions?since={NOW}"))[1]["reason"] == "portClosed"
    status, body, _ = await house.get(f"{API}/executions?since={NOW}&allowStale=true")
    assert (status, body["meta"]["stale"]) == (200, True)


async def test_the_links_history_is_there_without_a_link(house: House) -> None:
    house.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await until(lambda: not house.facade.default.mirror.state.connected)
    house.daemon.answer(
        "link.events", {"events": [{"phase": "ready"}], "uptime": {"24h": {"ratio": 1.0}}, "next": None}
    )
    status, body, _ = await house.get(f"{API}/link/events")
    assert status == 200
    assert body["data"] == {"events": [{"phase": "ready"}], "uptime": {"24h": {"ratio": 1.0}}}
    assert body["meta"]["source"] == "ledger"


async def test_contracts(house: House) -> None:
    house.daemon.replies["contracts.search"] = paged([[]])
    house.daemon.replies["contracts.get"] = paged([[{"conId": 265598, "symbol": "AAPL"}]])
    house.daemon.replies["contracts.options"] = paged([[{"exchange": "SMART"}]])
    house.daemon.replies["contracts.qualify"] = paged([[{"conId": 265598, "symbol": "AAPL"}]])
    assert (await house.get(f"{API}/contracts/search?q=zzz"))[1]["data"] == []
    assert (await house.get(f"{API}/contracts/265598"))[1]["data"] == [{"conId": 265598, "symbol": "AAPL"}]
    assert (await house.get(f"{API}/contracts/265598/options"))[1]["data"] == [{"exchange": "SMART"}]
    status, body, _ = await house.post(f"{API}/contracts/qualify", {"symbol": "AAPL", "secType": "STK"})
    assert (status, body) == (200, {"conId": 265598, "symbol": "AAPL"})


async def test_an_ambiguous_contract_comes_with_its_candidates(house: House) -> None:
    house.daemon.refuse(
        "contracts.qualify", "contractAmbiguous", detail="Two match.", candidates=[{"conId": 1}, {"conId": 2}]
    )
    status, body, _ = await house.post(f"{API}/contracts/qualify", {"symbol": "IBM"})
    assert (status, body["reason"], body["candidates"]) == (422, "contractAmbiguous", [{"conId": 1}, {"conId": 2}])


@pytest.mark.parametrize(
    "path",
    [
        "contracts/abc",
        "contracts/0",
        "contracts/-1",
        "contracts/99999999999",
        "contracts/1.0",
        "contracts/%D9%A3",
        "contracts/search",
        "contracts/search?q=",
        "contracts/search?q=" + "a" * 65,
        "quotes",
        "quotes?conIds=",
        "quotes?conIds=1,,2",
        "quotes?conIds=a",
        "quotes?conIds=0",
        "quotes?conIds=9999999999",
        "quotes?conIds=" + ",".join(str(n) for n in range(1, 102)),
        "bars",
        "bars?conId=x",
        "bars?conId=0",
        "bars?conId=1&useRTH=maybe",
        "bars?conId=1&nonsense=1",
    ],
)
async def test_what_cannot_be_meant_is_not_asked(house: House, path: str) -> None:
    status, body, _ = await house.get(f"{API}/{path}")
    assert (status, body["reason"]) == (422, "invalidParameters")
    assert house.daemon.asked == []


async def test_quotes_are_asked_for_once_each(house: House) -> None:
    house.daemon.answer("quotes.get", {"rows": [{"conId": 1, "asOf": NOW}, {"conId": 2, "asOf": None}], "next": None})
    status, body, _ = await house.get(f"{API}/quotes?conIds=1,2,1")
    assert (status, len(body["data"]), body["meta"]["asOf"]) == (200, 2, NOW)
    assert house.daemon.asked == [("quotes.get", {"conIds": [1, 2]})]


async def test_last_known_quotes_without_a_daemon(house: House) -> None:
    """Only where all of them are known."""
    house.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.5)}})
    house.facade.default.mirror.subscribe(["quotes:1"])
    await until(lambda: house.facade.default.mirror.state.row("quotes:1", "1"))
    await house.daemon.stop()
    await until(lambda: not house.facade.default.mirror.state.reachable)
    status, body, _ = await house.get(f"{API}/quotes?conIds=1&allowStale=true")
    assert (status, body["data"][0]["bid"], body["meta"]["stale"]) == (200, 2.5, True)
    assert (await house.get(f"{API}/quotes?conIds=1,2&allowStale=true"))[1]["reason"] == "daemonUnreachable"
    assert (await house.get(f"{API}/quotes?conIds=1"))[1]["reason"] == "daemonUnreachable"


async def test_last_known_quotes_without_a_link(house: House) -> None:
    """The daemon is there and has no session; where not all of them are known it says why."""
    house.daemon.refuse("quotes.get", "notConnected")
    house.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.5)}})
    house.facade.default.mirror.subscribe(["quotes:1"])
    await until(lambda: house.facade.default.mirror.state.row("quotes:1", "1"))
    house.daemon.link(phase="held", reason="manual", connected=False)
    await until(lambda: not house.facade.default.mirror.state.connected)
    status, body, _ = await house.get(f"{API}/quotes?conIds=1&allowStale=true")
    assert (status, body["data"][0]["bid"], body["meta"]["stale"]) == (200, 2.5, True)
    assert (await house.get(f"{API}/quotes?conIds=1,2&allowStale=true"))[1]["reason"] == "notConnected"
    assert (await house.get(f"{API}/quotes?conIds=1"))[1]["reason"] == "manual"


async def test_bars_take_ib_asyncs_names(house: House) -> None:
    house.daemon.replies["bars.fetch"] = paged([[{"date": "2026-01-02"}], [{"date": "2026-01-03"}]])
    status, body, _ = await house.get(f"{API}/bars?conId=1&durationStr=2%20D&barSizeSetting=1%20day&useRTH=false")
    assert (status, [row["date"] for row in body["data"]]) == (200, ["2026-01-02", "2026-01-03"])
    assert house.daemon.asked[0][1] == {
        "conId": 1,
        "durationStr": "2 D",
        "barSizeSetting": "1 day",
        "whatToShow": "",
        "useRTH": False,
        "endDateTime": "",
    }


@pytest.mark.parametrize(
    ("reason", "status", "wait"),
    [("pacingBudget", 429, 42), ("notSubscribed", 403, None), ("brokerTimeout", 504, None), ("brokerError", 502, None)],
)
async def test_what_the_daemon_refuses_is_passed_on(house: House, reason: str, status: int, wait: int | None) -> None:
    house.daemon.refuse("bars.fetch", reason, detail="Said IBKR.", ibCode=162, retryAfter=41.2)
    got, body, headers = await house.get(f"{API}/bars?conId=1")
    assert (got, body["reason"], body["detail"], body["ibCode"]) == (status, reason, "Said IBKR.", 162)
    assert headers.get("Retry-After") == (str(wait) if wait else None)


async def test_a_reason_of_a_newer_daemon_is_still_a_problem(house: House) -> None:
    house.daemon.refuse("bars.fetch", "somethingNew", detail="New.")
    status, body, _ = await house.get(f"{API}/bars?conId=1")
    assert (status, body["reason"]) == (502, "brokerError")


async def test_a_question_has_a_deadline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_params: Mapping[str, Any]) -> Any:
        await asyncio.Event().wait()

    house.daemon.replies["bars.fetch"] = never
    monkeypatch.setattr("facade.routes.queries.BARS_TIMEOUT", 0.05)
    status, body, _ = await house.get(f"{API}/bars?conId=1")
    assert (status, body["reason"]) == (504, "brokerTimeout")
