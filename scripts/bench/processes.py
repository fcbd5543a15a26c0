"""Processes for the benchmarks: our own three, the bare ones they are compared with; free ports, own directories.

Starts, waits until it answers, stops what it started by its process id. Measures nothing but processor time and memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
UP_LIMIT = 60.0  # s for a process to answer: ten thousand positions on a busy machine


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(url: str, timeout: float = 5.0) -> Any:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return json.load(answer)


def until(found: Any, limit: float = UP_LIMIT, pause: float = 0.01) -> float:
    """Seconds until `found()` is true; an error counts as not yet."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < limit:
        with contextlib.suppress(OSError, ValueError, KeyError):
            if found():
                return time.perf_counter() - begun
        time.sleep(pause)
    raise TimeoutError(f"not so within {limit:.0f} s: {found}")


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
        """s of processor time so far, children that live included."""
        total = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self) -> list[int]:
        """Resident bytes of the child and of those it started, in that order."""
        return [process.memory_info().rss for process in self.family()]

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


def python(name: str, *arguments: str, environ: dict[str, str] | None = None, read: bool = False) -> Process:
    """Start this Python with `arguments`; our own settings never leak in."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("IBKR_")}
    popen = subprocess.Popen(
        [sys.executable, *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | (environ or {}),
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if read else subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCH_LOGS") else subprocess.DEVNULL,
        text=True,
    )
    return Process(name, popen)


@dataclass
class Stack:
    """Simulator, daemon and facade in a directory of their own."""

    directory: Path
    positions: int = 25
    tick_rate: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)
    gateway_port: int = 0
    http_port: int = 0
    gateway: Process | None = None
    daemon: Process | None = None
    facade: Process | None = None

    @property
    def environ(self) -> dict[str, str]:
        (self.directory / "none.env").touch()
        return {
            "IBKR_ENV_FILE": str(self.directory / "none.env"),
            "IBKR_AUTO_CONNECT": "true",
            "IBKR_PORT": str(self.gateway_port),
            "IBKR_FACADE_PORT": str(self.http_port),
            "IBKR_SOCKET": str(self.directory / "run" / "daemon.sock"),
            "IBKR_STATE_DIR": str(self.directory / "state"),
            "IBKR_LOG_LEVEL": "WARNING",
        } | self.extra

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start_gateway(self, port: int = 0) -> None:
        self.gateway = python(
            "gateway",
            *("-m", "daemon.simulator", "--port", str(port), "--positions", str(self.positions)),
            *("--tick-rate", str(self.tick_rate), "--control", str(self.directory / "control")),
            read=True,
        )
        assert self.gateway.popen.stdout is not None
        self.gateway_port = int(self.gateway.popen.stdout.readline().rpartition(":")[2])

    def start_daemon(self) -> None:
        self.daemon = python("daemon", "-m", "daemon", environ=self.environ)

    def start_facade(self) -> None:
        self.facade = python("facade", "-m", "facade", environ=self.environ)

    def connected(self) -> bool:
        return bool(get(f"{self.url}/api/ibkr/status")["connected"])

    def tell(self, verb: str) -> str:
        """One verb to the gateway's control socket, and its answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.directory / "control"))
            sock.sendall(verb.encode() + b"\n")
            return sock.makefile().readline().strip()


@contextlib.contextmanager
def stack(positions: int = 25, tick_rate: float = 0.0, **extra: str) -> Iterator[Stack]:
    """All three, connected; stopped in reverse."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        ours = Stack(Path(directory), positions, tick_rate, extra, http_port=free_port())
        ours.directory.chmod(0o700)
        try:
            ours.start_gateway()
            ours.start_daemon()
            ours.start_facade()
            until(ours.connected)
            yield ours
        finally:
            for process in (ours.facade, ours.daemon, ours.gateway):
                if process is not None:
                    process.stop()


@contextlib.contextmanager
def server(name: str, script: str, *arguments: str, ready: str = "/") -> Iterator[tuple[Process, str]]:
    """A script of this folder that serves HTTP on the port it is given; the process and its URL."""
    port = free_port()
    process = python(name, str(HERE / script), str(port), *arguments)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: get(url + ready) is not None)
        yield process, url
    finally:
        process.stop()
