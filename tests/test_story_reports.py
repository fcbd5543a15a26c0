"""What real gateways report, and what the daemon makes of it: the simulated gateway sends it as they do."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.simulator import World
from shared.messages import BarsParams, Notice
from shared.reasons import Problem
from tests.stories import Story, story
from tests.waiting import until

TWO = ("DU1111111", "DU2222222")
DAYS = BarsParams(conId=265598, durationStr="1 M", barSizeSetting="1 day", whatToShow="TRADES")


def rows(told: Story, topic: str) -> dict[str, Any]:
    return dict(told.store.rows(topic))


def is_current(told: Story, topic: str) -> bool:
    sync = told.sync(topic)
    return sync.known and not sync.stale


async def test_an_order_whose_state_never_comes_is_read_again_at_its_execution() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as told:
        perm = str(told.gateway.place("AAPL", 10, 1.0, client_id=1))
        await until(lambda: perm in rows(told, "orders"))
        told.gateway.silence_orders()
        told.gateway.pin("AAPL", 0.5)
        await until(lambda: rows(told, "fills"))
        await until(lambda: rows(told, "orders")[perm].done)

        assert rows(told, "orders")[perm].filled == 10
        assert told.dials == 1


async def test_late_news_of_an_order_that_is_filled_changes_nothing() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as told:
        perm = told.gateway.place("AAPL", 10, 1.0, client_id=1)
        told.gateway.pin("AAPL", 0.5)
        await until(lambda: (row := rows(told, "orders").get(str(perm))) and row.done)
        filled = rows(told, "orders")[str(perm)]
        told.gateway.repeat_order(perm, filled=6)
        told.gateway.farm(2104, "theend")
        await until(lambda: "theend" in told.row.farms)

        assert rows(told, "orders")[str(perm)] == filled


async def test_a_commission_is_unknown_until_it_is_worked_out() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as told:
        told.gateway.pend_commissions()
        fill = told.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: fill.execId in rows(told, "fills"))
        assert rows(told, "fills")[fill.execId].commission is None
        told.gateway.report_commission(fill.execId, -0.35)
        await until(lambda: rows(told, "fills")[fill.execId].commission == -0.35)


async def test_a_refused_account_leaves_the_others_values_known() -> None:
    async with story(world=World(accounts=TWO), before=lambda gateway: gateway.refuse_account(TWO[1])) as told:
        assert is_current(told, "summary")
        values = {row.account: row.value for row in rows(told, "summary").values() if row.tag == "NetLiquidation"}
        assert values[TWO[0]] is not None
        assert values[TWO[1]] is None


async def test_values_of_ledgers_and_models_have_rows_of_their_own() -> None:
    def before(gateway: Any) -> None:
        gateway.prefix_ledgers()
        gateway.hold_in_model(TWO[1], "Growth")

    async with story(world=World(accounts=TWO), before=before) as told:
        tags = {row.tag for row in rows(told, "summary").values()}
        assert "CashBalance" in tags
        assert not any(tag.startswith("$") for tag in tags)
        own = rows(told, "summary")[f"{TWO[1]}:NetLiquidation:USD"]
        model = rows(told, "summary")[f"{TWO[1]}:NetLiquidation:USD:Growth"]
        assert (own.modelCode, model.modelCode) == ("", "Growth")
        assert own.value != model.value


async def test_the_time_of_an_execution_is_right_in_a_zone_of_any_name() -> None:
    async with story(world=World(positions=1, orders=0, fills=0, completed=0)) as told:
        times = []
        for name, hours in (("JST", 9.0), ("GMT+08:00", 8.0), ("", 0.0)):
            told.gateway.execution_zone(name, hours)
            fill = told.gateway.fill("AAPL", 10, client_id=1)
            await until(lambda wanted=fill.execId: wanted in rows(told, "fills"))
            times.append(rows(told, "fills")[fill.execId].time)
        assert (max(times) - min(times)).total_seconds() < 60

        told.gateway.execution_zone("Mars/Olympus", 3.0)
        fill = told.gateway.fill("AAPL", 10, client_id=1)
        await until(lambda: fill.execId in rows(told, "fills"))
        assert told.session is not None
        assert told.session.decode_errors == {"timezone": 1}
        assert any("Mars/Olympus" in row.text for row in told.store.rows("notices").values() if isinstance(row, Notice))


@pytest.mark.parametrize("how", ["unknown", "noYear"])
async def test_odd_bars_are_answered_and_cost_no_session(how: Any) -> None:
    async with story() as told:
        told.gateway.odd_bars(how)
        found = await told.market.history.fetch(DAYS)
        assert found.rows
        if how == "unknown":
            assert any(bar.open is None for bar in found.rows)
        assert told.dials == 1


async def test_bars_that_cannot_be_read_are_a_problem_at_once() -> None:
    async with story() as told:
        told.gateway.alter("historicalData", 6, "cheap")
        with pytest.raises(Problem) as against:
            await told.market.history.fetch(DAYS)

        assert against.value.reason == "brokerError"
        assert "open" in against.value.detail
        await told.stays("ready", None, 6)


async def test_a_position_that_cannot_be_read_makes_the_list_unknown_until_it_can() -> None:
    async with story(before=lambda gateway: gateway.alter("position", 14, "x", times=1)) as told:
        assert told.row.phase == "ready"
        assert not is_current(told, "positions")
        assert rows(told, "positions") == {}
        await told.clock.pass_(11)
        await until(lambda: is_current(told, "positions"))
        assert rows(told, "positions")
        assert told.dials == 1
