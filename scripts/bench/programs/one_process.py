"""ib_async and a hand-written event stream in one process: the least a tick's way can be with this library."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from ib_async import IB, Stock, Ticker

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
READY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntrue"


class Client(asyncio.Protocol):
    def __init__(self, clients: set[asyncio.Transport]) -> None:
        self.clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /ready"):
            self.transport.write(READY)
            self.transport.close()
        else:
            self.transport.write(HEAD)
            self.clients.add(self.transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.clients.discard(self.transport)


async def main(port: int, gateway_port: int, con_id: int) -> None:
    clients: set[asyncio.Transport] = set()
    ib = IB()
    await ib.connectAsync("127.0.0.1", gateway_port, clientId=55)
    contract = Stock("AAPL", "SMART", "USD", conId=con_id)

    def send(tickers: set[Ticker]) -> None:
        for ticker in tickers:
            row = {
                "conId": con_id,
                "bid": ticker.bid,
                "bidSize": ticker.bidSize,
                "ask": ticker.ask,
                "askSize": ticker.askSize,
                "last": ticker.last,
                "lastSize": ticker.lastSize,
                "volume": ticker.volume,
            }
            event = f"data: {json.dumps({'rows': {con_id: row}})}\n\n".encode()
            for transport in clients:
                transport.write(event)

    ib.pendingTickersEvent += send
    ib.reqMktData(contract)
    await asyncio.get_running_loop().create_server(lambda: Client(clients), "127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*(int(word) for word in sys.argv[1:4])))
