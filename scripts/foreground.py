"""Daemon and facade (and, for a demonstration, the simulated gateway) in the foreground, as ./scripts/start runs them.

Started in order, stopped in reverse, so that the session is closed cleanly before the gateway ends. A process that
dies is started again, except where its exit status means that a person must act.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from facade.terminal.restarting import (
    LOOK_EVERY,
    PID_FILE,
    RESTART_FILE,
    RESTART_LIMIT,
    ask_restart,
    demonstration,
    running,
)
from shared.console import make_printable
from shared.settings import BAD_SETTINGS, Settings, SettingsError, state_dir_of

WINDOWS = os.name == "nt"
ALREADY_RUNNING = 75
FINAL = (ALREADY_RUNNING, BAD_SETTINGS)
"""Exit statuses that starting again would not change."""
STOP_LIMIT = 4.0
"""s for one process to end after its signal; a clean close of the session needs well under one."""
SOCKET_LIMIT = 3.0
"""s that the start of the facade waits for the daemon's socket."""
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
"""s before a process that died is started again: doubling while its successors die too."""
STEADY = 30.0
"""s of running after which the next death counts as the first."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="start", description=__doc__)
    make_printable()
    parser.add_argument("--demo", action="store_true", help="against the built-in simulated gateway")
    parser.add_argument("--restart", action="store_true", help="restart what another start runs")
    arguments = parser.parse_args(argv)
    environ = dict(os.environ)
    try:
        if arguments.demo:
            environ = demo_environ(environ)
        settings = Settings.load(environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return BAD_SETTINGS
    if arguments.restart:
        return restart(settings)
    if running(settings.state_dir):
        print(
            f"A ./scripts/start is already running for {settings.state_dir}. "
            "Stop it with Ctrl-C, or give this one its own IBKR_STATE_DIR and IBKR_SOCKET.",
            file=sys.stderr,
        )
        return ALREADY_RUNNING
    return Foreground(settings, environ, demo=arguments.demo).run()


def demo_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings for the simulated gateway; no `.env`, and its own state beside the real one's."""
    state = state_dir_of(environ)
    if not environ.get("IBKR_STATE_DIR"):
        state = state.with_name(f"{state.name}-demo")
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    empty = state / "demo.env"
    if not running(state):  # else the file belongs to that one
        empty.write_text("# The demonstration has no settings file.\n")
    own = {
        "IBKR_ENV_FILE": str(empty),
        "IBKR_STATE_DIR": str(state),
        "IBKR_AUTO_CONNECT": "true",
        "IBKR_HOST": "127.0.0.1",
        "IBKR_CLIENT_ID": "1",
    }
    if not WINDOWS:
        own["IBKR_SOCKET"] = environ.get("IBKR_SOCKET") or str(state / "run" / "daemon.sock")
    return {**environ, **own}


@dataclass
class Child:
    """One process: how it is started, and when it may be started again."""

    name: str
    command: list[str]
    process: subprocess.Popen[str] | None = None
    due: float = 0.0
    since: float = 0.0
    wait: float = RETRY_FIRST

    def start(self, environ: Mapping[str, str], *, read: bool = False) -> None:
        self.since = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self.command],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if read else None,
            text=True,
            # Ctrl-C reaches this process alone, which stops the others in order
            start_new_session=not WINDOWS,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            print(f"{self.name} did not end within {STOP_LIMIT:.0f} s and was killed.", file=sys.stderr)
            process.kill()
            process.wait()


@dataclass
class Foreground:
    """The child processes, and the requests to stop or restart them."""

    settings: Settings
    environ: dict[str, str]
    demo: bool
    stopping: threading.Event = field(default_factory=threading.Event)
    gateway: Child | None = None

    def run(self) -> int:
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup sets that for SIGHUP
                signal.signal(number, lambda _number, _frame: self.stopping.set())
        server = [Child("daemon", ["daemon"]), Child("facade", ["facade"])]
        status = 0
        try:
            if self.demo:
                self._start_gateway()
            self._start(server)
            with _pid_file(self.settings.state_dir):
                status = self._watch(server)
        finally:
            for child in reversed(server):
                child.stop()
            if self.gateway is not None:
                self.gateway.stop()
        return status

    def _start_gateway(self) -> None:
        self.gateway = Child("simulated gateway", ["daemon.simulator", "--port", "0"])
        self.gateway.start(self.environ, read=True)
        assert self.gateway.process is not None
        assert self.gateway.process.stdout is not None
        line = self.gateway.process.stdout.readline()
        if not line:
            raise SystemExit("The simulated gateway ended before it listened; its own output is above.")
        port = line.rstrip().rpartition(":")[2] or line.split()[-1]
        self.environ["IBKR_PORT"] = port
        self._write_settings()
        # its later output must not fill the pipe
        rest = self.gateway.process.stdout
        threading.Thread(target=lambda: deque(rest, maxlen=0), name="gateway output", daemon=True).start()

    def _write_settings(self) -> None:
        """The file that leads `ibkr` to the demonstration, where it is named."""
        file = Path(self.environ["IBKR_ENV_FILE"])
        lines = [f"{name}={value}" for name, value in sorted(self.environ.items()) if name.startswith("IBKR_")]
        wanted = "".join(f"{line}\n" for line in lines if not line.startswith("IBKR_ENV_FILE="))
        file.write_text(wanted, encoding="utf-8")
        print(f"Demonstration: to use it from a terminal, export IBKR_ENV_FILE={file}", flush=True)

    def _watch(self, server: list[Child]) -> int:
        """Until a signal, or until a child's exit status means that a person must act."""
        request = self.settings.state_dir / RESTART_FILE
        while not self.stopping.wait(LOOK_EVERY):
            if request.exists():
                which = request.read_text()
                self._restart([child for child in server if which in (child.name, "all")])
                request.unlink(missing_ok=True)
            for child in server:
                status = self._check(child)
                if status is not None:
                    return status
        return 0

    def _start(self, children: list[Child]) -> None:
        """The facade after the daemon's socket is there, so that its first log line is not that there is no daemon."""
        for child in children:
            child.start(self.environ)
            ends = time.monotonic() + SOCKET_LIMIT
            while child.name == "daemon" and not WINDOWS and child.alive and time.monotonic() < ends:
                if Path(self.settings.socket_path).exists() or self.stopping.wait(LOOK_EVERY):
                    break

    def _restart(self, children: list[Child]) -> None:
        for child in reversed(children):
            child.stop()
        self._start(children)
        end = time.monotonic() + RESTART_LIMIT
        while not answering(self.settings) and time.monotonic() < end and not self.stopping.wait(LOOK_EVERY):
            if any(child.process is not None and child.process.poll() is not None for child in children):
                return

    def _check(self, child: Child) -> int | None:
        """Start `child` again after it died; the status to end with where that would not help."""
        if child.process is None:
            if time.monotonic() >= child.due:
                child.start(self.environ)
            return None
        status = child.process.poll()
        if status is None:
            return None
        if status == 0 or status in FINAL:  # stopped on purpose, or a person must act
            return status
        now = time.monotonic()
        wait, child.wait = waits(child.wait, now - child.since)
        print(f"{child.name} ended with status {status}; it is started again in {wait:.0f} s.", file=sys.stderr)
        child.process, child.due = None, now + wait
        return None


def waits(wait: float, ran: float) -> tuple[float, float]:
    """s before a process that ran for `ran` s is started again, and `wait` for its next death."""
    now = RETRY_FIRST if ran > STEADY else wait
    return now, min(RETRY_MOST, now * 2)


@contextlib.contextmanager
def _pid_file(state_dir: Path) -> Iterator[None]:
    """The file by which `restart_server` finds this process."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = state_dir / PID_FILE
    path.write_text(f"{os.getpid()}\n")
    (state_dir / RESTART_FILE).unlink(missing_ok=True)  # left over from an earlier start
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


# --- restart_server -------------------------------------------------------------------------------------------------


def restart(settings: Settings) -> int:
    """Have the running `start` restart daemon and facade, and wait until both answer; without one, start here."""
    if running(settings.state_dir):
        return ask_restart(settings.state_dir, "all", sys.stderr)
    if demo := demonstration(settings):
        file = demo / "demo.env"
        print(f"Only a demonstration is running; restart it with IBKR_ENV_FILE={file} in front.", file=sys.stderr)
        return 1
    print("No ./scripts/start is running for this state directory; starting it here.", file=sys.stderr)
    return Foreground(settings, dict(os.environ), demo=False).run()


def answering(settings: Settings) -> bool:
    """Whether the facade serves from a daemon that answers."""
    request = urllib.request.Request(f"{settings.facade_url}/api/ibkr/status")
    token = settings.token()
    if token is not None:
        request.add_header("Authorization", f"Bearer {token.decode()}")
    try:
        # http_proxy is for other machines: a proxy would look for the facade on its own
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=2) as answer:
            return bool(json.load(answer)["available"])
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
