"""The simulated gateway with ticks at an exact pace: so many a second on each line, so many in one packet.

Each is a last trade whose price is this machine's monotonic clock at sending and whose size is its number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import signal

from daemon.simulator import Gateway, World, control, data_messages

LAST = 4  # the tick type
BEHIND = 0.5  # s of lateness after which what was missed is left out, so that an overload stays one of the readers


async def pace(gateway: Gateway, rate: float, burst: int) -> None:
    loop = asyncio.get_running_loop()
    numbers = itertools.count(1)
    due = loop.time()
    while True:
        due += burst / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        due = max(due, loop.time() - BEHIND)
        if gateway.faults.quiet or gateway.faults.frozen:
            continue
        for line in tuple(gateway.quotes.lines):
            now = round(loop.time(), 6)
            line.session.write(
                b"".join(data_messages.tick_price(line.reqId, LAST, now, next(numbers)) for _ in range(burst))
            )
            gateway.quotes.sent += burst


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--positions", type=int, default=25)
    parser.add_argument("--control", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--burst", type=int, required=True)
    options = parser.parse_args()
    gateway = Gateway(World(7, accounts=1, positions=options.positions, advisor=""), tick_rate=0.0)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with contextlib.AsyncExitStack() as running:
        await gateway.start(options.port)
        running.push_async_callback(gateway.stop)
        await running.enter_async_context(control.unix_socket(gateway, options.control, ended.set))
        print(f"simulated gateway on 127.0.0.1:{gateway.port}", flush=True)
        pacing = asyncio.create_task(pace(gateway, options.rate, options.burst), name="pace")
        await ended.wait()
        pacing.cancel()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
