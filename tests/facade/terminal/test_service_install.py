"""What starts us at login, on three systems: well-formed for each, complete, and gone without a trace."""

from __future__ import annotations

import io
import os
import plistlib
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from facade.terminal import service_install
from facade.terminal.service_install import Machine, plan
from shared.settings import PROJECT_ROOT, Settings


def machine(system: service_install.System, tmp_path: Path, python: str = "/opt/ibkr/bin/python") -> Machine:
    return Machine(system, Path(python), tmp_path, "DESK\\anna" if system == "windows" else "anna")


def settings(tmp_path: Path, session: str = "default") -> Settings:
    return Settings(state_dir=tmp_path / "state", session=session)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("session", ["default", "paper"])
@pytest.mark.parametrize("directory", ["plain", "with a space and 100%"])
def test_the_systemd_units_are_valid(tmp_path: Path, directory: str, session: str) -> None:
    """`systemd-analyze verify` ends with 0 also on unknown keys and only prints them: it must print nothing."""
    python = tmp_path / directory / "python"
    python.parent.mkdir()
    python.symlink_to("/bin/true")
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    files = plan(machine("systemd", tmp_path, str(python)), settings(tmp_path, session)).files
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", *map(str, files)],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_facades_socket_is_the_one_of_the_settings(tmp_path: Path) -> None:
    for host, listen in (("127.0.0.1", "127.0.0.1:9333"), ("::1", "[::1]:9333"), ("localhost", "127.0.0.1:9333")):
        wanted = Settings(state_dir=tmp_path, facade_host=host, facade_port=9333)
        files = plan(machine("systemd", tmp_path), wanted).files
        unit = next(content for path, content in files.items() if path.suffix == ".socket")
        assert f"ListenStream={listen}\n".encode() in unit


def test_the_launchd_agents_are_property_lists_with_what_launchd_needs(tmp_path: Path) -> None:
    files = plan(machine("launchd", tmp_path, "/Users/A & B/python"), settings(tmp_path)).files
    assert len(files) == 2
    for path, content in files.items():
        agent = plistlib.loads(content)
        assert agent["Label"] == path.stem
        assert agent["ProgramArguments"][:2] == ["/Users/A & B/python", "-m"]
        assert (agent["RunAtLoad"], agent["KeepAlive"], agent["Umask"]) == (True, True, 0o077)
        assert agent["WorkingDirectory"] == str(PROJECT_ROOT)


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("systemd", "ibkr-daemon@paper.service"),
        ("launchd", "io.ibkr.daemon.paper.plist"),
        ("windows", "ibkr-daemon-paper.xml"),
    ],
)
def test_a_named_session_installs_its_daemon_beside_the_others(
    system: service_install.System, name: str, tmp_path: Path
) -> None:
    own = plan(machine(system, tmp_path), settings(tmp_path, "paper"))
    ((path, content),) = own.files.items()
    assert path.name == name
    assert path not in plan(machine(system, tmp_path), settings(tmp_path)).files
    text = content.decode("utf-16" if system == "windows" else "utf-8")
    assert "-m daemon --session paper" in text.replace("</string><string>", " ")


def test_the_windows_tasks_run_for_ever_without_more_rights(tmp_path: Path) -> None:
    namespace = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    files = plan(machine("windows", tmp_path), settings(tmp_path)).files
    assert len(files) == 2
    for content in files.values():
        task = ET.fromstring(content.decode("utf-16"))
        found = {element.tag.removeprefix(namespace): element.text for element in task.iter()}
        assert found["ExecutionTimeLimit"] == "PT0S"
        assert found["RunLevel"] == "LeastPrivilege"
        assert found["LogonType"] == "InteractiveToken"
        assert found["MultipleInstancesPolicy"] == "IgnoreNew"
        assert found["DisallowStartIfOnBatteries"] == found["StopIfGoingOnBatteries"] == "false"
        assert found["UserId"] == "DESK\\anna"


@pytest.mark.parametrize("system", ["systemd", "launchd", "windows", "system"])
def test_a_dry_run_shows_everything_and_changes_nothing(system: service_install.System, tmp_path: Path) -> None:
    out = io.StringIO()
    wanted = plan(machine(system, tmp_path), settings(tmp_path))
    assert service_install.install(machine(system, tmp_path), settings(tmp_path), out, dry_run=True) == 0
    assert service_install.uninstall(machine(system, tmp_path), settings(tmp_path), out, dry_run=True) == 0
    for path in (*wanted.files, *wanted.kept):
        assert str(path) in out.getvalue()
    for command in (*wanted.begin, *wanted.end):
        assert command[0] in out.getvalue()
    assert not list(tmp_path.iterdir())


def test_what_was_installed_goes_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    stand_in = tmp_path / "bin" / "systemctl"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=os.pathsep)
    here, wanted = machine("systemd", tmp_path / "home"), settings(tmp_path)
    assert service_install.install(here, wanted, io.StringIO(), dry_run=False) == 0
    assert all(path.exists() for path in plan(here, wanted).files)
    assert service_install.uninstall(here, wanted, io.StringIO(), dry_run=False) == 0
    assert not any(path.is_file() for path in (tmp_path / "home").rglob("*"))
    units = "ibkr-daemon.service ibkr-facade.socket ibkr-facade.service"
    assert calls.read_text().splitlines() == [
        "--user daemon-reload",
        f"--user enable --now {units}",
        "--user disable --now ibkr-facade.service ibkr-facade.socket ibkr-daemon.service",
        "--user daemon-reload",
    ]


def test_an_install_that_fails_is_undone_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "bin" / "systemctl"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=os.pathsep)
    out = io.StringIO()
    assert service_install.install(machine("systemd", tmp_path / "home"), settings(tmp_path), out, dry_run=False) == 1
    assert "Failed to connect to bus" in out.getvalue()
    assert not any(path.is_file() for path in (tmp_path / "home").rglob("*"))


def test_settings_of_this_shell_that_no_service_will_read_are_named() -> None:
    plain = {"HOME": os.environ.get("HOME", ""), "PATH": os.environ["PATH"]}
    assert service_install.settings_not_in_env_file(Settings.load(plain, PROJECT_ROOT), plain) == []
    more = plain | {"IBKR_FACADE_PORT": "9333", "IBKR_CLIENT_ID": "77"}
    assert service_install.settings_not_in_env_file(Settings.load(more, PROJECT_ROOT), more) == [
        "IBKR_CLIENT_ID",
        "IBKR_FACADE_PORT",
    ]


def test_the_powershell_scripts_parse() -> None:
    import tree_sitter
    import tree_sitter_powershell

    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    scripts = list((PROJECT_ROOT / "scripts").glob("*.ps1"))
    assert len(scripts) >= 4
    for script in scripts:
        assert not parser.parse(script.read_bytes()).root_node.has_error, script.name
    assert parser.parse(b"if ($a) { 1").root_node.has_error  # the check can fail
