"""The daemon as a process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from daemon.__main__ import ALREADY_RUNNING, BAD_USAGE, FAILED, main, watchdog
from shared.jsonrpc.client import Client, ConnectionLost
from shared.settings import BAD_SETTINGS
from tests.daemon.running import LIMIT, ROOT, Mirror, environment, place, settings
from tests.daemon.running import process as started_process
from tests.waiting import answered

posix = pytest.mark.skipif(os.name == "nt", reason="signals and modes of POSIX")


def started(
    environ: dict[str, str], directory: Path, program: Sequence[str] = ("-m", "daemon")
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return started_process(*program, env=environ, cwd=directory, stderr=asyncio.subprocess.PIPE)


async def listening(path: str, process: asyncio.subprocess.Process) -> Client:
    """A conversation, once the daemon answers."""

    async def ask() -> Client:
        assert process.returncode is None, (await errors(process)).decode()
        return await Client.open(path, "test/1")

    return await answered(ask)


async def errors(process: asyncio.subprocess.Process) -> bytes:
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT):
        return await process.stderr.read()


async def ended(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Exit status, and what it said."""
    said = (await errors(process)).decode()
    async with asyncio.timeout(LIMIT):
        return await process.wait(), said


@posix
def test_a_working_directory_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([]) == BAD_SETTINGS
    assert "The working directory cannot be used" in capsys.readouterr().err


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
async def test_a_signal_ends_the_daemon_cleanly(name: str) -> None:
    async with place() as directory:
        environ = environment(directory)
        for _ in range(2):
            async with started(environ, directory) as process:
                client = await listening(environ["IBKR_SOCKET"], process)
                process.send_signal(getattr(signal, name))
                status, said = await ended(process)
                client.abort()
            assert status == 0, said
            assert "Traceback" not in said
            assert not (directory / "run" / "d.sock").exists()


async def test_a_peer_may_end_the_daemon() -> None:
    async with place() as directory:
        environ = environment(directory)
        async with started(environ, directory) as process:
            client = await listening(environ["IBKR_SOCKET"], process)
            try:
                await client.call("daemon.stop", {}, LIMIT)
            except ConnectionLost:
                pass  # the end may overtake the answer
            assert (await ended(process))[0] == 0


async def test_a_second_daemon_names_the_first() -> None:
    async with place() as directory:
        environ = environment(directory)
        async with started(environ, directory) as first:
            client = await listening(environ["IBKR_SOCKET"], first)
            async with started(environ, directory) as second:
                status, said = await ended(second)
            assert status == ALREADY_RUNNING
            assert str(first.pid) in said
            await client.call("ping", {}, LIMIT)
            client.abort()


@posix
@pytest.mark.parametrize("removed", ["run/d.sock", "run"])
async def test_a_socket_that_is_removed_is_served_again(removed: str) -> None:
    async with place() as directory:
        environ = environment(directory)
        async with started(environ, directory) as process:
            first = await listening(environ["IBKR_SOCKET"], process)
            gone = directory / removed
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            second = await listening(environ["IBKR_SOCKET"], process)
            await first.call("ping", {}, LIMIT)
            first.abort()
            second.abort()
            process.terminate()
            status, said = await ended(process)
        assert status == 0, said
        assert "listening there again" in said
        assert not (directory / "run" / "d.sock").exists()


@posix
async def test_a_daemon_whose_state_directory_is_removed_ends_with_its_reason() -> None:
    """A second one could lock the new directory: there are never two."""
    async with place() as directory:
        environ = environment(directory)
        async with started(environ, directory) as process:
            client = await listening(environ["IBKR_SOCKET"], process)
            shutil.rmtree(directory / "state")
            status, said = await ended(process)
            client.abort()
        assert status == FAILED, said
        assert "was removed or replaced" in said
        assert "Traceback" not in said


@posix
async def test_a_name_server_that_does_not_answer_does_not_hold_up_the_end() -> None:
    """The look-up cannot be cancelled, and is not waited for; "stopped" is the last word."""
    program = (
        "import socket, sys, threading\n"
        "def getaddrinfo(*arguments, flags=0, **more):\n"
        "    if flags & socket.AI_NUMERICHOST: raise socket.gaierror(socket.EAI_NONAME, 'a name')\n"
        "    threading.Event().wait()\n"
        "socket.getaddrinfo = getaddrinfo\n"
        "from daemon.__main__ import main\n"
        "sys.exit(main([]))\n"
    )
    async with place() as directory:
        more = {"IBKR_HOST": "gateway.example", "IBKR_AUTO_CONNECT": "true"}
        environ = environment(directory, **more)
        async with started(environ, directory, ["-c", program]) as process:
            client = await listening(environ["IBKR_SOCKET"], process)
            process.terminate()
            status, said = await ended(process)
            client.abort()
        assert status == 0, said
        assert said.splitlines()[-1].endswith("Daemon stopped")


@pytest.mark.parametrize(
    ("name", "value"), [("IBKR_PORT", "99999"), ("IBKR_AUTO_CONNECT", "perhaps"), ("IBKR_PROT", "7497")]
)
async def test_bad_settings_stop_the_start(name: str, value: str) -> None:
    async with place() as directory, started(environment(directory) | {name: value}, directory) as process:
        status, said = await ended(process)
    assert status == BAD_SETTINGS
    assert name in said
    assert said.count("\n") == 1


@posix
@pytest.mark.parametrize("which", ["state", "run"])
async def test_a_directory_open_to_others_stops_the_start(which: str) -> None:
    async with place() as directory:
        environ = environment(directory)
        bad = directory / which
        bad.mkdir(exist_ok=True)
        bad.chmod(0o755)
        async with started(environ, directory) as process:
            status, said = await ended(process)
        assert status == BAD_SETTINGS, said
        assert "chmod 700" in said
        assert "Traceback" not in said


async def test_unreadable_windows_stop_the_start() -> None:
    async with place() as directory:
        environ = environment(directory)
        (settings(directory).state_dir / "windows.json").write_text('{"region": "atlantis"}')
        async with started(environ, directory) as process:
            status, said = await ended(process)
        assert status == BAD_SETTINGS
        assert "atlantis" in said


@posix
async def test_systemd_is_notified() -> None:
    async with place() as directory:
        address = str(directory / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(address)
            systemd.setblocking(False)
            loop = asyncio.get_running_loop()

            async def word() -> bytes:
                async with asyncio.timeout(LIMIT):
                    return await loop.sock_recv(systemd, 100)

            environ = environment(directory) | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
            async with started(environ, directory) as process:
                assert await word() == b"READY=1"
                client = await listening(environ["IBKR_SOCKET"], process)
                assert await word() == b"WATCHDOG=1"
                process.terminate()
                while (last := await word()) == b"WATCHDOG=1":
                    pass
                assert last == b"STOPPING=1"
                assert (await ended(process))[0] == 0
                client.abort()


async def test_help_is_no_error_and_an_unknown_argument_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "usage" in capsys.readouterr().out
    assert main(["--port=1"]) == BAD_USAGE
    assert "usage" in capsys.readouterr().err


def test_watchdog_messages_are_for_the_process_that_systemd_names() -> None:
    """A third of the limit, at most every 10 s, and not where the limit is another process's."""
    assert watchdog({}, 7) is None
    assert watchdog({"WATCHDOG_USEC": "0"}, 7) is None
    assert watchdog({"WATCHDOG_USEC": "²"}, 7) is None
    assert watchdog({"WATCHDOG_USEC": "3000000"}, 7) == 1.0
    assert watchdog({"WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "7"}, 7) == 10.0
    assert watchdog({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 7) is None


@posix
async def test_the_daemon_does_not_end_with_its_parent() -> None:
    async with place() as directory:
        environ = environment(directory) | {"PYTHONPATH": str(ROOT)}
        script = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-m', 'daemon'], stdout=2).pid)"
        parent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            script,
            env=environ,
            cwd=directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        said, _ = await parent.communicate()
        pid = int(said)
        try:
            mirror = await answered(lambda: Mirror.join(environ["IBKR_SOCKET"]))
            info = msgspec.json.decode(await mirror.client.call("daemon.info", {}, LIMIT))
            assert info["pid"] == pid
            await mirror.leave()
        finally:
            os.kill(pid, signal.SIGKILL)


@posix
async def test_an_agent_of_launchd_logs_to_its_rotated_file_alone() -> None:
    """launchd writes stderr to a file that nothing rotates; there only what ends the start is written."""
    async with place() as directory:
        environ = environment(directory) | {"XPC_SERVICE_NAME": "io.ibkr.daemon"}
        async with started(environ, directory) as process:
            client = await listening(environ["IBKR_SOCKET"], process)
            await client.close()
            process.terminate()
            assert await errors(process) == b""
        assert "Daemon listening" in (directory / "state" / "logs" / "daemon.log").read_text()
        async with started(environ | {"IBKR_PORT": "none"}, directory) as process:
            assert b"IBKR_PORT" in await errors(process)
