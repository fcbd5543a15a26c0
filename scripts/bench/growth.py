"""How cost grows: `python scripts/bench growth` makes docs/growth-positions.png, -streams.png and -ticks.png.

Status and positions latency against positions held, the facade against event clients, the whole chain against ticks a
second; processor time and memory of daemon and facade with each. One facade serves 256 event clients, so that a
thousand are shared among four. Takes about three minutes; the number of rounds does not matter to it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load import CLIENT, load
from processes import ROOT, Pace, Process, Stack, free_port, get, python, stack, subscribe, until
from report import Figure
from streams import Readers
from ticks import EVENTS, latencies

POSITIONS = (1, 10, 100, 1_000, 10_000)
CLIENTS = (1, 10, 100, 250, 500, 1_000)
TICKS = (Pace(100), Pace(300), Pace(1_000), Pace(3_000, 10), Pace(10_000, 100), Pace(30_000, 300), Pace(100_000, 1_000))
A_FACADE = 250  # event clients; 256 is the most it serves
EVENTS_A_SECOND = 20
SECONDS = 4.0
MB = 1e6
DOCS = ROOT / "docs"


@dataclass
class Curves:
    """What was measured at each place on the axis, by name."""

    at: list[float] = field(default_factory=list)
    named: dict[str, list[float]] = field(default_factory=dict)

    def add(self, at: float, **measured: float) -> None:
        self.at.append(at)
        for name, value in measured.items():
            self.named.setdefault(name, []).append(value)

    def figures(self, of: str) -> Iterator[Figure]:
        for name, values in self.named.items():
            points = ", ".join(f"{at:g}: {value:.3g}" for at, value in zip(self.at, values, strict=True))
            notes = dict(zip(map(str, self.at), values, strict=True))
            yield Figure("growth", f"{name.replace('_', ' ')} by {of} ({points})", "", values, notes=notes)


@contextlib.contextmanager
def _used(**processes: Sequence[Process]) -> Iterator[dict[str, float]]:
    """Fills in, at the end of the block, % of one processor and resident MB of each group."""
    told: dict[str, float] = {}
    begun = time.monotonic()
    before = {name: sum(one.cpu() for one in group) for name, group in processes.items()}
    yield told
    seconds = time.monotonic() - begun
    for name, group in processes.items():
        told[f"{name}_CPU_%"] = 100 * (sum(one.cpu() for one in group) - before[name]) / seconds
        told[f"{name}_MB"] = sum(sum(one.memory()) for one in group) / MB


def _positions() -> Curves:
    curves = Curves()
    for held in POSITIONS:
        with stack(positions=held) as ours, _used(daemon=[ours.daemon], facade=[ours.facade]) as used:
            status = load(f"{ours.url}/api/ibkr/status", connections=1, seconds=2)
            rows = load(f"{ours.url}/api/ibkr/positions", connections=1, seconds=2)
        memory = {name: value for name, value in used.items() if name.endswith("MB")}
        curves.add(held, status_ms=status.p50 * 1e3, positions_ms=rows.p50 * 1e3, **memory)
    return curves


@contextlib.contextmanager
def _facades(ours: Stack, number: int) -> Iterator[list[tuple[Process, str]]]:
    """That many facades on the one daemon, ours among them."""
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


def _streams() -> Curves:
    curves = Curves()
    with stack(pace=Pace(EVENTS_A_SECOND)) as ours:
        for clients in CLIENTS:
            with contextlib.ExitStack() as running:
                facades = running.enter_context(_facades(ours, -(-clients // A_FACADE)))
                sock, rest = subscribe(ours.url, EVENTS)
                running.enter_context(sock)
                per = -(-clients // len(facades))
                crowd = [Readers(url, EVENTS, min(per, clients - n * per)) for n, (_, url) in enumerate(facades)]
                for readers in crowd:
                    running.callback(readers.close)
                processes = [process for process, _ in facades]
                with _used(daemon=[ours.daemon], facade=processes) as used:
                    ends = time.monotonic() + SECONDS
                    found: list[float] = []
                    while time.monotonic() < ends:
                        found += latencies(sock, rest, 2 / EVENTS_A_SECOND)
                        rest = b""
                        for readers in crowd:
                            readers.read(0.02)
                curves.add(clients, event_ms=statistics.median(found) * 1e3, **used)
    return curves


def _ticks() -> Curves:
    curves = Curves()
    for pace in TICKS:
        with stack(pace=pace) as ours:
            sock, rest = subscribe(ours.url, EVENTS)
            with sock:
                latencies(sock, rest, 1.0, pace.burst)
                sent = ours.gateway.status()["ticks"]
                begun = time.monotonic()
                with _used(daemon=[ours.daemon], facade=[ours.facade]) as used:
                    found = latencies(sock, b"", SECONDS, pace.burst)
                rate = (ours.gateway.status()["ticks"] - sent) / (time.monotonic() - begun)
            curves.add(rate, event_ms=statistics.median(found) * 1e3, **used)
    return curves


def _draw(curves: Curves, title: str, axis: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}".replace(",", " "))

    groups = [
        [(name, values) for name, values in curves.named.items() if name.endswith(unit)] for unit in ("ms", "%", "MB")
    ]
    groups = [group for group in groups if group]
    figure, panels = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.2), constrained_layout=True)
    for panel, group in zip(panels, groups, strict=True):
        for name, values in group:
            what, _, unit = name.rpartition("_")
            panel.plot(curves.at, values, marker="o", label=what.replace("_CPU", "").replace("_", " "))
        panel.set(xscale="log", xlabel=axis)
        label = {"ms": "p50, ms", "%": "% of one processor", "MB": "resident, MB"}[unit]
        panel.set(ylabel=label)
        panel.xaxis.set_major_formatter(plain)
        if unit == "ms":
            panel.set(yscale="log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(plain)
            panel.yaxis.set_minor_formatter("")
        else:
            panel.set_ylim(0, 1.15 * max(max(values) for _, values in group))
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(frameon=False, loc="best")
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def run(rounds: int) -> Iterator[Figure]:  # noqa: ARG001 - each point is measured once, for seconds
    for measure, of, title, axis, name in (
        (
            _positions,
            "positions",
            f"One client asks ({CLIENT}); memory after it; the facade with its parent",
            "positions held",
            "positions",
        ),
        (
            _streams,
            "event clients",
            f"{EVENTS_A_SECOND} events a second to each; {A_FACADE} clients a facade, all together",
            "event clients",
            "streams",
        ),
        (
            _ticks,
            "ticks/s",
            "One line, one event client; packets of one tick up to 1 000/s, of 10 to 1 000 ticks beyond",
            "ticks a second",
            "ticks",
        ),
    ):
        curves = measure()
        _draw(curves, title, axis, DOCS / f"growth-{name}.png")
        yield from curves.figures(of)
