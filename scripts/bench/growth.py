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

MB, MS, US = 1e6, 1e3, 1e6
API = "/api/ibkr"
PER_FACADE = 250  # readers; 256 is the most it serves
SECONDS = 2.0
FILLS_A_DAY = 100

Point = tuple[float, dict[str, float]]
LINEAR, CONSTANT = "≤ 1.15", "≤ 0.25"
"""A slope: what grows no faster than its cause, and what does not depend on it, each with room for noise."""


@dataclass(frozen=True)
class Plot:
    """`points`: measures one after the other. `flat`: curves that must not depend on the axis."""

    axis: str
    title: str
    points: Callable[[], Iterator[Point]]
    flat: Sequence[str] = ()


def cpu_of(group: Sequence[Process], seconds: float, meanwhile: Callable[[float], object] = time.sleep) -> float:
    """s of processor time that `group` uses a second."""
    begun, used = time.monotonic(), sum(one.cpu() for one in group)
    meanwhile(seconds)
    return (sum(one.cpu() for one in group) - used) / (time.monotonic() - begun)


def cpu_a_request(process: Process, url: str) -> float:
    """s of processor time that one request costs."""
    used = process.cpu()
    requests = load(url, connections=1, seconds=1).requests
    return (process.cpu() - used) / requests


# --- what is measured -----------------------------------------------------------------------------------------------


def positions() -> Iterator[Point]:
    for held in (10, 100, 1_000, 10_000):
        with stack(held, Pace(100)) as ours:
            side = Side(ours.url, f"{EVENTS},positions,orders", (ours.daemon, ours.facade), ours.gateway)
            event = side.cpu_per_event(10)
            side.gateway.send("quiet=on")
            status, rows = (cpu_a_request(ours.facade, f"{ours.url}{API}/{path}") for path in ("status", "positions"))
            yield (
                held,
                {
                    "GET /status, µs of CPU": status * US,
                    "GET /positions, µs of CPU": rows * US,
                    "an event that is no position, µs of CPU": event * US,
                    "daemon, MB": ours.daemon.resident() / MB,
                    "facade, MB": ours.facade.resident() / MB,
                },
            )


def readers() -> Iterator[Point]:
    with stack(pace=Pace(20)) as ours:
        served = [(ours.facade, ours.url)]
        for clients in (10, 100, 250, 500, 1_000):
            while len(served) * PER_FACADE < clients:
                served.append(ours.another_facade())
            with contextlib.ExitStack() as crowd:
                share = clients // len(served)
                reading = [crowd.enter_context(Readers(url, EVENTS, share)) for _, url in served]

                def read(seconds: float, reading: Sequence[Readers] = reading) -> None:
                    ends = time.monotonic() + seconds
                    while time.monotonic() < ends:
                        for each in reading:
                            each.read(0.02)

                read(1)
                daemon = cpu_of([ours.daemon], SECONDS, read)
                facades = cpu_of([facade for facade, _ in served], SECONDS, read)
                memory = sum(facade.resident() for facade, _ in served) / MB
            yield (
                clients,
                {"daemon, ms of CPU/s": daemon * MS, "facades, ms of CPU/s": facades * MS, "facades, MB": memory},
            )


def ticks() -> Iterator[Point]:
    paces = (100, 1), (300, 1), (1_000, 1), (3_000, 10), (10_000, 100), (30_000, 300)
    for pace in (Pace(*each) for each in paces):
        with stack(pace=pace) as ours:
            age = median_age(ours.url, EVENTS, burst=pace.burst)
            sent, begun = ours.gateway.status()["ticks"], time.monotonic()
            with Readers(ours.url, EVENTS, 1) as reader:
                used = cpu_of([ours.daemon], SECONDS, reader.read), cpu_of([ours.facade], SECONDS, reader.read)
            rate = (ours.gateway.status()["ticks"] - sent) / (time.monotonic() - begun)
        yield (
            rate,
            {"tick → event, ms": age * MS, "daemon, ms of CPU/s": used[0] * MS, "facade, ms of CPU/s": used[1] * MS},
        )


def sessions() -> Iterator[Point]:
    with contextlib.ExitStack() as running:
        daemons: list[Stack] = []
        for number in (1, 2, 4, 8):
            while len(daemons) < number:
                one = running.enter_context(unstarted())
                one.start_daemon(25)
                daemons.append(one)
            first = daemons[0]
            names = ",".join(f"s{n}={each.environ['IBKR_SOCKET']}" for n, each in enumerate(daemons))
            facade, url = first.another_facade(IBKR_SESSIONS=names, IBKR_SESSION="s0")
            last = f"{url}{API}/sessions/s{number - 1}/status"
            until(lambda last=last: get(last)["connected"])
            idle = cpu_of([facade], SECONDS) * MS
            status = cpu_a_request(facade, last)
            yield (
                number,
                {
                    "facade, MB": facade.resident() / MB,
                    "facade idle, ms of CPU/s": idle,
                    "GET /status, µs of CPU": status * US,
                },
            )
            facade.stop()


def remote() -> Iterator[Point]:
    with (
        nats_server() as (server, url),
        stack(pace=Pace(20), IBKR_NATS_URL=url) as ours,
        contextlib.ExitStack() as reading,
    ):
        facades: list[Process] = []
        for number in (1, 2, 4, 8):
            while len(facades) < number:
                facade, at = ours.another_facade(IBKR_SESSIONS="default=nats")
                facades.append(facade)
                reading.enter_context(Readers(at, EVENTS, 1))
            time.sleep(1)
            names = ("daemon", [ours.daemon]), ("nats-server", [server]), ("facades", facades)
            yield number, {f"{name}, ms of CPU/s": cpu_of(group, SECONDS) * MS for name, group in names}


def ledger() -> Iterator[Point]:
    for days in (1, 10, 100, 700):
        fills = days * FILLS_A_DAY
        with past(days, fills, 0) as (ours, ready):
            since = time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime(time.time() - (days + 1) * 86_400))
            page, whole, found = pages(ours, f"{API}/executions?since={since}&limit=1000", lambda body: body["data"])
            if found < fills:
                raise RuntimeError(f"{found} of {fills} executions")
            yield days, {
                "a page of 1 000 executions, ms of CPU": page * MS,
                "all executions in pages, ms of CPU": whole * MS,
                "daemon, MB": ours.daemon.resident() / MB,
                "the daemon's start until ready, ms of CPU": ready * MS,
            }  # fmt: skip


def link_events() -> Iterator[Point]:
    for events in (100, 1_000, 10_000, 100_000):
        with past(80, 0, events) as (ours, _):
            page, whole, found = pages(
                ours, f"{API}/link/events?since=2000-01-01T00:00:00Z&limit=1000", lambda body: body["data"]["events"]
            )
            if found < events:
                raise RuntimeError(f"{found} of {events} link events")
            yield (
                events,
                {"a page of at most 1 000 events, ms of CPU": page * MS, "all events in pages, ms of CPU": whole * MS},
            )


@contextlib.contextmanager
def past(days: float, fills: int, events: int) -> Iterator[tuple[Stack, float]]:
    """A stack whose ledger has a past, and the s of processor time of its daemon until ready."""
    with unstarted() as ours:
        command = ["past.py", str(ours.directory / "state"), str(days), str(fills), str(events)]
        writing = python("past", *command)
        writing.popen.wait(120)
        ours.start(25, None)
        yield ours, ours.daemon.cpu()


def pages(ours: Stack, path: str, rows: Callable[[Any], Sequence[Any]]) -> tuple[float, float, int]:
    """s of processor time of the first page, of all of them by their `Link` headers, and how many rows they have."""

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
    return first, used() - begun, found


PLOTS = {
    "positions": Plot(
        "positions",
        "One client; then ten readers of a quote beside them",
        positions,
        ("GET /status, µs of CPU", "an event that is no position, µs of CPU"),
    ),
    "readers": Plot("readers", f"20 events/s to each; {PER_FACADE} readers a facade", readers),
    "ticks": Plot("ticks/s", "One line, one reader; a tick a packet up to 1 000/s, then up to 300", ticks),
    "sessions": Plot("sessions", "One facade, one daemon a session", sessions, ("GET /status, µs of CPU",)),
    "remote": Plot("remote facades", "Over NATS, 20 ticks/s, one reader each", remote, ("daemon, ms of CPU/s",)),
    "ledger": Plot(
        "days of ledger",
        f"{FILLS_A_DAY} executions a day",
        ledger,
        ("a page of 1 000 executions, ms of CPU", "daemon, MB", "the daemon's start until ready, ms of CPU"),
    ),
    "events": Plot("link events", "Within the 90 days that are kept", link_events),
}


def growth(rounds: int) -> Iterator[Figure]:  # noqa: ARG001 - each point is measured once, for seconds
    for name, plot in PLOTS.items():
        try:
            points = list(plot.points())
        except Missing as error:
            print(f"growth with {plot.axis} left out: {error}", file=sys.stderr)
            continue
        at = [x for x, _ in points]
        curves = {curve: [values[curve] for _, values in points] for curve in points[0][1]}
        draw(at, curves, plot.axis, plot.title, name)
        for curve, values in curves.items():
            slope = math.log(values[-1] / values[-2]) / math.log(at[-1] / at[-2]) if values[-2] > 0 else 0.0
            text = ", ".join(f"{shown(x)}: {shown(y)}" for x, y in zip(at, values, strict=True))
            goal = CONSTANT if curve in plot.flat else LINEAR
            yield Figure("growth", f"{curve}, by {plot.axis} ({text}): slope", [slope], goal)


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
