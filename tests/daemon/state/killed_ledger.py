"""Not a test: a daemon's ledger that records fills, each named on stdout once it is shown, until it is killed."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from daemon.state.ledger import Ledger
from daemon.state.store import Store
from shared.clock import SystemClock
from shared.messages import LinkEvent
from tests.rows import fill


async def main(directory: Path) -> None:
    clock = SystemClock()
    ledger = await Ledger.open(directory, clock)
    store = Store(ledger.epoch, clock, ledger)
    store.load(await ledger.recent(clock.now() - timedelta(days=8)))
    shown: set[str] = set()

    def show() -> None:
        for exec_id in store.replica.rows("fills").keys() - shown:
            shown.add(exec_id)
            print(exec_id, flush=True)

    store.on_step.append(show)
    number = 0
    while True:
        number += 1
        ledger.phase(LinkEvent(at=clock.now(), phase="ready" if number % 2 else "upstreamLost"))
        store.put({"fills": {f"{ledger.epoch}.{number}.01": fill(f"{ledger.epoch}.{number}.01", clock.now())}})
        if number % 50 == 0:
            await ledger.set_held(number % 100 == 0)
        await asyncio.sleep(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
