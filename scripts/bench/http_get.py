"""Rows 1 and 2: what a GET costs, beside a bare aiohttp handler and beside the peer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from load import CLIENT, load
from processes import HERE, Process, free_port, get, python, server, stack, until
from report import Figure, at_least, at_most

SECONDS = 2.0
"""s of load a round: wrk's figures settle within one."""


@dataclass
class Sample:
    rate: list[float]
    cpu: list[float]  # s of processor time a request
    latency: list[float]


def measure(process: Process, url: str, into: Sample) -> None:
    before = process.cpu()
    done = load(url, seconds=SECONDS)
    if done.errors or not done.requests:
        raise RuntimeError(f"{url}: {done.errors} errors in {done.requests} requests")
    into.rate.append(done.rate)
    into.cpu.append((process.cpu() - before) / done.requests)
    into.latency.append(done.p50)


@contextlib.contextmanager
def peer(gateway_port: int) -> Iterator[tuple[Process, str]]:
    port = free_port()
    process = python(
        "peer", str(HERE / "peers" / "web_app.py"), str(port), environ={"PEER_GATEWAY_PORT": str(gateway_port)}
    )
    url = f"http://127.0.0.1:{port}/api/ibkr"
    try:
        until(lambda: get(f"{url}/status")["connected"] and get(f"{url}/positions"))
        yield process, url
    finally:
        process.stop()


def _ratio(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def run(rounds: int) -> Iterator[Figure]:
    """Interleaved rounds: bare, status, positions, peer's two, bare again (the control)."""
    samples = {name: Sample([], [], []) for name in ("bare", "status", "positions", "peer", "peer positions", "again")}
    with stack() as ours, server("bare", "bare.py") as (bare, bare_url), peer(ours.gateway_port) as (other, other_url):
        assert ours.facade is not None
        api = f"{ours.url}/api/ibkr"
        turns = (
            (bare, f"{bare_url}/", "bare"),
            (ours.facade, f"{api}/status", "status"),
            (ours.facade, f"{api}/positions", "positions"),
            (other, f"{other_url}/status", "peer"),
            (other, f"{other_url}/positions", "peer positions"),
            (bare, f"{bare_url}/", "again"),
        )
        for _process, url, _name in turns:  # warm
            load(url, seconds=1)
        for _ in range(rounds):
            for process, url, name in turns:
                measure(process, url, samples[name])
    bare_sample, again = samples["bare"], samples["again"]
    notes = {"client": CLIENT, "rounds": rounds}
    control_rate, control_cpu = _ratio(again.rate, bare_sample.rate), _ratio(again.cpu, bare_sample.cpu)
    rate = _ratio(samples["status"].rate, bare_sample.rate)
    cpu = _ratio(samples["status"].cpu, bare_sample.cpu)
    yield Figure(
        "1", "GET /status ÷ bare handler, requests/s", "≥ 0.9", rate, at_least(0.9, rate), "×", control_rate, notes
    )
    yield Figure("1", "GET /status ÷ bare handler, CPU a request", "≤ 1.1", cpu, at_most(1.1, cpu), "×", control_cpu)
    rate = _ratio(samples["positions"].rate, bare_sample.rate)
    yield Figure(
        "2", "GET /positions (25) ÷ bare handler, requests/s", "≥ 0.8", rate, at_least(0.8, rate), "×", control_rate
    )
    for mine, theirs, what in (("status", "peer", "/status"), ("positions", "peer positions", "/positions (25)")):
        faster = _ratio(samples[mine].rate, samples[theirs].rate)
        yield Figure("1–2", f"GET {what} ÷ FastAPI peer, requests/s", "", faster, unit="×")
        quicker = _ratio(samples[mine].latency, samples[theirs].latency)
        yield Figure("1–2", f"GET {what} ÷ FastAPI peer, median latency", "", quicker, unit="×")
