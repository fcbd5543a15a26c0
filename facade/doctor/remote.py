"""The doctor for a session whose daemon is on another machine: what that daemon answers over NATS, and nothing else.

Whatever is on the daemon's side (its gateway's port, its files, its clock's zone data) is not looked for on this
machine, where it would be another one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from facade.doctor.checks import (
    CHECKS,
    SKEW_LIMIT,
    Check,
    DiagnosticContext,
    Look,
    accepted,
    delivered,
    examine,
    handshake,
    versions,
)
from shared.settings import GatewayClient, Settings

ON_ITS_MACHINE = "run ibkr doctor on the daemon's machine"
DIALLED = ("portClosed", "hostUnreachable", "dialTimeout")
"""Reasons without a TCP connection."""
SHAKEN = ("handshakeTimeout", "sessionIncomplete", "closedDuringHandshake", "notTws", "versionUnsupported")
"""Reasons with one, and no session."""


@dataclass(frozen=True)
class RemoteDaemon:
    """What a daemon on another machine has answered. `link`, `info`: `None` where it did not, because of `error`.

    `answered_at`: when, by this machine's clock, in s since 1970.
    """

    link: dict[str, Any] | None
    info: dict[str, Any] | None
    error: str
    answered_at: float = 0.0


def examine_remote(
    environ: Mapping[str, str],
    settings: Settings,
    remote: RemoteDaemon,
    others: Mapping[str, GatewayClient] | None = None,
) -> Iterator[Check]:
    """As `examine`. `settings`: those of the facade's machine for the session."""
    ours = replace(settings, account="")  # the daemon's own is on its machine
    known = others if others is not None and remote.link is not None else {}
    return examine(environ, settings=ours, others=known, link=remote.link, checks={**CHECKS, **_checks(remote)})


def _checks(remote: RemoteDaemon) -> dict[str, Look]:
    """In place of those that look at this machine."""
    elsewhere = {
        "state directory": "The daemon's state directory",
        "listener": "The program at the gateway's port",
        "zone data": "The zone data that the daemon computes with",
        "ipv6 localhost": "What localhost means to the daemon",
        "firewall": "The firewall of the daemon's machine",
        "logout": "Whether the daemon goes on after logout",
    }
    unanswered: dict[str, Look] = {}
    if remote.link is None:
        unanswered = {name: _unknown(name) for name in ("link", "client id")}
    return {
        "settings": _settings,
        "daemon": lambda _context: _daemon(remote),
        "gateway port": _port,
        "handshake": _handshake,
        "alerts": lambda _context: _alerts(remote),
        "heartbeat": lambda _context: _heartbeat(remote),
        "clock": lambda context: _clock(context, remote),
        "versions": lambda context: _versions(context, remote),
        **{name: _elsewhere(name, what) for name, what in elsewhere.items()},
        **unanswered,
    }


def _elsewhere(name: str, what: str) -> Look:
    check = Check(name, "skipped", f"{what} cannot be examined from here: {ON_ITS_MACHINE}.")
    return lambda _context: check


def _unknown(name: str) -> Look:
    check = Check(name, "unknown", "The daemon did not answer.")
    return lambda _context: check


def _settings(context: DiagnosticContext) -> Check:
    source = context.settings.env_file or "the environment alone"
    evidence = (
        f"The facade's are read from {source}. The daemon of {context.settings.session} has its own on its machine and "
        "is reached over NATS."
    )
    return Check("settings", "ok", evidence)


def _daemon(remote: RemoteDaemon) -> Check:
    if remote.link is None:
        steps = (
            "Check that nats-server runs, and IBKR_NATS_URL and IBKR_NATS_CREDS on both machines.",
            "On the daemon's machine: ibkr status; daemon.log has scaleout.publishing while the daemon publishes.",
        )
        return Check("daemon", "failed", f"No answer over NATS: {remote.error}", steps, "daemonUnreachable")
    facts = remote.link.get("daemon") or {}
    return Check("daemon", "ok", f"answers over NATS (pid {facts.get('pid')}, version {facts.get('version')})")


def _port(context: DiagnosticContext) -> Check:
    host, port = context.target
    reason = (context.link or {}).get("reason")
    if context.connected:
        return Check("gateway port", "ok", f"{host}:{port}, seen from the daemon: its session is on it.")
    if reason in DIALLED:
        return _reported("gateway port", context)
    return Check("gateway port", "unknown", f"Nothing is dialled from here: {ON_ITS_MACHINE}.")


def _handshake(context: DiagnosticContext) -> Check:
    if context.connected:
        return handshake(context)
    if (context.link or {}).get("reason") in SHAKEN:
        return _reported("handshake", context)
    return Check("handshake", "unknown", f"Nothing is dialled from here: {ON_ITS_MACHINE}.")


def _reported(name: str, context: DiagnosticContext) -> Check:
    link = context.link or {}
    advice = tuple(link.get("advice") or ())
    return Check(name, "failed", f"The daemon reports: {link.get('sentence')}", advice, link.get("reason"))


def _alerts(remote: RemoteDaemon) -> Check:
    if remote.info is None:
        return Check("alerts", "unknown", f"The daemon did not answer: {remote.error}")
    if not remote.info.get("alerts"):
        return Check("alerts", "skipped", "The daemon has no receiver (IBKR_ALERTS on its machine).")
    return delivered(remote.info["alerts"])


def _heartbeat(remote: RemoteDaemon) -> Check:
    if remote.info is None:
        return Check("heartbeat", "unknown", f"The daemon did not answer: {remote.error}")
    if not remote.info.get("heartbeat"):
        return Check("heartbeat", "skipped", "The daemon has no receiver (IBKR_HEARTBEAT_URL on its machine).")
    return accepted(remote.info["heartbeat"])


def _clock(context: DiagnosticContext, remote: RemoteDaemon) -> Check:
    """Times on this machine are shown beside the daemon's."""
    proof = (context.link or {}).get("proof") or {}
    if not context.connected or proof.get("at") is None:
        return Check("clock", "unknown", "The daemon's clock shows only while its link is connected.")
    written = datetime.fromisoformat(proof["at"]).timestamp() + (proof.get("ageMs") or 0) / 1000
    skew = remote.answered_at - written
    if abs(skew) > SKEW_LIMIT:
        remedy = ("Switch on time synchronisation (NTP) on this machine and on the daemon's.",)
        return Check("clock", "failed", f"This machine's clock differs from the daemon's by {skew:.0f} s.", remedy)
    return Check("clock", "ok", f"agrees with the daemon's within {SKEW_LIMIT} s.")


def _versions(context: DiagnosticContext, remote: RemoteDaemon) -> Check:
    daemon = (remote.info or {}).get("version", "unknown")
    return Check("versions", "ok", f"here: {versions(context).evidence}; daemon: {daemon}")
