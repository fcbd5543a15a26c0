"""Subscriptions of one topic that need more than one reading."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any

from daemon.state.store import Store
from daemon.tws.account_requests import AccountRequests
from daemon.tws.send_queue import SendQueue
from daemon.tws.snapshot import Snapshots
from shared.messages import Sync
from tests.clock import HandClock, settled


async def test_an_answer_that_comes_while_its_request_waits_to_be_repeated_counts():
    """Nothing else is then waited for under its number; what was not answered is requested once more."""
    clock = HandClock()
    store, queue = Store("e1", clock), SendQueue(clock)
    snapshots = Snapshots(store)
    client: Any = SimpleNamespace(getReqId=itertools.count(1).__next__)
    written: list[tuple[str, int, str]] = []
    requests = AccountRequests(
        "pnl",
        client,
        queue,
        snapshots,
        lambda request, account: written.append(("subscribe", request, account)),
        lambda request, account: written.append(("cancel", request, account)),
    )
    names = ["DU1", "DU2"]
    reading = asyncio.create_task(requests.read(requests.begin(names)))
    await settled()
    reading.cancel()
    await settled()
    queue.pause(paused=True)
    reading = asyncio.create_task(requests.read(requests.begin(names)))
    await settled()
    snapshots.end(1)
    queue.pause(paused=False)
    await settled()
    snapshots.end(3)
    await settled()

    sync = store.row("sync", "pnl")
    assert written == [("subscribe", 1, "DU1"), ("subscribe", 2, "DU2"), ("cancel", 2, "DU2"), ("subscribe", 3, "DU2")]
    assert reading.done()
    assert isinstance(sync, Sync)
    assert sync.known
