"""Rows 1, 2, 6, 7 and 11: HTTP requests, events to many clients, memory, cold start, `ibkr status`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator

from clients import Readers, load, median_age, request, subscribe
from measure import Figure, compared, interleaved
from processes import ROOT, Pace, Process, Stack, free_port, peer, python, server, stack, together, until

QUOTE = "/api/ibkr/events?topics=quotes:265598"
MB = 1e6


# --- requests -------------------------------------------------------------------------------------------------------


def requests(rounds: int) -> Iterator[Figure]:
    """A GET beside a bare aiohttp handler and beside the FastAPI peer, which runs on uvloop and httptools."""
    with (
        stack() as ours,
        stack(1_000) as large,
        server("bare", "bare.py") as (_, bare),
        peer(ours.gateway.port) as (_, other),
        peer(large.gateway.port) as (_, other_large),
    ):
        urls = {
            "bare": f"{bare}/",
            "status": f"{ours.url}/api/ibkr/status",
            "again": f"{bare}/",
            "positions": f"{ours.url}/api/ibkr/positions",
            "large": f"{large.url}/api/ibkr/positions",
            "peer status": f"{other}/status",
            "peer positions": f"{other}/positions",
            "peer large": f"{other_large}/positions",
        }
        for url in urls.values():
            load(url, seconds=1)
        got = interleaved(rounds, **{name: (lambda url=url: load(url).rate) for name, url in urls.items()})
    bare_handler = "÷ a bare web.Application handler, requests/s"
    yield compared("1", f"GET /status {bare_handler}", got, "status", "bare", "≥ 0.75", "again", "")
    yield compared("1", "GET /status ÷ FastAPI peer, requests/s", got, "status", "peer status", "≥ 1.7", unit="")
    yield compared("2", f"GET /positions (25) {bare_handler}", got, "positions", "bare", "≥ 0.65", unit="")
    yield compared("2", "GET /positions (25) ÷ FastAPI peer", got, "positions", "peer positions", "≥ 2.2", unit="")
    yield compared("2", "GET /positions (1 000) ÷ FastAPI peer", got, "large", "peer large", unit="")


# --- events ---------------------------------------------------------------------------------------------------------


def events(rounds: int) -> Iterator[Figure]:
    """100 events/s to each of 100 clients beside as many bytes sent raw; and beside clients that do not read."""
    clients, rate, stalled = 100, 100, 10
    with stack(pace=Pace(rate)) as ours:
        with Readers(ours.url, QUOTE, clients) as readers:
            readers.read(2)
            size = readers.octets // readers.events
        port = free_port()
        floor = python("floor", "floor.py", str(port), str(rate), str(size))
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)

            def cost(process: Process, url: str, target: str) -> Callable[[], float]:
                return lambda: _cpu_an_event(process, url, target, clients, rate)

            raw = cost(floor, url, "/")
            got = interleaved(rounds, ours=cost(ours.facade, ours.url, QUOTE), raw=raw, again=raw)
        finally:
            floor.stop()
        what = f"raw send floor ÷ {rate} events/s to {clients} clients, CPU an event of {size} B"
        yield compared("6", what, got, "raw", "ours", "≥ 0.55")
        yield compared("6", "the floor ÷ itself", got, "again", "raw")

        def alone() -> float:
            return median_age(ours.url, QUOTE)

        def beside() -> float:
            with contextlib.ExitStack() as silent:
                for _ in range(stalled):
                    silent.enter_context(subscribe(ours.url, QUOTE)[0])
                return alone()

        got = interleaved(rounds, alone=alone, beside=beside, again=alone)
        what = f"p50 of an event beside {stalled} clients that do not read ÷ without them"
        yield compared("6", what, got, "beside", "alone", "≤ 1.2", "again")


def _cpu_an_event(process: Process, url: str, target: str, clients: int, rate: float, tries: int = 3) -> float:
    """s of processor time an event and client. Again where the machine was busy: then events are merged."""
    for _ in range(tries):
        with Readers(url, target, clients) as readers:
            readers.read(1)
            before = process.cpu()
            readers.read(2)
            if readers.events > 0.8 * rate * clients * 2:
                return (process.cpu() - before) / readers.events
    raise RuntimeError(f"only {readers.events} events came from {url}{target}")


# --- memory ---------------------------------------------------------------------------------------------------------


def memory(rounds: int) -> Iterator[Figure]:
    streams = 200  # one stream's cost is then well above the noise of the process; 256 is the most a facade serves
    got: dict[str, list[float]] = {"all": [], "peer": [], "sum": [], "sum of peer": [], "stream": []}
    for _ in range(min(rounds, 3)):  # memory hardly varies
        with stack() as ours, peer(ours.gateway.port) as (other, _):
            got["all"].append(together(ours.daemon, ours.facade) / MB)
            got["peer"].append(together(other) / MB)
            keeper, *children = ours.facade.memory()
            parts = {"daemon": ours.daemon.resident(), "keeper": keeper, "facade": max(children)}
            got["sum"].append(sum(parts.values()) / MB)
            got["sum of peer"].append(other.resident() / MB)
            shares = ", ".join(f"{name} {size / MB:.0f}" for name, size in parts.items())
            with contextlib.ExitStack() as open_streams:
                for _ in range(streams):
                    sock, data = subscribe(ours.url, "/api/ibkr/events?topics=link,positions,orders,pnl")
                    open_streams.enter_context(sock)
                    while b'"complete":true' not in data:
                        data += sock.recv(1 << 18)
                got["stream"].append((max(ours.facade.memory()) - max(children)) / streams / 1000)
    what = "memory of all processes ÷ the peer's one, what several map of a file counted once"
    yield compared("7", what, got, "all", "peer", "≤ 1.8", unit="MB")
    yield compared("7", f"the same as a sum of resident sizes ({shares})", got, "sum", "sum of peer", unit="MB")
    yield Figure("7", "an idle event stream", got["stream"], "≤ 16", "KB")


# --- starts ---------------------------------------------------------------------------------------------------------


def starts(rounds: int) -> Iterator[Figure]:
    """Cold start of the facade to its first 200, and `ibkr status`."""
    with stack() as ours:

        def facade() -> float:
            port = free_port()
            environ = {"IBKR_FACADE_PORT": str(port), "IBKR_STATE_DIR": str(ours.directory / "cold")}
            return _first_200(port, "/api/ibkr/status", "-m", "facade", environ=ours.environ | environ)

        def bare() -> float:
            port = free_port()
            return _first_200(port, "/", "bare.py", str(port))

        got = interleaved(rounds, bare=bare, facade=facade, again=bare)
        yield compared("3", "cold start to the first 200 ÷ bare aiohttp's", got, "facade", "bare", "", "again", "ms")

        interpreter, status = _commands(ours)
        got = interleaved(rounds, bare=interpreter, status=status, again=interpreter)
        yield compared("11", "ibkr status ÷ a bare interpreter", got, "status", "bare", "≤ 4", "again", "ms")


def _first_200(port: int, target: str, *command: str, environ: dict[str, str] | None = None) -> float:
    """s from the start of the process to its first 200."""
    address, head = request(f"http://127.0.0.1:{port}", target)

    def answers() -> bool:
        with socket.create_connection(address, timeout=5) as sock:
            sock.sendall(head)
            return sock.recv(64).startswith(b"HTTP/1.1 200")

    begun = time.perf_counter()
    process = python("cold", *command, environ=environ)
    try:
        until(answers, pause=0.001)
        return time.perf_counter() - begun
    finally:
        process.stop()


def _commands(ours: Stack) -> tuple[Callable[[], float], Callable[[], float]]:
    """A bare interpreter and `ibkr status`, in an environment without the start-up hooks of editable installs."""
    script = ours.directory / "ibkr"
    script.write_text("import sys\nfrom facade.cli import main\nsys.exit(main())\n")
    venv.create(ours.directory / "bare", symlinks=os.name != "nt")
    interpreter = str(ours.directory / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    environ = ours.environ | {"PATH": os.defpath, "PYTHONPATH": path}

    def seconds(*command: str) -> Callable[[], float]:
        def measure(starts: int = 5) -> float:
            begun = time.perf_counter()
            for _ in range(starts):
                subprocess.run([interpreter, *command], env=environ, check=True, stdout=subprocess.DEVNULL, timeout=30)
            return (time.perf_counter() - begun) / starts

        measure(1)
        return measure

    return seconds("-c", "pass"), seconds(str(script), "status")
