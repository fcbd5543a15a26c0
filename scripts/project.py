"""What ./scripts/start, test, constraints, restart_facade and restart_server do, for every system.

Makes the virtual environment, then runs the project's own commands in it. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WINDOWS = os.name == "nt"
CONSTRAINTS = ROOT / "constraints.txt"
"""The version of every package, direct or not, that the test suite passed with."""
OLDEST, NEWEST = (3, 11), (3, 14)
"""The Pythons that constraints.txt is made for. On a newer one, a dependency without a release is no failure."""

SIDE_BY_SIDE = ["-n", str(min(max(os.cpu_count() or 1, 2), 4)), "--dist", "loadfile", "--no-loadscope-reorder"]
"""The whole suite in this many processes: most tests wait, so that one core serves two; each has its own browser.
A file stays in one process, where its tests share what is slow to start; tests/conftest.py puts the longest first."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="run daemon and facade in the foreground")
    start.add_argument("--demo", action="store_true", help="against the built-in simulated gateway")
    start.set_defaults(run=run_start)
    test = commands.add_parser("test", help="run the whole test suite; other arguments go to pytest")
    test.add_argument("--windows", action="store_true", help="only the Windows stage, under wine")
    test.add_argument("--pythons", action="store_true", help="on every other CPython of this machine")
    test.set_defaults(run=run_test)
    soak = commands.add_parser("soak", help="random faults, invariants checked throughout", add_help=False)
    soak.set_defaults(run=run_soak)
    for name, run, text in (
        ("constraints", run_constraints, "write constraints.txt again, with the newest versions that fit"),
        ("restart_facade", run_restart_facade, "restart the facade; the session is not touched"),
        ("restart_server", run_restart_server, "restart daemon and facade"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)
    # arguments that are not declared here are pytest's or the soak's
    arguments, arguments.others = parser.parse_known_args(argv)
    if arguments.others and arguments.command not in ("test", "soak"):
        parser.error(f"unrecognized arguments: {' '.join(arguments.others)}")
    run = arguments.run
    return int(run(arguments))


# --- the virtual environment ----------------------------------------------------------------------------------------


class InstallationFailed(Exception):
    """Why the project cannot be installed, in one sentence."""


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if WINDOWS else "bin/python")


def installed(extras: str = "") -> Path:
    """The Python of an environment with the project and `extras`: `$VIRTUAL_ENV`, else `.venv`, made if missing."""
    if sys.version_info < OLDEST:  # a person may run this file with any Python
        raise SystemExit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]} ({sys.executable}).")
    active = os.environ.get("VIRTUAL_ENV")
    try:
        return install(sys.executable, Path(active) if active else ROOT / ".venv", extras)
    except InstallationFailed as failed:
        raise SystemExit(str(failed)) from None


def install(interpreter: str, environment: Path, extras: str) -> Path:
    """The Python of `environment`, made with `interpreter` if missing, with the project and `extras` in it.

    Every package has the version of constraints.txt. Where nothing has changed since, nothing is installed.
    Raises `InstallationFailed`.
    """
    python = python_of(environment)
    if not python.exists():
        say(f"Making {environment} ...")
        made = subprocess.run(
            [interpreter, "-m", "venv", str(environment)], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if made.returncode:
            shutil.rmtree(environment, ignore_errors=True)  # half of one would pass for a whole one
            raise InstallationFailed(
                f"Python's venv module does not work with {interpreter} (on Debian and Ubuntu: "
                f"apt install python3-venv). It reported: {last_line(made.stderr or made.stdout)}"
            )
    sources = (ROOT / "pyproject.toml").read_bytes() + CONSTRAINTS.read_bytes()
    wanted = hashlib.sha256(sources + extras.encode() + str(ROOT).encode()).hexdigest()
    stamp = environment / f"ibkr-link-{extras.replace(',', '-') or 'itself'}.stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"Installing the project into {environment}; the first time takes up to a minute ...")
        pip_install(python, "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]" if extras else str(ROOT))
        stamp.write_text(wanted)
    return python


def pip_install(python: Path, *arguments: str) -> None:
    """`pip install` with a line of progress a package. Raises `InstallationFailed`; pip's output is shown before."""
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    output: list[str] = []
    try:
        pip = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
    except OSError as error:
        raise InstallationFailed(f"{python} cannot be run: {error}.") from error
    with pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            output.append(line)
            if line.startswith(("Collecting ", "Building ", "Installing collected packages")):
                say(f"  {line.split(' (from')[0].strip():.100}")
    if pip.returncode:
        say("".join(output))
        raise InstallationFailed(installation_problem("".join(output), python))


def installation_problem(output: str, python: Path) -> str:
    """Why pip failed, from its output: the dependency without a release for this Python, else that it failed."""
    version = subprocess.run(
        [str(python), "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
    ).stdout.strip()
    lacking = re.search(r"No matching distribution found for ([\w.-]+)", output) or re.search(
        r"[Ff]ailed (?:building wheel for|to build) '?([\w.-]+)", output
    )
    unreachable = re.search(r"(?:ConnectionError|NewConnectionError|NameResolutionError|ConnectTimeout\w*)\b", output)
    if unreachable:
        return "The installation failed: the package index cannot be reached. pip's output is above."
    if lacking is None:  # a release of constraints.txt that is not there for this Python is a conflict to pip
        lacking = re.search(r"The user requested \(constraint\) ([\w.-]+)", output)
        if lacking is None:
            return "The installation failed. pip's output is above."
        if tuple(map(int, version.split(".")[:2])) <= NEWEST:
            return (
                f"The installation failed: the version of {lacking[1]} in constraints.txt does not install with "
                f"pyproject.toml on Python {version}. ./scripts/constraints renews it; pip's output is above."
            )
    oldest, newest = (".".join(map(str, pair)) for pair in (OLDEST, NEWEST))
    return (
        f"The installation failed: {lacking[1]} has no release that installs on Python {version}. "
        f"Use a Python from {oldest} to {newest}; pip's output is above."
    )


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the commands ---------------------------------------------------------------------------------------------------


def run_start(arguments: argparse.Namespace) -> int:
    python = installed()
    return become(python, ROOT / "scripts" / "foreground.py", *(["--demo"] if arguments.demo else []))


def run_test(arguments: argparse.Namespace) -> int:
    if arguments.pythons:
        return run_pythons(arguments.others)
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
    if arguments.others:  # these tests alone, not the gate
        stages = stages[-1:]
    failed = []
    for name, command in stages:
        say(f"--- {name}")
        if subprocess.call([str(python), "-m", *command], env=without_settings(os.environ)):
            failed.append(name)
    if failed:
        say(f"Failed: {', '.join(failed)}.")
    return 1 if failed else 0


def run_constraints(_arguments: argparse.Namespace) -> int:
    """Resolve the dependencies with every extra, for all supported Pythons and systems at once, with uv."""
    oldest = ".".join(map(str, OLDEST))
    with tempfile.TemporaryDirectory() as place:
        environment = Path(place)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip_install(python_of(environment), "uv")
        # neither this machine's configuration nor its mirrors decide what everybody installs
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
        new = environment / CONSTRAINTS.name
        status = subprocess.call(
            [
                str(python_of(environment)),
                *("-m", "uv", "pip", "compile", "--no-config", "--universal", "--python-version", oldest, "--quiet"),
                *("--all-extras", "--no-header", "--no-annotate", "--no-emit-index-url", "--output-file", str(new)),
                str(ROOT / "pyproject.toml"),
            ],
            env=environ,
        )
        if status == 0:
            about = "# Every package with the version that the tests passed with; written by ./scripts/constraints.\n"
            CONSTRAINTS.write_text(about + new.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")
    return status


def run_soak(arguments: argparse.Namespace) -> int:
    return become(installed("test,dev"), ROOT / "scripts" / "soak.py", *arguments.others)


def run_restart_facade(_arguments: argparse.Namespace) -> int:
    return become(installed(), "-m", "facade", "restart")


def run_restart_server(_arguments: argparse.Namespace) -> int:
    return become(installed(), ROOT / "scripts" / "foreground.py", "--restart")


# --- the other Pythons ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Python:
    """A CPython that `./scripts/test --pythons` runs on."""

    path: str
    version: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.path})"


def run_pythons(others: Sequence[str]) -> int:
    """The tests on each other Python; 1 if any failed. A Python of the system gets the whole suite."""
    installed("test,dev")
    os.chdir(ROOT)
    results: list[tuple[str, bool]] = []
    for python in other_pythons():
        begun = time.monotonic()
        say(f"=== {python.name}")
        environment = ROOT / ".venvs" / ".".join(map(str, python.version))
        try:
            interpreter = install(python.path, environment, "test")
        except InstallationFailed as failed:
            too_new = python.version[:2] > NEWEST
            results.append((f"{'not run' if too_new else 'FAILED'}  {python.name}: {failed}", too_new))
            continue
        whole = python.path.startswith("/usr/bin/")
        tests = list(others) or (SIDE_BY_SIDE if whole else [*SIDE_BY_SIDE, *tests_with_processes(ROOT / "tests")])
        status = subprocess.call([str(interpreter), "-m", "pytest", *tests], env=without_settings(os.environ))
        what = " ".join(others) or ("the whole suite" if whole else "what starts processes, and the whole chain")
        took = time.monotonic() - begun
        results.append((f"{'FAILED' if status else 'passed'}   {python.name}: {what}, {took:.0f} s", status == 0))
    say("=== Every other Python on this machine")
    for line, _good in results or [("none was found", True)]:
        say(f"  {line}")
    return int(not all(good for _line, good in results))


def other_pythons() -> list[Python]:
    """Each version once, oldest first, without the one that runs this file."""
    names = [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    candidates = [
        "/usr/bin/python3",
        *filter(None, map(shutil.which, names)),
        *(str(path) for path in sorted(pyenv.glob("versions/*/bin/python3"))),
    ]
    own = sys.version_info[:3]
    found: dict[tuple[int, int, int], Python] = {}
    for path in candidates:
        version = cpython_version(path)
        if version is not None and version >= OLDEST and version != own:
            found.setdefault(version, Python(path, version))
    return [found[version] for version in sorted(found)]


def cpython_version(path: str) -> tuple[int, int, int] | None:
    """The version of the interpreter at `path`; `None` where that is no CPython that runs."""
    code = "import sys; print(sys.implementation.name, *sys.version_info[:3])"
    try:
        answer = subprocess.run(
            [path, "-I", "-c", code], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = answer.stdout.split()
    if answer.returncode or len(words) != 4 or words[0] != "cpython":
        return None
    return int(words[1]), int(words[2]), int(words[3])


def tests_with_processes(tests: Path) -> list[str]:
    """The stories and the test files that start a process, themselves or by a module beside them that they import.

    Not those of the page: they test the browser.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(tests.rglob("*.py"))}
    starts = {path for path, text in texts.items() if re.search(r"\bsubprocess\b|\bmultiprocessing\b", text)}
    modules = [
        ".".join(path.relative_to(tests.parent).with_suffix("").parts) for path in starts if path.stem[:5] != "test_"
    ]
    imported = re.compile(r"^(?:from|import) (?:" + "|".join(map(re.escape, modules)) + r")\b", re.MULTILINE)
    return [
        str(path)
        for path, text in texts.items()
        if path.stem.startswith("test_")
        and "browser" not in path.parts
        and (path.stem.startswith("test_story") or path in starts or imported.search(text))
    ]


# --- processes ------------------------------------------------------------------------------------------------------


def become(*command: str | Path) -> int:
    """Replace this process by `command`: signals and exit status are its own."""
    words = [str(word) for word in command]
    environ = with_root(os.environ)
    if not WINDOWS:  # which has no exec that keeps the console and the exit status
        sys.stdout.flush()
        os.execvpe(words[0], words, environ)
    return subprocess.call(words, env=environ)


def with_root(environ: Mapping[str, str]) -> dict[str, str]:
    """With the project's packages importable from any working directory, where `.env` is looked for first."""
    path = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH", "")]))
    return {**environ, "PYTHONPATH": path}


def without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The tests set their own settings; the developer's must not leak in."""
    return {name: value for name, value in environ.items() if not name.startswith("IBKR_")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
