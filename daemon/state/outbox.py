"""Alerts that are not delivered yet, in the ledger: written before they are sent, deleted when they are settled."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.state.ledger import Ledger, flag, set_flag
from shared.alerts.queue import Stored

REMEMBERED = 10 * 86_400.0
"""s that the id of an alert is kept: longer than IBKR lists an execution."""
STATE = "alerts"
"""The flag that holds the state of the rules."""


class Outbox:
    """Raises `sqlite3.Error` where the ledger cannot be read; writes are owed by the ledger, as all of its writes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def load(self) -> tuple[list[Stored], str | None]:
        """What earlier daemons have left, oldest first, and the state of their rules."""
        query = "SELECT id, sink, body, created FROM outbox ORDER BY created, rowid"
        return await self._ledger.read(lambda db: ([Stored(*row) for row in db.execute(query)], flag(db, STATE)))

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Which of these alerts were put in before."""
        return await self._ledger.read(
            lambda db: {name for name in ids if db.execute("SELECT 1 FROM alerted WHERE id = ?", (name,)).fetchone()}
        )

    async def put(self, alerts: Sequence[Stored], state: str, now: float) -> None:
        """Store alerts together with the state that they come from. Returns when that is written, or after a second."""
        await self._ledger.commit(lambda db: _put(db, alerts, state, now))

    def settle(self, alert: Stored) -> None:
        """It was delivered, or is given up."""
        self._ledger.write(lambda db: db.execute("DELETE FROM outbox WHERE id = ? AND sink = ?", alert[:2]))


def _put(db: sqlite3.Connection, alerts: Sequence[Stored], state: str, now: float) -> None:
    db.executemany("INSERT OR IGNORE INTO outbox (id, sink, body, created) VALUES (?, ?, ?, ?)", alerts)
    db.executemany("INSERT OR IGNORE INTO alerted VALUES (?, ?)", {(alert.id, now) for alert in alerts})
    db.execute("DELETE FROM alerted WHERE at < (SELECT min(?, max(at)) FROM alerted) - ?", (now, REMEMBERED))
    set_flag(db, STATE, state)
