"""How cost grows: with positions, readers, ticks, sessions, remote facades, days of ledger, link events.

Each curve's slope is that of its last two points in log-log: 1 is linear, 0 is constant. Draws docs/growth-*.svg.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clients import Readers, load, median_age
from measure import Figure, shown
from processes import ROOT, Missing, Pace, Process, Stack, get, nats_server, python, stack, unstarted, until
from ticks import EVENTS, Side

API = "/api/ibkr"
PER_FACADE = 250  # readers; 256 is the most it serves
SECONDS = 2.0
FILLS_A_DAY = 100

LINEAR, CONSTANT = "≤ 1.15", "≤ 0.25"
"""A slope: what grows no faster than its cause, and what does not depend on it, each with room for noise."""
UNITS = {"µs of CPU": 1e6, "ms of CPU": 1e3, "ms of CPU/s": 1e3, "ms": 1e3, "MB": 1e-6}

Points = Iterator[tuple[float, ...]]
"""The place on the axis, then a value of each curve in s or bytes."""


@dataclass(frozen=True)
class Plot:
    """`curves`: what is measured, with its unit, and the slope that it may have."""

    axis: str
    title: str
    points: Callable[[], Points]
    curves: dict[str, str]


def cpu_of(group: Sequence[Process], meanwhile: Callable[[float], object] = time.sleep) -> float:
    """s of processor time that `group` uses a second."""
    begun, used = time.monotonic(), sum(one.cpu() for one in group)
    meanwhile(SECONDS)
    return (sum(one.cpu() for one in group) - used) / (time.monotonic() - begun)


def cpu_a_request(process: Process, url: str) -> float:
    """s of processor time that one request costs."""
    used = process.cpu()
    requests = load(url, connections=1, seconds=1).requests
    return (process.cpu() - used) / requests


# --- what is measured -----------------------------------------------------------------------------------------------


def positions() -> Points:
    for held in (10, 100, 1_000, 10_000):
        with stack(held, Pace(100)) as ours:
            side = Side(ours.url, f"{EVENTS},positions,orders", (ours.daemon, ours.facade), ours.gateway)
            event = side.cpu_per_event(10)
            status, rows = (cpu_a_request(ours.facade, f"{ours.url}{API}/{path}") for path in ("status", "positions"))
            yield held, status, rows, event, ours.daemon.resident(), ours.facade.resident()


def readers() -> Points:
    with stack(pace=Pace(20)) as ours:
        served = [(ours.facade, ours.url)]
        for clients in (10, 100, 250, 500, 1_000):
            while len(served) * PER_FACADE < clients:
                served.append(ours.another_facade())
            facades = [facade for facade, _ in served]
            with contextlib.ExitStack() as crowd:
                reading = [crowd.enter_context(Readers(url, EVENTS, clients // len(served))) for _, url in served]

                def read(seconds: float, reading: Sequence[Readers] = reading) -> None:
                    ends = time.monotonic() + seconds
                    while time.monotonic() < ends:
                        for each in reading:
                            each.read(0.02)

                read(1)
                used = cpu_of([ours.daemon], read), cpu_of(facades, read)
                yield clients, *used, sum(facade.resident() for facade in facades)


def ticks() -> Points:
    for pace in (Pace(100), Pace(300), Pace(1_000), Pace(3_000, 10), Pace(10_000, 100), Pace(30_000, 300)):
        with stack(pace=pace) as ours:
            age = median_age(ours.url, EVENTS, burst=pace.burst)
            sent, begun = ours.gateway.status()["ticks"], time.monotonic()
            with Readers(ours.url, EVENTS, 1) as reader:
                used = cpu_of([ours.daemon], reader.read), cpu_of([ours.facade], reader.read)
            rate = (ours.gateway.status()["ticks"] - sent) / (time.monotonic() - begun)
            yield rate, age, *used


def sessions() -> Points:
    with contextlib.ExitStack() as running:
        daemons: list[Stack] = []
        for number in (1, 2, 4, 8):
            while len(daemons) < number:
                daemons.append(running.enter_context(unstarted()))
                daemons[-1].start_daemon(25)
            names = ",".join(f"s{n}={each.environ['IBKR_SOCKET']}" for n, each in enumerate(daemons))
            facade, url = daemons[0].another_facade(IBKR_SESSIONS=names, IBKR_SESSION="s0")
            last = f"{url}{API}/sessions/s{number - 1}/status"
            until(lambda last=last: get(last)["connected"])
            yield number, cpu_a_request(facade, last), cpu_of([facade]), facade.resident()
            facade.stop()


def remote() -> Points:
    with contextlib.ExitStack() as running:
        server, url = running.enter_context(nats_server())
        ours = running.enter_context(stack(pace=Pace(20), IBKR_NATS_URL=url))
        facades: list[Process] = []
        for number in (1, 2, 4, 8):
            while len(facades) < number:
                facade, at = ours.another_facade(IBKR_SESSIONS="default=nats")
                facades.append(facade)
                running.enter_context(Readers(at, EVENTS, 1))
            time.sleep(1)
            yield number, cpu_of([ours.daemon]), cpu_of([server]), cpu_of(facades)


def ledger() -> Points:
    for days in (1, 10, 100, 700):
        with past(days, days * FILLS_A_DAY, 0) as ours:
            start = ours.daemon.cpu()
            since = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - (days + 1) * 86_400))
            query = f"{API}/executions?since={since}&limit=1000"
            costs = pages(ours, query, lambda body: body["data"], days * FILLS_A_DAY)
            yield days, *costs, start, ours.daemon.resident()


def link_events() -> Points:
    for events in (100, 1_000, 10_000, 100_000):
        with past(80, 0, events) as ours:
            query = f"{API}/link/events?since=2000-01-01T00:00:00Z&limit=1000"
            yield events, *pages(ours, query, lambda body: body["data"]["events"], events)


@contextlib.contextmanager
def past(days: float, fills: int, events: int) -> Iterator[Stack]:
    """A stack whose ledger has a past."""
    with unstarted() as ours:
        writing = python("past", "past.py", str(ours.directory / "state"), str(days), str(fills), str(events))
        if writing.popen.wait(120) != 0:
            raise RuntimeError("the past could not be written")
        ours.start(25, None)
        yield ours


def pages(ours: Stack, path: str, rows: Callable[[Any], Sequence[Any]], expected: int) -> tuple[float, float]:
    """s of processor time of the first page, and of all of them by their `Link` headers, which have `expected` rows."""

    def used() -> float:
        return ours.daemon.cpu() + ours.facade.cpu()

    get(f"{ours.url}{path}", 30)  # what is cold in both processes
    found, begun, first, next_page = 0, used(), 0.0, path
    while next_page:
        connection = http.client.HTTPConnection("127.0.0.1", ours.http_port, timeout=30)
        connection.request("GET", next_page)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{next_page}: {answer.status} {body[:300]!r}")
        first = first or used() - begun
        found += len(rows(json.loads(body)))
        next_page = answer.headers.get("Link", "").partition("<")[2].partition(">")[0]
    if found < expected:
        raise RuntimeError(f"{found} of {expected} rows of {path}")
    return first, used() - begun


STATUS = "GET /status, µs of CPU"
# fmt: off
PLOTS = {
    "positions": Plot("positions", "Positions held; ten readers of a quote beside them", positions, {
        STATUS: CONSTANT, "GET /positions, µs of CPU": LINEAR, "an event of a quote, µs of CPU": CONSTANT,
        "daemon, MB": LINEAR, "facade, MB": LINEAR,
    }),
    "readers": Plot("readers", f"20 events/s to each; {PER_FACADE} readers a facade", readers, {
        "daemon, ms of CPU/s": LINEAR, "facades, ms of CPU/s": LINEAR, "facades, MB": LINEAR,
    }),
    "ticks": Plot("ticks/s", "One line, one reader; a tick a packet up to 1 000/s, then up to 300", ticks, {
        "tick → event, ms": LINEAR, "daemon, ms of CPU/s": LINEAR, "facade, ms of CPU/s": LINEAR,
    }),
    "sessions": Plot("sessions", "One facade, one daemon a session", sessions, {
        STATUS: CONSTANT, "facade that is idle, ms of CPU/s": LINEAR, "facade, MB": LINEAR,
    }),
    "remote": Plot("remote facades", "Over NATS, 20 ticks/s, one reader each", remote, {
        "daemon, ms of CPU/s": CONSTANT, "nats-server, ms of CPU/s": LINEAR, "facades, ms of CPU/s": LINEAR,
    }),
    "ledger": Plot("days of ledger", f"{FILLS_A_DAY} executions a day", ledger, {
        "a page of at most 1 000 executions, ms of CPU": LINEAR, "all executions in pages, ms of CPU": LINEAR,
        "the daemon's start until ready, ms of CPU": CONSTANT, "daemon, MB": CONSTANT,
    }),
    "events": Plot("link events", "Within the 90 days that are kept", link_events, {
        "a page of at most 1 000 events, ms of CPU": LINEAR, "all events in pages, ms of CPU": LINEAR,
    }),
}
# fmt: on


def growth(rounds: int) -> Iterator[Figure]:  # noqa: ARG001 - each point is measured once, for seconds
    for name, plot in PLOTS.items():
        try:
            points = list(plot.points())
        except Missing as error:
            print(f"growth with {plot.axis} is left out: {error}", file=sys.stderr)
            continue
        at = [x for x, *_ in points]
        curves = {
            curve: [point[number] * UNITS[curve.rpartition(", ")[2]] for point in points]
            for number, curve in enumerate(plot.curves, 1)
        }
        draw(at, curves, plot.axis, plot.title, name)
        for curve, values in curves.items():
            slope = math.log(values[-1] / values[-2]) / math.log(at[-1] / at[-2])
            text = ", ".join(f"{shown(x)}: {shown(y)}" for x, y in zip(at, values, strict=True))
            yield Figure("growth", f"{curve}, by {plot.axis} ({text}): slope", [slope], plot.curves[curve])


def draw(at: Sequence[float], curves: dict[str, list[float]], axis: str, title: str, name: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9})
    from matplotlib import pyplot as plt

    units = list(dict.fromkeys(curve.rpartition(", ")[2] for curve in curves))
    figure, panels = plt.subplots(
        1, len(units), figsize=(3.8 * len(units), 2.8), constrained_layout=True, squeeze=False
    )
    for panel, unit in zip(panels[0], units, strict=True):
        for curve, values in curves.items():
            if curve.endswith(f", {unit}"):
                panel.plot(at, values, marker="o", markersize=4, label=curve.removesuffix(f", {unit}"))
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel=unit)
        panel.minorticks_off()
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(frameon=False, loc="best")
    figure.suptitle(title, fontsize=10)
    figure.savefig(ROOT / "docs" / f"growth-{name}.svg", metadata={"Date": None})
    plt.close(figure)
