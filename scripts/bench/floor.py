"""The floor of sending: one timer, the same framed bytes written raw to every client, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import sys

EVENT = (
    b"id: 20260301T120000-1234567\nevent: delta\ndata: "
    b'{"topic":"quotes:265598","rows":{"265598":{"conId":265598,"marketDataType":"live","bid":187.01,"bidSize":300.0,'
    b'"ask":187.02,"askSize":200.0,"last":187.02,"lastSize":100.0,"volume":12345678.0,"open":186.1,"high":188.2,'
    b'"low":185.9,"close":186.4,"asOf":"2026-03-01T12:00:00.123456Z","ibCode":null}}}\n\n'
)


class Client(asyncio.Protocol):
    def __init__(self, clients: set[asyncio.Transport]) -> None:
        self.clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, _data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        self.clients.add(self.transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.clients.discard(self.transport)


async def main(port: int, rate: float) -> None:
    clients: set[asyncio.Transport] = set()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Client(clients), "127.0.0.1", port)
    due = loop.time()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        for transport in clients:
            transport.write(EVENT)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
