"""Whether what the gateway says can be believed."""

from __future__ import annotations

import pytest

from daemon.market.conditions import SETTLING, Conditions
from shared.messages import FarmState, Upstream

Link = tuple[Upstream, dict[str, FarmState]]


def link(upstream: Upstream = "ok", **farms: str) -> Link:
    states = {f"{kind}farm": FarmState(state=state, type=kind) for kind, state in farms.items()}
    return upstream, states


@pytest.mark.parametrize("bad", [link("lost"), link(hmds="broken"), link(secdef="connecting")])
def test_trouble_is_remembered_for_a_minute_after_it_has_ended(bad: Link) -> None:
    conditions = Conditions()
    assert not conditions.doubtful(0.0)

    assert conditions.observe(*bad, 10.0)
    assert conditions.doubtful(5000.0)

    assert conditions.observe(*link(), 5000.0)
    assert not conditions.troubled
    assert conditions.doubtful(5000.0 + SETTLING - 1)
    assert not conditions.doubtful(5000.0 + SETTLING)


def test_a_farm_on_demand_is_as_good_as_up() -> None:
    """2107 and 2108 are normal (FAULTS 9)."""
    conditions = Conditions()

    assert not conditions.observe(*link(hmds="inactive", market="ok"), 0.0)
    assert conditions.farm("hmds")


def test_one_type_of_farm_says_nothing_of_another() -> None:
    conditions = Conditions()
    conditions.observe(*link(hmds="broken"), 0.0)

    assert (conditions.farm("hmds"), conditions.farm("market"), conditions.upstream) == (False, True, True)


def test_an_unknown_upstream_is_not_a_lost_one() -> None:
    conditions = Conditions()
    conditions.observe(*link("unknown"), 0.0)

    assert conditions.upstream
