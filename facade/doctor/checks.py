"""The doctor: everything between a person and IBKR, checked one after the other, each with evidence and remedy.

Works with the daemon down and never disturbs a live session: it dials the gateway itself only while the daemon has
none, with a client id of its own. What it cannot find out it calls unknown.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import sys
import time
import urllib.error
import urllib.request
import zoneinfo
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psutil

from facade.doctor.greeting import DOCTOR_CLIENT_ID, Greeting, greet
from shared.jsonrpc import blocking_client
from shared.log import masked, printable
from shared.reasons import FIREWALL, describe
from shared.settings import STANDARD_PORTS, Settings, SettingsError, is_loopback
from shared.zones import newest, package_version

Result = Literal["ok", "failed", "unknown", "skipped"]

DAEMON_PATIENCE = 2.0  # s, as over HTTP
DIAL_PATIENCE = 4.0  # s; a healthy gateway greets within a fraction of one
SKEW_LIMIT = 5  # s; the gateway tells whole seconds, and orders with a time go wrong beyond a few

ZONE_YEARS = 1
"""A version states its year alone: one of the year before last is older than a year for certain."""
PIP_TZDATA = f"{sys.executable} -m pip install --upgrade --no-deps tzdata"

MARKS = {"ok": "✓", "failed": "✗", "unknown": "?", "skipped": "-"}
TINTS = {"ok": "\x1b[32m", "failed": "\x1b[31m", "unknown": "\x1b[33m", "skipped": ""}


@dataclass(frozen=True)
class Check:
    """One question and its answer. `reason`: the catalogue's word where there is one."""

    name: str
    result: Result
    evidence: str
    remedy: tuple[str, ...] = ()
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"remedy": list(self.remedy)}

    def lines(self, *, colour: bool) -> list[str]:
        tint, plain = (TINTS[self.result], "\x1b[0m") if colour and TINTS[self.result] else ("", "")
        told = [f"{tint}{MARKS[self.result]}{plain} {self.name:<16} {printable(self.evidence)}"]
        return told + [f"    {number}. {line}" for number, line in enumerate(self.remedy, 1)]


@dataclass
class Patient:
    """What the checks have found out so far, for those that follow."""

    environ: Mapping[str, str]
    settings: Settings = field(default_factory=Settings)
    readable: bool = False  # the settings
    link: dict[str, Any] | None = None  # None: no daemon answered
    greeting: Greeting | None = None
    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    ports: Mapping[int, str] = field(default_factory=lambda: STANDARD_PORTS)

    @property
    def connected(self) -> bool:
        return bool(self.link and self.link.get("connected"))

    @property
    def target(self) -> tuple[str, int]:
        """Where the gateway is looked for: what the daemon dials, else what the settings say."""
        gateway = (self.link or {}).get("gateway")
        if gateway:
            return gateway["host"], gateway["port"]
        return self.settings.host, self.settings.port

    @property
    def client_id(self) -> int:
        """What the daemon dials with, else what the settings say."""
        gateway = (self.link or {}).get("gateway") or {}
        return int(gateway.get("clientId", self.settings.client_id))

    def catalogue(self, reason: str, **facts: Any) -> tuple[str, tuple[str, ...]]:
        host, port = self.target
        return describe(reason, **{"host": host, "port": port, "clientId": self.client_id} | facts)


def examine(
    environ: Mapping[str, str], *, settings: Settings | None = None, ports: Mapping[int, str] | None = None
) -> Iterator[Check]:
    """Every check in turn, as it is done. Masked: account ids are shortened, as in logs.

    `settings`: those that are in force already; else they are read from `environ`.
    """
    patient = Patient(environ, ports=STANDARD_PORTS if ports is None else ports)
    if settings is not None:
        patient.settings, patient.readable = settings, True
    for name, look in CHECKS.items():
        try:
            check = look(patient)
        except Exception as error:  # a doctor who falls over helps nobody: what he could not find out is unknown
            check = Check(name, "unknown", f"This check failed itself: {type(error).__name__}: {error}")
        yield Check(name, check.result, masked(check.evidence), tuple(map(masked, check.remedy)), check.reason)
        if not patient.readable:
            return  # nothing else means anything without them


# --- this machine ---------------------------------------------------------------------------------------------------


def _settings(patient: Patient) -> Check:
    if not patient.readable:
        try:
            patient.settings = Settings.load(patient.environ)
        except SettingsError as error:
            return Check("settings", "failed", str(error), ("Correct it in .env (see .env.example).",))
        patient.readable = True
    settings = patient.settings
    source = settings.env_file or "the environment alone (no .env found)"
    evidence = f"read from {source}: {settings.host}:{settings.port}, client id {settings.client_id}"
    if settings.env_file is not None and os.name != "nt" and settings.env_file.stat().st_mode & 0o022:
        remedy = (f"chmod go-w {settings.env_file}",)
        return Check("settings", "failed", f"Others can write {settings.env_file}.", remedy)
    return Check("settings", "ok", evidence)


def _state_directory(patient: Patient) -> Check:
    path = patient.settings.state_dir
    if not path.exists():
        parent = next(place for place in path.parents if place.exists())
        if os.access(parent, os.W_OK):
            return Check("state", "ok", f"{path} does not exist yet; the daemon makes it.")
        return Check("state", "failed", f"{path} cannot be made: {parent} is not writable.", (f"chmod u+w {parent}",))
    found = path.stat()
    if os.name != "nt" and found.st_uid != os.getuid() and os.getuid() != 0:
        return Check("state", "failed", f"{path} belongs to another user.", ("Set IBKR_STATE_DIR to one of yours.",))
    if os.name != "nt" and found.st_mode & 0o077:
        return Check("state", "failed", f"{path} is open to others.", (f"chmod 700 {path}",))
    if not os.access(path, os.W_OK):
        return Check("state", "failed", f"{path} is not writable.", (f"chmod u+w {path}",))
    free = psutil.disk_usage(str(path)).free
    if free < 50_000_000:
        return Check("state", "failed", f"{path} has {free // 1_000_000} MB left.", ("Make room on that disk.",))
    return Check("state", "ok", f"{path} is writable.")


def _daemon(patient: Patient) -> Check:
    path = patient.settings.socket_path
    try:
        patient.link = blocking_client.call_once(path, "link.get", {}, DAEMON_PATIENCE)
    except blocking_client.CallError as refused:
        return Check("daemon", "failed", f"The daemon refused: {refused.message}", ("Restart it.",))
    except PermissionError as error:
        remedy = (f"Check who owns {path}; it must be yours, mode 0600 in a directory of mode 0700.",)
        return Check("daemon", "failed", f"The socket {path} may not be used: {error}.", remedy, "daemonUnreachable")
    except TimeoutError:
        remedy = ("The daemon is stopped or stuck: ibkr restart daemon, or kill it and start it again.",)
        return Check(
            "daemon", "failed", f"A daemon listens at {path} but does not answer.", remedy, "daemonUnreachable"
        )
    except OSError as error:
        _sentence, advice = describe("daemonUnreachable")
        detail = f"No daemon listens at {path} ({error.strerror or error})."
        return Check("daemon", "failed", detail, advice[:1], "daemonUnreachable")
    facts = (patient.link or {}).get("daemon") or {}
    return Check("daemon", "ok", f"answers at {path} (pid {facts.get('pid')}, version {facts.get('version')})")


def _facade(patient: Patient) -> Check:
    url = f"{patient.settings.facade_url}/livez"
    try:
        with urllib.request.urlopen(url, timeout=DAEMON_PATIENCE) as answer:  # noqa: S310 - always http
            answer.read(64)
    except urllib.error.HTTPError as error:
        return Check("facade", "failed", f"{url} answers {error.code}; another program may use the port.")
    except OSError as error:
        return Check("facade", "failed", f"{url} does not answer ({error}).", ("Start it: python -m facade.",))
    return Check("facade", "ok", f"{url} answers.")


def _ipv6_localhost(patient: Patient) -> Check:
    host, port = patient.target
    if host != "localhost":
        return Check("ipv6 localhost", "ok", f"{host} is no name that could mean two addresses.")
    first = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    if first == "::1":
        remedy = ("Set IBKR_HOST=127.0.0.1: TWS trusts 127.0.0.1 only, and localhost means ::1 here.",)
        return Check("ipv6 localhost", "failed", "localhost is ::1 first on this machine.", remedy)
    return Check("ipv6 localhost", "ok", f"localhost is {first}.")


def _firewall(_patient: Patient) -> Check:
    if sys.platform != "win32":
        return Check("firewall", "skipped", "Only Windows blocks programs one by one.")
    rule = (
        "New-NetFirewallRule -DisplayName 'Python (IBKR)' -Direction Inbound "
        f"-Program '{sys.executable}' -Action Allow -Profile Private"
    )
    remedy = (FIREWALL, f"In an elevated PowerShell: {rule}")
    return Check("firewall", "unknown", "Cannot be told without administrator rights.", remedy)


def _versions(_patient: Patient) -> Check:
    parts = [f"Python {platform.python_version()}", platform.platform(terse=True)]
    for name in ("ibkr-link", "ib_async", "aiohttp", "msgspec"):
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{name} not installed as a package")
    return Check("versions", "ok", ", ".join(parts))


def _zone_data(patient: Patient) -> Check:
    """Reset windows and trading hours are computed with it."""
    data = newest(zoneinfo.TZPATH, package_version())
    used = {"system": f"the system's ({data.place})", "package": "the tzdata package's, newer than the system's"}
    if data.source == "none":
        return Check("zone data", "failed", "There is no time zone data.", (f"Run: {PIP_TZDATA}",))
    evidence = f"{data.version or 'an unknown version'} is used, {used[data.source]}."
    if data.year is not None and datetime.fromtimestamp(patient.wall(), UTC).year - data.year > ZONE_YEARS:
        remedy = (f"Update the system's tzdata (Debian: apt install --only-upgrade tzdata), or run: {PIP_TZDATA}",)
        return Check("zone data", "failed", f"{evidence} It is older than a year; times may be an hour off.", remedy)
    return Check("zone data", "ok", evidence)


# --- the gateway ----------------------------------------------------------------------------------------------------


def _port(patient: Patient) -> Check:
    host, port = patient.target
    if patient.connected:
        return Check("gateway port", "ok", f"{host}:{port} is open: the daemon's session is on it.")
    settings = patient.settings
    # with no daemon about, the configured id is ours to try; beside a daemon that tries, only our own is
    client_id = settings.client_id if patient.link is None else DOCTOR_CLIENT_ID
    patient.greeting = greeting = greet(
        host, port, client_id, timeout=DIAL_PATIENCE, now=patient.now, wall=patient.wall
    )
    if greeting.reason not in ("portClosed", "hostUnreachable", "dialTimeout"):
        return Check("gateway port", "ok", f"{host}:{port} is open.")
    sentence, advice = patient.catalogue(greeting.reason)
    others = _other_ports(patient, host, port) if greeting.reason == "portClosed" else []
    if others:
        named = ", ".join(f"{number} ({patient.ports[number]})" for number in others)
        evidence = f"{host}:{port} is closed, but {named} is open."
        remedy = (f"Set IBKR_PORT={others[0]} in .env if that is the one you mean.", *advice)
        return Check("gateway port", "failed", evidence, remedy, greeting.reason)
    return Check("gateway port", "failed", f"{sentence} ({greeting.detail})", advice, greeting.reason)


def _other_ports(patient: Patient, host: str, port: int) -> list[int]:
    """Standard ports that listen on this machine, from the system's own table: nothing is dialled."""
    if not is_loopback(host):
        return []
    return [number for number in patient.ports if number != port and _listeners(number)]


def _listeners(port: int) -> list[Any]:
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    return [conn for conn in found if conn.status == psutil.CONN_LISTEN and conn.laddr.port == port]


def _listener(patient: Patient) -> Check:
    host, port = patient.target
    if not is_loopback(host):
        return Check("listener", "skipped", f"{host} is another machine.")
    found = _listeners(port)
    if not found:
        known = "Nothing" if os.name == "nt" or os.getuid() == 0 else "Nothing that this user can see"
        return Check("listener", "skipped", f"{known} listens on port {port}.")
    pid = found[0].pid
    if pid is None:
        return Check("listener", "unknown", f"A program of another user listens on port {port}.")
    name = psutil.Process(pid).name()
    return Check("listener", "ok", f"{name} (pid {pid}) listens on port {port}.")


def _handshake(patient: Patient) -> Check:
    if patient.connected:
        version = ((patient.link or {}).get("gateway") or {}).get("serverVersion")
        return Check("handshake", "ok", f"The daemon's session is up (server version {version}).")
    greeting = patient.greeting
    if greeting is None or greeting.reason in ("portClosed", "hostUnreachable", "dialTimeout"):
        return Check("handshake", "skipped", "There is nothing to shake hands with.")
    if greeting.reason == "clientIdInUse":
        return Check("handshake", "ok", f"TWS answers (server version {greeting.server_version}).")
    if greeting.reason is not None:
        sentence, advice = patient.catalogue(greeting.reason)
        detail = f" ({greeting.detail})" if greeting.detail else ""
        return Check("handshake", "failed", f"{sentence}{detail}", advice, greeting.reason)
    return Check("handshake", "ok", f"TWS answers (server version {greeting.server_version}).")


def _client_id(patient: Patient) -> Check:
    client_id = patient.client_id
    reason = (patient.link or {}).get("reason")
    in_use = reason == "clientIdInUse" or (patient.greeting is not None and patient.greeting.reason == "clientIdInUse")
    if in_use:
        sentence, advice = patient.catalogue("clientIdInUse")
        return Check("client id", "failed", sentence, advice, "clientIdInUse")
    if patient.connected:
        return Check("client id", "ok", "It is the daemon's own.")
    if patient.link is None and patient.greeting is not None and patient.greeting.complete:
        return Check("client id", "ok", f"{client_id} is free.")
    return Check("client id", "unknown", f"Whether {client_id} is free shows only in a complete handshake with it.")


def _read_only(patient: Patient) -> Check:
    if not patient.connected:
        return Check("read-only API", "unknown", "Shows only in a session.")
    if (patient.link or {}).get("readOnly"):
        remedy = ("In TWS: API → Settings, untick “Read-Only API”, if you want to see orders.",)
        return Check("read-only API", "failed", "The API is read-only: orders are unknown.", remedy)
    return Check("read-only API", "ok", "Orders may be read.")


def _accounts(patient: Patient) -> Check:
    wanted = patient.settings.account
    found = tuple((patient.link or {}).get("accounts") or ()) if patient.connected else None
    if found is None and patient.greeting is not None:
        found = patient.greeting.accounts
    if (patient.link or {}).get("reason") == "accountMismatch":
        link = patient.link or {}
        return Check("accounts", "failed", link["sentence"], tuple(link["advice"]), "accountMismatch")
    if not found:
        return Check("accounts", "unknown", "No session has named its accounts.")
    if wanted and wanted not in found:
        sentence, advice = patient.catalogue("accountMismatch", found=", ".join(found), wanted=wanted)
        return Check("accounts", "failed", sentence, advice, "accountMismatch")
    return Check("accounts", "ok", f"{', '.join(found)}{' as expected' if wanted else ''}")


def _upstream(patient: Patient) -> Check:
    state = (patient.link or {}).get("upstream")
    said = [text for code, text in (patient.greeting.errors if patient.greeting else ()) if code in (1100, 2110)]
    if state == "lost" or said:
        reason = (patient.link or {}).get("reason")
        name = reason if reason in ("upstreamLost", "competingSession") else "upstreamLost"
        sentence, advice = patient.catalogue(name)
        return Check("upstream", "failed", f"{sentence}{f' ({said[0]})' if said else ''}", advice, name)
    if patient.connected:
        return Check("upstream", "ok", "TWS is connected to IBKR.")
    return Check("upstream", "unknown", "Shows only in a session.")


def _farms(patient: Patient) -> Check:
    farms = (patient.link or {}).get("farms") or {}
    if not patient.connected or not farms:
        return Check("farms", "unknown", "No session has told the state of IBKR's data farms.")
    broken = sorted(name for name, farm in farms.items() if farm["state"] == "broken")
    if broken:
        remedy = ("Wait: farms come back by themselves; the session is not affected.",)
        return Check("farms", "failed", f"Broken: {', '.join(broken)}.", remedy)
    return Check("farms", "ok", ", ".join(f"{name} {farm['state']}" for name, farm in sorted(farms.items())))


def _clock(patient: Patient) -> Check:
    greeting = patient.greeting
    if greeting is None or greeting.server_time is None or greeting.answered_at is None:
        return Check(
            "clock", "unknown", "Shows only in a handshake of the doctor's own, which needs a daemon without a session."
        )
    skew = greeting.answered_at - greeting.server_time
    if abs(skew) > SKEW_LIMIT:
        remedy = ("Switch on time synchronisation (NTP) on this machine and on the gateway's.",)
        return Check("clock", "failed", f"This machine's clock differs from the gateway's by {skew:.0f} s.", remedy)
    return Check("clock", "ok", f"agrees with the gateway's within {SKEW_LIMIT} s.")


def _link(patient: Patient) -> Check:
    if patient.link is None:
        return Check("link", "unknown", "No daemon tells.")
    if patient.connected:
        return Check("link", "ok", f"Connected since {patient.link.get('since')}.")
    reason = patient.link.get("reason")
    advice = tuple(patient.link.get("advice") or ())
    return Check("link", "failed", f"{patient.link.get('phase')}: {patient.link.get('sentence')}", advice, reason)


def _alerts(patient: Patient) -> Check:
    """What became of the alerts so far."""
    name = "alerts"
    if not patient.settings.alerts:
        return Check(name, "skipped", "No receiver is set (IBKR_ALERTS).")
    try:
        info = blocking_client.call_once(patient.settings.socket_path, "daemon.info", {}, DAEMON_PATIENCE)
    except (OSError, blocking_client.CallError) as error:
        return Check(name, "unknown", f"The daemon does not answer: {error}")
    health = info.get("alerts") or []
    bad = [one for one in health if one["ended"] or one["lastError"]]
    if bad:
        found = "; ".join(f"{one['sink']}: {one['lastError']}, {one['pending']} waiting" for one in bad)
        remedy = (
            "Try each receiver: ibkr alert test.",
            "Check the URLs in IBKR_ALERTS; after a 410, restart the daemon.",
        )
        return Check(name, "failed", f"Alerts are not delivered: {found}.", remedy)
    return Check(name, "ok", f"{len(health)} receivers, {sum(one['delivered'] for one in health)} alerts delivered.")


CHECKS: dict[str, Callable[[Patient], Check]] = {
    "settings": _settings,
    "state directory": _state_directory,
    "daemon": _daemon,
    "facade": _facade,
    "link": _link,
    "gateway port": _port,
    "listener": _listener,
    "handshake": _handshake,
    "client id": _client_id,
    "accounts": _accounts,
    "read-only API": _read_only,
    "upstream": _upstream,
    "data farms": _farms,
    "alerts": _alerts,
    "clock": _clock,
    "zone data": _zone_data,
    "ipv6 localhost": _ipv6_localhost,
    "firewall": _firewall,
    "versions": _versions,
}
"""In the order in which a person would look: this machine, the daemon, the gateway, IBKR."""
