"""What restarts daemon and facade: the service manager that starts them at login, else the running ./scripts/start.

Never ends a session uncleanly, and never starts what was not running.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

import psutil

from facade.terminal.home import STOP_LIMIT, Machine, Service, System, close_daemon, installed, plan, run, services
from shared.jsonrpc import blocking_client
from shared.settings import Settings

PID_FILE = "start.pid"
RESTART_FILE = "start.restart"
"""Written by whoever wants a restart, removed when what was restarted answers. A file works where signals do not."""
RESTART_LIMIT = 30.0
"""s for a restarted server to be back: a cold Python on a slow disk."""
START_PATIENCE = 5.0
"""s for a task that was run to answer; one that the scheduler still thought running is run again."""
LOOK_EVERY = 0.05  # s


def restart(which: str, machine: Machine, settings: Settings, out: TextIO) -> int:
    """Restart `daemon`, `facade` or `all`: what the service manager runs, else what ./scripts/start runs."""
    chosen = [service for service in services(settings) if which in ("all", service.what)]
    if chosen and installed(plan(machine, settings)):
        return max(MANAGERS[machine.system](service, settings, out) for service in chosen)
    if which == "facade":
        return _serve_anew()
    state_dir = running(settings.state_dir)
    if state_dir is None:
        print("Nothing that could be restarted runs here: use ./scripts/start, or ibkr install.", file=out)
        return 3
    return ask_restart(state_dir, which, out)


def _systemd(service: Service, _settings: Settings, out: TextIO) -> int:
    return _said(run(("systemctl", "--user", "restart", f"ibkr-{service.name('@')}.service"), out), out)


def _launchd(service: Service, settings: Settings, out: TextIO) -> int:
    domain = f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui/0"
    return _closed_and_begun(
        service, ("launchctl", "kickstart", f"{domain}/io.ibkr.{service.name('.')}"), settings, out
    )


def _windows(service: Service, settings: Settings, out: TextIO) -> int:
    return _closed_and_begun(service, ("schtasks", "/run", "/tn", f"ibkr-{service.name('-')}"), settings, out)


MANAGERS: Mapping[System, Callable[[Service, Settings, TextIO], int]] = {
    "systemd": _systemd,
    "launchd": _launchd,
    "windows": _windows,
}


def _closed_and_begun(service: Service, begin: tuple[str, ...], settings: Settings, out: TextIO) -> int:
    """Where the service manager would kill: our own way for the facade, and for the daemon's end."""
    if service.what == "facade":
        return _serve_anew()
    if not close_daemon(settings):
        return _said(f"The daemon did not end within {STOP_LIMIT:.0f} s; see ibkr logs.", out)
    end = time.monotonic() + RESTART_LIMIT
    while time.monotonic() < end:
        if problem := run(begin, out):
            return _said(problem, out)
        if _answers(settings, START_PATIENCE):
            return 0
    return _said(f"The daemon did not answer within {RESTART_LIMIT:.0f} s; see ibkr logs.", out)


def _serve_anew() -> int:
    return subprocess.call([sys.executable, "-m", "facade", "restart"])


def _answers(settings: Settings, patience: float) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            blocking_client.call_once(settings.socket_path, "ping")
        except OSError:
            time.sleep(LOOK_EVERY)
        else:
            return True
    return False


def _said(problem: str | None, out: TextIO) -> int:
    if problem:
        print(problem, file=out)
    return int(problem is not None)


def running(state_dir: Path) -> Path | None:
    """`state_dir`, or its demonstration's, if a ./scripts/start serves it."""
    for place in (state_dir, state_dir.with_name(f"{state_dir.name}-demo")):
        try:
            words = psutil.Process(int((place / PID_FILE).read_text())).cmdline()
        except (OSError, ValueError, psutil.Error):
            continue
        if any(Path(word).name == "foreground.py" for word in words):
            return place
    return None


def ask_restart(state_dir: Path, which: str, out: TextIO) -> int:
    """Have the running ./scripts/start restart `which`, and wait until that answers."""
    request = state_dir / RESTART_FILE
    request.write_text(which)
    end = time.monotonic() + RESTART_LIMIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        if not request.exists():
            return 0
        if running(state_dir) is None:
            print("The running ./scripts/start ended instead of restarting; its terminal says why.", file=out)
            return 1
    print(f"It was not back within {RESTART_LIMIT:.0f} s; see ibkr logs.", file=out)
    return 1
