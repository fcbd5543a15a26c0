"""`ibkr install --system`: valid and sandboxed units, a user, settings and a token that survive an uninstall."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facade.terminal import service_install
from facade.terminal.commands import run
from facade.terminal.service_install import Machine, install, plan, uninstall
from shared.settings import BAD_SETTINGS, Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

analysed = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")


def machine(python: str = "/opt/ibkr/bin/python") -> Machine:
    return Machine("system", Path(python), Path("/root"), "root")


def settings(session: str = "default") -> Settings:
    return Settings(session=session)


def analyse(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def units(tmp_path: Path, directory: str, session: str) -> list[str]:
    """The paths of the written units, for a Python in `directory`."""
    python = tmp_path / directory / "python"
    python.parent.mkdir()
    python.symlink_to("/bin/true")
    written = []
    for path, content in plan(machine(str(python)), settings(session)).files.items():
        (tmp_path / path.name).write_bytes(content)
        written.append(str(tmp_path / path.name))
    return written


@analysed
@pytest.mark.parametrize(("directory", "session"), [("plain", "default"), ("with a space and 100%", "paper")])
def test_the_units_are_valid(tmp_path: Path, directory: str, session: str) -> None:
    """`systemd-analyze verify` ends with 0 also on unknown keys and only prints them: it must print nothing."""
    done = analyse("verify", *units(tmp_path, directory, session))
    assert (done.returncode, done.stderr) == (0, "")


@analysed
def test_the_services_are_sandboxed(tmp_path: Path) -> None:
    """By systemd's own measure of exposure: at most 2.0 of 10; a service without any setting has 9.6."""
    services = [path for path in units(tmp_path, "plain", "default") if path.endswith(".service")]
    assert len(services) == 2
    for path in services:
        done = analyse("security", "--offline=true", "--threshold=20", path)
        assert done.returncode == 0, done.stdout


def test_each_session_has_its_own_unit_settings_state_and_socket(tmp_path: Path) -> None:
    """The facade gets a token: its readers are other users. What is kept is readable by root and the services alone."""
    own, paper = plan(machine(), settings()), plan(machine(), settings("paper"))
    assert {str(path): mode for path, (_, mode) in own.kept.items()} == {
        "/etc/ibkr/ibkr.env": 0o640,
        "/etc/ibkr/token": 0o600,
        "/etc/sysusers.d/ibkr.conf": 0o644,
    }
    assert {path.name for path in own.files} == {"ibkr-daemon.service", "ibkr-facade.socket", "ibkr-facade.service"}
    assert [path.name for path in paper.files] == ["ibkr-daemon@paper.service"]
    found = []
    for wanted, name in ((own, "ibkr"), (paper, "paper")):
        file = tmp_path / f"{name}.env"
        file.write_bytes(wanted.kept[Path(f"/etc/ibkr/{name}.env")][0])
        read = Settings.load({"IBKR_ENV_FILE": str(file), "IBKR_SESSION": "paper" if name == "paper" else ""}, tmp_path)
        found.append((str(read.state_dir), read.socket, read.facade_token_file is not None))
    assert found == [
        ("/var/lib/ibkr", "/run/ibkr/daemon.sock", True),
        ("/var/lib/ibkr/sessions/paper", "/run/ibkr/paper.sock", False),
    ]
    for wanted, state in ((own, "ibkr"), (paper, "ibkr/sessions/paper")):
        unit = next(content for path, content in wanted.files.items() if "daemon" in path.name)
        assert f"StateDirectory={state}\n".encode() in unit


@pytest.mark.parametrize("name", ["../x", "Paper", "a b", "x\n[Service]", "ibkr", "daemon"])
def test_a_name_that_no_session_has_or_whose_files_are_the_default_ones_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ibkr` would have the settings file of the default session, `daemon` its socket."""
    monkeypatch.setenv("IBKR_SESSION", name)
    for command in ("install", "uninstall"):
        assert run([command, "--system", "--dry-run"]) == BAD_SETTINGS
        shown = capsys.readouterr()
        assert (shown.out, repr(name) in shown.err) == ("", True)


@pytest.mark.parametrize("directory", ["/opt/plain", "/opt/with a space", "/opt/anna's", "/opt/100%$HOME"])
def test_the_services_find_the_project_whatever_its_directory_is_called(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd splits `Environment=` as a shell does, but `$` means nothing in it and `%%` is a `%`."""
    monkeypatch.setattr(service_install, "PROJECT_ROOT", Path(directory))
    for path, content in plan(machine(), settings()).files.items():
        if path.suffix == ".service":
            (line,) = (line for line in content.decode().splitlines() if line.startswith("Environment="))
            words = [word.replace("%%", "%") for word in shlex.split(line.removeprefix("Environment="))]
            assert words == ["IBKR_ENV_FILE=/etc/ibkr/ibkr.env", f"PYTHONPATH={directory}"]


def test_a_second_install_changes_nothing_and_an_uninstall_keeps_settings_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for root, systemd and chown."""
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    for name in ("systemctl", "systemd-sysusers", "chown"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(service_install, "refusal", lambda _machine: "")
    monkeypatch.setattr(service_install, "needs_root", lambda: "")
    etc, written = tmp_path / "etc", tmp_path / "units"
    monkeypatch.setattr(service_install, "ETC", etc)
    monkeypatch.setattr(service_install, "UNITS", written)
    monkeypatch.setattr(service_install, "SYSUSERS", tmp_path / "sysusers.d" / "ibkr.conf")

    out = io.StringIO()
    assert uninstall(machine(), settings(), out, dry_run=False) == 0
    assert out.getvalue() == "Nothing is installed.\n"

    umask = os.umask(0o077)
    try:
        assert install(machine(), settings(), io.StringIO(), dry_run=False) == 0
    finally:
        os.umask(umask)
    file, token = etc / "ibkr.env", etc / "token"
    assert [path.stat().st_mode & 0o777 for path in (etc, file, token)] == [0o755, 0o640, 0o600]
    assert len(token.read_text().strip()) > 40
    file.write_text("IBKR_PORT=4001\n")
    before = token.read_text(), {path: path.read_bytes() for path in written.iterdir()}
    assert install(machine(), settings(), io.StringIO(), dry_run=False) == 0
    assert (token.read_text(), {path: path.read_bytes() for path in written.iterdir()}) == before

    out = io.StringIO()
    assert uninstall(machine(), settings(), out, dry_run=False) == 0
    assert not list(written.iterdir())
    assert (file.read_text(), token.read_text()) == ("IBKR_PORT=4001\n", before[0])
    assert f"kept {file}" in out.getvalue()
    assert calls.read_text().splitlines() == [
        *2
        * (
            f"systemd-sysusers {tmp_path}/sysusers.d/ibkr.conf",
            f"chown root:ibkr {file}",
            f"chown ibkr:ibkr {token}",
            "systemctl daemon-reload",
            "systemctl enable --now ibkr-daemon.service ibkr-facade.socket ibkr-facade.service",
        ),
        "systemctl disable --now ibkr-facade.service ibkr-facade.socket ibkr-daemon.service",
        "systemctl daemon-reload",
    ]


def test_without_root_and_for_a_project_that_its_user_cannot_read_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install(machine(), settings(), out, dry_run=False) == 1
    assert uninstall(machine(), settings(), out, dry_run=False) == 1
    assert out.getvalue().count("run it with sudo") == 2

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").touch()
    refusal = service_install.refusal(machine(str(closed / "python")))
    assert "is closed to others" in refusal
    assert "/opt" in refusal
