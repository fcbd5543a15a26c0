"""`python scripts/bench [ROW …]`: the numbers of docs/benchmarks.md, measured on this machine in one run.

Each row starts what it needs (gateway, daemon, facade, the program it is compared with), interleaves its rounds with an
A/A control, and stops everything again. Loopback only, bounded in count and time. Needs the `bench` extra and wrk, for
the remote facades nats-server. All rows take about twenty minutes, which a quiet machine must be left alone for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import fanout
import growth
import link
import outages
import psutil
import restart
import ticks
import web
from measure import Figure, table
from processes import ROOT, Missing

ROWS: dict[str, Callable[[int], Iterator[Figure]]] = {
    "requests": web.requests,
    "restart": restart.restart,
    "latency": ticks.latency,
    "delivery": ticks.delivery,
    "processing": ticks.processing,
    "backlog": ticks.backlog,
    "events": web.events,
    "memory": web.memory,
    "losses": link.losses,
    "ready": link.ready,
    "starts": web.starts,
    "scaleout": ticks.scaleout,
    "growth": growth.growth,
    "fanout": fanout.fanout,
    "outages": outages.outages,
}
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end of what was measured -->\n"
BY_NAME_ONLY = ("fanout", "outages")  # figures of docs/scale-out.md


def main() -> int:
    parser = argparse.ArgumentParser(prog="python scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="default: all but fanout and outages")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    options = parser.parse_args()
    figures: list[Figure] = []
    load, begun = os.getloadavg()[0], time.monotonic()
    for name in options.rows or [name for name in ROWS if name not in BY_NAME_ONLY]:
        started = time.monotonic()
        try:
            for figure in ROWS[name](options.rounds):
                figures.append(figure)
                print("  " + " | ".join(figure.cells()), file=sys.stderr, flush=True)
        except Missing as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    text = f"{_machine(options.rounds, load, time.monotonic() - begun)}\n\n{table(figures)}\n"
    print(text)
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    if options.write:
        head, _, rest = DOCUMENT.read_text().partition(BEGIN)
        DOCUMENT.write_text(head + BEGIN + "\n" + text + "\n" + END + rest.partition(END)[2])
    return 0


def _machine(rounds: int, load: float, seconds: float) -> str:
    """The machine and the run in a sentence."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), processor)
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    return (
        f"Measured on {os.cpu_count()} processors ({processor}), {memory:.0f} GB, {system}, Python "
        f"{platform.python_version()}: {rounds} rounds in {seconds / 60:.0f} minutes, load before it {load:.1f}."
    )


if __name__ == "__main__":
    sys.exit(main())
