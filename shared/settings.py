"""The settings: every `IBKR_*` name, its default, what is accepted; read once when a process starts, and frozen.

Reads the mapping and the files that it is passed. A bad value is an error, never corrected.
"""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import time
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from environs import Env, validate
from platformdirs import user_state_path

from shared.alerts.sinks import KINDS, Sink, read_sinks, read_url
from shared.env_file import OURS, EnvFile, nearest, read_env_file, without_comment
from shared.env_file import SettingsError as SettingsError
from shared.transport.address import DEFAULT_SESSION, default_path
from shared.transport.private_paths import closing

PROJECT_ROOT = Path(__file__).resolve().parent.parent
BAD_SETTINGS = 78
"""Exit status for settings that cannot be used (EX_CONFIG)."""

MAX_PORT = 65535
LIVE_PORTS = (7496, 4001)
STANDARD_PORTS = {7497: "TWS paper", 7496: "TWS live", 4002: "Gateway paper", 4001: "Gateway live"}

REMOTE = "nats"
"""The address, in `IBKR_SESSIONS`, of a session whose daemon is reached over NATS."""

SESSION_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings in force. Times in seconds; an empty text is "not set"."""

    session: str = DEFAULT_SESSION
    """The name of the session of this daemon, or of the one that the command is about."""
    sessions: tuple[tuple[str, str], ...] = ()
    """Name and socket of each session that a facade serves; an empty socket is the session's default."""
    auto_connect: bool = False
    host: str = "127.0.0.1"
    port: int = 7497
    client_id: int = 1
    account: str = ""
    connect_timeout: float = 10.0
    probe_interval: float = 5.0
    probe_timeout: float = 5.0
    reconnect_max: float = 15.0
    market_data: Literal["live", "delayed"] = "live"
    restart_at: time | None = None
    allowed_hosts: tuple[str, ...] = ()
    allow_live: bool = False
    socket: str = ""
    state_dir: Path = field(default_factory=lambda: default_state_dir())
    facade_host: str = "127.0.0.1"
    facade_port: int = 9101
    facade_names: tuple[str, ...] = ()
    facade_token_file: Path | None = None
    peer_check: bool = True
    remedy: Path | None = None
    remedy_after: float = 300.0
    heartbeat: Sink | None = None
    alerts: tuple[Sink, ...] = ()
    alerts_secret_file: Path | None = None
    alerts_after: float = 60.0
    alerts_on: tuple[str, ...] = ("down", "action", "recovered")
    nats_url: tuple[str, ...] = ()
    nats_creds: Path | None = None
    nats_prefix: str = "ibkr"
    log_level: LogLevel = "INFO"
    log_format: Literal["console", "json"] = "console"
    env_file: Path | None = None
    """The file that was read, if any."""
    warnings: tuple[str, ...] = ()
    """What is odd in that file and does no harm: sentences for the log."""

    @classmethod
    def load(cls, environ: Mapping[str, str], cwd: Path | None = None) -> Settings:
        """From `environ`, then the file `IBKR_ENV_FILE` names, else `.env` in `cwd`, else in the project root.

        A named session reads `.env.NAME` from the same places before `.env`, and in place of the file `IBKR_ENV_FILE`
        names, `NAME.env` beside it. Raises `SettingsError`.
        """
        start = _working_directory() if cwd is None else cwd
        outside = _from_environment(environ, start)
        file = _env_file({**environ, **_own_file(environ, _session_name(outside), start)}, start)
        given = {} if file is None else _from_file(file)
        session = _session_name(given | outside)
        warnings = () if file is None else file.warnings
        if session != DEFAULT_SESSION and not environ.get("IBKR_ENV_FILE", "").strip():
            own = _file_named(f".env.{session}", start)
            if own is not None:
                given |= _from_file(own)
                file, warnings = own, (*warnings, *own.warnings)
        given |= outside
        if _session_name(given) != session:
            raise SettingsError(f"{given['IBKR_SESSION'].where}: IBKR_SESSION is another one than {session!r}.")
        for value in given.values():
            if value.name not in TABLE:
                raise SettingsError(_unknown(value))
        read = {TABLE[name].field: TABLE[name].read(value) for name, value in given.items()}
        if not read.get("socket"):
            try:
                read["socket"] = default_path({**environ, "IBKR_SOCKET": ""}, session)
            except OSError as error:
                raise SettingsError(str(error)) from error
        if read.get("state_dir") is None:
            read["state_dir"] = default_state_dir(session)
        settings = cls(**read, env_file=file.path if file else None, warnings=warnings)
        settings._check_nats()
        return settings

    def _check_nats(self) -> None:
        remote = [name for name, address in self.sessions if address == REMOTE]
        if remote and not self.nats_url:
            raise SettingsError(f"IBKR_SESSIONS has {remote[0]}={REMOTE}: that needs IBKR_NATS_URL.")
        if self.nats_url and importlib.util.find_spec("nats") is None:
            raise SettingsError("IBKR_NATS_URL needs the package nats-py: pip install '.[nats]'")
        if self.nats_creds is not None and self.nats_url:
            _check_credentials(self.nats_creds)

    def is_remote(self, session: str) -> bool:
        """Whether a facade reaches the daemon of `session` over NATS."""
        return dict(self.sessions).get(session) == REMOTE

    @property
    def gateway_client(self) -> GatewayClient:
        return gateway_client(self.host, self.port, self.client_id)

    def other_sessions(self, environ: Mapping[str, str], cwd: Path | None = None) -> dict[str, Settings]:
        """The settings of this machine's other sessions as their files have them, by name.

        What cannot be known is left out: remote sessions, and those whose settings are in no file. A file without a
        setting of ours is another program's.
        """
        start, named = _working_directory() if cwd is None else cwd, dict(self.sessions)
        outside = {name: value for name, value in environ.items() if not name.startswith(OURS)}
        found = {}
        for name in self.known_sessions(cwd):
            if name == self.session or self.is_remote(name):
                continue
            with contextlib.suppress(SettingsError):
                beside = _own_file(environ, name, start)
                own = _file_named(f".env.{name}", start)
                if name not in named and (own is None or not own.assignments):
                    continue
                other = Settings.load({**outside, **beside, "IBKR_SESSION": name, "IBKR_SESSIONS": ""}, cwd)
                if other.env_file is not None:
                    found[name] = other
        return found

    def known_sessions(self, cwd: Path | None = None) -> tuple[str, ...]:
        """The names of `IBKR_SESSIONS`, then those that have a settings file `.env.NAME`."""
        places = (_working_directory() if cwd is None else cwd, PROJECT_ROOT)
        files = sorted(file.name.removeprefix(".env.") for place in places for file in place.glob(".env.*"))
        own = (name for name in files if SESSION_NAME.fullmatch(name) and name != "example")
        return tuple(dict.fromkeys((*(name for name, _ in self.sessions), *own)))

    @property
    def socket_path(self) -> str:
        """Where the daemon listens: `IBKR_SOCKET`, else the per-user default of the session."""
        return self.socket or default_path({}, self.session)

    def of_sessions(self, environ: Mapping[str, str], cwd: Path | None = None) -> dict[str, Settings]:
        """The settings of each session that a facade serves, by name, the default one first.

        `environ`, `cwd`: those that these settings were loaded from. Raises `SettingsError`.
        """
        if not self.sessions:
            return {self.session: self}
        found: dict[str, Settings] = {}
        for name, path in self.sessions:
            own = self
            if name != self.session:
                local = {"IBKR_SOCKET": path} if path and path != REMOTE else {}
                own = Settings.load({**environ, "IBKR_SESSION": name, **local}, cwd)
            elif path and path != REMOTE:
                own = replace(self, socket=path)
            if path == REMOTE:
                found[name] = own
                continue
            for other, its in found.items():
                same = os.path.realpath(its.socket) == os.path.realpath(own.socket)
                if same and not self.is_remote(other):
                    raise SettingsError(f"IBKR_SESSIONS: {other} and {name} are the same socket, {own.socket}.")
            found[name] = own
        return found

    @property
    def loopback(self) -> bool:
        """Whether the facade binds where only this machine can reach it."""
        return is_loopback(self.facade_host)

    @property
    def facade_url(self) -> str:
        """Where this machine reaches the facade: a wildcard bind is no name that it answers to."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.facade_host, self.facade_host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.facade_port}"

    def token(self) -> bytes | None:
        """The facade's bearer token, `None` where none is wanted. Raises `SettingsError`."""
        if self.facade_token_file is None:
            if not self.loopback:
                raise SettingsError(
                    f"IBKR_FACADE_HOST={self.facade_host} is reachable from other machines: that needs "
                    "IBKR_FACADE_TOKEN_FILE, a file with a bearer token that only you can read."
                )
            return None
        return _token(self.facade_token_file)


GatewayClient = tuple[str, int, int]
"""Host, port and client id; equal where they are the same for TWS, which accepts one connection of them at a time."""


def gateway_client(host: str, port: int, client_id: int) -> GatewayClient:
    return "127.0.0.1" if is_loopback(host) else host.lower(), port, client_id


def shared_client_ids(sessions: Mapping[str, GatewayClient]) -> Iterator[tuple[str, str, str]]:
    """Each two sessions that cannot both be connected, with a sentence."""
    for (one, its), (other, others) in combinations(sessions.items(), 2):
        if its == others:
            host, port, client_id = its
            yield (
                one,
                other,
                f"The sessions {one} and {other} both use {host}:{port} with client id {client_id}: TWS accepts one of "
                "them at a time. Give one of them another IBKR_CLIENT_ID, in its .env.NAME.",
            )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by its text alone: nothing is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_state_dir(session: str = DEFAULT_SESSION) -> Path:
    """The per-user state directory of `session`. Raises `SettingsError` for a user without a home directory."""
    try:
        state = user_state_path("ibkr", appauthor=False)
        return state if session == DEFAULT_SESSION else state / "sessions" / session
    except RuntimeError:
        raise SettingsError("This user has no home directory: set IBKR_STATE_DIR and IBKR_SOCKET.") from None


# --- reading one value ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Value:
    """One setting as it was given. `where`: empty for the environment. `base`: what a relative path is relative to."""

    name: str
    text: str
    base: Path
    where: str = ""


class Refused(ValueError):  # noqa: N818 - as `shared.transport`'s
    """A value that is not acceptable, with a sentence on what was probably meant."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one name is read. `accepted` completes the sentence "accepted is …". `secret`: its value is never shown."""

    field: str
    parse: Callable[[Value], Any]
    accepted: str
    secret: bool = False

    def read(self, value: Value) -> Any:
        try:
            return self.parse(value)
        except ValueError as error:
            where = f" ({value.where})" if value.where else ""
            hint = f" {error}" if isinstance(error, Refused) else ""
            shown = "not acceptable" if self.secret else repr(value.text)
            raise SettingsError(f"{value.name} is {shown}{where}; accepted is {self.accepted}.{hint}") from None


class GivenEnv(Env):
    """environs on one value that is passed, instead of on the process's environment."""

    def __init__(self, value: Value) -> None:
        super().__init__()
        self.given = {value.name: value.text}

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self.given.get(env_key, default)


def _bool(value: Value) -> bool:
    return GivenEnv(value).bool(value.name)


def _int(low: int, high: int) -> Callable[[Value], int]:
    def parse(value: Value) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", value.text):  # int() also takes 7_497 and other scripts' digits
            raise ValueError(value.text)
        return GivenEnv(value).int(value.name, validate=validate.Range(low, high))

    return parse


def _seconds(value: Value) -> float:
    if "_" in value.text or not value.text.isascii():  # float() also takes 1_0 and other scripts' digits
        raise ValueError(value.text)
    return GivenEnv(value).float(value.name, validate=validate.Range(0, 3600, min_inclusive=False))


def _path(value: Value) -> Path:
    text = value.text
    if re.search(r"\$\w|\$[{(]|%\w+%", text):
        raise Refused("Variables are not expanded here: write the path out; ~ is your home directory.")
    try:
        return value.base / Path(text).expanduser()
    except RuntimeError as error:  # `~name` of a user that does not exist
        raise ValueError(text) from error


def _path_or_none(value: Value) -> Path | None:
    return _path(value) if value.text else None


def _program(value: Value) -> Path | None:
    path = _path_or_none(value)
    if path is not None and not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise Refused("It is run without a shell: arguments belong into a script of yours.")
    return path


def _socket(value: Value) -> str:
    if not value.text or value.text.startswith("\\\\"):  # a pipe of Windows
        return value.text
    return str(_path(value))


def _host(port: str) -> Callable[[Value], str]:
    """`port`: the name of the setting that holds the port of this host."""

    def parse(value: Value) -> str:
        return host_name(value.text, port)

    return parse


def host_name(text: str, port: str = "IBKR_PORT") -> str:
    """`text`, if it is a host name or a whole numeric address. Raises `ValueError`."""
    with_port = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", text)
    if with_port:
        host = with_port[1] or with_port[2]
        raise Refused(f"Write the host alone, {host}; the port is a setting of its own: {port}={with_port[3]}.")
    if "://" in text:
        raise Refused("Write the host alone, without http:// and path.")
    if not re.fullmatch(r"[0-9A-Za-z._:%-]{1,253}", text):
        raise ValueError(text)
    if ":" in text:
        return str(ipaddress.IPv6Address(text)) and text
    labels = text.removesuffix(".").split(".")
    if not all(re.fullmatch(r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?", label) for label in labels):
        raise ValueError(text)
    if re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", labels[-1]):  # a number: the system would read it as an address
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            raise Refused("A numeric address has four numbers from 0 to 255, such as 127.0.0.1.") from None
    return text


def _hosts(value: Value) -> tuple[str, ...]:
    return tuple(map(host_name, _items(value)))


def _names(value: Value) -> tuple[str, ...]:
    names = tuple(map(str.lower, _items(value)))
    for name in names:
        found = re.fullmatch(r"[0-9a-z._\[\]:-]+:([0-9]{1,5})", name)
        if found is None:
            raise ValueError(value.text)
        if not 1 <= int(found[1]) <= MAX_PORT:
            raise Refused(f"{name} names port {found[1]}; a port is a whole number from 1 to {MAX_PORT}.")
    return names


def _items(value: Value) -> list[str]:
    return [item.strip() for item in value.text.split(",") if item.strip()]


def _sinks(value: Value) -> tuple[Sink, ...]:
    try:
        return read_sinks(value.text)
    except ValueError as error:
        raise Refused(str(error)) from None


def _heartbeat(value: Value) -> Sink | None:
    if not value.text:
        return None
    try:
        return read_url(value.text)
    except ValueError as error:
        raise Refused(str(error)) from None


def _alert_kinds(value: Value) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(map(str.lower, _items(value))))
    if not kinds or not set(kinds) <= set(KINDS):
        raise ValueError(value.text)
    return kinds


def _session(value: Value) -> str:
    if value.text and not SESSION_NAME.fullmatch(value.text):
        raise ValueError(value.text)
    return value.text or DEFAULT_SESSION


def _sessions(value: Value) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for item in _items(value):
        name, equals, address = (part.strip() for part in item.partition("="))
        if not SESSION_NAME.fullmatch(name) or (equals and not address):
            raise ValueError(value.text)
        if name in found:
            raise Refused(f"{name} is there twice.")
        local = address and address != REMOTE
        found[name] = _socket(Value(value.name, address, value.base, value.where)) if local else address
    return tuple(found.items())


def _nats_urls(value: Value) -> tuple[str, ...]:
    urls = tuple(_items(value))
    if not all(re.fullmatch(r"(nats|tls)://[^/\s@]+", url) for url in urls):
        raise ValueError(value.text)
    return urls


def _nats_prefix(value: Value) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", value.text):
        raise ValueError(value.text)
    return value.text


def _account(value: Value) -> str:
    if not re.fullmatch(r"[0-9A-Za-z-]{0,32}", value.text):
        raise ValueError(value.text)
    return value.text


def _one_of(*choices: str) -> Callable[[Value], str]:
    by_name = {choice.lower(): choice for choice in choices}

    def parse(value: Value) -> str:
        lower = replace(value, text=value.text.lower())
        return by_name[GivenEnv(lower).str(value.name, validate=validate.OneOf(list(by_name)))]

    return parse


def _clock_time(value: Value) -> time | None:
    if not value.text:
        return None
    if not re.fullmatch(r"[0-9]{2}:[0-9]{2}", value.text):
        raise ValueError(value.text)
    return time.fromisoformat(value.text)


SECONDS = "a number of seconds above 0 and at most 3600"
BOOL = "true or false"
PORT = f"a whole number from 1 to {MAX_PORT}"

TABLE: dict[str, Row] = {
    "IBKR_SESSION": Row("session", _session, "a name of a-z, 0-9 and -, of at most 32 characters"),
    "IBKR_SESSIONS": Row("sessions", _sessions, "NAME, NAME=SOCKET or NAME=nats, separated by commas, or nothing"),
    "IBKR_AUTO_CONNECT": Row("auto_connect", _bool, BOOL),
    "IBKR_HOST": Row("host", _host("IBKR_PORT"), "a host name or address"),
    "IBKR_PORT": Row("port", _int(1, MAX_PORT), PORT),
    "IBKR_CLIENT_ID": Row("client_id", _int(0, 2**31 - 1), "a whole number from 0 to 2147483647"),
    "IBKR_ACCOUNT": Row("account", _account, "an account id such as DU1234567, or nothing"),
    "IBKR_CONNECT_TIMEOUT": Row("connect_timeout", _seconds, SECONDS),
    "IBKR_PROBE_INTERVAL": Row("probe_interval", _seconds, SECONDS),
    "IBKR_PROBE_TIMEOUT": Row("probe_timeout", _seconds, SECONDS),
    "IBKR_RECONNECT_MAX": Row("reconnect_max", _seconds, SECONDS),
    "IBKR_MARKET_DATA": Row("market_data", _one_of("live", "delayed"), "live or delayed"),
    "IBKR_RESTART_AT": Row("restart_at", _clock_time, "a local time HH:MM such as 23:45, or nothing"),
    "IBKR_ALLOWED_HOSTS": Row("allowed_hosts", _hosts, "host names separated by commas"),
    "IBKR_ALLOW_LIVE": Row("allow_live", _bool, BOOL),
    "IBKR_SOCKET": Row("socket", _socket, "a socket path (Windows: a pipe name), or nothing"),
    "IBKR_STATE_DIR": Row("state_dir", _path_or_none, "a directory, or nothing"),
    "IBKR_FACADE_HOST": Row("facade_host", _host("IBKR_FACADE_PORT"), "a host name or address"),
    "IBKR_FACADE_PORT": Row("facade_port", _int(1, MAX_PORT), PORT),
    "IBKR_FACADE_NAMES": Row("facade_names", _names, "host:port names separated by commas"),
    "IBKR_FACADE_TOKEN_FILE": Row("facade_token_file", _path_or_none, "a file, or nothing"),
    "IBKR_PEER_CHECK": Row("peer_check", _bool, BOOL),
    "IBKR_REMEDY": Row("remedy", _program, "the path of an executable file, or nothing"),
    "IBKR_REMEDY_AFTER": Row("remedy_after", _seconds, SECONDS),
    "IBKR_ALERTS": Row(
        "alerts", _sinks, "https:// URLs or URLs of Apprise, separated by commas, or nothing", secret=True
    ),
    "IBKR_HEARTBEAT_URL": Row(
        "heartbeat", _heartbeat, "one https:// URL, http:// on this machine, or nothing", secret=True
    ),
    "IBKR_ALERTS_SECRET_FILE": Row("alerts_secret_file", _path_or_none, "a file, or nothing"),
    "IBKR_ALERTS_AFTER": Row("alerts_after", _seconds, SECONDS),
    "IBKR_ALERTS_ON": Row("alerts_on", _alert_kinds, f"some of {', '.join(KINDS)}, separated by commas"),
    "IBKR_NATS_URL": Row(
        "nats_url",
        _nats_urls,
        "nats://HOST:PORT or tls://HOST:PORT, separated by commas, or nothing",
        secret=True,
    ),
    "IBKR_NATS_CREDS": Row("nats_creds", _path_or_none, "a file, or nothing"),
    "IBKR_NATS_PREFIX": Row("nats_prefix", _nats_prefix, "one token of letters, digits, - and _"),
    "IBKR_LOG_LEVEL": Row(
        "log_level", _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "DEBUG, INFO, WARNING, ERROR or CRITICAL"
    ),
    "IBKR_LOG_FORMAT": Row("log_format", _one_of("console", "json"), "console or json"),
}
"""Every name of the environment but `IBKR_ENV_FILE`, which names the file that holds the others."""


def state_dir_of(environ: Mapping[str, str]) -> Path:
    """The state directory that `environ` alone names, or its default. Raises `SettingsError`."""
    name = "IBKR_STATE_DIR"
    start = _working_directory()
    found: Path | None = TABLE[name].read(Value(name, environ.get(name, "").strip(), start))
    return found or default_state_dir(_session_name(_from_environment(environ, start)))


# --- files and environment ------------------------------------------------------------------------------------------


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise SettingsError(
            f"The working directory cannot be used ({error.strerror}): change to another one and try again."
        ) from None


def _env_file(environ: Mapping[str, str], cwd: Path) -> EnvFile | None:
    named = environ.get("IBKR_ENV_FILE", "").strip()
    if named:
        try:
            path = cwd / Path(named).expanduser()
            if path.is_file():
                return read_env_file(path, TABLE)
        except (OSError, ValueError, RuntimeError):  # a name too long, a user that does not exist
            pass
        raise SettingsError(f"IBKR_ENV_FILE is {named!r}; accepted is the path of a file that exists.")
    return _file_named(".env", cwd)


def _own_file(environ: Mapping[str, str], session: str, cwd: Path) -> dict[str, str]:
    """`IBKR_ENV_FILE` of a named session where `environ` has one: `NAME.env` beside it, if there is one."""
    named = environ.get("IBKR_ENV_FILE", "").strip()
    if named and session != DEFAULT_SESSION:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # of a name that `_env_file` refuses
            path = (cwd / Path(named).expanduser()).with_name(f"{session}.env")
            if path.is_file():
                return {"IBKR_ENV_FILE": str(path)}
    return {}


def _file_named(name: str, cwd: Path) -> EnvFile | None:
    """The settings file of that name in `cwd`, else in the project root."""
    for path in (cwd / name, PROJECT_ROOT / name):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SettingsError(f"The settings file {path} cannot be read: {error.strerror}.") from None
        if not stat.S_ISREG(mode):
            raise SettingsError(f"{path} is not a file: it is where the settings are read from. Rename it.")
        return read_env_file(path, TABLE)
    return None


def _from_file(file: EnvFile) -> dict[str, Value]:
    return {
        name: Value(name, one.value, file.path.parent, f"{file.path}, line {one.line}")
        for name, one in file.assignments.items()
    }


def _session_name(given: Mapping[str, Value]) -> str:
    value = given.get("IBKR_SESSION")
    name: str = DEFAULT_SESSION if value is None else TABLE["IBKR_SESSION"].read(value)
    return name


def _from_environment(environ: Mapping[str, str], cwd: Path) -> dict[str, Value]:
    return {
        name: Value(name, without_comment(text), cwd)
        for name, text in environ.items()
        if (name.startswith(OURS) or name.upper() in TABLE) and name != "IBKR_ENV_FILE"
    }


def _unknown(value: Value) -> str:
    """The value is not shown: it may be a secret."""
    where = f" ({value.where})" if value.where else ""
    if value.name == "IBKR_ENV_FILE":
        return f"IBKR_ENV_FILE{where} names the settings file: set it in the environment, not in the file."
    meant = nearest(value.name, TABLE)
    hint = f"did you mean {meant}?" if meant else "`ibkr --help` lists the settings."
    return f"{value.name} is not a setting{where}; {hint}"


def _check_credentials(path: Path) -> None:
    name = f"IBKR_NATS_CREDS is {str(path)!r}"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(1 << 16)
    except OSError as error:
        raise SettingsError(f"{name}, which cannot be read: {error.strerror}.") from error
    if command := closing(str(path), mode):
        raise SettingsError(f"{name}, which others can read; run: {command}")
    if b"-----BEGIN NATS" in text:
        if importlib.util.find_spec("nkeys") is None:
            raise SettingsError(f"{name}, with NKey credentials: they need the package nkeys: pip install nkeys")
    elif not re.fullmatch(rb"[^\s:]+:[^\s]+\s*", text):
        raise SettingsError(f"{name}; accepted is a NATS credentials file, or one line USER:PASSWORD.")


def _token(path: Path) -> bytes:
    name = f"IBKR_FACADE_TOKEN_FILE is {str(path)!r}"
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.read(4097).strip()
    except OSError as error:
        raise SettingsError(f"{name}, which cannot be read: {error.strerror}.") from error
    if mend := closing(str(path), mode):
        raise SettingsError(f"{name}, which others can read; run: {mend}")
    if not token or len(token) > 4096 or any(byte <= 32 or byte > 126 for byte in token):
        raise SettingsError(f"{name}; accepted is a file with one token of printable characters, not empty.")
    return token
