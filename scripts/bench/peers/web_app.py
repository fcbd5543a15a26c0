"""The peer: a dashboard as people write it today, FastAPI with ib_async in the same process, connected at start-up."""

from __future__ import annotations

import os
import sys

import uvicorn
from fastapi import FastAPI
from ib_async import IB

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


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
