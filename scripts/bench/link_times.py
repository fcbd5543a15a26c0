"""Rows 8, 9 and 10: how fast a loss is seen over HTTP, how fast the link is ready again, and what a start costs."""

from __future__ import annotations

import http.client
import json
import random
import statistics
import time
from collections.abc import Iterator

from processes import HERE, Stack, last_word, python, ratio, stack
from report import Figure, at_most

PROBE = {"IBKR_PROBE_INTERVAL": "1", "IBKR_PROBE_TIMEOUT": "1"}
"""Shorter than the defaults, so that a round takes seconds; the goal is their sum."""
SLACK = 0.1  # s for the daemon's row to reach HTTP, and for our own polling
POSITIONS = 1000
FREEZES = 6


class Status:
    """One keep-alive connection that asks for the status as fast as it is answered."""

    def __init__(self, ours: Stack) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", ours.http_port, timeout=30)

    def __enter__(self) -> Status:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

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

    def stays_connected(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            self.becomes(True)
            time.sleep(0.05)

    def post(self, command: str) -> None:
        headers = {"Content-Type": "application/json"}
        self.connection.request("POST", f"/api/ibkr/{command}", body="{}", headers=headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{command}: {answer.status} {said!r}")


def _losses(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """ms from the FIN, s from the port's opening and from the freeze, to what HTTP says."""
    fin, again, freeze = [], [], []
    dice = random.Random(9)
    with stack(**PROBE) as ours, Status(ours) as status:
        for _ in range(rounds):
            # otherwise sessions as short as these count as flapping, and the daemon waits longer, by design
            status.post("disconnect")
            status.post("connect")
            status.stays_connected(0.5)
            ours.tell("refuse")
            begun = time.perf_counter()
            ours.tell("drop")
            fin.append((status.becomes(False) - begun) * 1000)
            time.sleep(dice.uniform(0.5, 3.0))  # an outage; its end falls anywhere between two dials
            begun = time.perf_counter()
            ours.tell("listen")
            again.append(status.becomes(True) - begun)
        for _ in range(min(rounds, FREEZES)):
            status.stays_connected(dice.uniform(0.5, 1.5))
            begun = time.perf_counter()
            ours.tell("freeze")
            freeze.append(status.becomes(False) - begun)
            ours.tell("thaw")
            status.becomes(True)
    return fin, again, freeze


def _ready(status: Status) -> float:
    """s from the command to connect to an answer over HTTP that all is there, positions included."""
    status.post("disconnect")
    begun = time.perf_counter()
    status.post("connect")
    taken = status.becomes(True) - begun
    status.connection.request("GET", "/api/ibkr/positions")
    held = len(json.loads(status.connection.getresponse().read())["data"])
    if held != POSITIONS:
        raise RuntimeError(f"{held} positions after a connect")
    return taken


def _theirs(port: int) -> float:
    """s of ib_async's own connectAsync, in a process of its own."""
    child = python("connecting", str(HERE / "peers" / "connecting.py"), str(port), str(POSITIONS), read=True)
    try:
        return float(last_word(child))
    finally:
        child.stop()


def run(rounds: int) -> Iterator[Figure]:
    fin, again, freeze = _losses(rounds)
    yield Figure("8", "FIN at the gateway → connected: false over HTTP", "≤ 5 ms", fin, at_most(5, fin), "ms")
    what = f"freeze → connected: false (probe 1 s + 1 s, and {SLACK} s to tell it)"
    yield Figure("8", what, "≤ 2 s", freeze, at_most(2.0 + SLACK, freeze), "s")
    yield Figure("9", "gateway accepts again → ready", "≤ 1 s", again, at_most(1, again), "s")
    first, mine, second = [], [], []
    with stack(positions=POSITIONS) as ours, Status(ours) as status:
        status.becomes(True)
        for _ in range(rounds):
            first.append(_theirs(ours.gateway_port))
            mine.append(_ready(status))
            second.append(_theirs(ours.gateway_port))
    ratios = ratio(mine, first)
    told = f"{statistics.median(mine):.2f} s to {statistics.median(first):.2f} s"
    what = f"POST /connect → ready with 1 000 positions ÷ connectAsync ({told})"
    yield Figure("10", what, "≤ 1.1", ratios, at_most(1.1, ratios), "×", ratio(second, first))
