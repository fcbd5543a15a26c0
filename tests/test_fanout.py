"""The model of the fan-out: its costs reproduce an arrangement they were not taken from, and the page has its tables.

Everything is computed from recorded measurements; nothing is measured here.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from scripts.fanout import FILE, Costs, Plan, costs, costs_table, load, per_step, plans_table, predicted, simulate
from shared.settings import PROJECT_ROOT

BAND = 0.25
"""Of the measured processor time; runs of one arrangement differ by a tenth on a machine with other work."""
MEASURED = json.loads(FILE.read_text(encoding="utf-8"))
POINTS = MEASURED["points"]
COSTS = costs(POINTS, MEASURED["encode"])


@pytest.mark.parametrize("group", ["daemon", "server", "facades"])
def test_costs_of_small_arrangements_predict_a_larger_one(group: str) -> None:
    """Four facades with fifty readers each were left out when the costs were taken."""
    (left_out,) = (point for point in POINTS if (point["remote"], point["readers"]) == (4, 50))
    expected = predicted(COSTS, 4, 50)[group]
    assert expected == pytest.approx(per_step(left_out, group), rel=BAND)
    taken_from = [point for point in POINTS if point is not left_out]
    assert costs(taken_from, MEASURED["encode"]) == COSTS


def test_the_page_has_the_tables_of_the_program() -> None:
    page = (PROJECT_ROOT / "docs" / "scale-out-arithmetic.md").read_text(encoding="utf-8")
    assert costs_table(COSTS) in page
    assert plans_table(COSTS) in page


@pytest.fixture
def cost() -> Costs:
    """Round figures: a facade folds 1,000 steps/s or writes 10,000 events/s."""
    return Costs(
        tick=1e-4,
        encode=1e-5,
        publish=1e-4,
        receive=1e-4,
        deliver=1e-5,
        fold=1e-3,
        write=1e-4,
        daemon_idle=0.0,
        facade_idle=0.0,
        message=500.0,
        event=400.0,
    )


def test_readers_of_one_session_together_need_fewer_consumers_and_folds(cost: Costs) -> None:
    together = load(cost, Plan(100, 25_000, 1.0))
    anywhere = load(cost, Plan(100, 25_000, 1.0, together=False))
    assert together.consumers == 100
    assert anywhere.consumers > 9_000
    assert anywhere.facade > together.facade
    assert anywhere.hub_out == pytest.approx(together.hub_out * anywhere.consumers / together.consumers)


def test_a_mirror_in_each_region_takes_one_copy_from_the_hub(cost: Costs) -> None:
    plan = Plan(100, 100_000, 1.0, together=False)
    hub, mirrored = load(cost, plan), load(cost, replace(plan, regions=4))
    assert mirrored.hub_out == pytest.approx(4 * 100 * cost.message)
    assert mirrored.leaf_out * 4 == pytest.approx(hub.hub_out)
    assert mirrored.facade == hub.facade


def test_a_facade_below_its_capacity_merges_almost_nothing(cost: Costs) -> None:
    outcome = simulate(cost, Plan(1, 10, 10.0), 60.0, random.Random(1))
    alone = cost.tick + cost.publish + cost.receive + cost.fold + 10 * cost.write
    assert alone <= outcome.p50 < 1.2 * alone
    assert outcome.merged < 0.05
    assert outcome.busy == pytest.approx(10 * (cost.fold + 10 * cost.write), rel=0.2)


def test_a_facade_with_too_many_readers_merges_and_stays_current(cost: Costs) -> None:
    """A step costs 26 ms here and comes each 20: events get fewer, and no later however long it lasts."""
    plan = Plan(1, 250, 50.0)
    short, long = (simulate(cost, plan, seconds, random.Random(2)) for seconds in (20.0, 200.0))
    assert short.merged > 0.1
    assert long.p99 < 2 * short.p99 < 0.3
    assert long.busy > 0.7


def test_a_facade_with_too_many_sessions_falls_behind(cost: Costs) -> None:
    """Folding is not saved by merging: what cannot be folded waits longer and longer, until it is a reset."""
    plan = Plan(250, 250, 8.0, together=False)
    short, long = (simulate(cost, plan, seconds, random.Random(3)) for seconds in (5.0, 20.0))
    assert long.p99 > 2 * short.p99
