"""A second process in the way of `one_process.py`'s events: passes bytes on to its client, and does nothing else.

Shows what any design with two processes costs on this machine. Arguments: port, port of the first process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from one_process import Client

REQUEST = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Source(asyncio.Protocol):
    """The first process's events, for as long as there are clients."""

    def __init__(self, clients: set[asyncio.Transport]) -> None:
        self.clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        for transport in self.clients:
            transport.write(data)
        if not self.clients:
            self.transport.abort()


class Reader(Client):
    """A client; the first one opens the source."""

    def __init__(self, clients: set[asyncio.Transport], source: int) -> None:
        super().__init__(clients)
        self.source = source

    def data_received(self, data: bytes) -> None:
        first = not self.clients
        super().data_received(data)
        if first and self.clients:
            loop = asyncio.get_running_loop()
            self.dial = loop.create_task(loop.create_connection(lambda: Source(self.clients), "127.0.0.1", self.source))


async def main(port: int, source: int) -> None:
    clients: set[asyncio.Transport] = set()
    await asyncio.get_running_loop().create_server(lambda: Reader(clients, source), "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
