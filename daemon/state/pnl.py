"""The day's PnL of each account as a series in the ledger, so that a curve of it survives every restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from msgspec import Struct

from daemon.state.ledger import Ledger
from daemon.state.store import Store
from shared.clock import Clock
from shared.messages import PnL, PnLPoint, Sync

INTERVAL: Final = 5.0
"""s between points: 17,280 a day at most for each account, about 1 MB."""
KEPT: Final = timedelta(hours=30)
"""The longest local day has 25 hours; the rest lets a page that was open over midnight finish."""
TIDY: Final = 720
"""Samples between deletions of old points: hourly."""


class PnLSeries:
    """Samples topic `pnl` while it is current."""

    def __init__(self, store: Store, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._last: Mapping[str, Struct] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        samples = 0
        while True:
            self.sample(tidy=samples % TIDY == 0)
            samples += 1
            await self._clock.sleep(INTERVAL)

    def sample(self, *, tidy: bool = False) -> None:
        """A point for each account whose PnL has changed since the last one."""
        sync = self._store.row("sync", "pnl")
        rows = dict(self._store.rows("pnl")) if isinstance(sync, Sync) and sync.known and not sync.stale else {}
        now = self._clock.now()
        points = [
            (row.account, now.timestamp(), row.dailyPnL, row.unrealizedPnL, row.realizedPnL)
            for key, row in rows.items()
            if isinstance(row, PnL) and not row.modelCode and row != self._last.get(key)
        ]
        self._last = rows
        if points or tidy:
            self._ledger.write(lambda db: _write(db, points, (now - KEPT).timestamp() if tidy else None))

    async def accounts(self) -> list[str]:
        """Accounts that have points of today. Raises `sqlite3.Error`."""
        since = self._midnight().timestamp()
        return await self._ledger.read(
            lambda db: [name for (name,) in db.execute("SELECT DISTINCT account FROM pnl WHERE at >= ?", (since,))]
        )

    async def today(self, account: str) -> list[PnLPoint]:
        """Points since midnight of this machine's zone, oldest first. Raises `sqlite3.Error`."""
        since = self._midnight().timestamp()
        query = "SELECT at, daily, unrealized, realized FROM pnl WHERE account = ? AND at >= ? ORDER BY at"
        found = await self._ledger.read(lambda db: db.execute(query, (account, since)).fetchall())
        return [
            PnLPoint(at=datetime.fromtimestamp(at, UTC), dailyPnL=daily, unrealizedPnL=unrealized, realizedPnL=realized)
            for at, daily, unrealized, realized in found
        ]

    def _midnight(self) -> datetime:
        return datetime.combine(self._clock.now().astimezone().date(), time()).astimezone()


def _write(db: sqlite3.Connection, points: Sequence[tuple[object, ...]], before: float | None) -> None:
    db.executemany("REPLACE INTO pnl VALUES (?, ?, ?, ?, ?)", points)
    if before is not None:
        db.execute("DELETE FROM pnl WHERE at < ?", (before,))
