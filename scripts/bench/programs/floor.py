"""The floor of sending: one timer, the same number of bytes written raw to every client, nothing else.

Arguments: port, events a second, bytes of an event. It begins with the first client.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from one_process import Client


def event(size: int) -> bytes:
    """One of `size` bytes."""
    around = len(b"event: delta\ndata: \n\n")
    return b"event: delta\ndata: " + b"x" * (size - around) + b"\n\n"


async def main(port: int, rate: float, size: int) -> None:
    clients: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Client(clients), "127.0.0.1", port)
    data = event(size)
    due = loop.time()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        due = max(due, loop.time() - 0.5)
        for transport in clients:
            transport.write(data)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
