"""A child: seconds that ib_async's own `connectAsync` takes, second time in the process so that nothing is cold."""

from __future__ import annotations

import asyncio
import sys
import time

from ib_async import IB


async def main(port: int, positions: int) -> None:
    for _ in range(2):
        ib = IB()
        begun = time.perf_counter()
        await ib.connectAsync("127.0.0.1", port, clientId=33, timeout=60)
        taken = time.perf_counter() - begun
        if len(ib.positions()) != positions:
            raise RuntimeError(f"{len(ib.positions())} positions after connectAsync")
        ib.disconnect()
        await asyncio.sleep(0.1)  # the gateway frees the client id
    print(taken, flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
