"""The whole daemon before a simulated gateway: its socket publishes what the gateway holds, whatever happened."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.process import Daemon
from daemon.simulator.market import World
from daemon.simulator.server import Gateway
from daemon.state.ledger import Ledger
from shared.messages import Fill
from tests.daemon.running import Mirror, place, running, settings
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DESCRIBED = (
    "conId",
    "symbol",
    "secType",
    "lastTradeDateOrContractMonth",
    "right",
    "multiplier",
    "currency",
    "localSymbol",
    "tradingClass",
)


@asynccontextmanager
async def linked(world: World, **more: Any) -> AsyncIterator[tuple[Gateway, Daemon, Mirror]]:
    """A gateway in which nothing moves by itself, a daemon that is connected to it, and a peer that follows it."""
    gateway = Gateway(world, tick_rate=0.0)
    gateway.port = free_port()
    async with gateway, place() as directory:
        gateway.quiet()
        for position in world.held():
            gateway.pin(position.contract.conId, world.quote(position.contract, gateway.clock.time()).last)
        config = settings(directory, auto_connect=True, port=gateway.port, connect_timeout=60.0, **more)
        async with running(config) as daemon:
            mirror = await Mirror.join(config.socket_path)
            await mirror.until(lambda: mirror.link["connected"])
            yield gateway, daemon, mirror
            await mirror.leave()


def positions(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """What the gateway holds, in the shape of the rows."""
    found = {}
    for position in gateway.world.held():
        holding, contract = gateway.world.holding(position, gateway.clock.time()), position.contract
        found[f"{position.account}:{contract.conId}"] = {
            **{name: getattr(contract, name) for name in DESCRIBED},
            "strike": contract.strike or None,
            "exchange": contract.primaryExchange,
            "account": position.account,
            "position": position.position,
            "avgCost": round(position.avgCost, 7),
            "marketPrice": round(holding.marketPrice, 7),
            "marketValue": round(holding.marketValue, 2),
            "unrealizedPNL": round(holding.unrealizedPNL, 2),
            "realizedPNL": round(position.realizedPNL, 2),
            "modelCode": "",
        }
    return found


def orders(gateway: Gateway) -> dict[str, tuple[Any, ...]]:
    return {
        str(order.permId): (order.account, order.action, order.contract.conId, order.status, order.done, order.filled)
        for order in gateway.world.orders.values()
    }


def published_orders(mirror: Mirror) -> dict[str, tuple[Any, ...]]:
    return {
        key: (row["account"], row["action"], row["conId"], row["status"], row["done"], row["filled"])
        for key, row in mirror.rows("orders").items()
    }


def known(mirror: Mirror) -> set[str]:
    return {topic for topic, row in mirror.rows("sync").items() if row["known"] and not row["stale"]}


ALL_KNOWN = {"accounts", "summary", "pnl", "positions", "orders", "fills"}


@pytest.mark.parametrize(
    ("count", "working"),
    [(1, 0), (25, 3), (1_000, 500), pytest.param(10_000, 500, marks=pytest.mark.timeout(300))],
)
async def test_what_is_published_is_what_the_gateway_holds(count: int, working: int) -> None:
    async with linked(World(11, positions=count, orders=working)) as (gateway, daemon, mirror):
        await mirror.until(lambda: known(mirror) >= ALL_KNOWN)

        assert mirror.rows("positions") == positions(gateway)
        assert published_orders(mirror) == orders(gateway)
        assert set(mirror.rows("accounts")) == set(gateway.world.managed)
        assert {fill.execId for fill in gateway.world.fills} == set(daemon.store.rows("fills"))
        assert await mirror.all("account.positions") == list(mirror.rows("positions").values())


@pytest.mark.parametrize(("accounts", "advisor"), [(2, ""), (60, ""), (3, "DF1234566")])
async def test_several_accounts_are_each_published(accounts: int, advisor: str) -> None:
    world = World(3, accounts=accounts, positions=120, advisor=advisor)
    async with linked(world) as (gateway, _, mirror):
        assert set(mirror.rows("accounts")) == set(gateway.world.managed)
        published = {key: (row["position"], row["avgCost"]) for key, row in mirror.rows("positions").items()}
        assert published == {key: (row["position"], row["avgCost"]) for key, row in positions(gateway).items()}


async def test_a_live_fill_is_not_recovered_and_its_correction_takes_its_place() -> None:
    async with linked(World(5)) as (gateway, _, mirror):
        fill = gateway.fill("AAPL", 10)
        await mirror.until(lambda: (mirror.rows("fills").get(fill.execId) or {}).get("commission") is not None)
        assert not mirror.rows("fills")[fill.execId]["recovered"]

        corrected = gateway.correct_fill(fill.execId, 1.25)
        await mirror.until(lambda: corrected.execId in mirror.rows("fills"))
        assert fill.execId not in mirror.rows("fills")
        assert mirror.rows("fills")[corrected.execId]["price"] == 1.25
        assert not mirror.rows("fills")[corrected.execId]["recovered"]


async def test_history_has_how_long_the_link_was_up() -> None:
    async with linked(World(5)) as (gateway, _, mirror):
        gateway.drop()
        await mirror.until(lambda: bool(mirror.rows("gaps")))
        answer = await mirror.call("link.events")
        phases = [event["phase"] for event in answer["events"]]

        assert phases[:3] == ["connecting", "syncing", "ready"]
        assert phases[-1] == "ready"
        assert len([phase for phase in phases if phase == "ready"]) == 2
        assert all(event["durationS"] is not None for event in answer["events"][:-1])
        assert answer["events"][-1]["durationS"] is None
        assert set(answer["uptime"]) == {"24h", "7d", "30d"}
        assert 0 < answer["uptime"]["24h"]["ratio"] <= 1


async def test_the_figures_count_the_session_under_way() -> None:
    """A session that lasts for days is in the metrics from its first message on, and stays in them."""
    async with linked(World(5)) as (gateway, _, mirror):
        first = (await mirror.call("daemon.info"))["link"]
        assert first["messagesIn"] > 25
        assert first["messagesOut"] > 0
        assert first["attempts"] == 1

        gateway.drop()
        await mirror.until(lambda: bool(mirror.rows("gaps")))
        second = (await mirror.call("daemon.info"))["link"]
        assert second["messagesIn"] > first["messagesIn"] + 25
        assert second["losses"] == {"socketLost": 1}


async def test_fills_of_earlier_daemons_are_read_again_where_the_ledger_could_not_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = {"account": "DU1", "side": "BOT", "shares": 1.0, "price": 2.0, "permId": 1, "orderId": 1, "clientId": 1}
    earlier = Fill(execId="a.01", time=datetime.now(UTC), **facts)
    troubles = [sqlite3.OperationalError("disk I/O error")]

    async def recent(_ledger: Ledger, _since: datetime) -> list[Fill]:
        if troubles:
            raise troubles.pop()
        return [earlier]

    monkeypatch.setattr(Ledger, "recent", recent)
    monkeypatch.setattr("daemon.process.UPKEEP", 0.01)
    async with place() as directory, running(settings(directory)) as daemon:
        await until(lambda: daemon.store.rows("fills"))
        assert daemon.store.rows("fills") == {"a.01": earlier}


@pytest.mark.parametrize("seed", range(int(os.environ.get("LINK_TEST_SEEDS", "4"))))
async def test_after_any_sequence_of_troubles_the_mirror_is_the_daemon_and_the_daemon_the_gateway(seed: int) -> None:
    """Drops, 1101s, 1102s, fills, orders that come and go, peers that leave and resume or read slowly: at rest every
    fold is exactly the daemon's state, and the daemon's state is what the gateway holds."""
    random_unit = random.Random(seed)
    async with linked(World(seed, positions=random_unit.choice((1, 25, 200)))) as (gateway, daemon, mirror):
        mirrors = [mirror, await Mirror.join(daemon.settings.socket_path)]  # the first one always reads
        for _ in range(random_unit.randrange(4, 12)):
            await _trouble(random_unit, gateway, daemon, mirrors)
        gateway.restore_upstream(data_lost=True)
        gateway.listen_after()
        for each in mirrors:
            each.client._transport.resume_reading()  # type: ignore[union-attr]
        await mirror.until(lambda: mirror.link["connected"] and known(mirror) >= ALL_KNOWN)
        await mirror.until(lambda: published_orders(mirror) == orders(gateway))
        await mirror.until(lambda: mirror.rows("positions").keys() == positions(gateway).keys())
        for each in mirrors:
            await each.call("ping")
            await each.until(lambda each=each: _same(each, daemon))  # type: ignore[misc]
            assert each.steps == sorted(set(each.steps))

        assert set(mirror.rows("fills")) == {fill.execId for fill in gateway.world.fills}
        for each in mirrors[1:]:
            await each.leave()


async def _trouble(random_unit: random.Random, gateway: Gateway, daemon: Daemon, mirrors: list[Mirror]) -> None:
    def resume() -> None:
        for each in mirrors:
            each.client._transport.resume_reading()  # type: ignore[union-attr]

    deeds: list[Callable[[], object]] = [
        gateway.drop,
        gateway.reset,
        gateway.lose_upstream,
        lambda: gateway.restore_upstream(data_lost=True),
        lambda: gateway.restore_upstream(data_lost=False),
        lambda: gateway.fill("AAPL", random_unit.choice((-5, 5))),
        lambda: gateway.place("MSFT", 1, 10.0),
        lambda: gateway.cancel(random_unit.choice([order.permId for order in gateway.world.open_orders()])),
        lambda: mirrors[-1].client._transport.pause_reading(),  # type: ignore[union-attr]
        resume,
    ]
    if random_unit.random() < 0.2:
        old = mirrors.pop()
        await old.leave()
        mirrors.append(await Mirror.join(daemon.settings.socket_path, resume=old.replica))
    else:
        random_unit.choice(deeds)()
    for _ in range(random_unit.choice((0, 1, 1, 8))):
        await mirrors[0].call("ping")
    if random_unit.random() < 0.3:  # now and then the next trouble meets a daemon that has seen the last one through
        await mirrors[0].until(lambda: mirrors[0].link["phase"] in {"ready", "upstreamLost"})


def _same(mirror: Mirror, daemon: Daemon) -> bool:
    replica = mirror.replica
    theirs = daemon.store.replica
    assert replica is not None
    return replica.seq == theirs.seq and all(replica.rows(topic) == theirs.rows(topic) for topic in replica.topics())


async def test_a_fault_in_one_question_or_stream_ends_nothing_else():
    async def broken() -> None:
        raise RuntimeError("a mistake of ours")

    async with place() as directory, running(settings(directory)) as daemon:
        await asyncio.wait([daemon._spawn_contained(broken(), "a broken stream")])

        assert daemon._figures()["marketFaults"] == 1
        assert not daemon.stopping.is_set()
