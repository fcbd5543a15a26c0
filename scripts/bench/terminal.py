"""Row 11: `ibkr status` beside a bare interpreter start."""

from __future__ import annotations

import os
import subprocess
import time
import venv
from collections.abc import Iterator

from processes import ROOT, ratio, stack
from report import Figure, at_most

STARTS = 5
"""Of each, a round: one start is at the mercy of whatever else the machine does in those milliseconds."""

SCRIPT = "import sys\nfrom facade.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""What pip makes of the entry point `ibkr`."""


def _seconds(command: list[str], environ: dict[str, str]) -> float:
    begun = time.perf_counter()
    for _ in range(STARTS):
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=30)
    return (time.perf_counter() - begun) / STARTS


def run(rounds: int) -> Iterator[Figure]:
    first, mine, second = [], [], []
    with stack() as ours:
        script = ours.directory / "ibkr"
        script.write_text(SCRIPT)
        environ = ours.environ | {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
        # an environment of its own: what another one imports at every start, for editable installs, would hide ours
        venv.create(ours.directory / "bare", symlinks=os.name != "nt")
        python = str(ours.directory / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        bare, status = [python, "-c", "pass"], [python, str(script), "status"]
        for command in (bare, status):
            _seconds(command, environ)
        for _ in range(rounds):
            first.append(_seconds(bare, environ))
            mine.append(_seconds(status, environ))
            second.append(_seconds(bare, environ))
    ratios = ratio(mine, first)
    yield Figure(
        "11", "ibkr status ÷ a bare interpreter start", "≤ 2.5", ratios, at_most(2.5, ratios), "×", ratio(second, first)
    )
