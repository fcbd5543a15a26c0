"""What real gateways report, and what the daemon makes of it: the simulated gateway sends it as they do."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.simulator import World
from shared.messages import BarsParams, Notice
from tests.stories import Story, story
from tests.waiting import refused, until

TWO = ("DU1111111", "DU2222222")
DAYS = BarsParams(conId=265598, durationStr="1 M", barSizeSetting="1 day", whatToShow="TRADES")


def rows(scene: Story, topic: str) -> dict[str, Any]:
    return dict(scene.store.rows(topic))


def is_current(scene: Story, topic: str) -> bool:
    sync = scene.sync(topic)
    return sync.known and not sync.stale


async def test_an_order_whose_state_never_comes_is_read_again_at_its_execution() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as scene:
        perm = str(scene.gateway.place("AAPL", 10, 1.0, client_id=1))
        await until(lambda: perm in rows(scene, "orders"))
        scene.gateway.silence_orders()
        scene.gateway.pin("AAPL", 0.5)
        await until(lambda: rows(scene, "fills"))
        await until(lambda: rows(scene, "orders")[perm].done)

        assert rows(scene, "orders")[perm].filled == 10
        assert scene.dials == 1


async def test_late_news_of_an_order_that_is_filled_changes_nothing() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as scene:
        perm = scene.gateway.place("AAPL", 10, 1.0, client_id=1)
        scene.gateway.pin("AAPL", 0.5)
        await until(lambda: (row := rows(scene, "orders").get(str(perm))) and row.done)
        filled = rows(scene, "orders")[str(perm)]
        scene.gateway.repeat_order(perm, filled=6)
        scene.gateway.farm(2104, "theend")
        await until(lambda: "theend" in scene.row.farms)

        assert rows(scene, "orders")[str(perm)] == filled


async def test_a_commission_is_unknown_until_it_is_worked_out() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as scene:
        scene.gateway.pend_commissions()
        fill = scene.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: fill.execId in rows(scene, "fills"))
        assert rows(scene, "fills")[fill.execId].commission is None
        scene.gateway.report_commission(fill.execId, -0.35)
        await until(lambda: rows(scene, "fills")[fill.execId].commission == -0.35)


async def test_a_refused_account_leaves_the_others_values_known() -> None:
    async with story(world=World(accounts=TWO), before=lambda gateway: gateway.refuse_account(TWO[1])) as scene:
        assert is_current(scene, "summary")
        values = {row.account: row.value for row in rows(scene, "summary").values() if row.tag == "NetLiquidation"}
        assert values[TWO[0]] is not None
        assert values[TWO[1]] is None


async def test_values_of_ledgers_and_models_have_rows_of_their_own() -> None:
    def before(gateway: Any) -> None:
        gateway.prefix_ledgers()
        gateway.hold_in_model(TWO[1], "Growth")

    async with story(world=World(accounts=TWO), before=before) as scene:
        tags = {row.tag for row in rows(scene, "summary").values()}
        assert "CashBalance" in tags
        assert not any(tag.startswith("$") for tag in tags)
        own = rows(scene, "summary")[f"{TWO[1]}:NetLiquidation:USD"]
        model = rows(scene, "summary")[f"{TWO[1]}:NetLiquidation:USD:Growth"]
        assert (own.modelCode, model.modelCode) == ("", "Growth")
        assert own.value != model.value


async def test_the_time_of_an_execution_is_right_in_a_zone_of_any_name() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as scene:
        times = []
        for name, hours in (("JST", 9.0), ("GMT+08:00", 8.0), ("", 0.0)):
            scene.gateway.execution_zone(name, hours)
            fill = scene.gateway.fill("AAPL", 10, client_id=1)
            await until(lambda wanted=fill.execId: wanted in rows(scene, "fills"))
            times.append(rows(scene, "fills")[fill.execId].time)
        assert (max(times) - min(times)).total_seconds() < 60

        scene.gateway.execution_zone("Mars/Olympus", 3.0)
        fill = scene.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: fill.execId in rows(scene, "fills"))
        assert scene.session is not None
        assert scene.session.decode_errors == {"timezone": 1}
        assert any(
            "Mars/Olympus" in row.text for row in scene.store.rows("notices").values() if isinstance(row, Notice)
        )


@pytest.mark.parametrize("how", ["unknown", "noYear"])
async def test_odd_bars_are_answered_and_cost_no_session(how: Any) -> None:
    async with story() as scene:
        scene.gateway.odd_bars(how)
        found = await scene.market.history.fetch(DAYS)
        assert found.rows
        if how == "unknown":
            assert any(bar.open is None for bar in found.rows)
        assert scene.dials == 1


async def test_bars_that_cannot_be_read_are_a_problem_at_once() -> None:
    async with story() as scene:
        scene.gateway.alter("historicalData", 6, "cheap")
        against = await refused(scene.market.history.fetch(DAYS))
        assert against.reason == "brokerError"
        assert "open" in against.detail
        await scene.stays("ready", None, 6)


async def test_a_position_that_cannot_be_read_makes_the_list_unknown_until_it_can() -> None:
    async with story(before=lambda gateway: gateway.alter("position", 14, "x", times=1)) as scene:
        assert scene.row.phase == "ready"
        assert not is_current(scene, "positions")
        assert rows(scene, "positions") == {}
        await scene.clock.pass_(11)
        await until(lambda: is_current(scene, "positions"))
        assert rows(scene, "positions")
        assert scene.dials == 1
