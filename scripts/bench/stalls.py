"""Stalls of the daemon's loop with 10 000 positions: first sync, a lost session, 1102, 1101, readers of everything."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from processes import Stack, get, stack, subscribe, until
from report import Figure, at_most

POSITIONS = 10_000
READERS = 8
GOAL = 50.0  # ms
ROUNDS = 3  # each takes some seconds, and its worst turn is what counts
SETTLED = 1.0  # s for what follows a change to be read and told


def _troubles(ours: Stack) -> None:
    positions = f"{ours.url}/api/ibkr/positions"
    until(lambda: len(get(positions)["data"]) == POSITIONS)
    for begin, end in (
        ("drop", "listen"),
        ("lose-upstream", "restore-upstream"),
        ("lose-upstream", "restore-upstream=on"),
    ):
        before = get(f"{ours.url}/api/ibkr/link")["since"]
        ours.tell(begin)
        until(lambda before=before: get(f"{ours.url}/api/ibkr/link")["since"] != before)
        ours.tell(end)
        until(ours.connected)
        time.sleep(SETTLED)
    with contextlib.ExitStack() as reading:
        for _ in range(READERS):
            reading.enter_context(subscribe(ours.url, "/api/ibkr/events")[0])
        ours.tell("update-accounts")
        time.sleep(SETTLED)


def run(rounds: int) -> Iterator[Figure]:
    turns: dict[str, list[float]] = {"wall": [], "cpu": [], "outside": []}
    for _ in range(min(rounds, ROUNDS)):
        with stack(POSITIONS, monitored=True) as ours:
            _troubles(ours)
            found = [json.loads(line) for line in Path(ours.directory, "turns").read_text().splitlines()]
        for name, worst in turns.items():
            worst.append(1e3 * max(turn[name] for turn in found))
    what = f"longest turn of the daemon's loop with {POSITIONS} positions"
    outside = turns["outside"]
    yield Figure(
        "stalls", f"{what}, outside ib_async's decoding", f"≤ {GOAL:.0f} ms", outside, at_most(GOAL, outside), "ms"
    )
    yield Figure("stalls", f"{what}, its own processor time", "", turns["cpu"], unit="ms")
    yield Figure("stalls", f"{what}, on the clock (with what else this machine did)", "", turns["wall"], unit="ms")
