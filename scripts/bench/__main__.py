"""`python scripts/bench [ROW …]`: the numbers of the design, measured on this machine in one run.

Each row starts what it needs (simulator, daemon, facade, the thing compared with), interleaves its rounds and stops it
all again. Loopback only, bounded in count and time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from report import Figure, table

ROWS = {
    "requests": ("http_get", "rows 1 and 2: what a GET costs"),
    "restart": ("restart", "row 3: a facade restart under load"),
    "ticks": ("ticks", "rows 4 and 5: a tick's way, its latency and processor time"),
    "streams": ("streams", "row 6: events to 100 clients"),
    "memory": ("memory", "row 7: resident memory"),
    "link": ("link_times", "rows 8, 9 and 10: how fast a loss is seen, and how fast all is ready again"),
    "terminal": ("terminal", "row 11: ibkr status"),
    "stalls": ("stalls", "stalls of the daemon's loop with 10 000 positions"),
    "growth": ("growth", "how cost grows, as plots"),
}
LEFT_OUT = ("growth",)  # asked for by name only: minutes of load


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python scripts/bench",
        description=__doc__,
        epilog="; ".join(f"{name}: {does}" for name, (_, does) in ROWS.items()),
    )
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="default: all but growth")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    figures: list[Figure] = []
    for name in options.rows or [name for name in ROWS if name not in LEFT_OUT]:
        print(f"{name} ...", file=sys.stderr, flush=True)
        for figure in importlib.import_module(ROWS[name][0]).run(options.rounds):
            figures.append(figure)
            print(f"  {figure.what}: {figure.median:.3g} {figure.unit} (goal {figure.goal or 'none'})", file=sys.stderr)
    print(f"\n{platform.platform(terse=True)}, Python {platform.python_version()}, {options.rounds} rounds\n")
    print(table(figures))
    if options.json:
        Path(options.json).write_text(json.dumps([figure.as_dict() for figure in figures], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
