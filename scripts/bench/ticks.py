"""Rows 4 and 5: a tick on its way to event clients: its age there, and the processor time that it costs.

Each side has a gateway of its own that sends nothing while the other is measured.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clients import Readers, median_age, subscribe
from measure import Figure, Samples, compared, interleaved, ratios
from processes import (
    Gateway,
    Pace,
    Process,
    first_line,
    free_port,
    gateway,
    get,
    nats_server,
    peer,
    python,
    server,
    stack,
    until,
)

CON_ID = 265598
EVENTS = f"/api/ibkr/events?topics=quotes:{CON_ID}"
SECONDS = 0.8
WARM = 0.3  # s after the ticks have begun


@dataclass(frozen=True)
class Side:
    """One of two that are compared: where its events are, whose processor time counts, and its gateway."""

    url: str
    target: str
    processes: tuple[Process, ...]
    gateway: Gateway

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        self.gateway.send("quiet=off")
        try:
            time.sleep(WARM)
            yield
        finally:
            self.gateway.send("quiet=on")

    def cpu(self) -> float:
        return sum(process.cpu() for process in self.processes)

    def age(self) -> float:
        """s from a tick's sending to its event, p50."""
        with self.ticking():
            return median_age(self.url, self.target, SECONDS)

    def cpu_per_tick(self) -> float:
        """s of processor time, with one client that reads."""
        sock, _rest = subscribe(self.url, self.target)
        with sock, self.ticking():
            used, sent = self.cpu(), self.gateway.status()["ticks"]
            ends = time.monotonic() + SECONDS
            sock.settimeout(0.1)
            while time.monotonic() < ends:
                with contextlib.suppress(TimeoutError):
                    sock.recv(1 << 18)
            return (self.cpu() - used) / (self.gateway.status()["ticks"] - sent)

    def cpu_per_event(self, clients: int) -> float:
        """s of processor time of all processes per event that reached one of `clients`."""
        with Readers(self.url, self.target, clients) as readers, self.ticking():
            readers.read(WARM)
            used = self.cpu()
            readers.read(SECONDS)
            return (self.cpu() - used) / readers.events


@contextlib.contextmanager
def whole(pace: Pace) -> Iterator[Side]:
    """Gateway, daemon and facade; the processor time of daemon and facade."""
    with stack(pace=pace) as ours:
        ours.gateway.send("quiet=on")
        yield Side(ours.url, EVENTS, (ours.daemon, ours.facade), ours.gateway)


@contextlib.contextmanager
def in_process(pace: Pace) -> Iterator[Side]:
    """FastAPI, uvicorn and ib_async in one process, with an event stream as people write it."""
    with gateway(pace=pace) as simulated, peer(simulated.port) as (process, url):
        simulated.send("quiet=on")
        yield Side(url, f"/api/ibkr/events?conId={CON_ID}", (process,), simulated)


@contextlib.contextmanager
def alone(pace: Pace) -> Iterator[Side]:
    """ib_async in one process with a hand-written event stream."""
    with gateway(pace=pace) as simulated:
        simulated.send("quiet=on")
        port = free_port()
        process = python("alone", "one_process.py", str(port), str(simulated.port), str(CON_ID))
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: get(f"{url}/ready"))
            yield Side(url, "/events", (process,), simulated)
        finally:
            process.stop()


@contextlib.contextmanager
def hopping(first: Side) -> Iterator[Side]:
    """The same with a second process that passes the bytes on: the least that two processes cost."""
    with server("hop", "hop.py", first.url.rpartition(":")[2], ready="/ready") as (process, url):
        yield Side(url, "/events", (*first.processes, process), first.gateway)


@contextlib.contextmanager
def over_nats(pace: Pace) -> Iterator[Side]:
    """Gateway, daemon, nats-server and a facade that reaches the daemon by it alone; their processor time."""
    with nats_server() as (nats, url), stack(pace=pace, IBKR_NATS_URL=url) as ours:
        facade, at = ours.another_facade(IBKR_SESSIONS="default=nats")
        ours.facade.stop()
        ours.gateway.send("quiet=on")
        yield Side(at, EVENTS, (ours.daemon, nats, facade), ours.gateway)


# --- rows -----------------------------------------------------------------------------------------------------------


def latency(rounds: int) -> Iterator[Figure]:
    for rate in (100, 1_000):
        pace = Pace(rate)
        with whole(pace) as ours, alone(pace) as one, hopping(one) as two, in_process(pace) as other:
            got = interleaved(rounds, other=other.age, ours=ours.age, again=other.age, one=one.age, two=two.age)
        yield compared("4", f"tick → event at {rate}/s, p50 ÷ FastAPI peer", got, "ours", "other", "", "again")
        floor = "ib_async and sockets in one process, and another that passes its bytes on"
        yield compared("4", f"the same ÷ the floor, {floor}", got, "ours", "two", "≤ 1.5")
        yield compared("4", "the floor ÷ that one process alone", got, "two", "one")


def delivery(rounds: int) -> Iterator[Figure]:
    """CPU of all processes per delivered event. The floor is of interest where sending is not nearly all of it."""
    for rate in (100, 1_000):
        pace = Pace(rate)
        with whole(pace) as ours, alone(pace) as one, hopping(one) as two, in_process(pace) as other:

            def cost(side: Side, clients: int) -> Callable[[], float]:
                return lambda: side.cpu_per_event(clients)

            few = {"one": cost(one, 10), "two": cost(two, 10)}
            for clients, goal, floor in ((10, "≤ 1.5", few), (100, "≤ 1", {})):
                theirs = cost(other, clients)
                got = interleaved(rounds, other=theirs, ours=cost(ours, clients), again=theirs, **floor)
                what = f"CPU of all processes per event, {clients} readers at {rate} ticks/s ÷ FastAPI peer"
                yield compared("4", what, got, "ours", "other", goal, "again")
                if floor:
                    yield compared("4", "floor: a second process that only passes bytes on ÷ one", got, "two", "one")


def scaleout(rounds: int) -> Iterator[Figure]:
    """A remote facade over NATS beside a local one."""
    readers = 10
    for rate in (20, 100):
        pace = Pace(rate)
        with whole(pace) as local, over_nats(pace) as remote:
            got = interleaved(rounds, local=local.age, remote=remote.age, again=local.age)
            yield compared(
                "11", f"tick → event at {rate}/s over NATS ÷ local facade", got, "remote", "local", "", "again"
            )

            def near() -> float:
                return local.cpu_per_event(readers)

            got = interleaved(rounds, local=near, remote=lambda: remote.cpu_per_event(readers), again=near)
        what = f"CPU of all processes, nats-server too, per event, {readers} readers at {rate} ticks/s ÷ local facade"
        yield compared("11", what, got, "remote", "local", "", "again")


def processing(rounds: int) -> Iterator[Figure]:
    for pace, what in (
        (Pace(100), "a tick a packet, 100/s"),
        (Pace(1_000), "a tick a packet, 1 000/s"),
        (Pace(5_000, 100), "100 ticks a packet, 5 000/s"),
    ):
        with stack(pace=pace) as running, alone(pace) as one:
            running.gateway.send("quiet=on")
            ours = Side(running.url, EVENTS, (running.daemon,), running.gateway)
            got = interleaved(rounds, one=one.cpu_per_tick, ours=ours.cpu_per_tick, again=one.cpu_per_tick)
        what = f"daemon CPU a tick ÷ ib_async that writes each packet as JSON to one client, {what}"
        yield compared("5", what, got, "ours", "one", "≤ 1.25", "again")


def backlog(rounds: int) -> Iterator[Figure]:
    """A backlog of ticks handed to the session in one piece."""
    with gateway() as simulated:
        process = python("backlog", "backlog.py", str(simulated.port), str(CON_ID), str(rounds), read=True)
        try:
            got: Samples = json.loads(first_line(process, 300))
        finally:
            process.stop()
    what = "a backlog of 256 KB of ticks ÷ ib_async's own time"
    yield compared("5", what, got, "ours", "theirs", "≤ 0.6", "again", "ms")
    growth = [value / 4 for value in ratios(got["large"], got["ours"])]
    yield Figure("5", "a backlog of 1 MB ÷ four of 256 KB", growth, "≤ 1.1", "×")
