"""The daemon as its socket shows it, with no gateway anywhere."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from daemon.process import Daemon
from shared.jsonrpc.codec import RpcError
from shared.messages import Account, Order, PnL, Position, Quote
from tests.daemon.running import LIMIT, Mirror, place, running, settings
from tests.rows import fill


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    async with place() as directory, running(settings(directory, account="")) as started:
        yield started


@pytest.fixture
async def mirror(daemon: Daemon) -> AsyncIterator[Mirror]:
    joined = await Mirror.join(daemon.settings.socket_path)
    yield joined
    await joined.leave()


async def refused(mirror: Mirror, method: str, **params: Any) -> RpcError:
    with pytest.raises(RpcError) as error:
        await mirror.call(method, **params)
    return error.value


async def test_a_step_of_other_topics_is_named_when_it_is_a_commands(daemon: Daemon) -> None:
    """A facade waits for the step of its command's answer, and gets it though nothing that it watches changed."""
    mirror = await Mirror.join(daemon.settings.socket_path, ("orders",))
    daemon.store.put({"quotes:1": {"1": Quote(conId=1)}})
    answer = await mirror.call("daemon.info")

    assert answer["seq"] >= daemon.store.seq - 1
    await mirror.until(lambda: mirror.replica is not None and mirror.replica.seq >= answer["seq"])
    await mirror.leave()


async def test_market_topics_are_the_wish_for_the_line(daemon: Daemon, mirror: Mirror) -> None:
    other = await Mirror.join(daemon.settings.socket_path, ("orders",))
    answer = await other.call("watch", topics=["quotes:265598", "bars:265598:5 mins"])
    assert answer["topics"] == ["quotes:265598", "bars:265598:5mins"]
    assert daemon.market.streams().wanted == 2
    assert (await other.call("unwatch", topics=["orders"]))["topics"] == ["bars:265598:5mins", "quotes:265598"]
    stream = daemon.market._table.by_topic["quotes:265598"]
    assert len(stream.watchers) == 1
    await other.leave()
    await mirror.call("ping")
    async with asyncio.timeout(LIMIT):
        while stream.watchers:
            await mirror.call("ping")


@pytest.mark.parametrize(
    ("topics", "said"),
    [(["nonsense"], "nonsense"), (["quotes:0"], "quotes:0"), (["bars:1:7 mins"], "bars:1:7 mins"), (["pnl", "x"], "x")],
)
async def test_a_topic_there_is_not_is_named(mirror: Mirror, daemon: Daemon, topics: list[str], said: str) -> None:
    error = await refused(mirror, "watch", topics=topics)

    assert error.code == -32000
    assert error.data["reason"] == "invalidParameters"
    assert said in error.message
    assert daemon.market.streams().wanted == 0


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("watch", {}, "topics"),
        ("watch", {"topics": "orders"}, "topics"),
        ("link.connect", {"port": 80}, "port"),
        ("link.connect", {"port": 7497.0}, "port"),
        ("link.connect", {"clientid": 1}, "clientid"),
        ("link.disconnect", {"now": True}, "now"),
        ("executions.list", {"since": "yesterday"}, "since"),
        ("executions.list", {"since": "2026-01-01T00:00:00"}, "since"),
        ("executions.list", {"limit": 0}, "limit"),
        ("link.events", {"limit": 5001}, "limit"),
        ("account.orders", {"scope": "all"}, "scope"),
        ("quotes.get", {"conIds": []}, "conIds"),
        ("contracts.get", {"conId": 0}, "conId"),
    ],
)
async def test_a_bad_parameter_is_named(mirror: Mirror, method: str, params: dict[str, Any], field: str) -> None:
    error = await refused(mirror, method, **params)

    assert error.code == -32602
    assert field in error.message


async def test_nothing_is_dialled_that_the_settings_do_not_allow(mirror: Mirror) -> None:
    for host in ("10.0.0.1", "LOCALHOST", "localhost.", "127.0.0.10", "127.0.0.1.evil.example", "evil.127.0.0.1"):
        assert (await refused(mirror, "link.connect", host=host)).data["reason"] == "hostNotAllowed"
    for port in (7496, 4001):
        assert (await refused(mirror, "link.connect", port=port)).data["reason"] == "liveLocked"
    assert (await mirror.call("daemon.info"))["link"]["attempts"] == 0


async def test_a_failed_connect_is_answered_with_what_it_was_to_connect_to(mirror: Mirror) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without a listener
        port = taken.getsockname()[1]
        error = await refused(mirror, "link.connect", port=port)

    assert error.data["reason"] == "portClosed"
    assert any(f"({port})" in line for line in error.data["advice"])
    assert error.data["phase"] == "disabled"
    await mirror.until(lambda: mirror.replica is not None and mirror.replica.seq >= error.data["seq"])


async def test_a_refusal_has_what_http_will_show(mirror: Mirror) -> None:
    error = await refused(mirror, "account.positions")

    assert error.code == -32000
    assert error.data["reason"] == "autoConnectOff"
    assert error.data["phase"] == "disabled"
    assert error.data["advice"]
    assert error.message


async def test_unknown_is_refused_also_where_old_rows_are_welcome(daemon: Daemon, mirror: Mirror) -> None:
    assert (await refused(mirror, "account.positions", allowStale=True)).data["reason"] == "snapshotIncomplete"
    daemon.store.replace("positions", {}, known=True)
    answer = await mirror.call("account.positions", allowStale=True)

    assert answer["rows"] == []
    assert answer["stale"] is True


async def test_what_may_be_old_is_marked_stale_though_the_link_is_up(daemon: Daemon, mirror: Mirror) -> None:
    link = daemon.store.row("link", "link")
    daemon.store.put({"link": {"link": replace(link, connected=True)}})
    daemon.store.replace("positions", {}, known=True)
    assert (await mirror.call("account.positions"))["stale"] is False

    daemon.store.stale(["positions"])
    assert (await mirror.call("account.positions"))["stale"] is True


async def test_several_accounts_must_be_distinguished(daemon: Daemon, mirror: Mirror) -> None:
    daemon.store.replace("accounts", {name: Account(account=name, paper=True) for name in ("DU1", "DU2")}, known=True)
    rows = {f"{name}:1": Position(account=name, conId=1, position=1.0) for name in ("DU1", "DU2")}
    daemon.store.replace("positions", rows, known=True)
    error = await refused(mirror, "account.positions", allowStale=True)
    assert (error.data["reason"], error.data["accounts"]) == ("accountAmbiguous", ["DU1", "DU2"])

    answer = await mirror.call("account.positions", account="DU2", allowStale=True)
    assert [row["account"] for row in answer["rows"]] == ["DU2"]
    error = await refused(mirror, "account.positions", account="DU9", allowStale=True)
    assert error.data["reason"] == "notFound"


async def test_orders_are_listed_by_scope(daemon: Daemon, mirror: Mirror) -> None:
    facts: dict[str, Any] = {"orderId": 1, "clientId": 1, "placedBy": "thisClient", "account": "DU1", "action": "BUY"}
    orders = {str(n): Order(permId=n, done=n == 1, **facts) for n in (1, 2)}
    daemon.store.replace("orders", orders, known=True)

    for scope, expected in (("open", [2]), ("completed", [1]), ("", [1, 2])):
        answer = await mirror.call("account.orders", scope=scope, allowStale=True)
        assert [row["permId"] for row in answer["rows"]] == expected


async def test_a_long_list_comes_in_pages(daemon: Daemon, mirror: Mirror) -> None:
    """10 000 positions do not fit a line: each page is one, together they are all, as of one moment."""
    rows = {f"DU1:{n}": Position(account="DU1", conId=n, position=1.0) for n in range(10_000)}
    daemon.store.replace("positions", rows, known=True)
    first = await mirror.call("account.positions", allowStale=True)
    daemon.store.put({"positions": {"DU1:9999": None}})
    rest = await mirror.all("account.positions", after=first["next"])

    assert [row["conId"] for row in first["rows"] + rest] == list(range(10_000))


async def test_fills_are_listed_by_execution_time(daemon: Daemon, mirror: Mirror) -> None:
    now = datetime.now(UTC)
    fills = [fill(f"{days}.x.01", now - timedelta(days=days)) for days in (0, 2, 20)]
    daemon.store.put({"fills": {row.execId: row for row in fills}})
    daemon.store.expire()
    since = (now - timedelta(days=30)).isoformat()

    assert [row["execId"] for row in await mirror.all("executions.list")] == ["0.x.01"]
    two = await mirror.call("executions.list", since=fills[1].time.isoformat())
    assert ([row["execId"] for row in two["rows"]], two["source"]) == (["2.x.01", "0.x.01"], "live")
    assert (two["known"], two["stale"]) == (False, True), "the gateway has not listed them"
    all_of_them = await mirror.call("executions.list", since=since)
    assert ([row["execId"] for row in all_of_them["rows"]], all_of_them["source"]) == (
        ["20.x.01", "2.x.01", "0.x.01"],
        "ledger",
    )


@pytest.mark.parametrize("days", [3, 30])
async def test_fills_are_listed_in_pages_of_one_account(daemon: Daemon, mirror: Mirror, days: int) -> None:
    now = datetime.now(UTC)
    rows = [fill(f"{n}.x.01", now - timedelta(hours=n), account=f"DU{n % 2}") for n in range(5)]
    daemon.store.put({"fills": {row.execId: row for row in rows}})
    await daemon.store.recorded()
    since = (now - timedelta(days=days)).isoformat()

    first = await mirror.call("executions.list", since=since, limit=2)
    assert [row["execId"] for row in first["rows"]] == ["4.x.01", "3.x.01"]
    rest = await mirror.all("executions.list", since=since, limit=2, cursor=first["next"])
    assert [row["execId"] for row in rest] == ["2.x.01", "1.x.01", "0.x.01"]
    one = await mirror.all("executions.list", since=since, limit=1, account="DU1")
    assert [row["execId"] for row in one] == ["3.x.01", "1.x.01"]
    daemon.store.replace("accounts", {"DU1": Account(account="DU1", paper=True)}, known=True)
    assert (await refused(mirror, "executions.list", account="DU9")).data["reason"] == "notFound"


async def test_a_cursor_that_no_page_gave_is_refused(mirror: Mirror) -> None:
    for method in ("executions.list", "link.events"):
        error = await refused(mirror, method, cursor="made up", since="2020-01-01T00:00:00Z")
        assert (error.data["reason"], error.data["field"]) == ("invalidParameters", "cursor")


async def test_the_pnl_of_the_day_is_read_per_account(daemon: Daemon, mirror: Mirror) -> None:
    for params in ({}, {"account": "DU2"}):
        account = params.get("account", "DU1")
        daemon.store.replace("pnl", {account: PnL(account=account, dailyPnL=1.5)}, known=True)
        daemon.series.sample()
        answer = await mirror.call("account.pnl.history", allowStale=True, **params)
        assert [(row["dailyPnL"], row["realizedPnL"]) for row in answer["rows"]] == [(1.5, None)]
        assert (answer["stale"], answer["source"]) == (True, "ledger")
    error = await refused(mirror, "account.pnl.history", allowStale=True)
    assert (error.data["reason"], error.data["accounts"]) == ("accountAmbiguous", ["DU1", "DU2"])
    assert (await refused(mirror, "account.pnl.history")).data["reason"] == "autoConnectOff"


async def test_holding_the_link_down_survives_the_daemon() -> None:
    async with place() as directory:
        config = settings(directory)
        async with running(config) as daemon:
            mirror = await Mirror.join(config.socket_path)
            answer = await mirror.call("link.disconnect")
            assert answer["phase"] == "held"
            await mirror.until(lambda: mirror.replica is not None and mirror.replica.seq >= answer["seq"])
            assert mirror.link["phase"] == "held"
            first = daemon.store.epoch
            await mirror.leave()
        async with running(settings(directory, auto_connect=True, socket=config.socket)):
            mirror = await Mirror.join(config.socket_path)
            assert mirror.link["phase"] == "held"
            events = (await mirror.call("link.events"))["events"]
            assert [event["phase"] for event in events if event["epoch"] == first] == ["disabled", "held", "stopping"]
            await mirror.leave()


async def test_a_ledger_that_cannot_be_used_is_named_and_read_later() -> None:
    async with place() as directory:
        config = settings(directory)
        file = config.state_dir / "ledger.sqlite"
        async with running(config) as daemon:
            daemon.store.put({"fills": {"a.b.01": fill("a.b.01", datetime.now(UTC))}})
            await daemon.store.recorded()
            daemon.store.replace("fills", {}, known=True)
        file.rename(directory / "aside")
        file.mkdir()
        async with running(config) as daemon:
            mirror = await Mirror.join(config.socket_path)
            for method in ("link.events", "executions.list"):
                error = await refused(mirror, method, since="2020-01-01T00:00:00Z")
                assert (error.code, error.data["reason"]) == (-32000, "ledgerUnavailable")
            assert (await mirror.call("link.get"))["phase"] == "disabled"
            assert mirror.rows("fills") == {}
            assert mirror.rows("sync")["fills"]["known"] is False

            file.rmdir()
            (directory / "aside").rename(file)
            await daemon.load()
            await mirror.until(lambda: set(mirror.rows("fills")) == {"a.b.01"})
            sync = mirror.rows("sync")["fills"]
            assert (sync["known"], sync["stale"]) == (True, True)
            await mirror.leave()


@pytest.mark.parametrize("seed", range(3))
async def test_no_request_is_a_fault_of_ours(daemon: Daemon, mirror: Mirror, seed: int) -> None:
    random_unit = random.Random(seed)
    names = (
        "topics",
        "epoch",
        "since",
        "after",
        "cursor",
        "limit",
        "account",
        "scope",
        "q",
        "conId",
        "conIds",
        "host",
        "port",
        "clientId",
    )
    names += ("timeout", "wait", "allowStale", "symbol", "strike", "durationStr", "barSizeSetting", "endDateTime")
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        1,
        2**31,
        2**70,
        1e308,
        "",
        "x",
        "x" * 2000,
        "1 x",
        "nan x",
        "inf x",
        "a:1",
        "\0",
    ]
    values += [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "2026-01-01T00:00:00Z",
        "1 D",
        "5 mins",
        [],
        {},
    ]
    values += [["quotes:1"], ["bars:1:1min"], ["link"] * 1024, [1, 2], [2**40], ["\ud7ff"], {"a": [[]]}]
    methods = [method for method in daemon.commands.table() if method not in {"daemon.stop", "link.connect"}]
    refusals: set[tuple[int, str]] = set()
    for _ in range(400):
        method = random_unit.choice(methods)
        params = {random_unit.choice(names): random_unit.choice(values) for _ in range(random_unit.randrange(3))}
        try:
            await mirror.call(method, **params)
        except RpcError as error:
            refusals.add((error.code, error.message if error.code not in {-32602, -32000} else ""))

    assert refusals <= {(-32602, ""), (-32000, "")}
    assert daemon.server.service.faults == 0
    assert (await mirror.call("link.get"))["phase"] in {"disabled", "held"}


async def test_peers_see_the_daemon_stop(daemon: Daemon, mirror: Mirror) -> None:
    assert (await mirror.call("daemon.stop"))["stopping"]
    assert daemon.stopping.is_set()


async def test_the_figures_for_the_metrics_are_there(daemon: Daemon, mirror: Mirror) -> None:
    info = await mirror.call("daemon.info")

    assert info["epoch"] == daemon.store.epoch
    assert info["watchers"] == 1
    assert info["peers"] == 1
    assert info["faults"] == 0
    assert info["historyBudgetRemaining"] == 60
    assert msgspec.json.encode(info)
