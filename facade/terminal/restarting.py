"""Restart daemon and facade through the service manager that starts them at login, else the running ./scripts/start.

The session is closed cleanly; what was not running is not started.
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

from facade.terminal.service_install import (
    STOP_LIMIT,
    Machine,
    Service,
    System,
    close_daemon,
    installed,
    plan,
    run,
    services,
)
from shared.jsonrpc import blocking_client
from shared.settings import Settings

PID_FILE = "start.pid"
RESTART_FILE = "start.restart"
"""A request to restart, removed when what was restarted answers. A file works where signals do not."""
RESTART_LIMIT = 30.0
"""s for a restarted server to be back: a cold Python on a slow disk."""
START_PATIENCE = 5.0
"""s for a task that was started to answer; then it is started again, since the scheduler may have seen the old one."""
LOOK_EVERY = 0.05  # s


def restart(which: str, machine: Machine, settings: Settings, out: TextIO) -> int:
    """Restart `daemon`, `facade` or `all`: what the service manager runs, else what ./scripts/start runs."""
    chosen = [service for service in services(settings) if which in ("all", service.what)]
    if chosen and installed(plan(machine, settings)):
        return max(MANAGERS[machine.system](service, settings, out) for service in chosen)
    if which == "facade":
        return restart_facade()
    if running(settings.state_dir):
        return ask_restart(settings.state_dir, which, out)
    print(f"Neither the login services nor ./scripts/start run here for {settings.state_dir}.", file=out)
    if demo := demonstration(settings):
        print(f"A demonstration is running; to restart that: IBKR_ENV_FILE={demo / 'demo.env'} ibkr restart", file=out)
    return 3


def _systemd(service: Service, _settings: Settings, out: TextIO) -> int:
    return _report(run(("systemctl", "--user", "restart", f"ibkr-{service.name('@')}.service"), out), out)


def _launchd(service: Service, settings: Settings, out: TextIO) -> int:
    domain = f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui/0"
    return _close_and_start(service, ("launchctl", "kickstart", f"{domain}/io.ibkr.{service.name('.')}"), settings, out)


def _windows(service: Service, settings: Settings, out: TextIO) -> int:
    return _close_and_start(service, ("schtasks", "/run", "/tn", f"ibkr-{service.name('-')}"), settings, out)


MANAGERS: Mapping[System, Callable[[Service, Settings, TextIO], int]] = {
    "systemd": _systemd,
    "launchd": _launchd,
    "windows": _windows,
    "system": _systemd,
}


def _close_and_start(service: Service, begin: tuple[str, ...], settings: Settings, out: TextIO) -> int:
    """Where the service manager would kill: the facade by its parent, the daemon by its own command."""
    if service.what == "facade":
        return restart_facade()
    if not close_daemon(settings):
        return _report(f"The daemon did not end within {STOP_LIMIT:.0f} s; see ibkr logs.", out)
    end = time.monotonic() + RESTART_LIMIT
    while time.monotonic() < end:
        if problem := run(begin, out):
            return _report(problem, out)
        if _answers(settings, START_PATIENCE):
            return 0
    return _report(f"The daemon did not answer within {RESTART_LIMIT:.0f} s; see ibkr logs.", out)


def restart_facade() -> int:
    """Have the facade's parent replace its serving child."""
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


def _report(problem: str | None, out: TextIO) -> int:
    if problem:
        print(problem, file=out)
    return int(problem is not None)


def running(state_dir: Path) -> bool:
    """Whether a ./scripts/start runs for this state directory."""
    try:
        words = psutil.Process(int((state_dir / PID_FILE).read_text())).cmdline()
    except (OSError, ValueError, psutil.Error):
        return False
    return any(Path(word).name == "foreground.py" for word in words)


def demonstration(settings: Settings) -> Path | None:
    """The state directory of a running `./scripts/start --demo` beside the one of these settings."""
    state = settings.state_dir.with_name(f"{settings.state_dir.name}-demo")
    return state if running(state) else None


def ask_restart(state_dir: Path, which: str, out: TextIO) -> int:
    """Have the running ./scripts/start restart `which`, and wait until that answers."""
    request = state_dir / RESTART_FILE
    request.write_text(which)
    end = time.monotonic() + RESTART_LIMIT
    while time.monotonic() < end:
        time.sleep(LOOK_EVERY)
        if not request.exists():
            return 0
        if not running(state_dir):
            print("The running ./scripts/start ended instead of restarting; see its terminal.", file=out)
            return 1
    print(f"It was not back within {RESTART_LIMIT:.0f} s; see ibkr logs.", file=out)
    return 1
