"""`python scripts/bench [ROW …]`: the numbers of docs/benchmarks.md, measured on this machine in one run.

Each row starts what it needs (gateway, daemon, facade, the program it is compared with), interleaves its rounds with an
A/A control, and stops everything again. Loopback only, bounded in count and time. Needs the `bench` extra and wrk.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import growth
import link
import restart
import ticks
import web
from measure import Figure, table

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
    "stalls": link.stalls,
    "starts": web.starts,
    "growth": growth.growth,
}
BY_NAME_ONLY = ("growth",)  # minutes of load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="default: all but growth")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    figures: list[Figure] = []
    for name in options.rows or [name for name in ROWS if name not in BY_NAME_ONLY]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for figure in ROWS[name](options.rounds):
            figures.append(figure)
            print("  " + " | ".join(figure.cells()), file=sys.stderr, flush=True)
    print(f"\n{platform.platform(terse=True)}, Python {platform.python_version()}, {options.rounds} rounds\n")
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
