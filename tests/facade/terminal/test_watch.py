"""`ibkr watch`: it shows the daemon's present state, on 80 × 24 characters, until q."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from facade.terminal.watch import Screen, follow, layout
from shared.settings import PROJECT_ROOT, Settings
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


class CountedScreen(Screen):
    """A screen that counts how often it was drawn."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(Console(file=io.StringIO(), width=120, height=40), as_json=as_json)
        self.drawn = 0

    def show(self) -> None:
        self.drawn += 1

    @property
    def text(self) -> str:
        return self.render().plain


@asynccontextmanager
async def watching(path: str, *, as_json: bool = False) -> AsyncIterator[CountedScreen]:
    screen = CountedScreen(as_json=as_json)
    task = asyncio.create_task(follow(Settings(socket=path), screen), name="watch")
    try:
        yield screen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def path(tmp_path: Path) -> str:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    return str(directory / "d.sock")


async def test_a_daemon_that_stops_answering_is_not_shown_as_connected(path: str) -> None:
    async with FakeDaemon(path) as daemon, watching(path) as screen:
        daemon.set_all()
        await until(lambda: "IBKR: Connected" in screen.text)

        daemon.silent = True
        await until(lambda: "the daemon is not running" in screen.text and "Start the daemon" in screen.text)

        daemon.silent = False
        await until(lambda: "IBKR: Connected" in screen.text)


async def test_the_countdown_is_drawn_while_nothing_changes(path: str) -> None:
    async with FakeDaemon(path) as daemon, watching(path) as screen:
        at = datetime.now(UTC) + timedelta(seconds=600)
        daemon.link(phase="blocked", reason="notTws", connected=False, nextAttemptAt=at)
        await until(lambda: "(in 9 min)" in screen.text)
        drawn = screen.drawn

        await until(lambda: screen.drawn > drawn)


async def test_json_reports_a_daemon_that_is_away_once(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with watching(path, as_json=True) as screen:
        await until(lambda: screen.drawn > 2)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["key"], line["row"], bool(line["error"])) for line in lines] == [("link", None, True)]


def rows(**changes: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """A link, 60 positions and 30 messages."""
    link = {
        "phase": "ready",
        "connected": True,
        "since": "2026-03-01T12:00:00Z",
        "proof": {"at": "2026-03-01T12:29:59Z", "rttMs": 1.5},
        "gateway": {"host": "127.0.0.1", "port": 7497, "clientId": 1, "serverVersion": 178, "product": "TWS"},
        "accounts": ["DU1234567"],
    }
    positions = {
        f"DU1:{number}": {"conId": number, "symbol": f"SYM{number}", "position": 100.0, "marketValue": number * 1000.0}
        for number in range(60)
    }
    notices = {
        f"e-{number}": {"at": f"2026-03-01T12:{number:02}:00Z", "code": 2104, "text": f"message {number} " + "x" * 100}
        for number in range(30)
    }
    pnl = {"DU1234567": {"account": "DU1234567", "dailyPnL": 12.5, "unrealizedPnL": -3.0, "realizedPnL": None}}
    return {
        "link": {"link": link | changes},
        "farms": {},
        "pnl": pnl,
        "positions": positions,
        "gaps": {},
        "notices": notices,
    }


def test_a_full_screen_is_80_by_24_with_profit_the_largest_positions_and_the_newest_messages() -> None:
    text = layout(rows(), None, NOW, 80, 24)
    assert len(text) <= 24
    assert max(map(len, text)) <= 80
    assert text[0] == "IBKR: Connected"
    assert text[-1] == "q quits"
    whole = "\n".join(text)
    assert "today 12.50, unrealized -3.00, realized -" in whole
    assert whole.index("SYM59") < whole.index("SYM58")
    assert "more: ibkr positions" in whole
    assert whole.index("message 29") < whole.index("message 28")


def test_what_is_wrong_comes_first_with_what_to_do() -> None:
    trouble = rows(
        phase="waiting", connected=False, reason="portClosed", sentence="Nothing listens.", advice=["Start TWS."]
    )
    text = layout(trouble, None, NOW, 80, 24)
    assert len(text) <= 24
    assert any("portClosed: Nothing listens." in line for line in text)
    assert any("1. Start TWS." in line for line in text)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_q_quits_and_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    own = {"PYTHONPATH": str(PROJECT_ROOT), "TERM": "xterm", "IBKR_SOCKET": str(tmp_path / "none")}
    process = subprocess.Popen(
        [sys.executable, "-m", "facade.cli", "watch"],
        env=clean | own | {"IBKR_STATE_DIR": str(tmp_path)},
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        seen = b""
        while b"q quits" not in seen:
            seen += os.read(ours, 65536)
        while process.poll() is None:  # keys before the terminal is set are a line that is not finished
            os.write(ours, b"q")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            os.read(ours, 65536)
        assert process.returncode == 3
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
