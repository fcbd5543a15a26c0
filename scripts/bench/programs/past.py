"""Writes a ledger as years of use leave it: `past.py STATE_DIR DAYS FILLS EVENTS`, evenly over that many days."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from daemon.state.ledger import Ledger
from shared.clock import SystemClock
from shared.messages import Fill, LinkEvent

BATCH = 500


async def main(directory: Path, days: float, fills: int, events: int) -> None:
    ledger = await Ledger.open(directory, SystemClock())
    begun = SystemClock().now() - timedelta(days=days)
    made = [
        Fill(
            conId=265598, symbol="AAPL", secType="STK", exchange="SMART", currency="USD",
            execId=f"00018037.{number:08x}.01.01", time=begun + timedelta(days=days * number / fills),
            account="DU1000001", side="BOT" if number % 2 else "SLD", shares=100, price=190 + number % 50 / 100,
            permId=number, orderId=number, clientId=1, cumQty=100, avgPrice=190, commission=1.0,
            commissionCurrency="USD",
        )
        for number in range(fills)
    ]  # fmt: skip
    for start in range(0, fills, BATCH):
        written = asyncio.Event()
        ledger.keep(made[start : start + BATCH], written.set)
        await written.wait()
    for number in range(events):
        at = begun + timedelta(days=days * number / events)
        up = number % 2 == 0
        ledger.phase(LinkEvent(at=at, phase="ready" if up else "waiting", reason=None if up else "portClosed"))
        if number % BATCH == 0:
            await ledger.read(lambda _db: None)  # the writer's queue is bounded
    await ledger.close()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(mode=0o700, exist_ok=True)
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
