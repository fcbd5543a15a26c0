"""Queries to the daemon: pages joined, deadlines kept, its refusals passed on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.messages import Account, Quote
from tests.facade.conftest import Served
from tests.rows import fill
from tests.waiting import until

API = "/api/ibkr"
NOW = "2026-01-02T12:00:00Z"


def paged(pages: list[list[Any]], **more: Any) -> Any:
    """A method that answers in pages."""

    async def reply(params: Mapping[str, Any]) -> Any:
        number = int(params.get("cursor") or params.get("after", "0"))
        last = number + 1 >= len(pages)
        return {"rows": pages[number], "asOf": NOW, "next": None if last else str(number + 1), **more}

    return reply


async def test_older_executions_come_from_the_ledger_in_one_piece(served: Served) -> None:
    served.daemon.replies["executions.list"] = paged([[{"execId": "a"}], [], [{"execId": "b"}]])
    status, body, _ = await served.get(f"{API}/executions?since=2026-01-01T10:00:00%2B01:00")
    assert (status, [row["execId"] for row in body["data"]]) == (200, ["a", "b"])
    state = served.daemon.store.replica.state("fills")
    meta = {
        "asOf": state.asOf,
        "stale": False,
        "epoch": "e1",
        "seq": state.seq,
        "source": "ledger",
        "session": "default",
    }
    assert body["meta"] == meta
    assert [params["since"] for _, params in served.daemon.requests] == ["2026-01-01T09:00:00Z"] * 3


def ledger(count: int, at_most: int, name: str = "rows") -> Any:
    """A method that pages through `count` rows by `limit` and `cursor`, `at_most` at once."""

    async def reply(params: Mapping[str, Any]) -> Any:
        begin = int(params.get("cursor", "0"))
        end = min(count, begin + min(params["limit"], at_most))
        rows = [{"execId": str(number)} for number in range(begin, end)]
        return {name: rows, "uptime": {}, "next": str(end) if end < count else None}

    return reply


@pytest.mark.parametrize(("path", "method"), [("executions", "executions.list"), ("link/events", "link.events")])
async def test_a_long_list_comes_in_pages_that_name_the_next(served: Served, path: str, method: str) -> None:
    served.daemon.replies[method] = ledger(12, 3, "rows" if path == "executions" else "events")
    target: str | None = f"{API}/{path}?since={NOW}&limit=5"
    sizes, seen = [], []
    while target is not None:
        status, body, headers = await served.get(target)
        assert status == 200
        rows = body["data"] if path == "executions" else body["data"]["events"]
        sizes.append(len(rows))
        seen += [int(row["execId"]) for row in rows]
        link = re.fullmatch(r'<(.*)>; rel="next"', headers.get("Link", ""))
        target = link and link[1]
        assert target is None or (target.startswith(f"{API}/{path}?since=") and "limit=5" in target)
    assert (sizes, seen) == ([5, 5, 2], list(range(12)))


@pytest.mark.parametrize("query", ["limit=0", "limit=5001", "limit=x", "cursor=" + "x" * 301, "limit=1&limit=2"])
async def test_a_page_must_be_one(served: Served, query: str) -> None:
    for path in ("executions", "link/events"):
        assert (await served.get(f"{API}/{path}?{query}"))[0] == 422
    assert served.daemon.requests == []


async def test_more_of_the_last_day_than_a_page_holds_comes_from_the_ledger(served: Served) -> None:
    served.daemon.set_rows("fills", {str(number): fill(str(number)) for number in range(3)})
    await served.holds("fills", "2")
    served.daemon.replies["executions.list"] = ledger(3, 10)
    assert (await served.get(f"{API}/executions?limit=3"))[1]["meta"]["source"] == "live"
    _, body, headers = await served.get(f"{API}/executions?limit=2")
    assert (len(body["data"]), body["meta"]["source"]) == (2, "ledger")
    assert "cursor=2" in headers["Link"]


async def test_executions_of_one_account(served: Served) -> None:
    served.daemon.set_rows("accounts", {name: Account(account=name, paper=True) for name in ("DU1", "DU2")})
    served.daemon.set_rows("fills", {name: fill(name, account=f"DU{name}") for name in ("1", "2")})
    await served.holds("fills", "2")
    _, body, _ = await served.get(f"{API}/executions?account=DU2")
    assert [row["execId"] for row in body["data"]] == ["2"]
    await served.get(f"{API}/executions?account=DU2&since={NOW}")
    assert served.daemon.requests[-1][1]["account"] == "DU2"
    for path in ("executions", "orders"):
        assert (await served.get(f"{API}/{path}?account=DU9"))[1]["reason"] == "notFound"


async def test_the_days_profit_and_loss_is_the_ledgers(served: Served) -> None:
    served.daemon.replies["account.pnl.history"] = paged([[{"dailyPnL": 1.5}]])
    status, body, _ = await served.get(f"{API}/account/pnl/history?allowStale=true")
    assert (status, body["data"], body["meta"]["source"]) == (200, [{"dailyPnL": 1.5}], "ledger")
    assert served.daemon.requests[-1][1]["allowStale"] is True


async def test_the_last_days_executions_are_the_topic(served: Served) -> None:
    status, body, headers = await served.get(f"{API}/executions")
    assert (status, body["data"], body["meta"]["source"]) == (200, [], "live")
    assert "ETag" in headers
    assert served.daemon.requests == []


@pytest.mark.parametrize(
    "since", ["yesterday", "2026-01-01", "2026-01-01T10:00:00", "2026-13-01T10:00:00Z", "1", "%00"]
)
@pytest.mark.parametrize("path", ["executions", "link/events"])
async def test_a_time_must_be_one(served: Served, path: str, since: str) -> None:
    status, body, _ = await served.get(f"{API}/{path}?since={since}")
    assert (status, body["reason"]) == (422, "invalidParameters")
    assert served.daemon.requests == []


async def test_an_unescaped_plus_sign_in_a_time_is_accepted(served: Served) -> None:
    served.daemon.replies["executions.list"] = paged([[]])
    assert (await served.get(f"{API}/executions?since=2026-01-01T10:00:00+01:00"))[0] == 200


async def test_without_a_link_the_ledger_is_read_where_stale_rows_are_allowed(served: Served) -> None:
    served.daemon.replies["executions.list"] = paged([[{"execId": "a"}]])
    served.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await until(lambda: not served.state.connected)
    assert (await served.get(f"{API}/executions?since={NOW}"))[1]["reason"] == "portClosed"
    status, body, _ = await served.get(f"{API}/executions?since={NOW}&allowStale=true")
    assert (status, body["meta"]["stale"]) == (200, True)


async def test_the_ledger_is_not_current_before_the_gateway_has_listed_its_fills(served: Served) -> None:
    """It may lack fills of while the daemon was away: refused, or marked stale where that is allowed."""
    served.daemon.replies["executions.list"] = paged([[]])
    served.daemon.store.forget("fills")
    await until(lambda: not (sync := served.state.sync("fills")) or not sync.known)
    status, body, _ = await served.get(f"{API}/executions?since={NOW}")
    assert (status, body["reason"]) == (503, "snapshotIncomplete")
    status, body, _ = await served.get(f"{API}/executions?since={NOW}&allowStale=true")
    assert (status, body["meta"]["stale"]) == (200, True)


async def test_the_links_history_is_there_without_a_link(served: Served) -> None:
    served.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await until(lambda: not served.state.connected)
    served.daemon.answer(
        "link.events", {"events": [{"phase": "ready"}], "uptime": {"24h": {"ratio": 1.0}}, "next": None}
    )
    status, body, _ = await served.get(f"{API}/link/events")
    assert status == 200
    assert body["data"] == {"events": [{"phase": "ready"}], "uptime": {"24h": {"ratio": 1.0}}}
    assert body["meta"]["source"] == "ledger"


async def test_contracts(served: Served) -> None:
    served.daemon.replies["contracts.search"] = paged([[]])
    served.daemon.replies["contracts.get"] = paged([[{"conId": 265598, "symbol": "AAPL"}]])
    served.daemon.replies["contracts.options"] = paged([[{"exchange": "SMART"}]])
    served.daemon.replies["contracts.qualify"] = paged([[{"conId": 265598, "symbol": "AAPL"}]])
    assert (await served.get(f"{API}/contracts/search?q=zzz"))[1]["data"] == []
    assert (await served.get(f"{API}/contracts/265598"))[1]["data"] == [{"conId": 265598, "symbol": "AAPL"}]
    assert (await served.get(f"{API}/contracts/265598/options"))[1]["data"] == [{"exchange": "SMART"}]
    status, body, _ = await served.post(f"{API}/contracts/qualify", {"symbol": "AAPL", "secType": "STK"})
    assert (status, body) == (200, {"conId": 265598, "symbol": "AAPL"})


async def test_an_ambiguous_contract_comes_with_its_candidates(served: Served) -> None:
    served.daemon.refuse(
        "contracts.qualify", "contractAmbiguous", detail="Two match.", candidates=[{"conId": 1}, {"conId": 2}]
    )
    status, body, _ = await served.post(f"{API}/contracts/qualify", {"symbol": "IBM"})
    assert (status, body["reason"], body["candidates"]) == (422, "contractAmbiguous", [{"conId": 1}, {"conId": 2}])


@pytest.mark.parametrize(
    "path",
    [
        "contracts/abc",
        "contracts/0",
        "contracts/-1",
        "contracts/9223372036854775808",
        "contracts/1.0",
        "contracts/%D9%A3",
        "contracts/0/options",
        "contracts/search",
        "contracts/search?q=",
        "contracts/search?q=" + "a" * 65,
        "quotes",
        "quotes?conIds=",
        "quotes?conIds=1,,2",
        "quotes?conIds=a",
        "quotes?conIds=0",
        "quotes?conIds=9223372036854775808",
        "quotes?conIds=" + ",".join(str(n) for n in range(1, 102)),
        "bars",
        "bars?conId=x",
        "bars?conId=0",
        "bars?conId=1&useRTH=maybe",
        "bars?conId=1&nonsense=1",
    ],
)
async def test_an_impossible_contract_is_refused_without_the_daemon(served: Served, path: str) -> None:
    status, body, _ = await served.get(f"{API}/{path}")
    assert (status, body["reason"]) == (422, "invalidParameters")
    assert served.daemon.requests == []


async def test_each_quote_is_requested_once(served: Served) -> None:
    served.daemon.answer("quotes.get", {"rows": [{"conId": 1, "asOf": NOW}, {"conId": 2, "asOf": None}], "next": None})
    status, body, _ = await served.get(f"{API}/quotes?conIds=1,2,1")
    assert (status, len(body["data"]), body["meta"]["asOf"]) == (200, 2, NOW)
    assert served.daemon.requests == [("quotes.get", {"conIds": [1, 2]})]


async def test_last_known_quotes_without_a_daemon(served: Served) -> None:
    served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.5)}})
    served.facade.default.mirror.subscribe(["quotes:1"])
    await served.holds("quotes:1", "1")
    await served.daemon.stop()
    await until(lambda: not served.state.reachable)
    status, body, _ = await served.get(f"{API}/quotes?conIds=1&allowStale=true")
    assert (status, body["data"][0]["bid"], body["meta"]["stale"]) == (200, 2.5, True)
    assert (await served.get(f"{API}/quotes?conIds=1,2&allowStale=true"))[1]["reason"] == "daemonUnreachable"
    assert (await served.get(f"{API}/quotes?conIds=1"))[1]["reason"] == "daemonUnreachable"


async def test_last_known_quotes_without_a_link(served: Served) -> None:
    served.daemon.refuse("quotes.get", "notConnected")
    served.daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=2.5)}})
    served.facade.default.mirror.subscribe(["quotes:1"])
    await served.holds("quotes:1", "1")
    served.daemon.link(phase="held", reason="manual", connected=False)
    await until(lambda: not served.state.connected)
    status, body, _ = await served.get(f"{API}/quotes?conIds=1&allowStale=true")
    assert (status, body["data"][0]["bid"], body["meta"]["stale"]) == (200, 2.5, True)
    assert (await served.get(f"{API}/quotes?conIds=1,2&allowStale=true"))[1]["reason"] == "notConnected"
    assert (await served.get(f"{API}/quotes?conIds=1"))[1]["reason"] == "manual"


async def test_bars_take_ib_asyncs_names(served: Served) -> None:
    served.daemon.replies["bars.fetch"] = paged([[{"date": "2026-01-02"}], [{"date": "2026-01-03"}]])
    status, body, _ = await served.get(f"{API}/bars?conId=1&durationStr=2%20D&barSizeSetting=1%20day&useRTH=false")
    assert (status, [row["date"] for row in body["data"]]) == (200, ["2026-01-02", "2026-01-03"])
    assert served.daemon.requests[0][1] == {
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
async def test_a_refusal_of_the_daemon_is_passed_on(served: Served, reason: str, status: int, wait: int | None) -> None:
    served.daemon.refuse("bars.fetch", reason, detail="Said IBKR.", ibCode=162, retryAfter=41.2)
    got, body, headers = await served.get(f"{API}/bars?conId=1")
    assert (got, body["reason"], body["detail"], body["ibCode"]) == (status, reason, "Said IBKR.", 162)
    assert headers.get("Retry-After") == (str(wait) if wait else None)


async def test_a_refusal_that_is_not_about_the_link_does_not_wait_for_its_next_attempt(served: Served) -> None:
    """The link's own problem carries the time to the next attempt; a ledger that cannot be read, a second."""
    at = datetime.now(UTC) + timedelta(hours=1)
    served.daemon.link(phase="waiting", reason="portClosed", connected=False, nextAttemptAt=at)
    served.daemon.refuse("link.events", "ledgerUnavailable")
    state = served.facade.default.mirror.state
    await until(lambda: state.link is not None and state.link.phase == "waiting")
    for path, reason, wait in (
        ("link/events", "ledgerUnavailable", range(1, 2)),
        ("executions", "portClosed", range(3000, 3601)),
    ):
        status, body, headers = await served.get(f"{API}/{path}")
        assert (status, body["reason"], int(headers["Retry-After"]) in wait) == (503, reason, True)


async def test_a_reason_of_a_newer_daemon_is_still_a_problem(served: Served) -> None:
    served.daemon.refuse("bars.fetch", "somethingNew", detail="New.")
    status, body, _ = await served.get(f"{API}/bars?conId=1")
    assert (status, body["reason"]) == (502, "brokerError")


async def test_a_call_has_a_deadline(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_params: Mapping[str, Any]) -> Any:
        await asyncio.Event().wait()

    served.daemon.replies["bars.fetch"] = never
    monkeypatch.setattr("facade.routes.queries.BARS_TIMEOUT", 0.05)
    status, body, _ = await served.get(f"{API}/bars?conId=1")
    assert (status, body["reason"]) == (504, "brokerTimeout")
