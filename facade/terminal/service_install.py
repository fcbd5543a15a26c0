"""Install daemon and facade as services that start at login, on three systems, or at boot, with systemd; remove them.

Plans are values (files and commands), shown as they are with `--dry-run`. Login services change only the user's own
directories, with the user's own rights; services of the system run as a user of their own and need root.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Literal, TextIO
from xml.sax.saxutils import escape

import psutil

from facade.doctor.checks import ENABLE_LINGER, lingering
from facade.terminal.requests import named_session
from shared.jsonrpc import blocking_client
from shared.settings import PROJECT_ROOT, TABLE, Settings, SettingsError
from shared.transport.address import DEFAULT_SESSION

System = Literal["systemd", "launchd", "windows", "system"]
"""`system`: systemd too, started at boot."""
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
    """Files and their content, the commands that register them, and the commands that undo it.

    `kept`: files that are written only where they are missing, and stay: content and mode; no content is a new token.
    """

    files: Mapping[Path, bytes]
    begin: tuple[tuple[str, ...], ...]
    end: tuple[tuple[str, ...], ...]
    kept: Mapping[Path, tuple[bytes, int]] = field(default_factory=dict)
    reload: tuple[str, ...] = ()
    """The command after files were removed."""


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
    daemon = services(settings)[0]
    units = {f"ibkr-{daemon.name('@')}.service": "ibkr-daemon.service"}  # by name, the template that is filled
    if not daemon.session:
        units |= {name: name for name in ("ibkr-facade.socket", "ibkr-facade.service")}
    directory = machine.home / ".config" / "systemd" / "user"
    values = {
        "python": _unit_quoted(str(machine.python)),
        "directory": str(PROJECT_ROOT).replace("%", "%%"),
        "listen": _listen(settings),
        "arguments": " ".join(daemon.arguments),
        "session": f" {daemon.session}" if daemon.session else "",
    }
    systemctl = ("systemctl", "--user")
    return Plan(
        files={directory / name: _filled(template, values).encode() for name, template in units.items()},
        begin=((*systemctl, "daemon-reload"), (*systemctl, "enable", "--now", *units)),
        end=((*systemctl, "disable", "--now", *reversed(units)),),
        reload=(*systemctl, "daemon-reload"),
    )


def _listen(settings: Settings) -> str:
    """The facade's address for a socket unit, which takes no name."""
    host = f"[{settings.facade_host}]" if ":" in settings.facade_host else settings.facade_host
    return f"{'127.0.0.1' if host == 'localhost' else host}:{settings.facade_port}"


def _system(machine: Machine, settings: Settings) -> Plan:
    """Units, a system user, and settings below /etc. The facade requires a token: its users are other users."""
    daemon = services(settings)[0]
    units = {f"ibkr-{daemon.name('@')}.service": "system/ibkr-daemon.service"}
    if not daemon.session:
        units |= {"ibkr-facade.socket": "ibkr-facade.socket", "ibkr-facade.service": "system/ibkr-facade.service"}
    file, token = system_settings(daemon.session), ETC / "token"
    state = f"ibkr/sessions/{daemon.session}" if daemon.session else "ibkr"
    values = {
        "python": _unit_quoted(str(machine.python)),
        "path": _unit_quoted(str(PROJECT_ROOT), variables=False),
        "home": "read-only" if any(map(_below_home, _read_by_services(machine))) else "yes",
        "listen": _listen(settings),
        "arguments": " ".join(daemon.arguments),
        "session": f" {daemon.session}" if daemon.session else "",
        "settings": str(file),
        "state": state,
    }
    own = {**values, "state": f"/var/lib/{state}", "socket": f"{daemon.session or 'daemon'}.sock"}
    content = _filled("system/settings.env", own)
    kept = {file: (content.encode(), 0o640)}
    secrets_of_service: tuple[tuple[str, ...], ...] = (("chown", "root:ibkr", str(file)),)
    if not daemon.session:
        kept = {file: (f"{content}IBKR_FACADE_TOKEN_FILE={token}\n".encode(), 0o640), token: (b"", 0o600)}
        secrets_of_service += (("chown", "ibkr:ibkr", str(token)),)
    kept[SYSUSERS] = ((TEMPLATES / "system" / "sysusers.conf").read_bytes(), 0o644)
    return Plan(
        files={UNITS / name: _filled(template, values).encode() for name, template in units.items()},
        begin=(
            ("systemd-sysusers", str(SYSUSERS)),
            *secrets_of_service,
            ("systemctl", "daemon-reload"),
            ("systemctl", "enable", "--now", *units),
        ),
        end=(("systemctl", "disable", "--now", *reversed(units)),),
        kept=kept,
        reload=("systemctl", "daemon-reload"),
    )


ETC = Path("/etc/ibkr")
UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d/ibkr.conf")


def system_settings(session: str) -> Path:
    """The settings file of the system's services for `session`; empty for the default one.

    Raises `SettingsError` for a name whose settings file or socket is the default session's.
    """
    if session in ("ibkr", "daemon"):
        raise SettingsError(
            f"A session of the system's services cannot be named {session!r}: its settings file or its socket would be "
            "those of the default session. Choose another name."
        )
    return ETC / f"{session or 'ibkr'}.env"


def _read_by_services(machine: Machine) -> tuple[Path, ...]:
    return machine.python, machine.python.resolve(), Path(__file__)


def _below_home(path: Path) -> bool:
    return path.parts[1:2] in (("home",), ("root",))


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
    "system": _system,
}


def _filled(name: str, values: Mapping[str, str]) -> str:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)


def _unit_quoted(path: str, *, variables: bool = True) -> str:
    """A path as a unit takes it: specifiers off, quoted where it must be; `variables`: off too, where there are any."""
    path = path.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    path = path.replace("$", "$$") if variables else path
    return f'"{path}"' if " " in path or "'" in path else path


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
    if machine.system == "system" and (refused := refusal(machine)):
        print(refused, file=out)
        return 1
    for path, (content, mode) in wanted.kept.items():
        print(f"{'wrote' if _keep(path, content, mode) else 'kept'} {path}", file=out)
    for path, content in wanted.files.items():
        path.parent.mkdir(mode=0o755 if machine.system == "system" else 0o700, parents=True, exist_ok=True)
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
    if machine.system == "system" and (problem := needs_root()):
        print(problem, file=out)
        return 1
    if machine.system == "windows" and installed(wanted):
        close_daemon(settings)
    _undo(wanted, out)
    for path in filter(Path.exists, wanted.kept):
        print(f"kept {path}", file=out)
    return 0


def needs_root() -> str:
    """Why services of the system cannot be installed or removed here; empty where they can."""
    if sys.platform != "linux":
        return "--system is for Linux with systemd; without it, install starts the services at login."
    return "" if os.geteuid() == 0 else "--system changes /etc and starts services of the system: run it with sudo."


def refusal(machine: Machine) -> str:
    """Why the services of the system could not run from here; empty where they can."""
    if problem := needs_root():
        return problem
    for path in _read_by_services(machine):
        for place in (path, *path.parents):
            wanted = stat.S_IXOTH if place.is_dir() else stat.S_IROTH
            if not place.stat().st_mode & wanted:
                return (
                    f"The services run as the user ibkr, who cannot read {path}: {place} is closed to others. "
                    "Install the project where every user can read it, such as /opt."
                )
    return ""


def _keep(path: Path, content: bytes, mode: int) -> bool:
    """Write a file that is missing, with its mode from the beginning; whether it was."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)  # whatever the umask: the services read what is in it
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return False
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content or secrets.token_urlsafe(32).encode() + b"\n")
    return True


def installed(wanted: Plan) -> bool:
    return any(path.exists() for path in wanted.files)


def close_daemon(settings: Settings) -> bool:
    """Have the daemon close its session and end; whether it has. Windows' scheduler could only kill it."""
    try:
        named = named_session(settings)
        pid = blocking_client.call_once(settings.socket_path, "daemon.info", session=named)["pid"]
        blocking_client.call_once(settings.socket_path, "daemon.stop", session=named)
        psutil.Process(pid).wait(STOP_LIMIT)
    except psutil.TimeoutExpired:
        return False
    except (OSError, psutil.NoSuchProcess):
        pass  # there is no daemon, or no longer
    return True


def show(wanted: Plan, out: TextIO) -> None:
    for path, (content, mode) in wanted.kept.items():
        print(f"--- {path} (only if it is missing; mode {mode:o})\n{content.decode() or 'a new token'}", file=out)
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
    if wanted.reload:
        run(wanted.reload, out)


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
