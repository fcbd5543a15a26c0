"""The peer: a dashboard as people write it today, FastAPI with ib_async in the same process, connected at start-up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ib_async import IB, Stock, Ticker

app = FastAPI()
ib = IB()


@app.on_event("startup")
async def startup_event() -> None:
    try:
        await ib.connectAsync("127.0.0.1", int(os.environ["PEER_GATEWAY_PORT"]), clientId=77)
    except Exception as error:
        print(f"✗ Auto-connect to IBKR failed: {error}", file=sys.stderr)


@app.on_event("shutdown")
async def shutdown_event() -> None:
    ib.disconnect()


@app.get("/api/ibkr/status")
async def status() -> dict[str, bool]:
    return {"connected": ib.isConnected(), "available": True}


@app.get("/api/ibkr/positions")
async def positions() -> list[dict[str, object]]:
    return [
        {
            "account": item.account,
            "conId": item.contract.conId,
            "symbol": item.contract.symbol,
            "secType": item.contract.secType,
            "exchange": item.contract.exchange,
            "currency": item.contract.currency,
            "position": item.position,
            "avgCost": item.averageCost,
            "marketPrice": item.marketPrice,
            "marketValue": item.marketValue,
            "unrealizedPNL": item.unrealizedPNL,
            "realizedPNL": item.realizedPNL,
        }
        for item in ib.portfolio()
    ]


readers: dict[int, set[asyncio.Queue[str]]] = {}


def publish(tickers: set[Ticker]) -> None:
    for ticker in tickers:
        con_id = ticker.contract.conId if ticker.contract is not None else 0
        names = ("bid", "bidSize", "ask", "askSize", "last", "lastSize", "volume")
        row = {"conId": con_id, **{name: getattr(ticker, name) for name in names}}
        event = f"data: {json.dumps({'rows': {con_id: row}})}\n\n"
        for queue in readers.get(con_id, ()):
            if not queue.full():
                queue.put_nowait(event)


ib.pendingTickersEvent += publish


@app.get("/api/ibkr/events")
async def events(conId: int) -> StreamingResponse:
    queue: asyncio.Queue[str] = asyncio.Queue(1000)
    if conId not in readers:
        readers[conId] = set()
        ib.reqMktData(Stock("AAPL", "SMART", "USD", conId=conId))
    readers[conId].add(queue)

    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                yield await queue.get()
        finally:
            readers[conId].discard(queue)

    return StreamingResponse(stream(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
