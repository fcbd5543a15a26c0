"""`ibkr stop`, `doctor` and `restart` where the daemon runs and its socket was removed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until_now

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the demonstration is stopped by a signal"),
    pytest.mark.timeout(240),
]


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facade.cli", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_state_directory_without_a_socket_still_leads_to_the_daemon(demo: dict[str, str]) -> None:
    file = Path(demo["IBKR_ENV_FILE"]).read_text()
    state = next(line.partition("=")[2] for line in file.splitlines() if line.startswith("IBKR_STATE_DIR="))
    pid = json.loads(run(demo, "status", "--json").stdout)["daemon"]["pid"]
    wrong = {name: value for name, value in demo.items() if name != "IBKR_ENV_FILE"}
    wrong |= {"IBKR_STATE_DIR": state, "IBKR_SOCKET": f"{state}/run/none.sock"}

    found = run(wrong, "doctor")
    assert f"process {pid}" in found.stdout
    assert run(wrong, "restart", "facade").returncode == 1, "the facade works: it is not replaced by one that would not"
    stopped = run(wrong, "stop")

    assert stopped.returncode == 0
    assert f"process {pid}" in stopped.stdout
    until_now(lambda: run(wrong, "stop").returncode == 3)
