"""How far the gateway's answers can be trusted."""

from __future__ import annotations

import pytest

from daemon.market.conditions import SETTLING, Conditions
from shared.messages import FarmState, Upstream

Link = tuple[Upstream, dict[str, FarmState]]


def link(upstream: Upstream = "ok", **farms: str) -> Link:
    states = {f"{kind}farm": FarmState(state=state, type=kind) for kind, state in farms.items()}
    return upstream, states


@pytest.mark.parametrize("bad", [link("lost"), link(hmds="broken"), link(secdef="connecting")])
def test_an_outage_leaves_a_minute_of_settling(bad: Link) -> None:
    conditions = Conditions()
    assert conditions.trust(0.0) == "sound"

    assert conditions.observe(*bad, 10.0)
    assert conditions.trust(5000.0) == "impaired"

    assert conditions.observe(*link(), 5000.0)
    assert conditions.trust(5000.0 + SETTLING - 1) == "settling"
    assert conditions.trust(5000.0 + SETTLING) == "sound"


def test_a_farm_on_demand_is_as_good_as_up() -> None:
    """2107 and 2108 are normal (FAULTS 9)."""
    conditions = Conditions()

    assert not conditions.observe(*link(hmds="inactive", market="ok"), 0.0)
    assert conditions.farm("hmds")


def test_one_type_of_farm_is_independent_of_another() -> None:
    conditions = Conditions()
    conditions.observe(*link(hmds="broken"), 0.0)

    assert (conditions.farm("hmds"), conditions.farm("market"), conditions.upstream) == (False, True, True)


def test_an_unknown_upstream_is_not_a_lost_one() -> None:
    conditions = Conditions()
    conditions.observe(*link("unknown"), 0.0)

    assert conditions.upstream
