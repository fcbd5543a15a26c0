"""Rows 8, 9 and 10: how fast a loss is seen over HTTP, how fast the link is ready again."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import time
from collections.abc import Iterator

from ib_async import IB
from measure import Figure, compared, interleaved
from processes import Stack, stack

PROBE = {"IBKR_PROBE_INTERVAL": "1", "IBKR_PROBE_TIMEOUT": "1"}
"""Shorter than the defaults, so that a round takes seconds; the goal is their sum."""
SLACK = 0.1  # s for the daemon's row to reach HTTP, and for our own polling
FREEZES = 6


class Status:
    """One keep-alive connection that requests the status as fast as it is answered."""

    def __init__(self, ours: Stack) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", ours.http_port, timeout=30)

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def get(self, path: str) -> bytes:
        self.connection.request("GET", path)
        return self.connection.getresponse().read()

    def becomes(self, wanted: bool, limit: float = 60.0) -> float:
        """The moment when `connected` is `wanted`, on our own clock."""
        ends = time.perf_counter() + limit
        while (b'"connected": true' in self.get("/api/ibkr/status")) is not wanted:
            if time.perf_counter() > ends:
                raise TimeoutError(f"connected did not become {wanted}")
        return time.perf_counter()

    def stays_connected(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            self.becomes(True)
            time.sleep(0.05)

    def post(self, command: str) -> None:
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", f"/api/ibkr/{command}", body="{}", headers=headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{command}: {answer.status} {body!r}")


def losses(rounds: int) -> Iterator[Figure]:
    fin, again, freeze, thaw = [], [], [], []
    random_unit = random.Random(9)
    with stack(**PROBE) as ours, Status(ours) as status:
        for _ in range(rounds):
            # otherwise sessions as short as these count as flapping, and the daemon waits longer, by design
            status.post("disconnect")
            status.post("connect")
            status.stays_connected(0.5)
            ours.gateway.send("refuse")
            begun = time.perf_counter()
            ours.gateway.send("drop")
            fin.append((status.becomes(False) - begun) * 1000)
            time.sleep(random_unit.uniform(0.5, 3.0))  # an outage; its end falls anywhere between two attempts
            begun = time.perf_counter()
            ours.gateway.send("listen")
            again.append(status.becomes(True) - begun)
        for _ in range(min(rounds, FREEZES)):
            status.stays_connected(random_unit.uniform(0.5, 1.5))
            begun = time.perf_counter()
            ours.gateway.send("freeze")
            freeze.append(status.becomes(False) - begun)
            time.sleep(random_unit.uniform(1.0, 6.0))
            begun = time.perf_counter()
            ours.gateway.send("thaw")
            thaw.append(status.becomes(True) - begun)
    yield Figure("8", "FIN at the gateway → connected: false over HTTP", fin, "≤ 5", "ms")
    yield Figure("8", f"freeze → connected: false (probe 1 s + 1 s + {SLACK} s)", freeze, f"≤ {2 + SLACK}", "s")
    yield Figure("9", "gateway accepts again → ready", again, "≤ 0.5", "s")
    yield Figure("9", "a frozen gateway answers again → ready", thaw, "≤ 0.5", "s")


def ready(rounds: int) -> Iterator[Figure]:
    """POST /connect → ready, with all positions over HTTP, beside ib_async's own connectAsync."""
    for positions in (25, 1_000, 10_000):
        with stack(positions) as ours, Status(ours) as status:
            status.becomes(True)

            def reconnected(status: Status = status, positions: int = positions) -> float:
                status.connection.close()  # idle for longer than one is kept; the next request opens another
                status.post("disconnect")
                begun = time.perf_counter()
                status.post("connect")
                taken = status.becomes(True) - begun
                held = len(json.loads(status.get("/api/ibkr/positions"))["data"])
                if held != positions:
                    raise RuntimeError(f"{held} positions after a connect")
                return taken

            def theirs(port: int = ours.gateway.port, positions: int = positions) -> float:
                return asyncio.run(_connect_with_ib_async(port, positions))

            theirs()  # nothing is cold then
            got = interleaved(min(rounds, 5), theirs=theirs, ours=reconnected, again=theirs)
        what = f"POST /connect → ready with {positions} positions ÷ connectAsync"
        yield compared("10", what, got, "ours", "theirs", "≤ 1.1" if positions == 1_000 else "", "again", "ms")


async def _connect_with_ib_async(port: int, positions: int) -> float:
    ib = IB()
    begun = time.perf_counter()
    await ib.connectAsync("127.0.0.1", port, clientId=33, timeout=60)
    taken = time.perf_counter() - begun
    if len(ib.positions()) != positions:
        raise RuntimeError(f"{len(ib.positions())} positions after connectAsync")
    ib.disconnect()
    await asyncio.sleep(0.1)  # the gateway frees the client id
    return taken
