"""`ibkr --session NAME`: another session's daemon never answers or obeys, and a name that is none is shown with those
that are."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from facade import cli
from facade.terminal import link_view
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import LIMIT


@pytest.fixture
async def live(socket_path: str) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(socket_path, session="live") as daemon:
        daemon.set_all()
        daemon.answer("link.get", json.loads(daemon.store.replica.row("link", "link") or b"{}"))
        yield daemon


async def ibkr(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in `directory`."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "facade.cli", *arguments],
        cwd=directory,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(directory), "PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.parametrize(
    "command", [["status"], ["accounts"], ["stop"], ["disconnect"], ["watch", "--json"], ["status", "--json"]]
)
async def test_a_command_is_not_carried_out_by_another_session_s_daemon(
    live: FakeDaemon, tmp_path: Path, command: list[str]
) -> None:
    """One `IBKR_SOCKET` for all sessions: the command says which session is behind it, and calls nothing."""
    if command[0] == "watch":
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "facade.cli", "--session", "paper", *command),
            cwd=tmp_path,
            env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path), "IBKR_SOCKET": live.path},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = (await process.stdout.readline()).decode()
        process.kill()
        await process.wait()
        assert "holds the session 'live', not 'paper'" in line
    else:
        done = await ibkr(tmp_path, "--session", "paper", *command, IBKR_SOCKET=live.path)
        assert done.returncode == link_view.NO_DAEMON, done
        assert "holds the session 'live', not 'paper'" in done.stdout + done.stderr
    assert live.requests == []


async def test_the_named_session_is_shown(live: FakeDaemon, tmp_path: Path) -> None:
    done = await ibkr(tmp_path, "--session", "live", "status", IBKR_SOCKET=live.path)
    assert (done.returncode, "session   live" in done.stdout) == (link_view.CONNECTED, True)


async def test_a_session_that_is_none_is_shown_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IBKR_SESSIONS=live,far=nats\nIBKR_NATS_URL=nats://127.0.0.1:1\n")
    (tmp_path / ".env.paper").write_text("IBKR_PORT=7497\n")
    for command in (["status"], ["positions"]):
        done = await ibkr(tmp_path, "--session", "papre", *command, IBKR_STATE_DIR=str(tmp_path / "state"))
        assert done.returncode == link_view.NO_DAEMON
        assert "There is no session 'papre' here. Known are live, far, paper" in done.stdout + done.stderr
    done = await ibkr(tmp_path, "--session", "far", "positions", IBKR_STATE_DIR=str(tmp_path / "state"))
    assert "is on another machine" in done.stderr
    assert "/api/ibkr/sessions/far/" in done.stderr


def test_two_sessions_in_one_command_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--session", "live", "status", "--session=paper"]) == link_view.USAGE
    assert "twice" in capsys.readouterr().err
