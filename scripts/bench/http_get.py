"""Rows 1 and 2: what a GET costs, beside a bare aiohttp handler and beside the peer.

Ours and the bare handler run on asyncio's own loop, the peer as uvicorn chooses: uvloop and httptools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from load import CLIENT, load
from processes import Process, peer, ratio, server, stack
from report import Figure, at_least, at_most

SECONDS = 2.0
"""s of load a round: wrk's figures settle within one."""


@dataclass
class Sample:
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # s of processor time a request
    latency: list[float] = field(default_factory=list)

    def measure(self, process: Process, url: str) -> None:
        before = process.cpu()
        done = load(url, seconds=SECONDS)
        used = process.cpu() - before
        if done.errors or not done.requests:
            raise RuntimeError(f"{url}: {done.errors} errors in {done.requests} requests")
        self.rate.append(done.rate)
        self.cpu.append(used / done.requests)
        self.latency.append(done.p50)


def run(rounds: int) -> Iterator[Figure]:
    """Interleaved rounds: bare, status, bare again (the control), positions, and the peer's two."""
    names = ("bare", "status", "again", "positions", "peer", "peer positions")
    samples = {name: Sample() for name in names}
    with stack() as ours, server("bare", "bare.py") as (bare, bare_url), peer(ours.gateway_port) as (other, other_url):
        api = f"{ours.url}/api/ibkr"
        turns = (
            (bare, f"{bare_url}/"),
            (ours.facade, f"{api}/status"),
            (bare, f"{bare_url}/"),
            (ours.facade, f"{api}/positions"),
            (other, f"{other_url}/status"),
            (other, f"{other_url}/positions"),
        )
        for _process, url in turns:  # warm
            load(url, seconds=1)
        for _ in range(rounds):
            for (process, url), name in zip(turns, names, strict=True):
                samples[name].measure(process, url)
    base, again = samples["bare"], samples["again"]
    notes = {"client": CLIENT}
    for row, name, what, least, most in (
        ("1", "status", "GET /status", 0.9, 1.1),
        ("2", "positions", "GET /positions (25 rows)", 0.8, None),
    ):
        rate, cpu = ratio(samples[name].rate, base.rate), ratio(samples[name].cpu, base.cpu)
        control_rate, control_cpu = ratio(again.rate, base.rate), ratio(again.cpu, base.cpu)
        told = f"{what} ÷ bare handler, requests/s"
        yield Figure(row, told, f"≥ {least}", rate, at_least(least, rate), "×", control_rate, notes)
        goal, reached = (f"≤ {most}", at_most(most, cpu)) if most else ("", None)
        yield Figure(row, f"{what} ÷ bare handler, CPU a request", goal, cpu, reached, "×", control_cpu)
    for row, mine, theirs in (("1", "status", "peer"), ("2", "positions", "peer positions")):
        what = f"GET /{mine} ÷ FastAPI peer"
        yield Figure(row, f"{what}, requests/s", "", ratio(samples[mine].rate, samples[theirs].rate), unit="×")
        yield Figure(
            row, f"{what}, median latency", "", ratio(samples[mine].latency, samples[theirs].latency), unit="×"
        )
