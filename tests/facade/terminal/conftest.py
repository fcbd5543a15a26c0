"""A demonstration for the tests of commands that read a session: `./scripts/start --demo`, one a module."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shared.settings import PROJECT_ROOT
from tests.ports import free_port
from tests.waiting import until_now


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of `ibkr` for a running demonstration."""
    place = tmp_path_factory.mktemp("demo")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    own = {"PYTHONPATH": str(PROJECT_ROOT), "IBKR_STATE_DIR": str(place / "state")}
    command = [sys.executable, str(PROJECT_ROOT / "scripts" / "foreground.py"), "--demo"]
    environ = clean | own | {"IBKR_FACADE_PORT": str(free_port())}
    with (place / "output").open("w") as output:
        process = subprocess.Popen(command, env=environ, cwd=place, stdout=output, stderr=output)
    client = clean | {"PYTHONPATH": str(PROJECT_ROOT), "IBKR_ENV_FILE": str(place / "state" / "demo.env")}
    positions = [sys.executable, "-m", "facade.cli", "positions"]
    try:
        until_now(lambda: subprocess.run(positions, env=client, capture_output=True, check=False).returncode == 0)
        yield client
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
