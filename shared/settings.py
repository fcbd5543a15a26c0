"""The settings: every `IBKR_*` name, its default, what is accepted; read once at the door and frozen.

Reads nothing but the mapping and files it is given. Never corrects a value: a bad one stops the start.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Any, Literal, cast

from dotenv import dotenv_values
from environs import Env, EnvValidationError
from platformdirs import user_state_path

from shared.transport.address import default_path
from shared.transport.private_paths import closing

PROJECT_ROOT = Path(__file__).resolve().parent.parent
BAD_SETTINGS = 78
"""Exit status for settings that cannot be used (EX_CONFIG)."""

LIVE_PORTS = (7496, 4001)
STANDARD_PORTS = {7497: "TWS paper", 7496: "TWS live", 4002: "Gateway paper", 4001: "Gateway live"}

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class SettingsError(Exception):
    """One sentence: which variable, which value, what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the environment and `.env` say. Times in seconds; an empty text is "not set"."""

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
    log_level: LogLevel = "INFO"
    log_format: Literal["console", "json"] = "console"
    env_file: Path | None = None
    """The file that was read, if any."""

    @classmethod
    def load(cls, environ: Mapping[str, str], cwd: Path | None = None) -> Settings:
        """From `environ`, then the file `IBKR_ENV_FILE` names, else `.env` in `cwd`, else in the project root.

        Raises `SettingsError`.
        """
        path = _env_file(environ, Path.cwd() if cwd is None else cwd)
        given = {name: value for name, value in _file_values(path).items() if name.startswith("IBKR_")}
        given |= {name: value for name, value in environ.items() if name.startswith("IBKR_")}
        given.pop("IBKR_ENV_FILE", None)
        env = _Given({name: _without_comment(value) for name, value in given.items()})
        unknown = sorted(set(env.values) - set(TABLE))
        if unknown:
            known = ", ".join(("IBKR_ENV_FILE", *TABLE))
            raise SettingsError(f"{unknown[0]} is not a setting; known are {known}.")
        read = {row.field: row.read(env, name) for name, row in TABLE.items() if name in env.values}
        if not read.get("socket"):
            try:
                read["socket"] = default_path({**environ, "IBKR_SOCKET": ""})
            except OSError as error:
                raise SettingsError(str(error)) from error
        return cls(**read, env_file=path)

    @property
    def socket_path(self) -> str:
        """Where the daemon listens: `IBKR_SOCKET`, else the per-user place of this system."""
        return self.socket or default_path({})

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


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by its text alone: nothing is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def default_state_dir() -> Path:
    return user_state_path("ibkr", appauthor=False)


# --- reading one value ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """How one name is read. `accepted` completes the sentence "accepted is …"."""

    field: str
    parse: Callable[[Env, str], Any]
    accepted: str

    def read(self, env: _Given, name: str) -> Any:
        try:
            return self.parse(env, name)
        except (EnvValidationError, ValueError):
            raise SettingsError(f"{name} is {env.values[name]!r}; accepted is {self.accepted}.") from None


class _Given(Env):
    """environs on a mapping that is an argument, instead of the process's environment."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__()
        self.values = values

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self.values.get(env_key, default)


def _within(low: float, high: float) -> Callable[[float], bool]:
    def check(value: float) -> bool:
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(value)
        return True

    return check


def _bool(env: Env, name: str) -> bool:
    return env.bool(name)


def _int(low: int, high: int) -> Callable[[Env, str], int]:
    within = _within(low, high)

    def parse(env: Env, name: str) -> int:
        value = env.int(name)
        within(value)
        return value

    return parse


def _seconds(env: Env, name: str) -> float:
    value = env.float(name)
    if not 0 < value <= 3600:  # NaN fails too
        raise ValueError(value)
    return value


def _text(env: Env, name: str) -> str:
    return env.str(name).strip()


def _expanded(value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # `~name` of nobody here
        raise ValueError(value) from error


def _socket(env: Env, name: str) -> str:
    value = _text(env, name)
    if not value or value.startswith("\\\\"):  # a pipe of Windows
        return value
    return str(_expanded(value))


def _host(env: Env, name: str) -> str:
    value = _text(env, name)
    if not re.fullmatch(r"[0-9A-Za-z._:%-]{1,253}", value):
        raise ValueError(value)
    return value


def _account(env: Env, name: str) -> str:
    value = _text(env, name)
    if not re.fullmatch(r"[0-9A-Za-z-]{0,32}", value):
        raise ValueError(value)
    return value


def _one_of(*choices: str) -> Callable[[Env, str], str]:
    def parse(env: Env, name: str) -> str:
        value = _text(env, name)
        found = {choice.lower(): choice for choice in choices}.get(value.lower())
        if found is None:
            raise ValueError(value)
        return found

    return parse


def _clock_time(env: Env, name: str) -> time | None:
    value = _text(env, name)
    if not value:
        return None
    if not re.fullmatch(r"\d{2}:\d{2}", value):
        raise ValueError(value)
    return time.fromisoformat(value)


def _list(pattern: str, spelled: Callable[[str], str] = str) -> Callable[[Env, str], tuple[str, ...]]:
    def parse(env: Env, name: str) -> tuple[str, ...]:
        items = tuple(spelled(item.strip()) for item in env.str(name).split(",") if item.strip())
        if not all(re.fullmatch(pattern, item) for item in items):
            raise ValueError(items)
        return items

    return parse


def _path(env: Env, name: str) -> Path:
    value = _text(env, name)
    if not value:
        raise ValueError(value)
    return _expanded(value)


def _path_or_none(env: Env, name: str) -> Path | None:
    return _path(env, name) if _text(env, name) else None


def _state_dir(env: Env, name: str) -> Path:
    return _path_or_none(env, name) or default_state_dir()


SECONDS = "a number of seconds above 0 and at most 3600"
BOOL = "true or false"
PORT = "a whole number from 1 to 65535"

TABLE: dict[str, Row] = {
    "IBKR_AUTO_CONNECT": Row("auto_connect", _bool, BOOL),
    "IBKR_HOST": Row("host", _host, "a host name or address"),
    "IBKR_PORT": Row("port", _int(1, 65535), PORT),
    "IBKR_CLIENT_ID": Row("client_id", _int(0, 2**31 - 1), "a whole number from 0 to 2147483647"),
    "IBKR_ACCOUNT": Row("account", _account, "an account id such as DU1234567, or nothing"),
    "IBKR_CONNECT_TIMEOUT": Row("connect_timeout", _seconds, SECONDS),
    "IBKR_PROBE_INTERVAL": Row("probe_interval", _seconds, SECONDS),
    "IBKR_PROBE_TIMEOUT": Row("probe_timeout", _seconds, SECONDS),
    "IBKR_RECONNECT_MAX": Row("reconnect_max", _seconds, SECONDS),
    "IBKR_MARKET_DATA": Row("market_data", _one_of("live", "delayed"), "live or delayed"),
    "IBKR_RESTART_AT": Row("restart_at", _clock_time, "a local time HH:MM such as 23:45, or nothing"),
    "IBKR_ALLOWED_HOSTS": Row("allowed_hosts", _list(r"[0-9A-Za-z._:%-]{1,253}"), "host names separated by commas"),
    "IBKR_ALLOW_LIVE": Row("allow_live", _bool, BOOL),
    "IBKR_SOCKET": Row("socket", _socket, "a socket path (Windows: a pipe name), or nothing"),
    "IBKR_STATE_DIR": Row("state_dir", _state_dir, "a directory, or nothing"),
    "IBKR_FACADE_HOST": Row("facade_host", _host, "a host name or address"),
    "IBKR_FACADE_PORT": Row("facade_port", _int(1, 65535), PORT),
    "IBKR_FACADE_NAMES": Row(
        "facade_names", _list(r"[0-9a-z._\[\]:-]+:\d{1,5}", str.lower), "host:port names separated by commas"
    ),
    "IBKR_FACADE_TOKEN_FILE": Row("facade_token_file", _path_or_none, "a file, or nothing"),
    "IBKR_PEER_CHECK": Row("peer_check", _bool, BOOL),
    "IBKR_LOG_LEVEL": Row(
        "log_level", _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "DEBUG, INFO, WARNING, ERROR or CRITICAL"
    ),
    "IBKR_LOG_FORMAT": Row("log_format", _one_of("console", "json"), "console or json"),
}
"""Every name of the environment but `IBKR_ENV_FILE`, which names the file that holds the others."""


def state_dir_of(environ: Mapping[str, str]) -> Path:
    """The state directory as `environ` alone says it, or its default. Raises `SettingsError`."""
    name = "IBKR_STATE_DIR"
    return cast(Path, TABLE[name].read(_Given({name: environ.get(name, "")}), name))


# --- files ----------------------------------------------------------------------------------------------------------


def _env_file(environ: Mapping[str, str], cwd: Path) -> Path | None:
    named = environ.get("IBKR_ENV_FILE", "").strip()
    if named:
        try:
            path = _expanded(named)
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name too long, a home that nobody has
            pass
        raise SettingsError(f"IBKR_ENV_FILE is {named!r}; accepted is the path of a file that exists.")
    return next((path for path in (cwd / ".env", PROJECT_ROOT / ".env") if path.is_file()), None)


def _file_values(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        read = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error}.") from error
    return {name: value or "" for name, value in read.items()}


def _without_comment(value: str) -> str:
    """`7497   # Port number` is 7497. A `#` without white space before it belongs to the value."""
    return re.sub(r"(^|\s+)#.*$", "", value, flags=re.DOTALL).strip()


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
