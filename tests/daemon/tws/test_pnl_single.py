"""Which positions of other accounts have a subscription of their own to value and PnL."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from daemon.simulator import Gateway, World
from daemon.tws import pnl_single
from daemon.tws.pnl_single import EVERY, MOST, PnlSingleSubscriptions
from daemon.tws.send_queue import SendQueue
from tests.clock import HandClock
from tests.daemon.tws.sessions import synced
from tests.waiting import until


class Numbered:
    """A client that gives request ids and keeps the requests."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.subscribed: dict[int, tuple[str, int]] = {}

    def getReqId(self) -> int:
        return next(self._ids)

    def reqPnLSingle(self, request: int, account: str, _model: str, con_id: int) -> None:
        self.subscribed[request] = (account, con_id)

    def cancelPnLSingle(self, request: int) -> None:
        del self.subscribed[request]


async def test_each_contract_has_a_subscription_and_the_first_hundred_positions_their_own():
    """What a contract is worth is the same in each account: one is enough for its price."""
    client: Any = Numbered()
    singles = PnlSingleSubscriptions(client, SendQueue(HandClock(), rate=100_000))
    for account in range(EVERY):
        singles.subscribe(f"DU{account}", 1)
    singles.subscribe("DU1000", 1)
    singles.subscribe("DU1000", 2)
    singles.subscribe("DU1001", 2)

    assert len(client.subscribed) == EVERY + 1
    assert ("DU1000", 2) in client.subscribed.values()

    singles.unsubscribe("DU1000", 2)
    singles.subscribe("DU1001", 2)
    assert ("DU1001", 2) in client.subscribed.values()
    singles.unsubscribe_all()
    assert client.subscribed == {}


async def test_subscriptions_have_a_bound():
    client: Any = Numbered()
    singles = PnlSingleSubscriptions(client, SendQueue(HandClock(), rate=100_000))
    for con_id in range(1, MOST + 10):
        singles.subscribe("DU1", con_id)

    assert len(client.subscribed) == MOST
    assert singles.left_out == 9

    for con_id in range(1, 4):
        singles.unsubscribe("DU1", con_id)
    assert len(client.subscribed) == MOST, "others take the place of positions that are closed"
    assert singles.left_out == 6

    for request in list(client.subscribed)[:2]:
        del client.subscribed[request]  # as the gateway does
        assert singles.refused(request)
    assert len(client.subscribed) == MOST, "others take the place of positions that are refused"
    assert singles.left_out == 4


async def test_positions_beyond_the_bound_are_reported(monkeypatch: pytest.MonkeyPatch):
    """Their figures are null, and a notice has the reason (A11)."""
    monkeypatch.setattr(pnl_single, "EVERY", 2)
    monkeypatch.setattr(pnl_single, "MOST", 3)
    world = World(accounts=("DU1111111", "DU2222222"), positions=20, fills=0)
    async with Gateway(world) as gateway, synced(gateway) as made:
        notices = await until(lambda: [row for row in made.rows("notices").values() if "no market value" in row.text])
        assert [row.text.split()[0] for row in notices] == ["7"]
        await until(lambda: sum(row.marketValue is None for row in made.rows("positions").values()) == 7)
