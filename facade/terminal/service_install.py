"""Install daemon and facade as services that start at login, on three systems; and remove them.

Plans are values (files and commands), shown as they are with `--dry-run`. Only the user's own directories are changed,
with the user's own rights.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal, TextIO
from xml.sax.saxutils import escape

import psutil

from facade.doctor.checks import ENABLE_LINGER, lingering
from shared.jsonrpc import blocking_client
from shared.settings import PROJECT_ROOT, TABLE, Settings, SettingsError
from shared.transport.address import DEFAULT_SESSION

System = Literal["systemd", "launchd", "windows"]
TEMPLATES = PROJECT_ROOT / "scripts" / "login"

COMMAND_LIMIT = 60.0
"""s for one command of the service manager; stopping the daemon may take 15."""
STOP_LIMIT = 20.0
"""s for the daemon to end; it gives itself five."""


@dataclass(frozen=True)
class Machine:
    """The facts about the machine that `install` depends on. Raises `SettingsError` for a user without a home."""

    system: System
    python: Path
    home: Path
    user: str

    @classmethod
    def here(cls, python: Path, environ: Mapping[str, str]) -> Machine:
        systems: Mapping[str, System] = {"darwin": "launchd", "win32": "windows"}
        system = systems.get(sys.platform, "systemd")
        if system == "windows":  # no console window at login
            python = python.with_name("pythonw.exe")
        try:
            user, home = getpass.getuser(), Path.home()
        except (KeyError, OSError, RuntimeError):
            raise SettingsError("This user has no name or home directory: services cannot be installed.") from None
        if domain := environ.get("USERDOMAIN"):  # only Windows sets it
            user = f"{domain}\\{user}"
        return cls(system, python, home, user)


@dataclass(frozen=True)
class Plan:
    """Files and their content, the commands that register them, and the commands that undo it."""

    files: Mapping[Path, bytes]
    begin: tuple[tuple[str, ...], ...]
    end: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Service:
    """One process that is started at login. `session`: of a daemon; empty for the default one."""

    what: Literal["daemon", "facade"]
    session: str = ""

    def name(self, separator: str) -> str:
        """`daemon`, `facade`, or `daemon`, the separator and the session."""
        return f"{self.what}{separator}{self.session}" if self.session else self.what

    @property
    def arguments(self) -> tuple[str, ...]:
        """What Python is called with."""
        return ("-m", self.what, *(("--session", self.session) if self.session else ()))


def services(settings: Settings) -> tuple[Service, ...]:
    """Daemon and facade; for a named session its daemon alone, since one facade serves all of them."""
    if settings.session == DEFAULT_SESSION:
        return (Service("daemon"), Service("facade"))
    return (Service("daemon", settings.session),)


# --- the plans: pure --------------------------------------------------------------------------------------------------


def plan(machine: Machine, settings: Settings) -> Plan:
    """What `install` would do on `machine`."""
    return PLANS[machine.system](machine, settings)


def _systemd(machine: Machine, settings: Settings) -> Plan:
    host = f"[{settings.facade_host}]" if ":" in settings.facade_host else settings.facade_host
    # systemd takes no name here
    listen = f"{'127.0.0.1' if host == 'localhost' else host}:{settings.facade_port}"
    daemon = services(settings)[0]
    units = {f"ibkr-{daemon.name('@')}.service": "ibkr-daemon.service"}  # by name, the template that is filled
    if not daemon.session:
        units |= {name: name for name in ("ibkr-facade.socket", "ibkr-facade.service")}
    directory = machine.home / ".config" / "systemd" / "user"
    values = {
        "python": _unit_quoted(str(machine.python)),
        "directory": str(PROJECT_ROOT).replace("%", "%%"),
        "listen": listen,
        "arguments": " ".join(daemon.arguments),
        "session": f" {daemon.session}" if daemon.session else "",
    }
    systemctl = ("systemctl", "--user")
    return Plan(
        files={directory / name: _filled(template, values).encode() for name, template in units.items()},
        begin=((*systemctl, "daemon-reload"), (*systemctl, "enable", "--now", *units)),
        end=((*systemctl, "disable", "--now", *reversed(units)),),
    )


def _launchd(machine: Machine, settings: Settings) -> Plan:
    directory = machine.home / "Library" / "LaunchAgents"
    domain = f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui/0"
    files = {}
    for service in services(settings):
        values = {
            "python": str(machine.python),
            "directory": str(PROJECT_ROOT),
            "home": str(machine.home),
            "label": f"io.ibkr.{service.name('.')}",
            "log": f"ibkr-{service.name('-')}.log",
        }
        filled = {name: escape(value) for name, value in values.items()}
        filled["arguments"] = "".join(f"<string>{escape(word)}</string>" for word in service.arguments)
        files[directory / f"{values['label']}.plist"] = _filled("io.ibkr.plist", filled).encode()
    return Plan(
        files=files,
        begin=tuple(("launchctl", "bootstrap", domain, str(path)) for path in files),
        end=tuple(("launchctl", "bootout", f"{domain}/{path.stem}") for path in reversed(files)),
    )


def _windows(machine: Machine, settings: Settings) -> Plan:
    files = {}
    for service in services(settings):
        values = {
            "python": str(machine.python),
            "directory": str(PROJECT_ROOT),
            "user": machine.user,
            "what": service.name(" "),
            "arguments": " ".join(service.arguments),
        }
        text = _filled("task.xml", {name: escape(value) for name, value in values.items()})
        files[settings.state_dir / f"ibkr-{service.name('-')}.xml"] = text.encode("utf-16")
    return Plan(
        files=files,
        begin=tuple(
            step
            for path in files
            for step in (
                ("schtasks", "/create", "/tn", path.stem, "/xml", str(path), "/f"),
                ("schtasks", "/run", "/tn", path.stem),
            )
        ),
        end=tuple(
            step
            for path in reversed(files)
            for step in (("schtasks", "/end", "/tn", path.stem), ("schtasks", "/delete", "/tn", path.stem, "/f"))
        ),
    )


PLANS: Mapping[System, Callable[[Machine, Settings], Plan]] = {
    "systemd": _systemd,
    "launchd": _launchd,
    "windows": _windows,
}


def _filled(name: str, values: Mapping[str, str]) -> str:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)


def _unit_quoted(path: str) -> str:
    """A program's path as ExecStart takes it: specifiers and variables off, quoted where it has spaces."""
    path = path.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return f'"{path}"' if " " in path else path


def settings_not_in_env_file(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """The variables in which `settings` differ from what the services read: the project's `.env` alone.

    Raises `SettingsError` where that file is refused.
    """
    bare = {name: value for name, value in environ.items() if not name.startswith("IBKR_")}
    theirs = Settings.load(bare | {"IBKR_SESSION": settings.session}, PROJECT_ROOT)
    return [name for name, row in TABLE.items() if getattr(settings, row.field) != getattr(theirs, row.field)]


# --- doing it ---------------------------------------------------------------------------------------------------------


def install(machine: Machine, settings: Settings, out: TextIO, *, dry_run: bool) -> int:
    """Write the files and register them. A failure is undone."""
    wanted = plan(machine, settings)
    if dry_run:
        show(wanted, out)
        return 0
    for path, content in wanted.files.items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"wrote {path}", file=out)
    for command in wanted.begin:
        problem = run(command, out)
        if problem:
            print(problem, file=out)
            _undo(wanted, out)
            return 1
    if machine.system == "systemd" and (problem := lingering()):
        print(f"{problem} {ENABLE_LINGER}", file=out)
    return 0


def uninstall(machine: Machine, settings: Settings, out: TextIO, *, dry_run: bool) -> int:
    wanted = plan(machine, settings)
    if dry_run:
        for command in wanted.end:
            print(f"would run: {shlex.join(command)}", file=out)
        for path in wanted.files:
            print(f"would remove: {path}", file=out)
        return 0
    if machine.system == "windows" and installed(wanted):
        close_daemon(settings)
    _undo(wanted, out)
    return 0


def installed(wanted: Plan) -> bool:
    return any(path.exists() for path in wanted.files)


def close_daemon(settings: Settings) -> bool:
    """Have the daemon close its session and end; whether it has. Windows' scheduler could only kill it."""
    try:
        pid = blocking_client.call_once(settings.socket_path, "daemon.info")["pid"]
        blocking_client.call_once(settings.socket_path, "daemon.stop")
        psutil.Process(pid).wait(STOP_LIMIT)
    except psutil.TimeoutExpired:
        return False
    except (OSError, psutil.NoSuchProcess):
        pass  # there is no daemon, or no longer
    return True


def show(wanted: Plan, out: TextIO) -> None:
    for path, content in wanted.files.items():
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        print(f"--- {path}\n{content.decode(encoding)}", file=out)
    for command in wanted.begin:
        print(f"would run: {shlex.join(command)}", file=out)


def _undo(wanted: Plan, out: TextIO) -> None:
    if not installed(wanted):
        print("Nothing is installed.", file=out)
        return
    for command in wanted.end:
        run(command, out)  # fails where it is not running
    for path in wanted.files:
        if path.exists():
            path.unlink()
            print(f"removed {path}", file=out)
    if wanted.begin[0][-1] == "daemon-reload":
        run(wanted.begin[0], out)


def run(command: tuple[str, ...], out: TextIO) -> str | None:
    """Run a command of the service manager. Its failure in one line, `None` if it succeeded."""
    print(f"running: {shlex.join(command)}", file=out)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT, check=False)  # noqa: S603
    except FileNotFoundError:
        return f"{command[0]} is not on this machine: use ./scripts/start instead."
    except subprocess.TimeoutExpired:
        return f"{shlex.join(command)} did not end within {COMMAND_LIMIT:.0f} s."
    return f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}" if done.returncode else None
