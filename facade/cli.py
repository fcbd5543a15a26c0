"""Entry point of `ibkr`. `ibkr status` runs here, with few imports; every other command is in `facade/terminal`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from facade.terminal import link_view
from shared.console import make_printable
from shared.jsonrpc import blocking_client
from shared.transport.address import DEFAULT_SESSION, default_path

SESSION_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    make_printable()
    status = link_view.CONNECTED
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        status = link_view.INTERRUPTED
    return status


def _run(arguments: list[str]) -> int:
    session = take_session(arguments)
    if session is not None:
        if not SESSION_CHARACTERS.issuperset(session) or not 0 < len(session) <= 32 or session[0] == "-":
            print(f"ibkr: --session {session!r} is not a name of a-z, 0-9 and -, of at most 32.", file=sys.stderr)
            return link_view.USAGE
        if take_session(arguments) is not None:
            print("ibkr: --session is there twice.", file=sys.stderr)
            return link_view.USAGE
        os.environ["IBKR_SESSION"] = session
    named = os.environ.get("IBKR_SESSION", "").strip()
    named = "" if named == DEFAULT_SESSION else named
    if arguments in (["status"], ["status", "--json"]) and (path := socket_path(os.environ)):
        try:
            link = blocking_client.call_once(path, "link.get", {}, link_view.TIMEOUT, session=named)
        except (OSError, blocking_client.CallError):
            pass  # the explanation needs the settings and the catalogue
        else:
            return link_view.show(link, sys.stdout, as_json="--json" in arguments, environ=os.environ, session=named)
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
    if session != DEFAULT_SESSION:
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


if __name__ == "__main__":
    sys.exit(main())
