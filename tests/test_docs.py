"""The documentation: links resolve, what it shows is what the commands print, and its recipes run.

A `console` block is a list of commands (`$ …`) and what each prints; all run against the demonstration, in the order of
the page. `…` stands for any text, numbers may differ, as may the width of columns. `# exit status N` names a status
that is not 0.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from facade.terminal.agent_tools import TOOLS
from shared.settings import TABLE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
READY_LIMIT = 60.0  # s; only ends a test that would hang
COMMAND_LIMIT = 60.0

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
NUMBER = re.compile(r"[-+]?\d[\d.,:]*")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


# --- links ----------------------------------------------------------------------------------------------------------


@cache
def anchors(page: Path) -> frozenset[str]:
    """What `#…` may name on a page: its headings as GitHub spells them, and its own anchors."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower() for heading in HEADING.findall(text))
    return frozenset(heading.replace(" ", "-") for heading in headings) | frozenset(
        re.findall(r'<a id="([^"]+)"', text)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(IBKR_\w+)` \| (.+?) \|", text, re.M))
    assert set(rows) == set(TABLE) | {"IBKR_ENV_FILE"}


def test_every_tool_for_agents_is_documented_with_its_arguments() -> None:
    text = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\w+)` \|[^|]+\|(.*)\|$", text, re.M)
    rows = {name: set(re.findall(r"`(\w+)`", arguments)) for name, arguments in lines}
    assert set(rows) == set(TOOLS)
    for name, tool in TOOLS.items():
        assert set(tool.arguments.__struct_fields__) <= rows[name], name


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstration:
    """A running `./scripts/start --demo` in a home directory of its own."""

    environ: dict[str, str]
    port: int

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """`command` as a reader would run it, though the facade has another port here."""
        return subprocess.run(
            ["bash", "-c", command.replace("9101", str(self.port))],
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_LIMIT,
            check=False,
        )


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demonstration]:
    if os.name == "nt":
        pytest.skip("The commands of the documentation are for a POSIX shell.")
    home = tmp_path_factory.mktemp("home")
    port = free_port()
    bare = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "foreground.py"), "--demo"],
        cwd=ROOT,
        env={**bare, "IBKR_FACADE_PORT": str(port), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        shown = Demonstration({**bare, "IBKR_ENV_FILE": str(home / ".local/state/ibkr-demo/demo.env")}, port)
        try:
            ends = time.monotonic() + READY_LIMIT
            while '"connected":true' not in shown.run("curl -s 127.0.0.1:9101/api/ibkr/status").stdout.replace(" ", ""):
                assert process.poll() is None, "the demonstration has ended"
                assert time.monotonic() < ends, "the demonstration did not connect"
            yield shown
        finally:
            process.terminate()


def comparable(text: str) -> str:
    return "\n".join(" ".join(NUMBER.sub("0", line).split()) for line in text.strip().splitlines())


def matches(printed: str, expected: str) -> bool:
    pattern = ".*?".join(re.escape(comparable_part) for comparable_part in comparable(expected).split("…"))
    return re.fullmatch(pattern, comparable(printed), re.S) is not None


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "console")],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_commands_print_what_the_page_shows(page: Path, demonstration: Demonstration) -> None:
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, _, expected = part.partition("\n")
            command, _, comment = line.partition("  #")
            done = demonstration.run(command)
            status = re.search(r"exit status (\d+)", comment)
            assert done.returncode == (int(status[1]) if status else 0), f"{command}\n{done.stdout}"
            assert matches(done.stdout, expected), f"$ {command}\n{done.stdout[:2000]}\n--- is not ---\n{expected}"


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "docs" / "http-api.md", "python"))))
def test_python_recipes_run(number: int, demonstration: Demonstration, tmp_path: Path) -> None:
    pytest.importorskip("httpx")
    source = blocks(ROOT / "docs" / "http-api.md", "python")[number]
    if "pandas" in source:
        pytest.importorskip("pandas")
    script = tmp_path / "recipe.py"
    script.write_text(source.replace("9101", str(demonstration.port)))
    done = demonstration.run(f"{sys.executable} {script}")
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip()


# --- deployment -----------------------------------------------------------------------------------------------------


def environment_names(value: Any) -> Iterator[str]:
    """Every `IBKR_…` name in a document, as a key, in a list of `{name: …}`, or as a `${…}` reference."""
    yield from re.findall(r"\bIBKR_[A-Z_]+\b", json.dumps(value))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gateway.yaml", "kubernetes.yaml"])
def test_deployment_files_name_settings_that_exist(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    known = set(TABLE) | {"IBKR_ENV_FILE"}
    documents = list(yaml.safe_load_all((ROOT / "deploy" / name).read_text(encoding="utf-8")))
    assert documents
    assert {found for document in documents for found in environment_names(document)} <= known


def test_health_checks_use_livez_and_never_readyz() -> None:
    for file in (ROOT / "deploy").glob("*.yaml"):
        lines = [line.partition(" #")[0] for line in file.read_text(encoding="utf-8").splitlines() if "/readyz" in line]
        assert not [line for line in lines if "/readyz" in line and not line.lstrip().startswith("#")], file.name
