"""`ibkr watch`: what it shows is what the daemon says now."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from facade.terminal.watch import _follow, _Screen
from shared.settings import Settings
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until


class Seen(_Screen):
    """A screen that counts how often it was drawn."""

    drawn = 0

    def show(self) -> None:
        self.drawn += 1

    @property
    def text(self) -> str:
        out = io.StringIO()
        Console(file=out, width=120).print(self.render())
        return out.getvalue()


@asynccontextmanager
async def watching(path: str, *, as_json: bool = False) -> AsyncIterator[Seen]:
    screen = Seen(as_json)
    task = asyncio.create_task(_follow(Settings(socket=path), screen), name="watch")
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
    """Its socket stays open, as that of a stopped process; when it answers again, it is shown again."""
    async with FakeDaemon(path) as daemon, watching(path) as screen:
        daemon.set_all()
        await until(lambda: "IBKR: Connected" in screen.text)

        daemon.silent = True
        await until(lambda: "daemon not answering" in screen.text)

        daemon.silent = False
        await until(lambda: "IBKR: Connected" in screen.text)


async def test_the_countdown_goes_on_while_nothing_changes(path: str) -> None:
    async with FakeDaemon(path) as daemon, watching(path) as screen:
        at = datetime.now(UTC) + timedelta(seconds=600)
        daemon.link(phase="blocked", reason="notTws", connected=False, nextAttemptAt=at)
        await until(lambda: "  in        " in screen.text)
        drawn = screen.drawn

        await until(lambda: screen.drawn > drawn)


async def test_json_tells_a_daemon_that_is_away_once(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a change, however often it is looked for."""
    async with watching(path, as_json=True) as screen:
        await until(lambda: screen.drawn > 2)

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["key"], line["row"], bool(line["error"])) for line in lines] == [("link", None, True)]
