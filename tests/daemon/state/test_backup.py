"""The documented backup and restore of the ledger, run as they are shown."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from daemon.state.ledger import Ledger
from daemon.state.outbox import Outbox
from shared.alerts.queue import Stored
from tests.clock import HandClock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def run(name: str, home: Path) -> None:
    """The commands of the block that begins with the comment `name`."""
    (commands,) = re.findall(rf"^```bash\n# {name}\n(.*?)^```$", PAGE, re.M | re.S)
    environ = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-ec", commands], cwd=home, env=environ, check=True, timeout=60)


async def test_a_backup_of_a_running_ledger_is_restored_over_a_damaged_one(tmp_path: Path) -> None:
    """What was written before the backup is there again; a write-ahead log of the damaged ledger is not read."""
    directory, clock = tmp_path / ".local" / "state" / "ibkr", HandClock()
    directory.mkdir(mode=0o700, parents=True)
    ledger = await Ledger.open(directory, clock)
    alert = Stored("msg_1", "sink", b"{}", 1.0)
    await Outbox(ledger).put([alert], "{}", 1.0)
    run("backup", tmp_path)
    await ledger.close()

    (directory / "ledger.sqlite").write_bytes(b"damaged")
    (directory / "ledger.sqlite-wal").write_bytes(b"damaged too")
    run("restore", tmp_path)
    ledger = await Ledger.open(directory, clock)
    assert (await Outbox(ledger).load())[0] == [alert]
    await ledger.close()
    assert (directory / "ledger.sqlite").stat().st_mode & 0o077 == 0
