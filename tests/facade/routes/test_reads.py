"""What is read: truth about the link, rows with what they are worth, and refusals that say why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.messages import Account, AccountValue, Order, PnL, Position, Proof
from tests.facade.conftest import Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

API = "/api/ibkr"
TOPICS = {
    f"{API}/accounts": "accounts",
    f"{API}/account/summary": "summary",
    f"{API}/account/pnl": "pnl",
    f"{API}/positions": "positions",
    f"{API}/orders": "orders",
    f"{API}/executions": "fills",
}


def order(number: int, done: bool) -> Order:
    return Order(permId=number, orderId=1, clientId=1, placedBy="thisClient", account="DU1", action="BUY", done=done)


async def settled(served: Served) -> None:
    """The facade holds the daemon's present state."""
    seq = served.daemon.store.seq
    await until(lambda: served.state.replica and served.state.replica.seq >= seq)


async def test_status_is_two_keys_in_this_order(served: Served) -> None:
    raw = await served.raw(
        f"GET {API}/status HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n".encode()
    )
    assert raw.endswith(b'\r\n\r\n{"connected": true, "available": true}')


async def test_status_distinguishes_a_lost_link_from_a_lost_daemon(served: Served) -> None:
    served.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await settled(served)
    assert (await served.get(f"{API}/status"))[1] == {"connected": False, "available": True}
    await served.daemon.stop()
    await until(lambda: not served.state.reachable)
    assert (await served.get(f"{API}/status"))[1] == {"connected": False, "available": False}


async def test_an_old_proof_is_no_connection(served: Served) -> None:
    """The daemon says ready, but its last proof is older than probe interval and timeout: nothing says "Connected."."""
    served.daemon.link(proof=Proof(ageMs=60_000))
    await settled(served)
    assert (await served.get(f"{API}/status"))[1] == {"connected": False, "available": True}
    link = (await served.get(f"{API}/link"))[1]
    assert (link["connected"], link["stale"]) == (False, True)
    problem = (await served.get(f"{API}/positions"))[1]
    assert problem["reason"] == "notConnected"
    assert "no working session" in link["sentence"] == problem["detail"]
    assert (await served.get("/readyz"))[0] == 503


async def test_link_is_the_daemons_row(served: Served) -> None:
    status, body, headers = await served.get(f"{API}/link")
    assert status == 200
    assert body["phase"] == "ready"
    assert body["accounts"] == ["DU1234567"]
    assert headers["Cache-Control"] == "no-store"


async def test_link_without_a_daemon_is_the_last_known_row_marked_stale(served: Served) -> None:
    await served.daemon.stop()
    await until(lambda: not served.state.reachable)
    status, body, _ = await served.get(f"{API}/link")
    assert status == 200
    assert (body["phase"], body["reason"], body["stale"], body["connected"]) == (None, "daemonUnreachable", True, False)
    assert body["accounts"] == ["DU1234567"]
    assert body["sentence"]
    assert body["advice"]


async def test_rows_come_as_the_daemon_wrote_them(served: Served) -> None:
    position = Position(account="DU1234567", conId=265598, symbol="AAPL", position=100.0, avgCost=None)
    served.daemon.set_rows("positions", {"DU1234567:265598": position})
    await settled(served)
    status, body, headers = await served.get(f"{API}/positions")
    assert status == 200
    assert [row["conId"] for row in body["data"]] == [265598]
    assert body["data"][0]["avgCost"] is None
    state = served.daemon.store.replica.state("positions")
    assert body["meta"] == {
        "asOf": state.asOf,
        "stale": False,
        "epoch": "e1",
        "seq": state.seq,
        "source": "live",
        "session": "default",
    }
    assert headers["ETag"] == f'"e1-{state.seq}"'


async def test_an_empty_list_is_answered_and_an_unknown_one_refused(served: Served) -> None:
    for path in TOPICS:
        status, body, _ = await served.get(path)
        assert (status, body["data"]) == (200, [])
    for topic in TOPICS.values():
        served.daemon.store.forget(topic)
    await settled(served)
    for path in TOPICS:
        for query in ("", "?allowStale=true"):
            status, body, headers = await served.get(path + query)
            assert (status, body["reason"]) == (503, "snapshotIncomplete")
            assert headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("phase", "reason", "reported"),
    [
        ("waiting", "portClosed", "portClosed"),
        ("waiting", "dialTimeout", "notConnected"),
        ("blocked", "clientIdInUse", "notConnected"),
        ("upstreamLost", "upstreamLost", "upstreamLost"),
        ("unproven", "probeTimeout", "notConnected"),
        ("held", "manual", "manual"),
        ("disabled", "autoConnectOff", "autoConnectOff"),
        ("connecting", None, "notConnected"),
    ],
)
async def test_without_a_link_nothing_is_current(served: Served, phase: Any, reason: str | None, reported: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=7.5)
    served.daemon.link(
        phase=phase, reason=reason, sentence="Said so.", advice=("Do this.",), connected=False, nextAttemptAt=at
    )
    await settled(served)
    for path in TOPICS:
        status, body, headers = await served.get(path)
        assert (status, body["reason"], body["phase"], body["detail"]) == (503, reported, phase, "Said so.")
        assert headers["Retry-After"] in ("7", "8")
        assert body["nextAttemptAt"]
        assert body["instance"] == path

        status, body, headers = await served.get(f"{path}?allowStale=true")
        assert (status, body["meta"]["stale"]) == (200, True)
        assert headers["ETag"].endswith('-stale"')


async def test_without_a_daemon_the_last_known_rows_stay_readable(served: Served) -> None:
    served.daemon.set_rows("accounts", {"DU1234567": Account(account="DU1234567", paper=True)})
    await settled(served)
    await served.daemon.stop()
    await until(lambda: not served.state.reachable)
    status, body, _ = await served.get(f"{API}/accounts")
    assert (status, body["reason"]) == (503, "daemonUnreachable")
    status, body, _ = await served.get(f"{API}/accounts?allowStale=true")
    assert (status, body["meta"]["stale"], len(body["data"])) == (200, True, 1)


async def test_without_ever_a_daemon_nothing_is_known(tmp_path: Path, socket_path: str) -> None:
    async with running(tmp_path, FakeDaemon(socket_path)) as served:
        for query in ("", "?allowStale=true"):
            assert (await served.get(f"{API}/positions{query}"))[1]["reason"] == "daemonUnreachable"
        assert (await served.get("/livez"))[0] == 200
        assert (await served.get("/readyz"))[0] == 503


async def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    _, _, headers = await served.get(f"{API}/orders")
    tag = headers["ETag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        status, body, headers = await served.get(f"{API}/orders", headers={"If-None-Match": given})
        assert (status, body, headers["ETag"]) == (304, "", tag)

    served.daemon.store.put({"orders": {"1": order(1, False)}})
    await settled(served)
    status, body, headers = await served.get(f"{API}/orders", headers={"If-None-Match": tag})
    assert (status, len(body["data"])) == (200, 1)

    served.daemon.link(phase="waiting", reason="portClosed", connected=False)
    await settled(served)
    assert (await served.get(f"{API}/orders", headers={"If-None-Match": headers["ETag"]}))[0] == 503
    stale = await served.get(f"{API}/orders?allowStale=true", headers={"If-None-Match": headers["ETag"]})
    assert stale[0] == 200


async def test_orders_by_scope(served: Served) -> None:
    served.daemon.set_rows("orders", {"1": order(1, False), "2": order(2, True)})
    await settled(served)
    found = {}
    for scope in ("", "?scope=open", "?scope=completed"):
        _, body, _ = await served.get(f"{API}/orders{scope}")
        found[scope] = [row["permId"] for row in body["data"]]
    assert found == {"": [1, 2], "?scope=open": [1], "?scope=completed": [2]}
    assert (await served.get(f"{API}/orders?scope=all"))[0] == 422


async def several_accounts(served: Served) -> None:
    served.daemon.set_rows("accounts", {a: Account(account=a, paper=True) for a in ("DU1", "DU11", "DU2")})
    served.daemon.set_rows("positions", {f"{a}:1": Position(account=a, conId=1, position=1.0) for a in ("DU1", "DU11")})
    served.daemon.set_rows("pnl", {a: PnL(account=a, dailyPnL=1.0) for a in ("DU1", "DU11")})
    served.daemon.set_rows(
        "summary", {"DU1:Cash:USD": AccountValue(account="DU1", tag="Cash", value="1", currency="USD")}
    )
    await settled(served)


@pytest.mark.parametrize("path", ["account/summary", "account/pnl", "positions"])
async def test_several_accounts_need_a_name(served: Served, path: str) -> None:
    await several_accounts(served)
    status, body, _ = await served.get(f"{API}/{path}")
    assert (status, body["reason"], body["accounts"]) == (409, "accountAmbiguous", ["DU1", "DU11", "DU2"])
    status, body, _ = await served.get(f"{API}/{path}?account=DU1")
    assert (status, [row["account"] for row in body["data"]]) == (200, ["DU1"])
    status, body, _ = await served.get(f"{API}/{path}?account=DU2")
    assert (status, body["data"]) == (200, [])
    assert (await served.get(f"{API}/{path}?account=DU9"))[1]["reason"] == "notFound"


async def test_the_account_of_the_settings_is_the_default(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with running(tmp_path, daemon, account="DU11") as served:
        await several_accounts(served)
        _, body, _ = await served.get(f"{API}/positions")
        assert [row["account"] for row in body["data"]] == ["DU11"]


@pytest.mark.parametrize(
    "query",
    ["x=1", "allowStale=maybe", "allowStale=true&allowStale=true", "account=%ff", "account", "account=" + "x" * 99],
)
async def test_an_unknown_parameter_is_refused(served: Served, query: str) -> None:
    status, body, _ = await served.get(f"{API}/positions?{query}")
    assert (status, body["reason"]) == (422, "invalidParameters")


async def test_head_is_get_without_its_body(served: Served) -> None:
    _, body, get = await served.get(f"{API}/positions")
    status, nothing, head = await served.request("HEAD", f"{API}/positions")
    assert (status, nothing) == (200, None)
    assert (head["ETag"], head["Content-Length"]) == (get["ETag"], get["Content-Length"])
    assert body


async def test_head_of_events_names_no_length(served: Served) -> None:
    """A stream has no end, and surely not after no byte."""
    status, _, head = await served.request("HEAD", f"{API}/events")
    assert (status, head["Content-Type"]) == (200, "text/event-stream")
    assert "Content-Length" not in head


async def test_a_topic_may_be_stale_while_the_link_is_ready(served: Served) -> None:
    served.daemon.store.stale(["orders"])
    await settled(served)
    status, body, headers = await served.get(f"{API}/orders")
    assert (status, body["meta"]["stale"]) == (200, True)
    assert headers["ETag"].endswith('-stale"')


async def test_a_path_may_be_written_with_escapes(served: Served) -> None:
    assert (await served.get("/api/ibkr/%73tatus"))[0] == 200
    for path in ("/ui/%2e%2e/app.py", "/ui/..%2fapp.py", "/ui/%252e%252e/app.py", "/ui/../app.py", "/%ff", "/ui/"):
        raw = await served.raw(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n".encode()
        )
        assert raw.startswith(b"HTTP/1.1 404 ")
