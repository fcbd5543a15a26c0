"""A child: how long our session and ib_async's own take for the same backlog of ticks, handed over in one piece.

Both have a real session with the gateway and one line; the bytes are handed to their socket protocols, in turn. Prints
JSON: s of processor time for 256 KB ours, theirs, theirs again, and for 1 MB ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from ib_async import IB, Stock

from daemon.link.events import Target
from daemon.simulator import data_messages
from daemon.state.store import Store
from daemon.tws import Tws
from shared.clock import SystemClock
from shared.messages import ContractQuery

SMALL, LARGE = 256 * 1024, 1024 * 1024
LIMIT = 30.0  # s for any answer of the gateway
LAST = 4


def ignore(_update: object) -> None:
    pass


def backlog(request: int, size: int) -> bytes:
    """`size` bytes of ticks, whole messages only."""
    parts, held = [], 0
    while held < size:
        parts.append(data_messages.tick_price(request, LAST, 187.0 + len(parts) % 100 / 100, 100 + len(parts) % 7))
        held += len(parts[-1])
    return b"".join(parts[:-1])


async def ours(tws: Tws, data: bytes) -> float:
    wire = tws.wire
    begun = time.process_time()
    wire.data_received(data)
    while len(wire.frames):  # noqa: ASYNC110 - the rest comes in the loop's next turns, which is what is measured
        await asyncio.sleep(0)
    return time.process_time() - begun


async def theirs(ib: IB, data: bytes) -> float:
    begun = time.process_time()
    ib.client._onSocketHasData(data)
    return time.process_time() - begun


async def main(port: int, con_id: int, rounds: int) -> None:
    async with asyncio.timeout(LIMIT):
        ib = IB()
        await ib.connectAsync("127.0.0.1", port, clientId=55)
        contract = Stock("AAPL", "SMART", "USD", conId=con_id)
        ib.pendingTickersEvent += ignore
        ticker = ib.reqMktData(contract)
        store = Store("bench", SystemClock())
        target = Target(host="127.0.0.1", port=port, clientId=56, timeout=LIMIT, account="")
        tws = Tws(1, target, ignore, store, SystemClock())
        await tws.open()
        await tws.sync()
        # what the daemon makes of a packet: the quote's row, encoded
        tws.on_quotes = lambda packet: [store.put({f"quotes:{q.conId}": {str(q.conId): q}}) for _, q in packet] and None
        mine = tws.subscribe_quote(ContractQuery(conId=con_id), 1)
        await asyncio.sleep(1)  # first ticks of both
    their_id = ib.wrapper.ticker2ReqId["mktData"][ticker]
    small, large, other = backlog(mine, SMALL), backlog(mine, LARGE), backlog(their_id, SMALL)
    measured: dict[str, list[float]] = {"ours": [], "theirs": [], "again": [], "large": []}
    for number in range(rounds + 1):
        row = {
            "theirs": await theirs(ib, other),
            "ours": await ours(tws, small),
            "again": await theirs(ib, other),
            "large": await ours(tws, large),
        }
        await asyncio.sleep(0)
        if number:  # the first warms
            for name, seconds in row.items():
                measured[name].append(seconds)
    print(json.dumps(measured), flush=True)
    tws.abort()
    ib.disconnect()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
