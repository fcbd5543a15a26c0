"""Several sessions behind one facade: a response is always of the session that the request names."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout
from yarl import URL

from facade.app import Facade
from facade.serving import served
from shared.messages import Account, Order, PnL, Position, Quote
from shared.settings import Settings
from tests.facade.conftest import Served, listening
from tests.facade.fake_daemon import FakeDaemon, ready_link
from tests.waiting import LIMIT, until

API = "/api/ibkr"
ACCOUNTS = {"live": "U7654321", "paper": "DU1234567"}
PATHS = (
    "status",
    "link",
    "accounts",
    "account/summary",
    "account/pnl",
    "positions",
    "orders?scope=open",
    "executions",
    "events?topics=positions,orders,link",
)


@dataclass
class Both:
    """A facade before two daemons, of which `live` is the default one."""

    served: Served
    live: FakeDaemon
    paper: FakeDaemon

    @property
    def facade(self) -> Facade:
        return self.served.facade


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    (tmp_path / "run").mkdir(mode=0o700)
    async with AsyncExitStack() as stack:
        daemons, sessions = {}, {}
        for name, account in ACCOUNTS.items():
            daemon = FakeDaemon(str(tmp_path / "run" / f"{name}.sock"), f"e{name}", name)
            daemons[name] = await stack.enter_async_context(daemon)
            daemon.set_all(
                accounts={account: Account(account=account, paper=account.startswith("D"))},
                pnl={account: PnL(account=account, dailyPnL=1.0)},
                positions={f"{account}:1": Position(account=account, conId=1, position=1.0)},
                orders={"5": _order(account)},
            )
            daemon.link(accounts=(account,))
            sessions[name] = Settings(
                session=name, socket=daemon.path, state_dir=tmp_path / "state", probe_interval=3600
            )
        sock = listening()
        port = sock.getsockname()[1]
        facade = await stack.enter_async_context(served(sessions["live"], [sock], drain=0, sessions=sessions))
        http = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{port}", timeout=ClientTimeout(LIMIT)))
        for session in facade.sessions.values():
            await until(lambda state=session.mirror.state: state.connected)
        yield Both(Served(facade, port, http, daemons["live"]), daemons["live"], daemons["paper"])


def _order(account: str) -> Order:
    return Order(
        permId=5, orderId=1, clientId=1, placedBy="thisClient", account=account, action="BUY", status="Submitted"
    )


async def first_event(served: Served, path: str) -> str:
    """The first bytes of an event stream that name an account."""
    async with served.http.get(path) as response:
        text = ""
        async with asyncio.timeout(LIMIT):
            while "U" not in text:
                text += (await response.content.readany()).decode()
        return text


async def test_no_response_has_an_account_of_another_session(both: Both) -> None:
    rng = random.Random(18)
    requests = [(name, rng.choice(PATHS)) for name in rng.choices(("", "live", "paper"), k=300)]

    async def one(name: str, path: str) -> None:
        full = f"{API}/sessions/{name}/{path}" if name else f"{API}/{path}"
        if path.startswith("events"):
            text = await first_event(both.served, full)
        else:
            status, body, _ = await both.served.get(full)
            text = json.dumps(body)
            assert status == 200, (full, text)
            if "meta" in body:
                assert body["meta"]["session"] == (name or "live")
        foreign = ACCOUNTS["live" if name == "paper" else "paper"]
        assert f'"{foreign}' not in text, full

    for start in range(0, len(requests), 50):
        await asyncio.gather(*(one(*request) for request in requests[start : start + 50]))


async def test_a_command_reaches_the_named_session_alone(both: Both) -> None:
    for name, path in (("paper", f"{API}/sessions/paper/disconnect"), ("live", f"{API}/disconnect")):
        status, body, _ = await both.served.post(path)
        assert (status, body["available"]) == (200, True)
        daemons = {"live": both.live, "paper": both.paper}
        methods = {each: [method for method, _ in daemon.requests] for each, daemon in daemons.items()}
        assert methods.pop(name) == ["link.disconnect"]
        assert methods.popitem()[1] == []
        for daemon in daemons.values():
            daemon.requests.clear()


@pytest.mark.parametrize("path", ["", *PATHS, "connect", "nothing"])
async def test_an_unknown_session_is_not_found(both: Both, path: str) -> None:
    status, body, _ = await both.served.get(f"{API}/sessions/other/{path}", allow_redirects=False)
    assert (status, body["reason"], body["session"], body["phase"]) == (404, "notFound", None, None)


async def test_a_path_in_escapes_is_about_the_session_that_it_names(both: Both) -> None:
    """Refusals too; a name that contains a slash is no session's."""
    both.paper.link(phase="waiting", reason="portClosed", connected=False)
    await until(lambda: not both.facade.sessions["paper"].mirror.state.connected)
    for path in ("%73essions/paper", "sessions/%70aper"):
        status, body, _ = await both.served.get(URL(f"{API}/{path}/positions", encoded=True))
        assert (status, body["session"], body["phase"]) == (503, "paper", "waiting")
    status, body, _ = await both.served.get(URL(f"{API}/sessions/live%2Fpaper/status", encoded=True))
    assert (status, body["session"]) == (404, None)


@pytest.mark.parametrize("name", ["paper%2Fx", "Paper", "paper%20", ".", "paper%00", "live,paper"])
async def test_a_name_that_is_nearly_one_of_the_sessions_is_none_of_them(both: Both, name: str) -> None:
    """Encoded slashes do not shorten a name to one that is served; the refusal lists those that are."""
    status, body, _ = await both.served.get(URL(f"{API}/sessions/{name}/positions", encoded=True))
    assert (status, body["reason"], body["session"]) == (404, "notFound", None)
    assert name == "." or "The sessions are live, paper." in body["detail"]


async def test_an_encoded_name_is_the_session_that_it_spells_in_answer_problem_and_metrics(both: Both) -> None:
    path = URL(f"{API}/sessions/%70aper/positions", encoded=True)
    status, body, _ = await both.served.get(path)
    assert (status, body["meta"]["session"]) == (200, "paper")
    await both.paper.stop()
    await until(lambda: not both.facade.sessions["paper"].mirror.state.reachable)
    status, body, _ = await both.served.get(path)
    assert (status, body["session"]) == (503, "paper")
    assert both.facade.counts["/api/ibkr/positions", 503, "paper"] == 1


async def test_a_position_in_one_session_s_stream_is_a_reset_at_another(both: Both) -> None:
    async with both.served.http.get(f"{API}/events?topics=positions") as response:
        text = ""
        while "\nid: " not in text:
            text += (await response.content.readany()).decode()
    event_id = text.partition("\nid: ")[2].partition("\n")[0]
    headers = {"Last-Event-ID": event_id}
    async with both.served.http.get(f"{API}/sessions/paper/events?topics=positions", headers=headers) as response:
        text = ""
        while "complete" not in text:
            text += (await response.content.readany()).decode()
    assert 'event: reset\ndata: {"reason":"epoch"}' in text
    assert ACCOUNTS["paper"] in text
    assert ACCOUNTS["live"] not in text


async def test_an_entity_tag_of_one_session_matches_nothing_of_another(both: Both) -> None:
    _, _, headers = await both.served.get(f"{API}/positions")
    tag = {"If-None-Match": headers["ETag"]}
    assert (await both.served.get(f"{API}/sessions/live/positions", headers=tag))[0] == 304
    status, body, _ = await both.served.get(f"{API}/sessions/paper/positions", headers=tag)
    assert (status, body["data"][0]["account"]) == (200, ACCOUNTS["paper"])


@pytest.mark.parametrize(("path", "method"), [("executions", "executions.list"), ("link/events", "link.events")])
async def test_a_cursor_of_one_session_is_refused_by_another(both: Both, path: str, method: str) -> None:
    """There it would name a place of its own list, and rows would be missing without a word."""
    for daemon in (both.live, both.paper):
        daemon.answer(method, {"rows": [{}], "events": [{}], "uptime": {}, "next": "7", "asOf": None})
    _, _, headers = await both.served.get(f"{API}/{path}?limit=1&since=2020-01-01T00:00:00Z")
    following = headers["Link"].partition("<")[2].partition(">")[0]
    query = following.partition("?")[2]
    assert (await both.served.get(following))[0] == 200
    assert (await both.served.get(f"{API}/sessions/live/{path}?{query}"))[0] == 200
    assert both.live.requests[-1][1]["cursor"] == "7"
    received = len(both.paper.requests)
    for cursor in (query, "limit=1&cursor=7", "limit=1&cursor=.paper"):
        status, body, _ = await both.served.get(f"{API}/sessions/paper/{path}?{cursor}")
        assert (status, body["reason"], body["session"]) == (422, "invalidParameters", "paper")
    assert len(both.paper.requests) == received


@pytest.mark.usefixtures("patient_doctor")
async def test_sessions_of_one_gateway_with_one_client_id_are_found_by_the_doctor(both: Both) -> None:
    for daemon in (both.live, both.paper):
        daemon.answer("link.get", ready_link())
    for name, other in (("live", "paper"), ("paper", "live")):
        _, body, _ = await both.served.get(f"{API}/sessions/{name}/diagnostics")
        (check,) = (check for check in body["checks"] if check["name"] == "client id")
        assert (check["result"], check["reason"]) == ("failed", "clientIdInUse")
        assert f"The sessions {name}, {other} use 127.0.0.1:7497 with the same client id, 1" in check["evidence"]
    both.paper.link(phase="held", reason="manual", connected=False)
    await until(lambda: not both.facade.sessions["paper"].mirror.state.connected)
    _, body, _ = await both.served.get(f"{API}/diagnostics")
    assert next(check for check in body["checks"] if check["name"] == "client id")["result"] == "ok"


async def test_quotes_of_a_page_are_of_its_session(both: Both) -> None:
    """The same contract at both: each stream has its own session's price, and holds no line of the other's."""
    for daemon, price in ((both.live, 1.25), (both.paper, 2.5)):
        daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=price)}})
    for name, price, other in (("live", "1.25", "paper"), ("paper", "2.5", "live")):
        async with both.served.http.get(f"{API}/sessions/{name}/events?topics=quotes:1") as response:
            text = ""
            while "bid" not in text:
                text += (await response.content.readany()).decode()
            assert f'"bid":{price}' in text
            assert not both.facade.sessions[other].mirror.state.has_topics(["quotes:1"])


async def test_a_socket_with_another_session_s_daemon_is_not_used(tmp_path: Path) -> None:
    """Addresses that were swapped by mistake: neither name is answered by the other's daemon."""
    (tmp_path / "run").mkdir(mode=0o700)
    async with AsyncExitStack() as stack:
        for name in ACCOUNTS:
            daemon = FakeDaemon(str(tmp_path / "run" / f"{name}.sock"), f"e{name}", name)
            await stack.enter_async_context(daemon)
            daemon.set_all()
        swapped = {
            name: Settings(session=name, socket=str(tmp_path / "run" / f"{other}.sock"), state_dir=tmp_path / "state")
            for name, other in (("live", "paper"), ("paper", "live"))
        }
        sock = listening()
        facade = await stack.enter_async_context(served(swapped["live"], [sock], drain=0, sessions=swapped))
        http = await stack.enter_async_context(ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}"))
        for session in facade.sessions.values():
            await session.mirror.first_attempt_done.wait()
        for name in ACCOUNTS:
            async with http.get(f"{API}/sessions/{name}/status") as response:
                assert await response.json() == {"connected": False, "available": False}


async def test_the_sessions_are_listed_the_default_one_first(both: Both) -> None:
    both.paper.link(phase="waiting", reason="portClosed", connected=False, accounts=("DU1234567",))
    await until(lambda: not both.facade.sessions["paper"].mirror.state.connected)
    status, body, _ = await both.served.get(f"{API}/sessions")
    assert status == 200
    assert body["data"] == [
        {
            "name": "live",
            "default": True,
            "connected": True,
            "available": True,
            "phase": "ready",
            "reason": None,
            "paper": False,
            "accounts": ["U7654321"],
        },
        {
            "name": "paper",
            "default": False,
            "connected": False,
            "available": True,
            "phase": "waiting",
            "reason": "portClosed",
            "paper": True,
            "accounts": ["DU1234567"],
        },
    ]


async def test_a_session_whose_accounts_are_unknown_is_neither_paper_nor_live(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    sock = listening()
    settings = Settings(session="s", socket=str(tmp_path / "run" / "s.sock"), state_dir=tmp_path / "state")
    async with (
        served(settings, [sock], drain=0),
        ClientSession(f"http://127.0.0.1:{sock.getsockname()[1]}") as http,
        http.get(f"{API}/sessions") as response,
    ):
        (row,) = (await response.json())["data"]
    assert (row["available"], row["phase"], row["reason"]) == (False, None, "daemonUnreachable")
    assert (row["paper"], row["accounts"]) == (None, None)


async def test_a_session_without_its_daemon_leaves_the_other_as_it_is(both: Both) -> None:
    await both.live.stop()
    await until(lambda: not both.facade.sessions["live"].mirror.state.reachable)

    status, body, _ = await both.served.get(f"{API}/positions")
    assert (status, body["reason"], body["session"]) == (503, "daemonUnreachable", "live")
    status, body, _ = await both.served.get(f"{API}/sessions/paper/positions")
    assert (status, body["data"][0]["account"]) == (200, "DU1234567")
    ready = {query: (await both.served.get(f"/readyz{query}"))[0] for query in ("", "?session=paper", "?session=live")}
    assert ready == {"": 503, "?session=paper": 200, "?session=live": 503}
    status, body, _ = await both.served.get("/readyz?session=other")
    assert (status, body["session"], "live, paper" in body["detail"]) == (404, None, True)


async def test_a_session_that_is_not_ready_is_the_one_that_readyz_names(both: Both) -> None:
    """Not the default one, whose link has another phase."""
    both.paper.link(phase="waiting", reason="portClosed", connected=False, accounts=("DU1234567",))
    await until(lambda: not both.facade.sessions["paper"].mirror.state.connected)
    for query in ("", "?session=paper"):
        status, body, _ = await both.served.get(f"/readyz{query}")
        assert (status, body["reason"], body["session"], body["phase"]) == (503, "portClosed", "paper", "waiting")


async def test_metrics_have_the_session_as_a_label(both: Both) -> None:
    await both.live.stop()
    await until(lambda: not both.facade.sessions["live"].mirror.state.reachable)
    await both.served.get(f"{API}/sessions/paper/positions")
    _, text, _ = await both.served.get("/metrics")
    assert 'ibkr_daemon_reachable{session="live"} 0.0' in text
    assert 'ibkr_daemon_reachable{session="paper"} 1.0' in text
    assert 'ibkr_http_requests_total{route="/api/ibkr/positions",session="paper",status="200"} 1.0' in text


async def test_event_streams_are_bounded_over_all_sessions(both: Both) -> None:
    both.facade.default.streams.slots.limit = 1
    async with both.served.http.get(f"{API}/sessions/paper/events") as first:
        assert first.status == 200
        status, body, _ = await both.served.get(f"{API}/events")
        assert (status, body["reason"]) == (503, "tooManyStreams")
