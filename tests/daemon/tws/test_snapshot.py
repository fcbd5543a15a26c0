"""Lists that come row by row: whole with their last end marker, and not mixed from two answers."""

from __future__ import annotations

from daemon.state.store import Store
from daemon.tws.errors import LinkLost
from daemon.tws.snapshot import Snapshots
from shared.clock import SystemClock
from shared.messages import Position, Sync


def position(con_id: int) -> Position:
    return Position(account="DU1", conId=con_id, position=1.0)


def test_a_list_that_was_cut_off_is_not_ended_by_a_late_marker():
    """TWS ends its lists when IBKR goes away: half of one looks like a whole one (FAULTS 11)."""
    store = Store("e1", SystemClock())
    snapshots = Snapshots(store)
    snapshots.begin("positions", ["end"])
    snapshots.put("positions", "DU1:1", position(1))
    snapshots.drop("positions", LinkLost("gone", 1100))

    snapshots.end("end")
    snapshots.flush()

    assert store.row("sync", "positions") == Sync(known=False)
    assert store.rows("positions") == {}


def test_rows_from_before_the_cut_are_no_part_of_the_next_list():
    store = Store("e1", SystemClock())
    snapshots = Snapshots(store)
    snapshots.begin("positions", ["end"])
    snapshots.put("positions", "DU1:1", position(1))
    snapshots.drop("positions", LinkLost("gone", 1100))

    snapshots.begin("positions", ["end"])
    snapshots.put("positions", "DU1:2", position(2))
    snapshots.end("end")

    assert store.rows("positions") == {"DU1:2": position(2)}
