"""The doctor: everything between a person and IBKR, checked one thing after the other, with evidence and remedy.

It works with the daemon down and disturbs no live session: it connects to the gateway only while the daemon has no
session, with a client id of its own. What cannot be found out is "unknown".
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import socket
import sys
import time
import urllib.error
import urllib.request
import zoneinfo
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from facade.doctor.greeting import DOCTOR_CLIENT_ID, Greeting, greet
from shared.jsonrpc import blocking_client
from shared.listeners import listener_name, listening_pids
from shared.log import masked, printable
from shared.reasons import BY_PRODUCT, FIREWALL, PRODUCTS, describe
from shared.settings import (
    STANDARD_PORTS,
    GatewayClient,
    Settings,
    SettingsError,
    gateway_client,
    is_loopback,
)
from shared.transport.address import DEFAULT_SESSION, AnotherSession
from shared.transport.private_paths import holder
from shared.zones import newest, package_version

Result = Literal["ok", "failed", "unknown", "skipped"]

DAEMON_TIMEOUT = 2.0  # s, as over HTTP
MIN_DIAL_TIMEOUT, MAX_DIAL_TIMEOUT = 4.0, 60.0
"""s for a handshake: IBKR_CONNECT_TIMEOUT between these. A healthy gateway needs a fraction of one."""
SLOW_HANDSHAKE, SLOW_PROBE = 3.0, 1.0
"""s above which a gateway counts as slow: for the whole handshake, and for the answer to a probe."""
SKEW_LIMIT = 5  # s; the gateway's clock is in whole seconds, and orders with a time go wrong beyond a few
LINGER = Path("/var/lib/systemd/linger")

WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""`http_proxy` is for other machines: a proxy would look for the facade on its own."""

ZONE_YEARS = 1
"""A version states its year alone: one of the year before last is older than a year for certain."""
PIP_TZDATA = f"{sys.executable} -m pip install --upgrade --no-deps tzdata"

MARKS = {"ok": "✓", "failed": "✗", "unknown": "?", "skipped": "-"}
TINTS = {"ok": "\x1b[32m", "failed": "\x1b[31m", "unknown": "\x1b[33m", "skipped": ""}


@dataclass(frozen=True)
class Check:
    """One check and its result. `reason`: the catalogue's name of the cause, where there is one."""

    name: str
    result: Result
    evidence: str
    remedy: tuple[str, ...] = ()
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"remedy": list(self.remedy)}

    def lines(self, *, colour: bool) -> list[str]:
        tint, plain = (TINTS[self.result], "\x1b[0m") if colour and TINTS[self.result] else ("", "")
        text = [f"{tint}{MARKS[self.result]}{plain} {self.name:<16} {printable(self.evidence)}"]
        return text + [f"    {number}. {line}" for number, line in enumerate(self.remedy, 1)]


@dataclass
class DiagnosticContext:
    """What the checks have found so far, for those that follow."""

    environ: Mapping[str, str]
    settings: Settings = field(default_factory=Settings)
    readable: bool = False  # the settings
    link: dict[str, Any] | None = None  # None: no daemon answered
    greeting: Greeting | None = None
    now: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    ports: Mapping[int, str] = field(default_factory=lambda: STANDARD_PORTS)
    dial: bool = True
    others: Mapping[str, GatewayClient] | None = None
    """Gateway and client id of other sessions, by name; `None`: as the settings files have them."""

    @property
    def connected(self) -> bool:
        return bool(self.link and self.link.get("connected"))

    @property
    def target(self) -> tuple[str, int]:
        """Host and port of the gateway: the daemon's, else those of the settings."""
        gateway = (self.link or {}).get("gateway")
        if gateway:
            return gateway["host"], gateway["port"]
        return self.settings.host, self.settings.port

    @property
    def client_id(self) -> int:
        """The daemon's client id, else that of the settings."""
        gateway = (self.link or {}).get("gateway") or {}
        return int(gateway.get("clientId", self.settings.client_id))

    def catalogue(self, reason: str, **facts: Any) -> tuple[str, tuple[str, ...]]:
        host, port = self.target
        return describe(reason, **{"host": host, "port": port, "clientId": self.client_id} | facts)


def examine(
    environ: Mapping[str, str],
    *,
    settings: Settings | None = None,
    ports: Mapping[int, str] | None = None,
    dial: bool = True,
    others: Mapping[str, GatewayClient] | None = None,
    link: dict[str, Any] | None = None,
    checks: Mapping[str, Look] | None = None,
) -> Iterator[Check]:
    """Every check in turn, as it is done. Account ids are masked, as in logs; no remedy is given twice.

    `settings`: those that are in force already; else they are read from `environ`. `dial`: where no session is up,
    open a connection to the gateway for the checks that need one. `others`, `link`: see `DiagnosticContext`. `checks`:
    other ones than `CHECKS`.
    """
    ports = STANDARD_PORTS if ports is None else ports
    context = DiagnosticContext(environ, ports=ports, dial=dial, others=others, link=link)
    if settings is not None:
        context.settings, context.readable = settings, True
    given: set[str] = set()
    for name, look in (CHECKS if checks is None else checks).items():
        try:
            check = look(context)
        except Exception as error:  # one check that fails must not hide the others
            check = Check(name, "unknown", f"This check failed itself: {type(error).__name__}: {error}")
        remedy = tuple(line for line in map(masked, check.remedy) if line not in given)
        if check.remedy and not remedy:
            remedy = ("What to do is listed above.",)
        given.update(remedy)
        yield Check(name, check.result, masked(check.evidence), remedy, check.reason)
        if not context.readable:
            return  # nothing else means anything without them


# --- this machine ---------------------------------------------------------------------------------------------------


def _settings(context: DiagnosticContext) -> Check:
    if not context.readable:
        try:
            context.settings = Settings.load(context.environ)
        except SettingsError as error:
            return Check("settings", "failed", str(error), ("Correct it in .env (see .env.example).",))
        context.readable = True
    settings = context.settings
    source = settings.env_file or "the environment alone (no .env found)"
    evidence = f"read from {source}: {settings.host}:{settings.port}, client id {settings.client_id}"
    if settings.warnings:
        return Check("settings", "failed", " ".join(settings.warnings), ("Remove one of the two lines.",))
    if settings.env_file is not None and os.name != "nt" and settings.env_file.stat().st_mode & 0o022:
        remedy = (f"chmod go-w {settings.env_file}",)
        return Check("settings", "failed", f"Others can write {settings.env_file}.", remedy)
    return Check("settings", "ok", evidence)


def _state_directory(context: DiagnosticContext) -> Check:
    path = context.settings.state_dir
    if not path.exists():
        parent = next(place for place in path.parents if place.exists())
        if os.access(parent, os.W_OK):
            return Check("state directory", "ok", f"{path} does not exist yet; the daemon makes it.")
        return Check(
            "state directory", "failed", f"{path} cannot be made: {parent} is not writable.", (f"chmod u+w {parent}",)
        )
    found = path.stat()
    if os.name != "nt" and found.st_uid != os.getuid() and os.getuid() != 0:
        return Check(
            "state directory", "failed", f"{path} belongs to another user.", ("Set IBKR_STATE_DIR to one of yours.",)
        )
    if os.name != "nt" and found.st_mode & 0o077:
        return Check("state directory", "failed", f"{path} is open to others.", (f"chmod 700 {path}",))
    if not os.access(path, os.W_OK):
        return Check("state directory", "failed", f"{path} is not writable.", (f"chmod u+w {path}",))
    free = psutil.disk_usage(str(path)).free
    if free < 50_000_000:
        return Check(
            "state directory", "failed", f"{path} has {free // 1_000_000} MB left.", ("Make room on that disk.",)
        )
    return Check("state directory", "ok", f"{path} is writable.")


def _daemon(context: DiagnosticContext) -> Check:
    path = context.settings.socket_path
    try:
        named = "" if context.settings.session == DEFAULT_SESSION else context.settings.session
        context.link = blocking_client.call_once(path, "link.get", {}, DAEMON_TIMEOUT, session=named)
    except blocking_client.CallError as refused:
        return Check("daemon", "failed", f"The daemon refused: {refused.message}", ("Restart it.",))
    except AnotherSession as error:
        return Check("daemon", "failed", str(error), ("Restart the facade afterwards.",), "daemonUnreachable")
    except PermissionError as error:
        remedy = (f"Check who owns {path}; it must be yours, mode 0600 in a directory of mode 0700.",)
        return Check("daemon", "failed", f"The socket {path} may not be used: {error}.", remedy, "daemonUnreachable")
    except TimeoutError:
        remedy = ("The daemon is stopped or stuck: ibkr restart daemon, or kill it and start it again.",)
        return Check(
            "daemon", "failed", f"A daemon listens at {path} but does not answer.", remedy, "daemonUnreachable"
        )
    except OSError as error:
        if pid := holder(context.settings.state_dir):
            detail = f"A daemon runs (process {pid}), but not at its socket {path}: {error.strerror or error}."
            steps = ("Wait a few seconds: it makes a removed socket again.", "Else: ibkr stop, and start it again.")
            return Check("daemon", "failed", detail, steps, "daemonUnreachable")
        _sentence, advice = describe("daemonUnreachable")
        detail = f"No daemon listens at {path} ({error.strerror or error})."
        return Check("daemon", "failed", detail, advice[:1], "daemonUnreachable")
    facts = (context.link or {}).get("daemon") or {}
    return Check("daemon", "ok", f"answers at {path} (pid {facts.get('pid')}, version {facts.get('version')})")


def _facade(context: DiagnosticContext) -> Check:
    url = f"{context.settings.facade_url}/livez"
    try:
        with WITHOUT_PROXY.open(url, timeout=DAEMON_TIMEOUT) as answer:
            ours = b'"alive"' in answer.read(64)
    except urllib.error.HTTPError:
        ours = False
    except OSError as error:
        if listening_pids(context.settings.facade_port):
            return _port_taken(context, url)
        remedy = ("Start it: ./scripts/start, or python -m facade.",)
        return Check("facade", "failed", f"{url} does not answer ({error}).", remedy)
    return Check("facade", "ok", f"{url} answers.") if ours else _port_taken(context, url)


def _port_taken(context: DiagnosticContext, url: str) -> Check:
    port = context.settings.facade_port
    remedy = (f"End that program, or give the facade another port: IBKR_FACADE_PORT={port + 1} in .env.",)
    return Check("facade", "failed", f"{url} is not the facade: {listener_name(port)} holds port {port}.", remedy)


def _linger(context: DiagnosticContext) -> Check:
    """systemd ends a user's services with the last session, unless the user lingers."""
    units = Path(context.environ.get("HOME") or "~").expanduser() / ".config" / "systemd" / "user"
    if sys.platform != "linux" or not any(units.glob("ibkr-daemon*.service")):
        return Check("logout", "skipped", "No login service of systemd is installed.")
    if problem := lingering():
        return Check("logout", "failed", problem, (ENABLE_LINGER,))
    return Check("logout", "ok", "The services go on after logout.")


ENABLE_LINGER = "Run: loginctl enable-linger"


def lingering() -> str:
    """Why services of this user end at logout; empty where they go on, or the system does not use systemd."""
    if sys.platform != "linux" or not LINGER.parent.exists():
        return ""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""
    return "" if (LINGER / name).exists() else f"The services end when {name} logs out: the user does not linger."


def _ipv6_localhost(context: DiagnosticContext) -> Check:
    host, port = context.target
    if host != "localhost":
        return Check("ipv6 localhost", "ok", f"{host} is no name that could mean two addresses.")
    first = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    if first == "::1":
        remedy = ("Set IBKR_HOST=127.0.0.1: TWS trusts 127.0.0.1 only, and localhost means ::1 here.",)
        return Check("ipv6 localhost", "failed", "localhost is ::1 first on this machine.", remedy)
    return Check("ipv6 localhost", "ok", f"localhost is {first}.")


def _firewall(_context: DiagnosticContext) -> Check:
    if sys.platform != "win32":
        return Check("firewall", "skipped", "Only Windows blocks programs one by one.")
    rule = (
        "New-NetFirewallRule -DisplayName 'Python (IBKR)' -Direction Inbound "
        f"-Program '{sys.executable}' -Action Allow -Profile Private"
    )
    remedy = (FIREWALL, f"In an elevated PowerShell: {rule}")
    return Check("firewall", "unknown", "It can be read only with administrator rights.", remedy)


def versions(_context: DiagnosticContext) -> Check:
    parts = [f"Python {platform.python_version()}", platform.platform(terse=True)]
    for name in ("ibkr-link", "ib_async", "aiohttp", "msgspec"):
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{name} not installed as a package")
    return Check("versions", "ok", ", ".join(parts))


def _zone_data(context: DiagnosticContext) -> Check:
    """Reset windows and trading hours are computed with it."""
    data = newest(zoneinfo.TZPATH, package_version())
    used = {"system": f"the system's ({data.place})", "package": "the tzdata package's, newer than the system's"}
    if data.source == "none":
        return Check("zone data", "failed", "There is no time zone data.", (f"Run: {PIP_TZDATA}",))
    evidence = f"{data.version or 'an unknown version'} is used, {used[data.source]}."
    if data.year is not None and datetime.fromtimestamp(context.wall(), UTC).year - data.year > ZONE_YEARS:
        remedy = (f"Update the system's tzdata (Debian: apt install --only-upgrade tzdata), or run: {PIP_TZDATA}",)
        return Check("zone data", "failed", f"{evidence} It is older than a year; times may be an hour off.", remedy)
    return Check("zone data", "ok", evidence)


# --- the gateway ----------------------------------------------------------------------------------------------------


def _port(context: DiagnosticContext) -> Check:
    host, port = context.target
    if context.connected:
        return Check("gateway port", "ok", f"{host}:{port} is open: the daemon's session is on it.")
    if not context.dial:
        return Check("gateway port", "skipped", "No connection is opened here; ibkr doctor in a terminal opens one.")
    settings = context.settings
    # the configured id only where no daemon uses it
    client_id = settings.client_id if context.link is None else DOCTOR_CLIENT_ID
    timeout = min(max(settings.connect_timeout, MIN_DIAL_TIMEOUT), MAX_DIAL_TIMEOUT)
    context.greeting = greeting = greet(host, port, client_id, timeout=timeout, now=context.now, wall=context.wall)
    if greeting.reason not in ("portClosed", "hostUnreachable", "dialTimeout"):
        return Check("gateway port", "ok", f"{host}:{port} is open.")
    sentence, advice = context.catalogue(greeting.reason)
    others = _other_ports(context, host, port) if greeting.reason == "portClosed" else []
    if others:
        named = ", ".join(f"{number} ({context.ports[number]})" for number in others)
        evidence = f"{host}:{port} is closed, but {named} is open."
        remedy = (f"Set IBKR_PORT={others[0]} in .env if that is the one you mean.", *advice)
        return Check("gateway port", "failed", evidence, remedy, greeting.reason)
    return Check("gateway port", "failed", f"{sentence} ({greeting.detail})", advice, greeting.reason)


def _other_ports(context: DiagnosticContext, host: str, port: int) -> list[int]:
    """Standard ports with a listener on this machine, from the system's own table; nothing is connected to."""
    if not is_loopback(host):
        return []
    return [number for number in context.ports if number != port and listening_pids(number)]


def _listener(context: DiagnosticContext) -> Check:
    host, port = context.target
    if not is_loopback(host):
        return Check("listener", "skipped", f"{host} is another machine.")
    found = listening_pids(port)
    if not found:
        known = "Nothing" if os.name == "nt" or os.getuid() == 0 else "Nothing that this user can see"
        return Check("listener", "skipped", f"{known} listens on port {port}.")
    result: Result = "unknown" if found[0] is None else "ok"
    name = listener_name(port)
    return Check("listener", result, f"{name[0].upper()}{name[1:]} listens on port {port}.")


HEAVY = ("Look at the load and the memory of the machine that runs TWS.",)


def _room(seconds: float, configured: float) -> int:
    """A time-out that leaves room above what was measured."""
    return min(3600, max(math.ceil(configured * 2), math.ceil(seconds * 3)))


def handshake(context: DiagnosticContext) -> Check:
    settings = context.settings
    if context.connected:
        link = context.link or {}
        version = (link.get("gateway") or {}).get("serverVersion")
        rtt = ((link.get("proof") or {}).get("rttMs") or 0.0) / 1000
        if rtt > SLOW_PROBE:
            remedy = (f"Allow more time: IBKR_PROBE_TIMEOUT={_room(rtt, settings.probe_timeout)} in .env.", *HEAVY)
            return Check("handshake", "failed", f"TWS is slow: it answered the last probe after {rtt:.1f} s.", remedy)
        return Check("handshake", "ok", f"The daemon's session is up (server version {version}).")
    greeting = context.greeting
    if greeting is None or greeting.reason in ("portClosed", "hostUnreachable", "dialTimeout"):
        return Check("handshake", "skipped", "Skipped: no TCP connection.")
    if greeting.reason == "clientIdInUse":
        return Check("handshake", "ok", f"TWS answers (server version {greeting.server_version}).")
    if greeting.reason is not None:
        sentence, advice = context.catalogue(greeting.reason)
        detail = f" ({greeting.detail})" if greeting.detail else ""
        if greeting.version_after is not None:
            detail += f" The server version came after {greeting.version_after:.1f} s."
        return Check("handshake", "failed", f"{sentence}{detail}", advice, greeting.reason)
    took = greeting.complete_after or 0.0
    if took > SLOW_HANDSHAKE:
        evidence = (
            f"TWS is slow: server version after {greeting.version_after or 0.0:.1f} s, handshake complete after "
            f"{took:.1f} s; the limit is {settings.connect_timeout:g} s."
        )
        remedy = (f"Allow more time: IBKR_CONNECT_TIMEOUT={_room(took, settings.connect_timeout)} in .env.", *HEAVY)
        return Check("handshake", "failed", evidence, remedy)
    return Check("handshake", "ok", f"TWS answers (server version {greeting.server_version}) after {took:.1f} s.")


def _client_id(context: DiagnosticContext) -> Check:
    client_id = context.client_id
    if shared := _shared_client_id(context):
        remedy = ("Give one of them another IBKR_CLIENT_ID, in its .env.NAME, and restart its daemon.",)
        return Check("client id", "failed", shared, remedy, "clientIdInUse")
    reason = (context.link or {}).get("reason")
    in_use = reason == "clientIdInUse" or (context.greeting is not None and context.greeting.reason == "clientIdInUse")
    if in_use:
        sentence, advice = context.catalogue("clientIdInUse")
        return Check("client id", "failed", sentence, advice, "clientIdInUse")
    if context.connected:
        return Check("client id", "ok", "It is the daemon's own.")
    if context.link is None and context.greeting is not None and context.greeting.complete:
        return Check("client id", "ok", f"{client_id} is free.")
    return Check("client id", "unknown", f"Whether {client_id} is free shows only in a complete handshake with it.")


def _shared_client_id(context: DiagnosticContext) -> str:
    """The other sessions that are known to use the same gateway with the same client id; empty for none."""
    others = context.others
    if others is None:
        known = context.settings.other_sessions(context.environ)
        others = {name: one.gateway_client for name, one in known.items()}
    ours = gateway_client(*context.target, context.client_id)
    same = [name for name, its in others.items() if its == ours]
    if not same:
        return ""
    host, port, client_id = ours
    return (
        f"The sessions {', '.join((context.settings.session, *same))} use {host}:{port} with the same client id, "
        f"{client_id}: TWS accepts one of them at a time."
    )


def _read_only(context: DiagnosticContext) -> Check:
    if not context.connected:
        return Check("read-only API", "unknown", "Shows only in a session.")
    if (context.link or {}).get("readOnly"):
        menu = BY_PRODUCT[PRODUCTS.get(context.target[1], "")]["menu"]
        remedy = (f"In {menu}, untick “Read-Only API”, if you want to see orders.",)
        return Check("read-only API", "failed", "The API is read-only: orders are unknown.", remedy)
    return Check("read-only API", "ok", "Orders may be read.")


def _accounts(context: DiagnosticContext) -> Check:
    wanted = context.settings.account
    found = tuple((context.link or {}).get("accounts") or ()) if context.connected else None
    if found is None and context.greeting is not None:
        found = context.greeting.accounts
    if (context.link or {}).get("reason") == "accountMismatch":
        link = context.link or {}
        return Check("accounts", "failed", link["sentence"], tuple(link["advice"]), "accountMismatch")
    if not found:
        return Check("accounts", "unknown", "The accounts show only in a session.")
    if wanted and wanted not in found:
        sentence, advice = context.catalogue("accountMismatch", found=", ".join(found), wanted=wanted)
        return Check("accounts", "failed", sentence, advice, "accountMismatch")
    return Check("accounts", "ok", f"{', '.join(found)}{' as expected' if wanted else ''}")


def _upstream(context: DiagnosticContext) -> Check:
    state = (context.link or {}).get("upstream")
    errors = [text for code, text in (context.greeting.errors if context.greeting else ()) if code in (1100, 2110)]
    if state == "lost" or errors:
        reason = (context.link or {}).get("reason")
        name = reason if reason in ("upstreamLost", "competingSession") else "upstreamLost"
        sentence, advice = context.catalogue(name)
        return Check("upstream", "failed", f"{sentence}{f' ({errors[0]})' if errors else ''}", advice, name)
    if context.connected:
        return Check("upstream", "ok", "TWS is connected to IBKR.")
    return Check("upstream", "unknown", "Shows only in a session.")


def _farms(context: DiagnosticContext) -> Check:
    farms = (context.link or {}).get("farms") or {}
    if not context.connected or not farms:
        return Check("data farms", "unknown", "The data farms show only in a session.")
    broken = sorted(name for name, farm in farms.items() if farm["state"] == "broken")
    if broken:
        remedy = ("Wait: farms come back by themselves; the session is not affected.",)
        return Check("data farms", "failed", f"Broken: {', '.join(broken)}.", remedy)
    return Check("data farms", "ok", ", ".join(f"{name} {farm['state']}" for name, farm in sorted(farms.items())))


def _clock(context: DiagnosticContext) -> Check:
    greeting = context.greeting
    if greeting is None or greeting.server_time is None or greeting.answered_at is None:
        return Check(
            "clock", "unknown", "Shows only in a handshake of the doctor's own, which needs a daemon without a session."
        )
    skew = greeting.answered_at - greeting.server_time
    if abs(skew) > SKEW_LIMIT:
        remedy = ("Switch on time synchronisation (NTP) on this machine and on the gateway's.",)
        return Check("clock", "failed", f"This machine's clock differs from the gateway's by {skew:.0f} s.", remedy)
    return Check("clock", "ok", f"agrees with the gateway's within {SKEW_LIMIT} s.")


def _link(context: DiagnosticContext) -> Check:
    if context.link is None:
        return Check("link", "unknown", "Unknown: the daemon is not running.")
    if context.connected:
        return Check("link", "ok", f"Connected since {_local(context.link.get('since'))}.")
    reason = context.link.get("reason")
    advice = tuple(context.link.get("advice") or ())
    return Check("link", "failed", f"{context.link.get('phase')}: {context.link.get('sentence')}", advice, reason)


def _alerts(context: DiagnosticContext) -> Check:
    """Whether alerts reach their receivers."""
    name, sinks = "alerts", context.settings.alerts
    if not sinks:
        return Check(name, "skipped", "No receiver is set (IBKR_ALERTS).")
    info = _daemon_info(context)
    if info is None:
        return Check(name, "unknown", "Unknown: the daemon is not running.")
    health = info.get("alerts") or []
    if not health:
        return Check(name, "failed", "IBKR_ALERTS was set after the daemon's start; it sends none.", (RESTART_DAEMON,))
    return delivered(health)


def delivered(health: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the receivers of a daemon's alerts take them."""
    name = "alerts"
    bad = [one for one in health if one["ended"] or one["lastError"]]
    if bad:
        found = "; ".join(f"{one['sink']}: {one['lastError']}, {one['pending']} waiting" for one in bad)
        remedy = (
            "Try each receiver: ibkr alert test.",
            "Check the URLs in IBKR_ALERTS; after a 410, restart the daemon.",
        )
        return Check(name, "failed", f"Alerts are not delivered: {found}.", remedy)
    return Check(name, "ok", f"{len(health)} receivers, {sum(one['delivered'] for one in health)} alerts delivered.")


def _heartbeat(context: DiagnosticContext) -> Check:
    """Whether the dead man's switch is reached."""
    name = "heartbeat"
    if context.settings.heartbeat is None:
        return Check(name, "skipped", "No receiver is set (IBKR_HEARTBEAT_URL).")
    info = _daemon_info(context)
    if info is None:
        return Check(name, "unknown", "Unknown: the daemon is not running.")
    health = info.get("heartbeat")
    if not health:
        text = "IBKR_HEARTBEAT_URL was set after the daemon's start; it requests nothing."
        return Check(name, "failed", text, (RESTART_DAEMON,))
    return accepted(health)


def accepted(health: Mapping[str, Any]) -> Check:
    """Whether the receiver of a daemon's heartbeats takes them."""
    name = "heartbeat"
    if health["lastError"]:
        last = f"accepted last {_local(health['lastAt'])}" if health["lastAt"] else "never accepted"
        remedy = ("Check IBKR_HEARTBEAT_URL: the address, and that its service still expects it.",)
        text = f"Heartbeats are not accepted by {health['receiver']}: {health['lastError']}; {last}."
        return Check(name, "failed", text, remedy)
    if not health["sent"]:
        return Check(name, "ok", f"{health['receiver']} is requested once the link is connected.")
    return Check(name, "ok", f"{health['receiver']} accepted {health['sent']}, last {_local(health['lastAt'])}.")


RESTART_DAEMON = "Restart it: ibkr restart daemon"


def _daemon_info(context: DiagnosticContext) -> dict[str, Any] | None:
    """The daemon's figures; `None` where it does not answer."""
    if context.link is None:
        return None
    try:
        info: dict[str, Any] = blocking_client.call_once(
            context.settings.socket_path, "daemon.info", {}, DAEMON_TIMEOUT
        )
    except (OSError, blocking_client.CallError):
        return None
    return info


def _local(moment: str | None) -> str:
    return "-" if moment is None else f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}"


Look = Callable[[DiagnosticContext], Check]

CHECKS: dict[str, Look] = {
    "settings": _settings,
    "state directory": _state_directory,
    "daemon": _daemon,
    "facade": _facade,
    "link": _link,
    "gateway port": _port,
    "listener": _listener,
    "handshake": handshake,
    "client id": _client_id,
    "accounts": _accounts,
    "read-only API": _read_only,
    "upstream": _upstream,
    "data farms": _farms,
    "alerts": _alerts,
    "heartbeat": _heartbeat,
    "clock": _clock,
    "zone data": _zone_data,
    "ipv6 localhost": _ipv6_localhost,
    "firewall": _firewall,
    "logout": _linger,
    "versions": versions,
}
"""In the order in which a person would look: this machine, the daemon, the gateway, IBKR."""


def summary(checks: Sequence[Check]) -> str:
    """The last line: how many checks failed, and which to look at first."""
    failed = [check.name for check in checks if check.result == "failed"]
    unknown = sum(check.result == "unknown" for check in checks)
    known = f"{len(checks) - unknown} of {len(checks)} checks had an answer"
    if not failed:
        return f"Nothing wrong was found; {known}."
    return f"{len(failed)} found: {', '.join(failed)}. Begin with: {failed[0]}. {known[0].upper()}{known[1:]}."
