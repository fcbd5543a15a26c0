"""How cost grows with positions, event clients and ticks: `python scripts/bench growth`.

Prints each curve with its slope in log-log over the last two points (1: linear, 0: constant), draws docs/growth-*.png.
One facade serves 256 event clients, so that a thousand are shared among four. About three minutes.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Sequence

from clients import Readers, ages, load, subscribe
from measure import Figure, shown
from processes import ROOT, Pace, Process, Stack, free_port, get, python, stack, until
from ticks import EVENTS

POSITIONS = (1, 10, 100, 1_000, 10_000)
CLIENTS = (1, 10, 100, 250, 500, 1_000)
TICKS = (Pace(100), Pace(300), Pace(1_000), Pace(3_000, 10), Pace(10_000, 100), Pace(30_000, 300), Pace(100_000, 1_000))
PER_FACADE = 250  # event clients; 256 is the most it serves
EVENT_RATE = 20  # ticks/s
SECONDS = 4.0
MB = 1e6

Point = tuple[float, dict[str, float]]


@contextlib.contextmanager
def usage(**processes: Sequence[Process]) -> Iterator[dict[str, float]]:
    """Filled in at the end of the block: % of one processor and resident MB of each group."""
    used: dict[str, float] = {}
    begun = time.monotonic()
    before = {name: sum(one.cpu() for one in group) for name, group in processes.items()}
    yield used
    seconds = time.monotonic() - begun
    for name, group in processes.items():
        used[f"{name}, %"] = 100 * (sum(one.cpu() for one in group) - before[name]) / seconds
        used[f"{name}, MB"] = sum(sum(one.memory()) for one in group) / MB


def positions() -> Iterator[Point]:
    for held in POSITIONS:
        with stack(positions=held) as ours, usage(daemon=[ours.daemon], facade=[ours.facade]) as used:
            status = load(f"{ours.url}/api/ibkr/status", connections=1)
            rows = load(f"{ours.url}/api/ibkr/positions", connections=1)
        memory = {name: value for name, value in used.items() if name.endswith("MB")}
        yield held, {"status, ms": status.p50 * 1e3, "positions, ms": rows.p50 * 1e3, **memory}


@contextlib.contextmanager
def facades(ours: Stack, number: int) -> Iterator[list[tuple[Process, str]]]:
    """That many facades on the one daemon, the stack's own among them."""
    made = [(ours.facade, ours.url)]
    try:
        for more in range(1, number):
            port = free_port()
            own = {"IBKR_FACADE_PORT": str(port), "IBKR_STATE_DIR": str(ours.directory / f"facade{more}")}
            url = f"http://127.0.0.1:{port}"
            made.append((python(f"facade {more}", "-m", "facade", environ=ours.environ | own), url))
            until(lambda url=url: get(f"{url}/api/ibkr/status")["connected"])
        yield made
    finally:
        for process, _url in made[1:]:
            process.stop()


def streams() -> Iterator[Point]:
    with stack(pace=Pace(EVENT_RATE)) as ours:
        for clients in CLIENTS:
            with contextlib.ExitStack() as running:
                served = running.enter_context(facades(ours, -(-clients // PER_FACADE)))
                sock, rest = subscribe(ours.url, EVENTS)
                running.enter_context(sock)
                per = -(-clients // len(served))
                crowd = [
                    running.enter_context(Readers(url, EVENTS, min(per, clients - n * per)))
                    for n, (_, url) in enumerate(served)
                ]
                found: list[float] = []
                with usage(daemon=[ours.daemon], facade=[process for process, _ in served]) as used:
                    ends = time.monotonic() + SECONDS
                    while time.monotonic() < ends:
                        found += ages(sock, rest, 2 / EVENT_RATE)
                        rest = b""
                        for readers in crowd:
                            readers.read(0.02)
            yield clients, {"event, ms": statistics.median(found) * 1e3, **used}


def ticks() -> Iterator[Point]:
    for pace in TICKS:
        with stack(pace=pace) as ours:
            sock, rest = subscribe(ours.url, EVENTS)
            with sock:
                ages(sock, rest, 1.0, pace.burst)
                sent = ours.gateway.status()["ticks"]
                begun = time.monotonic()
                with usage(daemon=[ours.daemon], facade=[ours.facade]) as used:
                    found = ages(sock, b"", SECONDS, pace.burst)
                rate = (ours.gateway.status()["ticks"] - sent) / (time.monotonic() - begun)
        yield rate, {"event, ms": statistics.median(found) * 1e3, **used}


PLOTS = {
    "positions": (positions, "positions", "One client; memory after it; the facade with its keeper"),
    "streams": (streams, "event clients", f"{EVENT_RATE} events a second to each; {PER_FACADE} clients a facade"),
    "ticks": (ticks, "ticks/s", "One line, one client; a tick a packet up to 1 000/s, up to 1 000 a packet beyond"),
}


def growth(rounds: int) -> Iterator[Figure]:  # noqa: ARG001 - each point is measured once, for seconds
    for name, (measure, axis, title) in PLOTS.items():
        points = list(measure())
        at = [x for x, _ in points]
        curves = {curve: [values[curve] for _, values in points] for curve in points[0][1]}
        draw(at, curves, axis, title, name)
        for curve, values in curves.items():
            slope = math.log(values[-1] / values[-2]) / math.log(at[-1] / at[-2]) if values[-2] > 0 else 0.0
            text = ", ".join(f"{shown(x)}: {shown(y)}" for x, y in zip(at, values, strict=True))
            yield Figure("growth", f"{curve} by {axis} ({text}); slope at the end", [slope])


def draw(at: Sequence[float], curves: dict[str, list[float]], axis: str, title: str, name: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    units = list(dict.fromkeys(curve.rpartition(", ")[2] for curve in curves))
    figure, panels = plt.subplots(1, len(units), figsize=(4.2 * len(units), 3.2), constrained_layout=True)
    for panel, unit in zip(panels, units, strict=True):
        for curve, values in curves.items():
            if curve.endswith(f", {unit}"):
                panel.plot(at, values, marker="o", label=curve.removesuffix(f", {unit}"))
        label = {"ms": "p50, ms", "%": "% of one processor", "MB": "resident, MB"}[unit]
        panel.set(xscale="log", yscale="log" if unit == "ms" else "linear", xlabel=axis, ylabel=label)
        if unit != "ms":
            panel.set_ylim(bottom=0)
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(frameon=False, loc="best")
    figure.suptitle(title)
    figure.savefig(ROOT / "docs" / f"growth-{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)
