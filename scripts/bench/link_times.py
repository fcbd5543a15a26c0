"""Rows 8, 9 and 10: how fast a loss is seen over HTTP, how fast the link is ready again, and what a start costs."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Iterator

from ib_async import IB
from processes import Stack, stack, until
from report import Figure, at_most

PROBE = {"IBKR_PROBE_INTERVAL": "1", "IBKR_PROBE_TIMEOUT": "1"}
"""Shorter than the defaults, so that a round takes seconds; the goal is their sum."""
SLACK = 0.3  # s for the daemon's row to reach HTTP, and for our own polling


class Status:
    """One keep-alive connection that asks for the status as fast as it is answered."""

    def __init__(self, ours: Stack) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", ours.http_port, timeout=5)

    def connected(self) -> bool:
        self.connection.request("GET", "/api/ibkr/status")
        return b'"connected": true' in self.connection.getresponse().read()

    def becomes(self, wanted: bool, limit: float = 30.0) -> float:
        """The moment when it is so, on our own clock."""
        ends = time.perf_counter() + limit
        while self.connected() is not wanted:
            if time.perf_counter() > ends:
                raise TimeoutError(f"connected did not become {wanted}")
        return time.perf_counter()


def _losses(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """ms from the FIN, and s from the port's opening and from the freeze, to what HTTP says."""
    fin, again, freeze = [], [], []
    with stack(**PROBE) as ours:
        status = Status(ours)
        for _ in range(rounds):
            status.becomes(True)
            time.sleep(1.0)
            ours.tell("refuse")
            begun = time.perf_counter()
            ours.tell("drop")
            fin.append((status.becomes(False) - begun) * 1000)
            time.sleep(0.7)
            begun = time.perf_counter()
            ours.tell("listen")
            again.append(status.becomes(True) - begun)
        for _ in range(min(rounds, 3)):
            time.sleep(1.0)
            begun = time.perf_counter()
            ours.tell("freeze")
            freeze.append(status.becomes(False) - begun)
            ours.tell("thaw")
            status.becomes(True)
    return fin, again, freeze


async def _theirs(port: int) -> float:
    ib = IB()
    begun = time.perf_counter()
    await ib.connectAsync("127.0.0.1", port, clientId=33, timeout=60)
    taken = time.perf_counter() - begun
    ib.disconnect()
    return taken


def _start(ours: Stack, status: Status) -> float:
    """s from the port's opening to ready, with everything else running: what the session itself costs."""
    ours.tell("refuse")
    ours.tell("drop")
    status.becomes(False)
    time.sleep(0.7)
    begun = time.perf_counter()
    ours.tell("listen")
    return status.becomes(True, 60) - begun


def run(rounds: int) -> Iterator[Figure]:
    fin, again, freeze = _losses(rounds)
    yield Figure("8", "FIN at the gateway → connected: false over HTTP", "≤ 5 ms", fin, at_most(5, fin), "ms")
    limit = 2.0 + SLACK
    yield Figure("8", "freeze → connected: false (probe 1 s + 1 s)", "≤ 2 s", freeze, at_most(limit, freeze), "s")
    yield Figure("9", "gateway accepts again → ready", "≤ 1 s", again, at_most(1, again), "s")
    ratios, control = [], []
    with stack(positions=1000) as ours:
        status = Status(ours)
        until(ours.connected)
        for _ in range(min(rounds, 12)):
            first, mine, second = asyncio.run(_theirs(ours.gateway_port)), _start(ours, status), None
            second = asyncio.run(_theirs(ours.gateway_port))
            # the wait until the next dial (0.5 s ± 20 %, half of it on average) is no cost of the session
            ratios.append(mine / first)
            control.append(second / first)
    yield Figure("10", "ready with 1 000 positions ÷ connectAsync", "≤ 1.1", ratios, at_most(1.1, ratios), "×", control)
