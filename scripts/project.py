"""What ./scripts/start, test, restart_facade and restart_server do, for every system; standard library only.

Makes the virtual environment, then runs the project's own commands in it. Knows nothing of the gateway.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = os.name == "nt"

SIDE_BY_SIDE = ["-n", str(min(max(os.cpu_count() or 1, 2), 4)), "--dist", "loadfile"]
"""The whole suite in this many processes: most tests wait, so that one core serves two; each has its own browser.
A file stays in one process, where its tests share what is slow to start."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="run daemon and facade in the foreground")
    start.add_argument("--demo", action="store_true", help="against the built-in simulated gateway")
    start.set_defaults(run=run_start)
    test = commands.add_parser("test", help="run the whole test suite")
    test.add_argument("--windows", action="store_true", help="only the Windows stage, under wine")
    test.set_defaults(run=run_test)
    soak = commands.add_parser("soak", help="random faults, invariants checked throughout", add_help=False)
    soak.set_defaults(run=run_soak)
    for name, run in (("restart_facade", run_restart_facade), ("restart_server", run_restart_server)):
        commands.add_parser(name).set_defaults(run=run)
    # what these two do not know themselves is for pytest and for the soak
    arguments, arguments.others = parser.parse_known_args(argv)
    if arguments.others and arguments.command not in ("test", "soak"):
        parser.error(f"unrecognized arguments: {' '.join(arguments.others)}")
    run = arguments.run
    return int(run(arguments))


# --- the virtual environment ----------------------------------------------------------------------------------------


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if WINDOWS else "bin/python")


def installed(extras: str = "") -> Path:
    """The Python of an environment with the project and `extras`: `$VIRTUAL_ENV`, else `.venv`, made if missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a person may run this file with any Python
        raise SystemExit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} ({sys.executable}).")
    active = os.environ.get("VIRTUAL_ENV")
    environment = Path(active) if active else ROOT / ".venv"
    python = python_of(environment)
    if not python.exists():
        say(f"Making {environment} ...")
        if subprocess.call([sys.executable, "-m", "venv", str(environment)]):
            raise SystemExit("Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")
    # an install is repeated only when the packages asked for have changed
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes() + extras.encode() + str(ROOT).encode()).hexdigest()
    stamp = environment / f"ibkr-link-{extras.replace(',', '-') or 'itself'}.stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"Installing the project into {environment} ...")
        command = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-e",
            f"{ROOT}[{extras}]" if extras else str(ROOT),
        ]
        if subprocess.call([str(part) for part in command]):
            raise SystemExit("The installation failed; pip's own words are above.")
        stamp.write_text(wanted)
    return python


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the commands ---------------------------------------------------------------------------------------------------


def run_start(arguments: argparse.Namespace) -> int:
    python = installed()
    return become(python, ROOT / "scripts" / "foreground.py", *(["--demo"] if arguments.demo else []))


def run_test(arguments: argparse.Namespace) -> int:
    python = installed("test,dev")
    if arguments.windows:
        return become("bash", ROOT / "scripts" / "windows_stage", *arguments.others)
    os.chdir(ROOT)
    stages: list[tuple[str, list[str]]] = [
        ("ruff", ["ruff", "check", "."]),
        ("ruff format", ["ruff", "format", "--check", "."]),
        ("mypy", ["mypy"]),
        ("pytest", ["pytest", *(arguments.others or SIDE_BY_SIDE)]),
    ]
    if arguments.others:  # somebody wants to see these tests, not the gate
        stages = stages[-1:]
    failed = []
    for name, command in stages:
        say(f"--- {name}")
        if subprocess.call([str(python), "-m", *command], env=without_settings(os.environ)):
            failed.append(name)
    if failed:
        say(f"Failed: {', '.join(failed)}.")
    return 1 if failed else 0


def run_soak(arguments: argparse.Namespace) -> int:
    return become(installed("test,dev"), ROOT / "scripts" / "soak.py", *arguments.others)


def run_restart_facade(_arguments: argparse.Namespace) -> int:
    return become(installed(), "-m", "facade", "restart")


def run_restart_server(_arguments: argparse.Namespace) -> int:
    return become(installed(), ROOT / "scripts" / "foreground.py", "--restart")


def become(*command: str | Path) -> int:
    """Run `command` in our place: signals and exit status are its own."""
    words = [str(word) for word in command]
    environ = with_root(os.environ)
    if not WINDOWS:  # which has no exec that keeps the console and the exit status
        sys.stdout.flush()
        os.execvpe(words[0], words, environ)
    return subprocess.call(words, env=environ)


def with_root(environ: Mapping[str, str]) -> dict[str, str]:
    """The project's packages are found whatever the working directory, which is where `.env` is looked for first."""
    path = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")]))
    return {**environ, "PYTHONPATH": path}


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The tests bring their own settings; the developer's must not leak in."""
    return {name: value for name, value in environ.items() if not name.startswith("IBKR_")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
