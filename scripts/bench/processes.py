"""Processes for the benchmarks: gateway, daemon and facade, and the programs they are compared with, on free ports.

Each is started, waited for and stopped by its process id. Processor time and memory are read here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).resolve().parent / "programs"


class Missing(Exception):
    pass


UP_LIMIT = 60.0  # s for a process to answer: ten thousand positions on a busy machine


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(url: str, timeout: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def until(found: Callable[[], Any], limit: float = UP_LIMIT, pause: float = 0.01) -> float:
    """Seconds until `found()` is true; an error counts as not yet."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if found():
                return time.perf_counter() - begun
        time.sleep(pause)
    raise TimeoutError(f"not within {limit:.0f} s: {found}")


@dataclass
class Process:
    """One child and those it started."""

    name: str
    popen: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def family(self) -> list[psutil.Process]:
        try:
            own = psutil.Process(self.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """s of processor time so far, user and system, children that live included."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                total += _cpu(process)
        return total

    def memory(self) -> list[int]:
        """Resident bytes of the child and of those it started, in that order."""
        return [process.memory_info().rss for process in self.family()]

    def resident(self) -> int:
        return sum(self.memory())

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                for process in reversed(self.family()):
                    process.kill()
                self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def _cpu(process: psutil.Process) -> float:
    """Linux counts a thread's time in nanoseconds here, everything else in ticks of 10 ms."""
    tasks = Path(f"/proc/{process.pid}/task")
    if not (tasks / str(process.pid) / "schedstat").exists():
        times = process.cpu_times()
        return float(times.user + times.system)
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def together(*processes: Process) -> int:
    """Resident bytes of all of them and their children. What several map of one file is in memory once (Linux)."""
    own, files = 0, dict[tuple[str, str, int], int]()
    for one in (one for process in processes for one in process.family()):
        for part in one.memory_maps(grouped=False):
            copied = part.rss if part.path.startswith("[") else part.private_dirty
            own += copied
            key = part.path, part.perms, part.size
            files[key] = max(files.get(key, 0), part.rss - copied)
    return own + sum(files.values())


def python(name: str, *arguments: str, environ: dict[str, str] | None = None, read: bool = False) -> Process:
    """Start this Python with `arguments`, without this shell's settings; modules are compiled once, as installed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("IBKR_", "PYTHON"))}
    popen = subprocess.Popen(
        [sys.executable, *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | (environ or {}),
        cwd=PROGRAMS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if read else subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCH_LOGS") else subprocess.DEVNULL,
        text=True,
    )
    return Process(name, popen)


def first_line(process: Process, limit: float = UP_LIMIT) -> str:
    """What a child that prints one line has printed."""
    assert process.popen.stdout is not None
    if not select.select([process.popen.stdout], [], [], limit)[0]:
        raise TimeoutError(f"{process.name} printed nothing within {limit:.0f} s")
    return process.popen.stdout.readline().strip()


# --- the gateway ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """Marked ticks on every line: `rate` a second, `burst` of them in one packet."""

    rate: float
    burst: int = 1


@dataclass
class Gateway:
    """A simulated gateway: its process, its port and its control socket."""

    process: Process
    port: int
    control: Path

    def send(self, verb: str) -> str:
        """One verb, and its answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.control))
            sock.sendall(verb.encode() + b"\n")
            with sock.makefile() as lines:
                answer = lines.readline().strip()
        if answer.startswith("error"):
            raise RuntimeError(f"{verb}: {answer}")
        return answer

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.send("status"))
        return status


def start_gateway(directory: Path, positions: int = 25, pace: Pace | None = None) -> Gateway:
    control = directory / "control"
    command = ["-m", "daemon.simulator", "--tick-rate", "0"]
    if pace is not None:
        command = [str(PROGRAMS / "paced_gateway.py"), "--rate", str(pace.rate), "--burst", str(pace.burst)]
    process = python(
        "gateway", *command, "--port", "0", "--positions", str(positions), "--control", str(control), read=True
    )
    try:
        return Gateway(process, int(first_line(process).rpartition(":")[2]), control)
    except BaseException:
        process.stop()
        raise


@contextlib.contextmanager
def gateway(positions: int = 25, pace: Pace | None = None) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        made = start_gateway(Path(directory), positions, pace)
        try:
            yield made
        finally:
            made.process.stop()


# --- our own --------------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """Gateway, daemon and facade in a directory of their own."""

    directory: Path
    extra: dict[str, str] = field(default_factory=dict)
    http_port: int = 0
    gateway: Gateway = field(init=False)
    daemon: Process = field(init=False)
    facade: Process = field(init=False)
    started: list[Process] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        (self.directory / "none.env").touch()
        return {
            "IBKR_ENV_FILE": str(self.directory / "none.env"),
            "IBKR_AUTO_CONNECT": "true",
            "IBKR_PORT": str(self.gateway.port),
            "IBKR_FACADE_PORT": str(self.http_port),
            "IBKR_SOCKET": str(self.directory / "run" / "daemon.sock"),
            "IBKR_STATE_DIR": str(self.directory / "state"),
            "IBKR_LOG_LEVEL": "WARNING",
        } | self.extra

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, positions: int, pace: Pace | None) -> None:
        self.start_daemon(positions, pace)
        self.facade = python("facade", "-m", "facade", environ=self.environ)
        self.started.append(self.facade)
        until(self.connected)

    def start_daemon(self, positions: int, pace: Pace | None = None) -> None:
        self.gateway = start_gateway(self.directory, positions, pace)
        self.started.append(self.gateway.process)
        self.daemon = python("daemon", "-m", "daemon", environ=self.environ)
        self.started.append(self.daemon)
        until((self.directory / "run" / "daemon.sock").exists)

    def another_facade(self, **environ: str) -> tuple[Process, str]:
        """One more facade of the daemon, or of what `environ` names, once it is connected; its URL."""
        port = free_port()
        state = str(self.directory / f"facade-{port}")
        own = {"IBKR_FACADE_PORT": str(port), "IBKR_STATE_DIR": state, "IBKR_SOCKET": self.environ["IBKR_SOCKET"]}
        process = python("facade", "-m", "facade", environ=self.environ | own | environ)
        self.started.append(process)
        url = f"http://127.0.0.1:{port}"
        until(lambda: get(f"{url}/api/ibkr/status")["connected"])
        return process, url

    def stop(self) -> None:
        for process in reversed(self.started):
            process.stop()

    def connected(self) -> bool:
        return bool(get(f"{self.url}/api/ibkr/status")["connected"])


@contextlib.contextmanager
def stack(positions: int = 25, pace: Pace | None = None, **extra: str) -> Iterator[Stack]:
    """All three, connected; stopped in reverse."""
    with unstarted(**extra) as ours:
        ours.start(positions, pace)
        yield ours


@contextlib.contextmanager
def unstarted(**extra: str) -> Iterator[Stack]:
    """A directory of its own; what is started there is stopped in reverse."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        ours = Stack(Path(directory), extra, http_port=free_port())
        try:
            yield ours
        finally:
            ours.stop()


@contextlib.contextmanager
def nats_server() -> Iterator[tuple[Process, str]]:
    """A nats-server with JetStream; its process and URL. Raises `Missing` where it is not installed."""
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if program is None or importlib.util.find_spec("nats") is None:
        raise Missing("nats-server or nats-py is not installed (apt-get install nats-server, pip install '.[nats]')")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        port = free_port()
        command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", directory]
        server = Process("nats-server", subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True))
        try:
            until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
            yield server, f"nats://127.0.0.1:{port}"
        finally:
            server.stop()


@contextlib.contextmanager
def server(name: str, script: str, *arguments: str, ready: str = "/", **environ: str) -> Iterator[tuple[Process, str]]:
    """A script of this folder that serves HTTP on the port it is given; the process and its URL."""
    port = free_port()
    process = python(name, str(PROGRAMS / script), str(port), *arguments, environ=environ)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: get(url + ready))
        yield process, url
    finally:
        process.stop()


@contextlib.contextmanager
def peer(gateway_port: int) -> Iterator[tuple[Process, str]]:
    """The FastAPI application, connected and with its positions; its process and the URL of its API."""
    environ = {"PEER_GATEWAY_PORT": str(gateway_port)}
    with server("peer", "web_app.py", ready="/api/ibkr/status", **environ) as (process, url):
        api = f"{url}/api/ibkr"
        until(lambda: get(f"{api}/status")["connected"] and get(f"{api}/positions"))
        yield process, api
