"""The day's PnL as a series."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.state.ledger import Ledger
from daemon.state.pnl import INTERVAL, KEPT, PnLSeries
from daemon.state.store import Store
from shared.messages import PnL
from tests.clock import HandClock
from tests.daemon.state.test_ledger import kept

MORNING = datetime(2026, 1, 2, 10, 0).astimezone()


class Desk:
    def __init__(self, ledger: Ledger, clock: HandClock) -> None:
        self.clock = clock
        self.ledger = ledger
        self.store = Store("e1", clock)
        self.series = PnLSeries(self.store, ledger, clock)

    async def pnl(self, daily: float | None, account: str = "DU1", modelCode: str = "") -> None:
        """A new figure, and the next sample."""
        row = PnL(account=account, dailyPnL=daily, unrealizedPnL=1.0, modelCode=modelCode)
        self.store.put({"pnl": {account + modelCode: row}})
        self.store.known("pnl")
        await self.clock.pass_(INTERVAL)
        self.series.sample()
        await kept(self.ledger)

    async def today(self, account: str = "DU1") -> list[float | None]:
        return [point.dailyPnL for point in await self.series.today(account)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    clock = HandClock(MORNING)
    ledger = await Ledger.open(tmp_path, clock)
    yield Desk(ledger, clock)
    await ledger.close()


async def test_there_is_a_point_for_each_change_of_an_account(desk: Desk) -> None:
    for daily, account in ((1.0, "DU1"), (1.0, "DU1"), (2.0, "DU1"), (5.0, "DU2"), (None, "DU1")):
        await desk.pnl(daily, account)
    await desk.pnl(9.0, modelCode="M")

    points = await desk.series.today("DU1")
    assert [point.dailyPnL for point in points] == [1.0, 2.0, None]
    assert [(point.at - MORNING).total_seconds() for point in points] == [5.0, 15.0, 25.0]
    assert (points[0].at.tzinfo, points[0].unrealizedPnL, points[0].realizedPnL) == (UTC, 1.0, None)
    assert await desk.today("DU2") == [5.0]
    assert sorted(await desk.series.accounts()) == ["DU1", "DU2"]


async def test_an_old_figure_is_no_point(desk: Desk) -> None:
    """While the topic is stale nothing is known of now; the first figure after it is a point."""
    await desk.pnl(1.0)
    desk.store.stale(["pnl"])
    desk.series.sample()
    await desk.pnl(1.0)

    assert await desk.today() == [1.0, 1.0]


async def test_the_series_survives_the_daemon_and_ends_with_the_day(desk: Desk, tmp_path: Path) -> None:
    await desk.pnl(1.0)
    await desk.ledger.close()
    again = Desk(await Ledger.open(tmp_path, desk.clock), desk.clock)
    assert await again.today() == [1.0]

    await desk.clock.pass_(timedelta(days=1).total_seconds())
    await again.pnl(2.0)
    assert await again.today() == [2.0]
    await again.clock.pass_(KEPT.total_seconds() + 1)
    again.series.sample(tidy=True)
    left = await again.ledger.read(lambda db: db.execute("SELECT count(*) FROM pnl").fetchone()[0])
    assert left == 0
    await again.ledger.close()
