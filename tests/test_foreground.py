"""./scripts/start as a user runs it: the demonstration comes up, restarts as a whole, and ends in order on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from scripts.foreground import STEADY, Foreground, answering, waits
from shared.settings import PROJECT_ROOT, Settings
from tests.ports import free_port
from tests.waiting import until_now

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX; the Windows stage has its own chain"),
    pytest.mark.timeout(240),
]
LIMIT = 60.0  # s for anything here to come true: cold processes on a busy machine


@dataclass
class Started:
    process: subprocess.Popen[str]
    environ: dict[str, str]
    url: str

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/ibkr/{path}", timeout=5) as answer:
            return json.load(answer)

    def connected(self) -> bool:
        return self.get("status") == {"connected": True, "available": True}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Started]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    port = free_port()
    own = {
        "PYTHONPATH": str(PROJECT_ROOT),
        "IBKR_STATE_DIR": str(tmp_path / "state"),
        "IBKR_FACADE_PORT": str(port),
        # a user's own settings do not reach the demonstration
        "IBKR_PORT": "1",
    }
    (tmp_path / ".env").write_text("IBKR_ACCOUNT=U7654321\n")
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py"), "--demo"],
            env=clean | own,
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            text=True,
        )
    started = Started(process, clean | own, f"http://127.0.0.1:{port}")
    family = [psutil.Process(process.pid)]
    try:
        until_now(started.connected)
        family += family[0].children(recursive=True)
        yield started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def test_the_demonstration_needs_nothing_and_prints_the_seeds_lines(demo: Started, tmp_path: Path) -> None:
    lines = (tmp_path / "output").read_text().splitlines()
    port = demo.get("link")["gateway"]["port"]
    for line in (
        f"INFO:     Attempting to auto-connect to IBKR at 127.0.0.1:{port}...",
        f"INFO:     ✓ Connected to IBKR on port {port}",
        f"INFO:     ✓ Auto-connected to IBKR successfully on port {port}",
        f"INFO:     Facade running on {demo.url}",
    ):
        assert line in lines


def test_the_ibkr_command_reads_the_demonstration_with_its_env_file(demo: Started, tmp_path: Path) -> None:
    elsewhere = {"IBKR_STATE_DIR": str(tmp_path / "own"), "IBKR_SOCKET": str(tmp_path / "own.sock")}
    clean = {name: value for name, value in demo.environ.items() if not name.startswith("IBKR_")}
    (named,) = (line for line in (tmp_path / "output").read_text().splitlines() if line.startswith("Demonstration: "))
    file = named.rpartition("=")[2]

    def status(own: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "facade.cli", "status"]
        return subprocess.run(
            command, env=clean | own, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    until_now(lambda: status({"IBKR_ENV_FILE": file}).returncode == 0)
    assert status(elsewhere).returncode == 3


def test_ctrl_c_ends_everything(demo: Started) -> None:
    family = psutil.Process(demo.process.pid).children(recursive=True)
    assert len(family) >= 4  # gateway, daemon, facade and its serving child
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(LIMIT) == 0
    until_now(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


def test_restart_server_restarts_both_and_waits_for_them(demo: Started) -> None:
    before = demo.get("link")["daemon"]["pid"]
    command = [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py"), "--restart"]
    assert subprocess.run(command, env=demo.environ, timeout=LIMIT, check=False).returncode == 0
    assert demo.get("status")["available"]
    until_now(demo.connected)
    assert demo.get("link")["daemon"]["pid"] != before


def test_a_second_start_is_refused_and_leaves_the_first_alone(demo: Started, tmp_path: Path) -> None:
    file = tmp_path / "state" / "demo.env"
    named = file.read_text()
    command = [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py")]

    second = subprocess.run(
        [*command, "--demo"],
        env=demo.environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert second.returncode == 75
    assert "already running" in second.stderr.splitlines()[0]
    assert file.read_text() == named
    assert subprocess.run([*command, "--restart"], env=demo.environ, timeout=LIMIT, check=False).returncode == 0
    until_now(demo.connected)


def test_a_daemon_that_is_killed_is_started_again(demo: Started) -> None:
    before = demo.get("link")["daemon"]["pid"]
    os.kill(before, signal.SIGKILL)
    until_now(lambda: demo.connected() and demo.get("link")["daemon"]["pid"] != before)


def test_a_process_that_keeps_dying_is_started_less_and_less_often() -> None:
    waited, wait = [], 1.0
    for ran in [0.0] * 8 + [STEADY + 1.0]:
        now, wait = waits(wait, ran)
        waited.append(now)
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 1]


def test_a_demonstration_whose_gateway_does_not_start_is_reported(tmp_path: Path) -> None:
    start = Foreground(Settings(state_dir=tmp_path), {**os.environ, "PYTHONHOME": str(tmp_path)}, demo=True)
    try:
        with pytest.raises(SystemExit, match="ended before it listened"):
            start._start_gateway()
    finally:
        assert start.gateway is not None
        assert start.gateway.process is not None
        start.gateway.process.communicate()


def test_bad_settings_end_the_start_with_78_and_one_sentence(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    done = subprocess.run(
        [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py")],
        env=clean | {"PYTHONPATH": str(PROJECT_ROOT), "IBKR_PORT": "seven"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.splitlines() == ["IBKR_PORT is 'seven'; accepted is a whole number from 1 to 65535."]


def test_a_console_that_cannot_print_a_path_gets_it_in_ascii(tmp_path: Path) -> None:
    """As a Windows console whose code page lacks the letters of the user's name."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    own = {
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONIOENCODING": "cp1252",
        "IBKR_STATE_DIR": str(tmp_path / "\u0416"),
        "IBKR_SOCKET": str(tmp_path / "run" / "d.sock"),
        "IBKR_FACADE_PORT": str(free_port()),
    }
    command = [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py"), "--demo"]
    with subprocess.Popen(
        command, env=clean | own, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as demo:
        assert demo.stdout is not None
        named = demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        _, output = demo.communicate(timeout=LIMIT)
    assert rb"\u0416" in named
    assert b"Traceback" not in output
    assert demo.returncode == 0


def test_restart_facade_finds_the_demonstration_beside_the_users_own_state(demo: Started, tmp_path: Path) -> None:
    """Started with --demo, the facade's state is NAME-demo; whoever says only NAME still finds it."""
    (tmp_path / "own-demo").symlink_to(tmp_path / "state")
    environ = demo.environ | {"IBKR_STATE_DIR": str(tmp_path / "own")}
    command = [sys.executable, "-m", "facade", "restart"]
    assert subprocess.run(command, env=environ, cwd=tmp_path, timeout=LIMIT, check=False).returncode == 0
    assert demo.connected()


def test_the_facade_is_looked_for_without_a_proxy(tmp_path: Path) -> None:
    """As `http_proxy` without `no_proxy` would have it."""

    class Available(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"connected": true, "available": true}')

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Available) as server:
        threading.Thread(target=server.serve_forever, name="facade's place").start()
        proxies = urllib.request.ProxyHandler({"http": "http://127.0.0.1:9"})
        urllib.request.install_opener(urllib.request.build_opener(proxies))
        try:
            assert answering(Settings(facade_port=server.server_port, state_dir=tmp_path))
        finally:
            urllib.request.install_opener(None)  # type: ignore[arg-type]
            server.shutdown()
