"""The link row as a person reads it in a terminal, and the exit statuses of `ibkr`.

Part of what `ibkr status` starts with, so it imports only what loads in a millisecond.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime

TYPE_CHECKING = False  # as in blocking_client.py
if TYPE_CHECKING:
    from typing import Any, TextIO

CONNECTED, NOT_CONNECTED, USAGE, NO_DAEMON = 0, 1, 2, 3
"""Exit statuses; 78 stands for bad settings."""
INTERRUPTED = 130
"""Ended by Ctrl-C, as typer's commands end."""

TIMEOUT = 2.0
"""s for the daemon's answer; one that takes longer counts as unreachable, as it does over HTTP."""

GREEN, YELLOW, RED, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
COLOURS = {"ready": GREEN, "blocked": RED, "upstreamLost": RED, "held": "", "disabled": ""}

PHASES = {
    "disabled": "Not connected (auto-connect is off)",
    "held": "Disconnected by you",
    "connecting": "Connecting",
    "syncing": "Loading account data",
    "upstreamLost": "TWS has lost IBKR's servers",
    "unproven": "TWS is not answering",
    "waiting": "Waiting for the next attempt",
    "blocked": "Action needed",
    "stopping": "Stopping",
}

TERMINAL_ADVICE = {"Press “🔌 Connect IBKR” or POST {} to /api/ibkr/connect.": "Run: ibkr connect"}
"""Advice of the catalogue that names the page's own button, in the terminal's words."""


def show(
    link: Mapping[str, Any],
    out: TextIO,
    *,
    as_json: bool,
    environ: Mapping[str, str] | None = None,
    session: str = "",
) -> int:
    """Print the link row; the exit status it stands for. `environ`: where a settings file may be named.

    `session`: the named one; empty: none is named.
    """
    connected = bool(link.get("connected"))
    if as_json:
        print(json.dumps(link, ensure_ascii=False, allow_nan=False), file=out)
    else:
        colour = out.isatty() and not os.environ.get("NO_COLOR")
        text = lines(link, colour=colour, now=datetime.now(UTC), session=session)
        if file := (environ or {}).get("IBKR_ENV_FILE", "").strip():
            text.append(f"  settings  {file} (IBKR_ENV_FILE)")
        print("\n".join(text), file=out)
    if link.get("phase") is None:
        return NO_DAEMON
    return CONNECTED if connected else NOT_CONNECTED


def headline(link: Mapping[str, Any]) -> str:
    if link.get("connected"):
        return "Connected"
    phase = link.get("phase")
    return PHASES.get(phase, phase) if phase else "the daemon is not running"


def lines(link: Mapping[str, Any], *, colour: bool, now: datetime, session: str = "") -> list[str]:
    """The link in lines, the most important first."""
    phase = link.get("phase")
    tint = COLOURS.get(phase or "", YELLOW) if colour else ""
    text = [f"{tint}IBKR: {headline(link)}{PLAIN if tint else ''}"]
    if session:
        text.append(f"  session   {session}")
    gateway = link.get("gateway")
    if gateway:
        where = f"{gateway['host']}:{gateway['port']}, client id {gateway['clientId']}"
        product = gateway.get("product")
        version = gateway.get("serverVersion")
        text.append(f"  gateway   {where}{f', {product}' if product else ''}{f', server {version}' if version else ''}")
    accounts = link.get("accounts")
    if accounts:
        # IBKR's own rule: the ids of paper accounts start with D
        text.append(f"  account   {', '.join(f'{a} ({_kind(a)})' for a in accounts)}")
    if link.get("since"):
        text.append(f"  since     {when(link['since'], now)}")
    proof = link.get("proof") or {}
    if proof.get("at"):
        rtt = proof.get("rttMs")
        text.append(f"  heard     {when(proof['at'], now)}{f', round trip {rtt:.1f} ms' if rtt is not None else ''}")
    if link.get("connected"):
        return text
    text.append(f"  reason    {link.get('reason') or 'unknown'}: {link.get('sentence', '')}")
    text += [f"  {number:>3}. {line}" for number, line in enumerate(map(advice, link.get("advice") or ()), 1)]
    if link.get("nextAttemptAt"):
        text.append(f"  next try  {when(link['nextAttemptAt'], now)}, attempts so far: {link.get('attempts', 0)}")
    error = link.get("lastError")
    if error:
        code = error.get("code")
        text.append(f"  error     {error.get('text', '')}{f' (code {code})' if code is not None else ''}")
    return text


def advice(line: str) -> str:
    return TERMINAL_ADVICE.get(line, line)


def when(moment: str, now: datetime) -> str:
    """`16:28 (9 min ago)`, in this machine's zone; with the day where it is another one."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    here = at.astimezone()
    clock = here.strftime("%H:%M" if here.date() == now.astimezone().date() else "%Y-%m-%d %H:%M")
    seconds = (now - at).total_seconds()
    return f"{clock} ({ago(seconds)})" if seconds >= 0 else f"{clock} (in {span(-seconds)})"


def ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """The largest unit that fits, as a whole number."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size * (2 if unit == "d" else 1):
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _kind(account: str) -> str:
    return "paper" if account.startswith("D") else "LIVE"
