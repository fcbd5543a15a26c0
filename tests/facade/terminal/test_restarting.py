"""`ibkr restart`: the daemon's session is closed before anything is started again, by any service manager."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from facade.terminal import restarting, service_install
from facade.terminal.service_install import Machine, System, plan
from shared.jsonrpc import blocking_client
from shared.settings import PROJECT_ROOT, Settings

posix = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for service managers are shell scripts")
TASKS: dict[System, str] = {"launchd": "launchctl", "windows": "schtasks"}
LIMIT = 60.0  # s


def machine(system: System, tmp_path: Path) -> Machine:
    return Machine(system, Path(sys.executable), tmp_path / "home", "anna")


def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a daemon that dials nothing, in the environment of what is started from here."""
    (tmp_path / ".env").write_text("")
    monkeypatch.chdir(tmp_path)
    socket = tmp_path / "run" / "daemon.sock"
    for name, value in {
        "IBKR_ENV_FILE": tmp_path / ".env",
        "IBKR_STATE_DIR": tmp_path / "state",
        "IBKR_SOCKET": socket,
        "IBKR_AUTO_CONNECT": "false",
        "PYTHONPATH": PROJECT_ROOT,
    }.items():
        monkeypatch.setenv(name, str(value))
    return Settings.load(os.environ)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> Path:
    """A service manager that records its arguments. Returns the file with them."""
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return calls


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[str]:
    """What a stand-in does to start a daemon. Those it started are ended."""
    pids = tmp_path / "pids"
    yield f"{sys.executable} -m daemon >/dev/null 2>&1 & echo $! >> {pids}"
    for pid in pids.read_text().split() if pids.exists() else ():
        try:
            started = psutil.Process(int(pid))
            started.terminate()
            started.wait(LIMIT)
        except psutil.NoSuchProcess:
            pass


def installed(here: Machine, wanted: Settings) -> None:
    for path, content in plan(here, wanted).files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)


@posix
@pytest.mark.parametrize("system", TASKS)
def test_an_installed_daemon_is_closed_and_started_again(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Both managers could only kill it: it is stopped over its socket, and started again once it is gone."""
    wanted, here = place(tmp_path, monkeypatch), machine(system, tmp_path)
    calls = stand_in(tmp_path, monkeypatch, TASKS[system], f'case "$*" in *daemon*) {begin};; esac')
    installed(here, wanted)
    assert restarting.restart("daemon", here, wanted, io.StringIO()) == 0
    first = blocking_client.call_once(wanted.socket_path, "daemon.info", timeout=LIMIT)
    assert restarting.restart("daemon", here, wanted, io.StringIO()) == 0
    second = blocking_client.call_once(wanted.socket_path, "daemon.info", timeout=LIMIT)
    assert first["pid"] != second["pid"]
    assert not psutil.pid_exists(first["pid"]) or psutil.Process(first["pid"]).status() == psutil.STATUS_ZOMBIE
    assert len(calls.read_text().splitlines()) == 2


@posix
def test_an_uninstall_on_windows_closes_the_session_before_the_task_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    wanted, here = place(tmp_path, monkeypatch), machine("windows", tmp_path)
    stand_in(tmp_path, monkeypatch, "schtasks", f'case "$1" in /run) {begin};; esac')
    installed(here, wanted)
    assert restarting.restart("daemon", here, wanted, io.StringIO()) == 0
    assert service_install.uninstall(here, wanted, io.StringIO(), dry_run=False) == 0
    with pytest.raises(OSError):  # noqa: PT011 - any error of an absent listener
        blocking_client.call_once(wanted.socket_path, "ping")
    assert not any(path.exists() for path in plan(here, wanted).files)


@posix
def test_a_manager_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, here, out = place(tmp_path, monkeypatch), machine("systemd", tmp_path), io.StringIO()
    calls = stand_in(tmp_path, monkeypatch, "systemctl", "echo 'Failed to connect to bus' >&2; exit 1")
    installed(here, wanted)
    assert restarting.restart("all", here, wanted, out) == 1
    assert "Failed to connect to bus" in out.getvalue()
    assert "restart ibkr-daemon.service" in calls.read_text()


def test_a_restart_without_anything_running_is_reported(tmp_path: Path) -> None:
    out = io.StringIO()
    wanted = Settings(state_dir=tmp_path / "state")
    assert restarting.restart("all", machine("windows", tmp_path), wanted, out) == 3
    assert "./scripts/start" in out.getvalue()
