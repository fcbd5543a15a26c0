"""The keeper: one listening socket for ever, one child that serves it, no request refused when that is replaced."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from facade.keeper import parent as keeper
from facade.keeper.state_file import STATE_FILE
from facade.terminal.logs import show
from tests.facade.fake_daemon import FakeDaemon
from tests.ports import free_port
from tests.waiting import answered, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Kept:
    """A running keeper."""

    process: asyncio.subprocess.Process
    port: int
    state_dir: Path
    env: dict[str, str]

    @property
    def state(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.state_dir / STATE_FILE).read_text()))
        except (OSError, ValueError):
            return {}

    async def status(self, host: str = "127.0.0.1") -> dict[str, Any]:
        """Raises `OSError` when the connection is refused or reset."""
        return dict(json.loads((await self.get("/api/ibkr/status", host))[1]))

    async def get(self, path: str, host: str = "127.0.0.1") -> tuple[bytes, bytes]:
        """Status line and body, over a connection of its own."""
        reader, writer = await asyncio.open_connection(host, self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n\r\n".encode())
            async with asyncio.timeout(60):
                raw = await reader.read()
        finally:
            writer.close()
        if not raw:
            raise ConnectionResetError
        head, _, body = raw.partition(b"\r\n\r\n")
        return head.partition(b"\r\n")[0], body

    async def restart(self) -> int:
        process = await started(self.env, "restart")
        return await process.wait()


async def started(env: dict[str, str], *arguments: str, **more: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "facade", *arguments, env=env, cwd=ROOT, **more)


def environment(tmp_path: Path, daemon: FakeDaemon, port: int) -> dict[str, str]:
    own = {
        "IBKR_ENV_FILE": str(tmp_path / "empty.env"),
        "IBKR_SOCKET": daemon.path,
        "IBKR_STATE_DIR": str(tmp_path / "state"),
        "IBKR_FACADE_PORT": str(port),
    }
    (tmp_path / "empty.env").touch()
    return {key: value for key, value in os.environ.items() if not key.startswith("IBKR_")} | own


@asynccontextmanager
async def kept(tmp_path: Path, daemon: FakeDaemon, **settings: str) -> AsyncIterator[Kept]:
    port = free_port()
    env = environment(tmp_path, daemon, port) | settings
    process = await started(env)
    facade = Kept(process, port, tmp_path / "state", env)
    try:
        await until(lambda: facade.state.get("child") or process.returncode is not None)
        yield facade
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def test_a_restart_refuses_and_resets_no_connection(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with kept(tmp_path, daemon) as facade:
        await until(lambda: facade.state["complete"])
        answers = []
        done = asyncio.Event()

        async def request() -> None:
            while not done.is_set():
                daemon.link(session=len(answers))
                answers.append(await facade.status())

        requests = [asyncio.create_task(request(), name=f"request {n}") for n in range(4)]
        before = facade.state
        for _ in range(2):
            assert await facade.restart() == 0
        done.set()
        await asyncio.gather(*requests)
        assert facade.state["generation"] == before["generation"] + 2
        assert facade.state["child"] != before["child"]
        assert all(answer == {"connected": True, "available": True} for answer in answers)
        await until(lambda: len(daemon.service.connections) == 1)


async def test_localhost_is_both_loopback_addresses_also_after_a_restart(tmp_path: Path, daemon: FakeDaemon) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    async with kept(tmp_path, daemon, IBKR_FACADE_HOST="localhost") as facade:
        for _ in range(2):
            for host in ("127.0.0.1", "::1"):
                assert (await facade.status(host))["available"] is True
            assert await facade.restart() == 0
        assert facade.state["address"] == f"127.0.0.1:{facade.port}"


async def test_its_log_is_where_ibkr_logs_looks(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with kept(tmp_path, daemon) as facade:
        assert await facade.restart() == 0
        file = facade.state_dir / "logs" / "facade.log"
        shown = io.StringIO()
        show(file, 50, follow=False, as_json=False, out=shown)
        assert shown.getvalue().count("Facade running on") == 2
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["facade.lock", "facade.new"])
async def test_a_state_directory_that_cannot_be_written_is_one_line_and_serving_goes_on(
    tmp_path: Path, daemon: FakeDaemon, name: str
) -> None:
    """A directory stands where the file would be made; no traceback, and the same line is not repeated."""
    port = free_port()
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / name).mkdir()
    process = await started(environment(tmp_path, daemon, port), stderr=asyncio.subprocess.PIPE)
    facade = Kept(process, port, tmp_path / "state", {})
    try:
        status = await answered(facade.status)
        assert status["available"] is True
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
    text = errors.decode()
    assert "Traceback" not in text
    assert text.count("cannot be written") == 1
    assert "the facade serves on, but cannot be restarted; ibkr doctor checks the state directory." in text


async def test_a_restart_without_a_daemon_is_done(tmp_path: Path, daemon: FakeDaemon) -> None:
    await daemon.stop()
    async with kept(tmp_path, daemon) as facade:
        assert await facade.status() == {"connected": False, "available": False}
        before = facade.state["child"]
        waiting = asyncio.create_task(facade.restart(), name="restart")
        await until(lambda: facade.state.get("child") not in (None, before))
        await daemon.start()
        assert await waiting == 0  # it was still waiting for the replica, which is complete now


async def test_a_child_that_finds_its_parent_gone_ends_without_a_word(tmp_path: Path, daemon: FakeDaemon) -> None:
    """Killed while the child was starting: no parent is left to report to, and nothing is wrong with the child."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_RD)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "facade", "serve", str(theirs.fileno())),
            env=environment(tmp_path, daemon, free_port()),
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )
        ours.close()
        _, output = await process.communicate()
    assert (process.returncode, output) == (0, b"")


async def test_settings_that_went_bad_cost_the_restart_and_not_the_facade(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with kept(tmp_path, daemon) as facade:
        before = facade.state["child"]
        (tmp_path / "empty.env").write_text("IBKR_PROBE_TIMEOUT=never\n")
        facade.process.send_signal(signal.SIGHUP)
        await until(lambda: facade.state["failures"])
        assert facade.state["child"] == before
        assert (await facade.status())["available"] is True


async def ended(env: dict[str, str], *arguments: str) -> tuple[int | None, str]:
    """Exit status and standard error of a facade that does not start."""
    process = await started(env, *arguments, stderr=asyncio.subprocess.PIPE)
    _, output = await process.communicate()
    assert b"Traceback" not in output
    return process.returncode, output.decode()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"IBKR_FACADE_PORT": "many"}, "IBKR_FACADE_PORT"),
        ({"IBKR_FACADE_HOST": "0.0.0.0"}, "IBKR_FACADE_TOKEN_FILE"),  # others can reach it, so it needs a token
        ({"IBKR_FACADE_HOST": "::"}, "IBKR_FACADE_TOKEN_FILE"),
        ({"IBKR_ALERTS": "https://example.com/x", "IBKR_ALERTS_ON": "daemon"}, "holds no secret for alerts"),
    ],
)
async def test_bad_settings_stop_the_start(
    tmp_path: Path, daemon: FakeDaemon, more: dict[str, str], words: str
) -> None:
    secret = tmp_path / "alerts.secret"
    secret.write_text("nonsense")
    secret.chmod(0o600)
    own = environment(tmp_path, daemon, free_port()) | {"IBKR_ALERTS_SECRET_FILE": str(secret)}
    status, output = await ended(own | more)
    assert status == 78
    assert words in output


async def test_a_port_that_is_taken_stops_the_start(tmp_path: Path, daemon: FakeDaemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = await ended(environment(tmp_path, daemon, port))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: program" in output
    assert f"(process {os.getpid()}) holds the port" in output
    assert f"IBKR_FACADE_PORT={port + 1}" in output


async def test_restart_needs_a_facade_and_other_words_are_usage(tmp_path: Path, daemon: FakeDaemon) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    env = environment(tmp_path, daemon, free_port())
    status, output = await ended(env, "restart")
    assert (status, "No facade runs for" in output) == (1, True)
    assert (await ended(env, "dance"))[0] == 2


async def test_systemds_socket_is_served(tmp_path: Path, daemon: FakeDaemon) -> None:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        port = given.getsockname()[1]
        env = environment(tmp_path, daemon, free_port()) | {"IBKR_FACADE_NAMES": f"127.0.0.1:{port}"}
        code = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.executable, [sys.executable, '-m', 'facade'])"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(given.fileno()), env=env, cwd=ROOT, pass_fds=[given.fileno()]
        )
    facade = Kept(process, port, tmp_path / "state", env)
    try:
        await until(lambda: facade.state.get("complete") or process.returncode is not None)
        assert (await facade.status())["available"] is True
        assert await facade.restart() == 0
        assert (await facade.status())["available"] is True
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


def test_a_child_that_keeps_dying_is_replaced_less_and_less_often() -> None:
    kept, waits = keeper.Keeper([]), []
    kept.generation = 1
    for served in [0.0] * 7 + [keeper.STEADY + 1.0]:
        with subprocess.Popen([sys.executable, "-c", ""]) as process:
            process.wait()
        child = keeper.Child(process, None, 1000.0)  # type: ignore[arg-type]  # its conversation is over
        kept.children.append(child)
        kept._reap(child, 1000.0 + served)
        assert kept._due is not None
        waits.append(round(kept._due - 1000.0 - served, 6))

    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1]


@pytest.mark.parametrize(("leaves", "limit"), [(True, keeper.RETIRE_TIMEOUT), (False, keeper.START_TIMEOUT)])
def test_a_child_that_neither_goes_nor_comes_is_ended(leaves: bool, limit: float) -> None:
    kept = keeper.Keeper([])
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        child = keeper.Child(process, None, 1000.0)  # type: ignore[arg-type]  # its conversation is over
        try:
            kept.children.append(child)
            if leaves:
                child.retire(1000.0)
            kept._reap(child, 1000.0 + limit + 0.1)
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()


def test_a_socket_of_systemds_is_taken_only_where_it_is_meant() -> None:
    assert keeper.activated({}) == []
    assert keeper.activated({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert keeper.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) == []
