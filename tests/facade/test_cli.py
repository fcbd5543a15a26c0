"""`ibkr status`: the quick way, its words and its exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from facade.terminal import link_view
from shared import reasons
from shared.settings import PROJECT_ROOT, TABLE

NOW = datetime(2026, 3, 1, 12, 31, tzinfo=UTC)
READY: dict[str, Any] = {
    "phase": "ready",
    "reason": None,
    "sentence": "",
    "advice": [],
    "since": "2026-03-01T12:00:00Z",
    "connected": True,
    "proof": {"at": "2026-03-01T12:30:00Z", "ageMs": 3, "rttMs": 1.25},
    "gateway": {"host": "127.0.0.1", "port": 7497, "clientId": 1, "serverVersion": 178, "product": "TWS"},
    "accounts": ["DU1234567"],
}
BLOCKED: dict[str, Any] = READY | {
    "phase": "blocked",
    "reason": "notTws",
    "sentence": "What answers is not TWS.",
    "advice": ["Check the port."],
    "connected": False,
    "nextAttemptAt": "2026-03-01T12:35:00Z",
    "attempts": 3,
}


def test_a_connected_link_is_shown_with_gateway_account_and_proof() -> None:
    out = io.StringIO()
    assert link_view.show(READY, out, as_json=False) == link_view.CONNECTED
    text = out.getvalue()
    assert text.startswith("IBKR: Connected\n")
    assert "127.0.0.1:7497, client id 1, TWS, server 178" in text
    assert "DU1234567 (paper)" in text
    assert "\x1b" not in text


def test_a_link_that_is_down_is_shown_with_reason_advice_and_next_attempt() -> None:
    out = io.StringIO()
    assert link_view.show(BLOCKED, out, as_json=False) == link_view.NOT_CONNECTED
    text = out.getvalue()
    assert text.startswith("IBKR: Action needed\n")
    assert "notTws: What answers is not TWS." in text
    assert "1. Check the port." in text
    assert "attempts so far: 3" in text


def test_live_is_unmistakable() -> None:
    assert any(
        "U1234567 (LIVE)" in line for line in link_view.lines(READY | {"accounts": ["U1234567"]}, colour=False, now=NOW)
    )


def test_times_are_this_machines_with_their_age() -> None:
    local = datetime(2026, 3, 1, 12, 30, tzinfo=UTC).astimezone().strftime("%H:%M")
    assert f"  heard     {local} (1 min ago), round trip 1.2 ms" in link_view.lines(READY, colour=False, now=NOW)
    day = datetime(2026, 2, 26, 12, 30, tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    assert link_view.when("2026-02-26T12:30:00Z", NOW) == f"{day} (3 d ago)"
    assert link_view.when("2026-03-01T12:31:40Z", NOW).endswith("(in 40 s)")


def test_advice_is_in_the_terminals_words() -> None:
    """The catalogue names the page's button; here the command stands in its place."""
    assert reasons.PRESS_CONNECT.format() in link_view.TERMINAL_ADVICE
    held = BLOCKED | {"phase": "held", "reason": "manual", "advice": [reasons.PRESS_CONNECT.format()]}
    text = link_view.lines(held, colour=False, now=NOW)
    assert text[0] == "IBKR: Disconnected by you"
    assert any(line.endswith("1. Run: ibkr connect") for line in text)


def test_json_is_the_row_itself() -> None:
    out = io.StringIO()
    link_view.show(BLOCKED, out, as_json=True)
    assert json.loads(out.getvalue()) == BLOCKED


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A daemon's end of the socket that answers `hello` and then `link.get` with what the test puts there."""
    path, link = tmp_path / "daemon.sock", dict(READY)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer, peer.makefile("rwb") as lines:
                for line in lines:
                    request = json.loads(line)
                    greeting = {"protocol": 1, "daemon": "test", "epoch": "e"}
                    result = greeting if request["method"] == "hello" else link
                    answer = {"jsonrpc": "2.0", "id": request["id"], "result": result}
                    lines.write(json.dumps(answer).encode() + b"\n")
                    lines.flush()

    thread = threading.Thread(target=serve, name="daemon's end")
    thread.start()
    yield path, link
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def environment(tmp_path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    own = {"PYTHONPATH": str(PROJECT_ROOT), "HOME": str(tmp_path), "IBKR_STATE_DIR": str(tmp_path / "state")}
    return {**clean, **own, **environ}


def ibkr(tmp_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facade.cli", *arguments],
        env=environment(tmp_path, environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_exit_status_follows_the_link(answering: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, link = answering
    done = ibkr(tmp_path, "status", "--json", IBKR_SOCKET=str(path))
    assert (done.returncode, json.loads(done.stdout)) == (0, READY)
    link.clear()
    link.update(BLOCKED)
    assert ibkr(tmp_path, "status", IBKR_SOCKET=str(path)).returncode == 1


def test_a_socket_named_in_the_settings_file_is_found(answering: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"IBKR_SOCKET={answering[0]}   # here\n")
    assert ibkr(tmp_path, "status").returncode == 0


@pytest.mark.parametrize("arguments", [("--session", "paper", "status"), ("status", "--session=paper", "--json")])
def test_a_command_is_about_the_session_that_it_names(
    tmp_path: Path, answering: tuple[Path, Any], arguments: tuple[str, ...]
) -> None:
    (tmp_path / ".env.paper").write_text(f"IBKR_SOCKET={answering[0]}\n")

    assert ibkr(tmp_path, *arguments).returncode == 0
    assert ibkr(tmp_path, "status", "--session", "live").returncode == 3
    assert ibkr(tmp_path, "status").returncode == 3


@pytest.mark.parametrize("name", ["", "Live", "-x", "a/b", "x" * 33])
def test_a_session_name_that_cannot_be_is_wrong_usage(tmp_path: Path, name: str) -> None:
    done = ibkr(tmp_path, "status", f"--session={name}")
    assert done.returncode == 2
    assert "is not a name" in done.stderr


def test_without_a_daemon_the_exit_status_is_3_and_the_advice_is_shown(tmp_path: Path) -> None:
    done = ibkr(tmp_path, "status", IBKR_SOCKET=str(tmp_path / "none"))
    assert done.returncode == 3
    assert "Start the daemon" in done.stdout
    as_json = ibkr(tmp_path, "status", "--json", IBKR_SOCKET=str(tmp_path / "none"))
    assert (as_json.returncode, json.loads(as_json.stdout)["reason"]) == (3, "daemonUnreachable")


@pytest.mark.parametrize("command", ["status", "reconnect"])
def test_an_interrupt_while_the_daemon_is_silent_ends_it_quietly(tmp_path: Path, command: str) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "facade.cli", command],
            env=environment(tmp_path, {"IBKR_SOCKET": str(path)}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        peer, _ = server.accept()
        with peer:
            assert peer.recv(1)
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == link_view.INTERRUPTED


def test_bad_settings_are_78_and_bad_usage_is_2(tmp_path: Path) -> None:
    bad = ibkr(tmp_path, "status", IBKR_PORT="no")
    assert (bad.returncode, "IBKR_PORT" in bad.stderr) == (78, True)
    for arguments in (["statsu"], ["status", "--what"], ["restart", "everything"]):
        assert ibkr(tmp_path, *arguments).returncode == 2


@pytest.mark.parametrize(
    "option",
    [("--port", "80"), ("--port", "70000"), ("--client-id", "-1"), ("--timeout", "0"), ("--timeout", "nan")],
)
def test_what_connect_cannot_take_is_usage_and_dials_nothing(tmp_path: Path, option: tuple[str, str]) -> None:
    done = ibkr(tmp_path, "connect", *option, IBKR_SOCKET=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert option[0] in done.stderr


def test_without_a_command_the_help_is_all_that_is_printed(tmp_path: Path) -> None:
    done = ibkr(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "doctor" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["help"], ["help", "quote"], ["quote", "-h"]])
def test_version_and_help_need_no_daemon_and_no_settings(tmp_path: Path, arguments: list[str]) -> None:
    done = ibkr(tmp_path, *arguments, IBKR_PORT="no")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ibkr" in done.stdout


def test_help_names_every_setting(tmp_path: Path) -> None:
    words = ibkr(tmp_path, "--help", COLUMNS="400").stdout
    assert all(name in words for name in ("IBKR_ENV_FILE", *TABLE))


def test_a_console_without_the_marks_gets_words(tmp_path: Path) -> None:
    done = ibkr(tmp_path, "doctor", IBKR_SOCKET=str(tmp_path / "none"), PYTHONIOENCODING="ascii")
    assert any(line.startswith("[ok] settings") for line in done.stdout.splitlines())
    assert any(line.startswith("[failed] daemon") for line in done.stdout.splitlines())


def test_the_settings_file_that_is_named_is_shown(answering: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "own.env"
    file.write_text(f"IBKR_SOCKET={answering[0]}\n")
    assert f"settings  {file}" in ibkr(tmp_path, "status", IBKR_ENV_FILE=str(file)).stdout


@pytest.mark.parametrize("command", ["connect", "disconnect", "reconnect", "stop"])
def test_json_shows_a_failure_as_json_too(tmp_path: Path, command: str) -> None:
    done = ibkr(tmp_path, command, "--json", IBKR_SOCKET=str(tmp_path / "none"))
    problem = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "")
    assert (problem["reason"], bool(problem["detail"]), bool(problem["advice"])) == ("daemonUnreachable", True, True)


def test_a_bundle_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "bundle.tar.gz"
    done = ibkr(tmp_path, "support-bundle", "--yes", str(target), IBKR_SOCKET=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (1, f"{target} cannot be written: No such file or directory\n")


def test_status_imports_nothing_heavy(answering: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The quick way stays quick: neither asyncio nor any package from outside is loaded."""
    code = (
        "import sys; from facade import cli; cli.main(['status']);"
        "sys.stderr.write(','.join(sorted(set(sys.modules) & {'asyncio', 'msgspec', 'typer', 'dotenv', 'structlog',"
        " 'aiohttp', 'dataclasses', 'subprocess', 'urllib.request'})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PROJECT_ROOT), "IBKR_SOCKET": str(answering[0])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("IBKR: Connected")


def test_mcp_without_its_extra_names_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')")
    done = ibkr(tmp_path, "mcp", PYTHONPATH=os.pathsep.join([str(tmp_path), str(PROJECT_ROOT)]))
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'mcp" in done.stderr
