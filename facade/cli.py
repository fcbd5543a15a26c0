"""`ibkr`: the terminal's facade. This file is the way of `ibkr status`; every other command is in `terminal/`.

Imports nothing beyond what `shared.jsonrpc.blocking_client` needs: that is what `ibkr status` starts with.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from shared.console import make_printable
from shared.jsonrpc import blocking_client
from shared.transport.address import DEFAULT_SESSION, default_path

TYPE_CHECKING = False  # as in blocking_client.py
if TYPE_CHECKING:
    from typing import Any, TextIO

CONNECTED, NOT_CONNECTED, USAGE, NO_DAEMON = 0, 1, 2, 3
"""Exit statuses; 78 stands for bad settings."""

SESSION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")

PATIENCE = 2.0
"""s for the daemon's answer; one that takes longer counts as unreachable, as it does over HTTP."""

GREEN, YELLOW, RED, PLAIN = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
COLOURS = {"ready": GREEN, "blocked": RED, "upstreamLost": RED, "held": "", "disabled": ""}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    make_printable()
    session = take_session(arguments)
    if session is not None:
        if not SESSION_CHARACTERS.issuperset(session) or not 0 < len(session) <= 32 or session[0] == "-":
            print(f"ibkr: --session {session!r} is not a name of a-z, 0-9 and -, of at most 32.", file=sys.stderr)
            return USAGE
        os.environ["IBKR_SESSION"] = session
    if arguments in (["status"], ["status", "--json"]) and (path := socket_path(os.environ)):
        try:
            link = blocking_client.call_once(path, "link.get", {}, PATIENCE)
        except (OSError, blocking_client.CallError):
            pass  # whoever explains it needs the settings and the catalogue
        else:
            return show(link, sys.stdout, as_json="--json" in arguments)
    from facade.terminal.commands import run

    return run(arguments)


def take_session(arguments: list[str]) -> str | None:
    """Remove `--session NAME` or `--session=NAME` from `arguments`; the name, `None` where there is none."""
    for number, word in enumerate(arguments):
        if word == "--session" and number + 1 < len(arguments):
            session = arguments[number + 1]
            del arguments[number : number + 2]
            return session
        if word.startswith("--session="):
            del arguments[number]
            return word.partition("=")[2]
    return None


def socket_path(environ: Mapping[str, str]) -> str | None:
    """The daemon's socket, if it is known without parsing a settings file; `None` where a file may name it."""
    if environ.get("IBKR_SOCKET"):
        return environ["IBKR_SOCKET"]
    session = environ.get("IBKR_SESSION", "").strip() or DEFAULT_SESSION
    if session != DEFAULT_SESSION and not environ.get("IBKR_ENV_FILE"):
        return None  # a file of its own may name the socket
    named = environ.get("IBKR_ENV_FILE")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    files = [named] if named else [".env", os.path.join(root, ".env")]
    for file in files:
        try:
            with open(file, encoding="utf-8-sig") as lines:
                if any(_names_socket(line) for line in lines):
                    return None
                break
        except OSError:
            if named:
                return None
        except UnicodeDecodeError:
            return None
    try:
        return default_path(environ, session)
    except OSError:
        return None


def _names_socket(line: str) -> bool:
    """Whether `line` of a settings file may set the socket's path or the session to anything but the default."""
    if ("IBKR_SOCKET" not in line and "IBKR_SESSION" not in line) or line.lstrip().startswith("#"):
        return False
    return line.partition("=")[2].partition("#")[0].strip() not in ("", DEFAULT_SESSION)


def show(link: Mapping[str, Any], out: TextIO, *, as_json: bool) -> int:
    """Print the link row; the exit status it stands for."""
    connected = bool(link.get("connected"))
    if as_json:
        print(json.dumps(link, ensure_ascii=False, allow_nan=False), file=out)
    else:
        print("\n".join(lines(link, colour=out.isatty() and not os.environ.get("NO_COLOR"))), file=out)
    if link.get("phase") is None:
        return NO_DAEMON
    return CONNECTED if connected else NOT_CONNECTED


def lines(link: Mapping[str, Any], *, colour: bool) -> list[str]:
    """What a person wants to know of the link, most important first."""
    phase = link.get("phase")
    headline = "Connected" if link.get("connected") else (phase or "daemon not answering")
    tint = COLOURS.get(phase or "", YELLOW) if colour else ""
    told = [f"{tint}IBKR: {headline}{PLAIN if tint else ''}"]
    gateway = link.get("gateway")
    if gateway:
        where = f"{gateway['host']}:{gateway['port']}, client id {gateway['clientId']}"
        product = gateway.get("product")
        version = gateway.get("serverVersion")
        told.append(f"  gateway   {where}{f', {product}' if product else ''}{f', server {version}' if version else ''}")
    accounts = link.get("accounts")
    if accounts:
        # IBKR's own rule: the ids of paper accounts start with D
        told.append(f"  account   {', '.join(f'{a} ({_kind(a)})' for a in accounts)}")
    if link.get("since"):
        told.append(f"  since     {link['since']}")
    proof = link.get("proof") or {}
    if proof.get("at"):
        rtt = proof.get("rttMs")
        told.append(f"  proof     {proof['at']}{f' (round trip {rtt:.1f} ms)' if rtt is not None else ''}")
    if not link.get("connected"):
        told.append(f"  reason    {link.get('reason') or 'unknown'}: {link.get('sentence', '')}")
        told += [f"  {number:>3}. {line}" for number, line in enumerate(link.get("advice") or (), 1)]
        if link.get("nextAttemptAt"):
            told.append(f"  next try  {link['nextAttemptAt']} (attempts so far: {link.get('attempts', 0)})")
    error = link.get("lastError")
    if error and not link.get("connected"):
        code = error.get("code")
        told.append(f"  last said {error.get('text', '')}{f' (code {code})' if code is not None else ''}")
    return told


def _kind(account: str) -> str:
    return "paper" if account.startswith("D") else "LIVE"


if __name__ == "__main__":
    sys.exit(main())
