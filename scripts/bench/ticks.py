"""Rows 4 and 5: the way of a tick from the gateway to an event client, and the daemon's processor time a tick.

Each side has a gateway of its own that is quiet while the other is measured. All processes run on asyncio's own loop.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from processes import (
    HERE,
    Gateway,
    Pace,
    Process,
    free_port,
    gateway,
    get,
    last_word,
    python,
    ratio,
    server,
    stack,
    subscribe,
    until,
)
from report import Figure, at_most

RATES = (100, 1000)  # ticks a second, each in a packet of its own
BURST = Pace(5000, 100)
CON_ID = 265598
SECONDS = 1.5
WARM = 0.5  # s after the ticks have begun
EVENTS = f"/api/ibkr/events?topics=quotes:{CON_ID}"


@dataclass
class Side:
    """One of the two that are compared: where its events are, what its processor time is, and its gateway."""

    url: str
    target: str
    process: Process
    gateway: Gateway

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        self.gateway.tell("quiet=off")
        try:
            time.sleep(WARM)
            yield
        finally:
            self.gateway.tell("quiet=on")


def latencies(sock: socket.socket, rest: bytes, seconds: float, burst: int = 1) -> list[float]:
    """s from each packet's sending to the arrival of an event that is at least as new. `burst`: ticks in a packet."""
    found: list[float] = []
    before: tuple[float, float] | None = None  # number and stamp of the last tick told
    begun = time.monotonic()
    sock.settimeout(5)
    while time.monotonic() < begun + seconds:
        data = sock.recv(1 << 18)
        now = time.monotonic()
        if not data:
            raise ConnectionError("the stream ended")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            for row in json.loads(line[5:]).get("rows", {}).values():
                stamp, number = row.get("last"), row.get("lastSize")
                if not stamp or not number or stamp < begun:
                    continue
                # packets that were merged into this one arrived with it; they were sent evenly since the one before
                missed = max(1, round((number - before[0]) / burst)) if before else 1
                since = before[1] if before else stamp
                found += [now - (since + (stamp - since) * n / missed) for n in range(1, missed + 1)]
                before = (number, stamp)
    return found


def p50(side: Side, seconds: float = SECONDS) -> float:
    sock, rest = subscribe(side.url, side.target)
    with sock, side.ticking():
        found = latencies(sock, rest, seconds)
    if not found:
        raise RuntimeError(f"no tick came from {side.url}{side.target}")
    return statistics.median(found)


@contextlib.contextmanager
def alone(pace: Pace, *how: str) -> Iterator[Side]:
    """ib_async in a process of its own, with an event stream or (`bare`) with nothing but a subscriber."""
    with gateway(pace=pace) as simulated:
        simulated.tell("quiet=on")
        port = free_port()
        script = str(HERE / "peers" / "one_process.py")
        process = python("alone", script, str(port), str(simulated.port), str(CON_ID), *how)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: get(f"{url}/ready"))
            yield Side(url, "/events", process, simulated)
        finally:
            process.stop()


@contextlib.contextmanager
def hopping(first: Side) -> Iterator[Side]:
    """The same with a second process that passes the bytes on: the least that two processes cost."""
    hop = str(HERE / "peers" / "hop.py")
    with server("hop", hop, first.url.rpartition(":")[2], ready="/ready") as (process, url):
        yield Side(url, "/events", process, first.gateway)


@contextlib.contextmanager
def whole(pace: Pace) -> Iterator[Side]:
    """Gateway, daemon and facade; the processor time is the daemon's."""
    with stack(pace=pace) as ours:
        ours.tell("quiet=on")
        yield Side(ours.url, EVENTS, ours.daemon, ours.gateway)


def _latency(rate: int, rounds: int) -> Iterator[Figure]:
    pace = Pace(rate)
    one, mine, again, two = [], [], [], []
    with whole(pace) as ours, alone(pace) as theirs, hopping(theirs) as hop:
        for _ in range(rounds):
            one.append(p50(theirs))
            mine.append(p50(ours))
            again.append(p50(theirs))
            two.append(p50(hop))
    ratios, control = ratio(mine, one), ratio(again, one)
    what = f"tick → event client at {rate}/s, p50 ÷ one process ({_micros(mine)} to {_micros(one)})"
    yield Figure("4", what, "≤ 1.3", ratios, at_most(1.3, ratios), "×", control)
    what = f"for comparison, bare: one process and another that passes its bytes on ÷ one process ({_micros(two)})"
    yield Figure("4", what, "", ratio(two, one), unit="×")


def _micros(seconds: list[float]) -> str:
    micros = statistics.median(seconds) * 1e6
    return f"{micros:.0f} µs" if micros >= 10 else f"{micros:.1f} µs"


def cpu_a_tick(side: Side, seconds: float = SECONDS) -> float:
    """s of processor time a tick, with one client that reads."""
    sock, _rest = subscribe(side.url, side.target)
    with sock, side.ticking():
        used, sent = side.process.cpu(), side.gateway.status()["ticks"]
        ends = time.monotonic() + seconds
        sock.settimeout(0.1)
        while time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                sock.recv(1 << 18)
        return (side.process.cpu() - used) / (side.gateway.status()["ticks"] - sent)


def _cpu(pace: Pace, goal: float, what: str, rounds: int) -> Iterator[Figure]:
    one, mine, again, telling = [], [], [], []
    with whole(pace) as ours, alone(pace, "bare") as theirs, alone(pace) as other:
        for _ in range(rounds):
            one.append(cpu_a_tick(theirs))
            mine.append(cpu_a_tick(ours))
            again.append(cpu_a_tick(theirs))
            telling.append(cpu_a_tick(other))
    ratios, control = ratio(mine, one), ratio(again, one)
    name = f"daemon CPU a tick ÷ ib_async alone, {what} ({_micros(mine)} to {_micros(one)})"
    yield Figure("5", name, f"≤ {goal}", ratios, at_most(goal, ratios), "×", control)
    name = f"the same ÷ ib_async that tells one client of each packet as JSON ({_micros(telling)})"
    yield Figure("5", name, "", ratio(mine, telling), unit="×")


def _backlogs(rounds: int) -> Iterator[Figure]:
    with gateway() as simulated:
        script = str(HERE / "backlog.py")
        process = python("backlog", script, str(simulated.port), str(CON_ID), str(rounds), read=True)
        try:
            told = json.loads(last_word(process, 300))
        finally:
            process.stop()
    ratios, control = ratio(told["ours"], told["theirs"]), ratio(told["again"], told["theirs"])
    times = f"{statistics.median(told['ours']) * 1e3:.0f} ms to {statistics.median(told['theirs']) * 1e3:.0f} ms"
    what = f"a backlog of 256 KB of ticks ÷ ib_async's own time ({times})"
    yield Figure("5", what, "≤ 0.6", ratios, at_most(0.6, ratios), "×", control)
    growth = [large / small / 4 for large, small in zip(told["large"], told["ours"], strict=True)]
    what = "a backlog of 1 MB ÷ four of 256 KB"
    yield Figure("5", what, "≤ 1.1", growth, at_most(1.1, growth), "×")


def run(rounds: int) -> Iterator[Figure]:
    for rate in RATES:
        yield from _latency(rate, rounds)
    yield from _cpu(Pace(100), 1.25, "a tick a packet, 100/s", rounds)
    yield from _cpu(Pace(1000), 1.25, "a tick a packet, 1 000/s", rounds)
    yield from _cpu(BURST, 1.15, f"{BURST.burst} ticks a packet, 5 000/s", rounds)
    yield from _backlogs(max(rounds, 12))
