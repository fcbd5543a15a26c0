"""Row 11: `ibkr status` beside a bare interpreter start."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from processes import ROOT, stack
from report import Figure, at_most


def _seconds(command: list[str], environ: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, timeout=30)
    return time.perf_counter() - begun


def run(rounds: int) -> Iterator[Figure]:
    ratios, control = [], []
    with stack() as ours:
        environ = ours.environ | {"PATH": "/usr/bin:/bin"}
        installed = Path(sys.executable).with_name("ibkr")
        status = [str(installed), "status"] if installed.exists() else [sys.executable, "-m", "facade.cli", "status"]
        environ |= {"PYTHONPATH": str(ROOT)}
        bare = [sys.executable, "-c", "pass"]
        for command in (bare, status):
            _seconds(command, environ)
        for _ in range(max(rounds, 12)):
            first, ours_, second = (_seconds(command, environ) for command in (bare, status, bare))
            ratios.append(ours_ / first)
            control.append(second / first)
    yield Figure("11", "ibkr status ÷ a bare interpreter start", "≤ 2.5", ratios, at_most(2.5, ratios), "×", control)
