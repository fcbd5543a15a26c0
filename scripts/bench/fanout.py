"""What a step costs on its way from a daemon over NATS to event readers: the figures of `scripts/fanout.py`.

`python scripts/bench fanout` needs nats-server and the extra `nats`. Each point is measured once, idle and under ticks,
and all of them are written to scripts/bench/fanout.json. About three minutes.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from clients import Readers, median_age
from measure import Figure
from processes import ROOT, Pace, Process, Stack, first_line, free_port, get, python, stack, until
from ticks import EVENTS

FILE = ROOT / "scripts" / "bench" / "fanout.json"
SECONDS = 8.0
IDLE = 5.0
WARM = 1.0
POINTS = (
    *((facades, readers, 50) for facades, readers in ((0, 1), (0, 100), (0, 250), (1, 1), (1, 100), (4, 1), (4, 50))),
    *((facades, 1, 1_000) for facades in (0, 1, 4)),
)
"""Remote facades, 0 for the local one alone; readers of each; ticks/s, each of which is a step."""


@dataclass
class Nats:
    """One nats-server with JetStream and its monitoring port."""

    process: Process
    url: str
    monitor: str

    @property
    def published(self) -> int:
        """Messages that the session's stream has ever taken."""
        accounts = get(f"{self.monitor}/jsz?streams=1&accounts=1")["account_details"]
        return sum(one["state"]["last_seq"] for account in accounts for one in account["stream_detail"])

    @property
    def stored(self) -> tuple[int, int]:
        """Messages and bytes in it."""
        state = get(f"{self.monitor}/jsz")
        return state["messages"], state["bytes"]


@contextlib.contextmanager
def nats(directory: Path) -> Iterator[Nats]:
    program = shutil.which("nats-server")
    if program is None:
        raise RuntimeError("nats-server is not installed (Debian: apt-get install nats-server)")
    port, monitor = free_port(), free_port()
    config = directory / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nhttp: "127.0.0.1:{monitor}"\njetstream {{ store_dir: "{directory}/nats" }}\n'
    )
    process = Process("nats-server", subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL))
    try:
        url = f"http://127.0.0.1:{monitor}"
        until(lambda: get(f"{url}/healthz"))
        yield Nats(process, f"nats://127.0.0.1:{port}", url)
    finally:
        process.stop()


@contextlib.contextmanager
def remote_facades(ours: Stack, server: Nats, number: int) -> Iterator[list[tuple[Process, str]]]:
    made: list[tuple[Process, str]] = []
    try:
        for count in range(number):
            port = free_port()
            own = {
                "IBKR_FACADE_PORT": str(port),
                "IBKR_STATE_DIR": str(ours.directory / f"remote{count}"),
                "IBKR_SESSIONS": "default=nats",
                "IBKR_NATS_URL": server.url,
            }
            url = f"http://127.0.0.1:{port}"
            made.append((python(f"remote {count}", "-m", "facade", environ=ours.environ | own), url))
            until(lambda url=url: get(f"{url}/api/ibkr/status")["connected"])
        yield made
    finally:
        for process, _url in made:
            process.stop()


def used(seconds: float, groups: dict[str, list[Process]], crowd: list[Readers]) -> dict[str, float]:
    """s of processor time of each group, while the readers read, and their events and bytes."""
    before = {name: sum(one.cpu() for one in group) for name, group in groups.items()}
    events = octets = 0
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        for readers in crowd:
            readers.read(0.02)
            events, octets = events + readers.events, octets + readers.octets
    took = time.monotonic() - begun
    found = {name: sum(one.cpu() for one in group) - before[name] for name, group in groups.items()}
    return {**found, "seconds": took, "events": events, "octets": octets}


def point(facades: int, readers: int, rate: int) -> dict[str, float]:
    """One arrangement, idle and under ticks."""
    with contextlib.ExitStack() as running:
        if facades:
            directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            server = running.enter_context(nats(directory))
            ours = running.enter_context(stack(pace=Pace(rate), IBKR_NATS_URL=server.url))
            served = running.enter_context(remote_facades(ours, server, facades))
        else:
            ours = running.enter_context(stack(pace=Pace(rate)))
            served = [(ours.facade, ours.url)]
        ours.gateway.send("quiet=on")
        crowd = [running.enter_context(Readers(url, EVENTS, readers)) for _, url in served]
        groups = {"daemon": [ours.daemon], "facades": [process for process, _ in served]}
        if facades:
            groups["server"] = [server.process]
        used(WARM, groups, crowd)
        idle = used(IDLE, groups, crowd)
        ours.gateway.send("quiet=off")
        used(WARM, groups, crowd)
        first, sent = (server.published if facades else 0), ours.gateway.status()["ticks"]
        busy = used(SECONDS, groups, crowd)
        ticks = ours.gateway.status()["ticks"] - sent
        steps = server.published - first if facades else ticks
        size = 0.0
        if facades:
            messages, stored = server.stored
            size = stored / max(1, messages)
        age = median_age(served[0][1], EVENTS, 2.0) if readers < 250 else 0.0
        made = {
            "remote": facades,
            "readers": readers,
            "rate": rate,
            "ticks": ticks,
            "steps": steps,
            "seconds": busy["seconds"],
            "events": busy["events"],
            "octetsPerEvent": busy["octets"] / max(1.0, busy["events"]),
            "storedPerMessage": size,
            "ageMs": age * 1e3,
        }
        for name in groups:
            made[name] = busy[name]
            made[f"{name}Idle"] = idle[name] / idle["seconds"]
        return made


def fanout(rounds: int) -> Iterator[Figure]:  # noqa: ARG001 - each point is measured once, for seconds
    found = []
    for facades, readers, rate in POINTS:
        made = point(facades, readers, rate)
        found.append(made)
        what = (
            f"{facades or 'the local'} {'facades over NATS' if facades else 'facade'}, {readers} readers each, {rate}/s"
        )
        for name in ("daemon", "server", "facades"):
            if name in made:
                share = 100 * made[name] / made["seconds"]
                yield Figure("fanout", f"{what}: CPU of {name}", [share], unit="%")
        yield Figure("fanout", f"{what}: a tick's age at a reader, p50", [made["ageMs"]], unit="ms")
    program = python("encode", "encode.py", "20000", read=True)
    try:
        encode = float(first_line(program))
    finally:
        program.stop()
    yield Figure("fanout", "a changed row put and encoded once", [encode * 1e6], unit="µs")
    load = psutil.getloadavg()
    facts = {
        "at": f"{datetime.now(UTC):%Y-%m-%d}",
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "loadAverage": round(load[0], 1),
        "encode": encode,
    }
    FILE.write_text(json.dumps({**facts, "points": found}, indent=1) + "\n")
