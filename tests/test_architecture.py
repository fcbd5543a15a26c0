"""The architecture, as far as a test can hold it: who may import whom, and where a thing may be found."""

from __future__ import annotations

import ast
import functools
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("shared", "daemon", "facade")
FORBIDDEN_NAMES = {"engine", "core", "manager", "handler", "helper", "helpers", "util", "utils"}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    # CPython 3.11 can fail in ast.parse when the collector runs finalizers in the middle of it
    collecting = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        if collecting:
            gc.enable()


def imports(path: Path) -> Iterator[str]:
    """Every module that `path` imports, at whatever depth of the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = path.relative_to(ROOT).parent.parts
            near = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*near, node.module) if node.module else near)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def attributes(path: Path) -> Iterator[str]:
    """Every attribute of a plain name, as it is written."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def classes(path: Path) -> Iterator[str]:
    return (node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


def offenders(module: str, allowed: tuple[str, ...], within: tuple[str, ...] = PACKAGES) -> list[str]:
    """Files below `within` that import `module`, but for those whose path starts with an `allowed` prefix."""
    return sorted(
        {
            str(path.relative_to(ROOT))
            for path in sources()
            for name in imports(path)
            if (name == module or name.startswith(f"{module}."))
            and path.relative_to(ROOT).parts[0] in within
            and not path.relative_to(ROOT).as_posix().startswith(allowed)
        }
    )


@pytest.mark.parametrize(
    ("module", "allowed", "within", "why"),
    [
        ("daemon", ("daemon/",), PACKAGES, "the facade must be restartable and replaceable: it knows only the socket"),
        ("facade", ("facade/",), PACKAGES, "the daemon must not know who reads it"),
        ("ib_async", ("daemon/tws/",), PACKAGES, "one place knows the foreign library and its silences"),
        ("ibapi", (), PACKAGES, "only the tests use IBKR's own client"),
        ("eventkit", ("daemon/tws/",), PACKAGES, "part of ib_async"),
        ("aiohttp", ("facade/", "shared/alerts/delivery.py"), PACKAGES, "alerts are its client, the facade its server"),
        ("aiohttp.web", ("facade/",), PACKAGES, "HTTP is the facade's business"),
        ("apprise", ("shared/alerts/delivery.py",), PACKAGES, "an extra, imported where it is used"),
        ("numpy", (), PACKAGES, "30 MB for nothing"),
        ("pydantic", (), PACKAGES, "msgspec does it, and faster"),
        ("unittest.mock", (), PACKAGES, "fakes over mocks"),
        (
            "daemon.simulator",
            ("daemon/simulator/",),
            PACKAGES,
            "the simulator is a gateway on the wire; nothing else has a demo mode",
        ),
        (
            "time",
            (
                "shared/clock.py",
                "shared/jsonrpc/blocking_client.py",
                "shared/transport/blocking.py",
                "daemon/simulator/",
            ),
            ("daemon", "shared"),
            "time is an argument",
        ),
        ("random", ("daemon/simulator/", "daemon/__main__.py"), ("daemon", "shared"), "randomness is an argument"),
    ],
)
def test_the_import_law(module: str, allowed: tuple[str, ...], within: tuple[str, ...], why: str) -> None:
    found = offenders(module, allowed, within)
    assert not found, f"{', '.join(found)} import {module}: {why}"


@pytest.mark.parametrize(
    ("room", "knows", "why"),
    [
        ("daemon/link", (), "what is decided depends on nothing that acts"),
        ("daemon/codes", (), "a table that depends on nothing that acts on it"),
        ("daemon/state", (), "rows are rows, whoever brings and whoever reads them"),
        (
            "daemon/tws",
            ("daemon.codes", "daemon.link", "daemon.state"),
            "it emits events and puts rows; it calls nothing above it",
        ),
        ("daemon/alerts", ("daemon.state",), "rules over the rows there are"),
        ("daemon/market", ("daemon.codes", "daemon.tws.errors"), "its session is an argument"),
        (
            "daemon/session",
            ("daemon.codes", "daemon.link", "daemon.state", "daemon.tws.errors"),
            "its session is an argument",
        ),
        (
            "daemon/server",
            ("daemon.alerts", "daemon.session", "daemon.state", "daemon.market"),
            "no module here meets the gateway",
        ),
        ("facade/http", (), "HTTP is the same whatever is served"),
        (
            "facade/events",
            ("facade.http.responses", "facade.replica", "facade.account_rows"),
            "a stream is of a replica's rows, whatever the routes are",
        ),
        ("facade/replica", (), "the daemon's state is the same for every route"),
        ("facade/keeper", (), "the keeper outlives every child because it knows nothing that changes"),
        ("facade/doctor", (), "it works with everything else down"),
        ("facade/terminal", ("facade.doctor", "facade.replica.nats"), "the terminal does not go by HTTP"),
    ],
)
def test_each_package_imports_only_what_it_needs(room: str, knows: tuple[str, ...], why: str) -> None:
    allowed = tuple(f"{package}." for package in (room.replace("/", "."), *knows))
    inside = [path for path in sources() if ROOT / room in path.parents or path == ROOT / f"{room}.py"]
    assert inside, f"there is no room {room}"
    found = sorted(
        f"{path.relative_to(ROOT)} imports {name}"
        for path in inside
        for name in imports(path)
        if name.startswith(("daemon.", "facade.")) and not f"{name}.".startswith(allowed)
    )
    assert not found, f"{', '.join(found)}: {why}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sources()
    }
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & files.keys()
            elif isinstance(node, ast.ImportFrom) and node.module:  # `from package import module` means the module
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= {full if full in files else node.module for full in inner} & files.keys()
    reach = {name: set(graph[name]) for name in graph}
    for through in graph:
        for found in reach.values():
            if through in found:
                found |= reach[through]
    circles = {
        tuple(sorted(other for other in reach[name] if name in reach[other])) for name in graph if name in reach[name]
    }
    assert not circles


def test_the_environment_is_read_at_the_door() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name not in {"__main__.py", "settings.py", "cli.py"} and path.parent.name != "terminal"
        if {"os.environ", "os.getenv"} & {*imports(path), *attributes(path)}
    ]
    assert not found


def test_every_module_begins_with_what_it_owns() -> None:
    silent = [str(path) for path in sources() if not ast.get_docstring(tree(path))]
    assert not silent


def test_nothing_is_named_after_nothing() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in (*path.relative_to(ROOT).with_suffix("").parts, *classes(path))
        if FORBIDDEN_NAMES & {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
    ]
    assert not found


def test_no_task_is_fire_and_forget() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr == "ensure_future"
            or (node.func.attr == "create_task" and not any(keyword.arg == "name" for keyword in node.keywords))
        )
    ]
    assert not found


def test_scripts_for_windows_are_ascii() -> None:
    """PowerShell 5.1 reads a file without a byte order mark as ANSI."""
    for path in (ROOT / "scripts").glob("*.ps1"):
        assert path.read_bytes().isascii(), path.name


@pytest.mark.parametrize("name", ["start", "test", "restart_facade", "restart_server"])
def test_each_command_exists_for_both_shells(name: str) -> None:
    assert (ROOT / "scripts" / name).stat().st_mode & 0o111
    assert (ROOT / "scripts" / f"{name}.ps1").exists()


LIBRARIES = {
    "aiohttp": {"aiohttp", "aiohttp.web"},
    "asyncio": {"asyncio"},
    "environs": {"environs"},
    "eventkit": set[str](),
    "ib_async": {"ib_async"},
    "prometheus_client": {"prometheus_client", "prometheus_client.core", "prometheus_client.registry"},
    "psutil": {"psutil"},
    "structlog": {"structlog", "structlog.stdlib", "structlog.types", "structlog.contextvars"},
}
"""The modules that each library documents."""

BASES = {"asyncio.Protocol", "asyncio.BufferedProtocol", "asyncio.DatagramProtocol"}
"""Classes of these libraries that are documented to be subclassed, as they are written."""

UNDOCUMENTED = (
    (
        "daemon/tws/client.py",
        "ib_async==2.1.0",
        "its client writes each request in the order of the server's version; the socket and the queue are ours",
    ),
    (
        "daemon/tws/decoder.py",
        "ib_async==2.1.0",
        "its decoder has the order of fields of each server version; what it reads wrongly is read rightly beside it",
    ),
    (
        "shared/transport/named_pipe.py",
        'requires-python = ">=3.11"',
        "asyncio has no documented way to give a pipe its access list; run on CPython 3.11 to 3.14 under Windows",
    ),
    (
        "shared/transport/windows_security.py",
        'requires-python = ">=3.11"',
        "ctypes documents no type for a foreign function; named in annotations alone",
    ),
)
"""Where undocumented names of a library are used: below which path, with which pin of pyproject.toml, and why."""


def defined(path: Path) -> set[str]:
    """Every name that `path` defines: functions, classes, variables, attributes and `__slots__`."""
    found = set()
    for node in ast.walk(tree(path)):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Constant(value=str(name)) if name.isidentifier():
                found.add(name)
    return found


def undocumented(path: Path, ours: set[str]) -> Iterator[str]:
    """What `path` uses of another library's inside. `ours`: every name that our packages define.

    A private attribute of `self` may come from a class of ours in another module; one of another object must be of a
    class in the same module.
    """
    here = defined(path)
    for node in ast.walk(tree(path)):
        match node:
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls")) if name not in ours and private(name):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if name not in here and private(name):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            case ast.ClassDef(name=name, bases=bases):
                yield from (
                    f"{path.relative_to(ROOT)}:{node.lineno}: class {name}({base})"
                    for base in map(ast.unparse, bases)
                    if base.partition(".")[0] in {*LIBRARIES, "web"} and base not in BASES
                )
            case ast.ImportFrom(module=str(module), names=names, level=0):
                library = module.partition(".")[0]
                if library in LIBRARIES and module not in LIBRARIES[library]:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: from {module}"
                elif library not in PACKAGES:
                    for alias in names:
                        inner = f"{module}.{alias.name}"
                        if private(alias.name) or (library == "asyncio" and alias.name.startswith("windows_")):
                            yield f"{path.relative_to(ROOT)}:{node.lineno}: {inner}"
            case ast.Import(names=names):
                for alias in names:
                    library = alias.name.partition(".")[0]
                    if library in LIBRARIES and alias.name not in LIBRARIES[library]:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}: import {alias.name}"


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@functools.cache
def all_undocumented() -> tuple[str, ...]:
    ours = {name for path in sources() for name in defined(path)}
    return tuple(use for path in sources() for use in undocumented(path, ours))


def test_libraries_are_used_by_their_documented_names() -> None:
    """A private name may move in a patch release. Those that there is no way around stand in the table above."""
    allowed = tuple(path for path, _, _ in UNDOCUMENTED)
    found = [use for use in all_undocumented() if not use.startswith(allowed)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("path", "pin", "_why"), UNDOCUMENTED)
def test_what_is_undocumented_is_pinned_and_still_used(path: str, pin: str, _why: str) -> None:
    assert pin in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert any(use.startswith(path) for use in all_undocumented()), f"{path} needs no exception any more"


@pytest.mark.parametrize(
    "text",
    [
        "from aiohttp.web_protocol import RequestHandler",
        "import aiohttp.helpers",
        "from aiohttp import web\nclass Mine(web.Server): pass",
        "request._message",
        "from psutil import _common",
        "class Mine:\n    def run(self): return self._loop",
        "import structlog._config",
    ],
)
def test_an_undocumented_name_is_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert list(undocumented(path, set()))
