"""What the fault of one part costs the others: NATS that does not answer, a daemon beside another that is stopped."""

from __future__ import annotations

import contextlib
import http.client
import signal
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from clients import Readers, median_age
from measure import Figure, compared, interleaved
from processes import Pace, Process, get, nats_server, stack, unstarted, until
from ticks import EVENTS

RATE = 100
DOWN = 60.0
"""s for which nats-server is stopped, and after that the remote facade must return by itself."""
SECONDS = 2.0
REQUESTS = 6_000
"""Of one p99: sixty are above it; about three seconds."""


@contextlib.contextmanager
def stopped(process: Process) -> Iterator[None]:
    process.popen.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.popen.send_signal(signal.SIGCONT)


def outages(rounds: int) -> Iterator[Figure]:
    yield from without_nats(rounds)
    yield from beside_a_stopped_daemon(rounds)


def without_nats(rounds: int) -> Iterator[Figure]:
    """A local reader's ticks, with nats-server and while it is stopped."""
    with nats_server() as (server, url), stack(pace=Pace(RATE), IBKR_NATS_URL=url) as ours:
        _, remote = ours.another_facade(IBKR_SESSIONS="default=nats", IBKR_NATS_URL=url)

        def connected() -> bool:
            return bool(get(f"{remote}/api/ibkr/status")["connected"])

        def age() -> float:
            return median_age(ours.url, EVENTS, SECONDS)

        def cpu() -> float:
            with Readers(ours.url, EVENTS, 1) as readers:
                readers.read(0.5)
                used = ours.daemon.cpu()
                readers.read(SECONDS)
                return (ours.daemon.cpu() - used) / readers.events

        def down(measure: Callable[[], float]) -> float:
            with stopped(server):
                until(lambda: not connected())
                found = measure()
            until(connected)
            return found

        got = interleaved(rounds, up=age, down=lambda: down(age), again=age)
        what = f"tick → event of a local reader at {RATE}/s, NATS stopped ÷ running, p50"
        yield compared("11", what, got, "down", "up", "≤ 1.1", "again")
        got = interleaved(rounds, up=cpu, down=lambda: down(cpu), again=cpu)
        yield compared("11", "CPU of the daemon per event, the same", got, "down", "up", "≤ 1.1", "again")
        with stopped(server):
            time.sleep(DOWN)
        yield Figure("11", f"a remote facade after {DOWN:.0f} s without NATS", [until(connected)], "≤ 8", "s")


def beside_a_stopped_daemon(rounds: int) -> Iterator[Figure]:
    """One facade before two daemons, each with its own gateway."""
    with unstarted() as live, unstarted() as paper:
        for one in (live, paper):
            one.start_daemon(25, Pace(RATE))
        sockets = {name: one.environ["IBKR_SOCKET"] for name, one in (("live", live), ("paper", paper))}
        facade, url = live.another_facade(IBKR_SESSIONS=",".join(f"{name}={path}" for name, path in sockets.items()))
        for name in sockets:
            until(lambda name=name: get(f"{url}/api/ibkr/sessions/{name}/status")["connected"])

        def p99() -> float:
            return slowest_percent(url, "/api/ibkr/sessions/live/positions")

        def cpu() -> float:
            used = facade.cpu()
            p99()
            return (facade.cpu() - used) / REQUESTS

        def beside(measure: Callable[[], float]) -> float:
            with stopped(paper.daemon):
                until(lambda: not get(f"{url}/api/ibkr/sessions/paper/status")["connected"])
                found = measure()
            until(lambda: get(f"{url}/api/ibkr/sessions/paper/status")["connected"])
            return found

        got = interleaved(rounds, before=p99, beside=lambda: beside(p99), again=p99)
        what = "p99 of GET positions of one session, the other's daemon stopped ÷ running"
        yield compared("10", what, got, "beside", "before", "≤ 1.2", "again")
        got = interleaved(rounds, before=cpu, beside=lambda: beside(cpu), again=cpu)
        yield compared("10", "CPU of the facade per request, the same", got, "beside", "before", "", "again")


def slowest_percent(url: str, path: str) -> float:
    """The 99th percentile of requests one after the other on one connection, s."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    took = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        took.append(time.perf_counter() - begun)
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
    connection.close()
    return sorted(took)[REQUESTS * 99 // 100]
