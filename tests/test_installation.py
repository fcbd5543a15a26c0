"""What ./scripts/start and ./scripts/test install: declared, pinned, and explained where it cannot be installed."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import project
from tests.test_architecture import ROOT, imports, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"[\w.-]+")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for lines in PROJECT["optional-dependencies"].values() for line in lines)]
    return {normal(REQUIREMENT.match(line)[0]) for line in lines}  # type: ignore[index]


def test_every_package_that_the_product_imports_is_declared() -> None:
    own = {"shared", "daemon", "facade", "__future__"}
    imported = {name.partition(".")[0] for path in sources() for name in imports(path)}
    providers = importlib.metadata.packages_distributions()
    missing = {
        module: providers.get(module)
        for module in imported - own - sys.stdlib_module_names
        if module in providers and not declared() & {normal(name) for name in providers[module]}
    }
    assert not missing


def test_every_dependency_is_in_the_constraints_within_its_bounds() -> None:
    pinned = {normal(REQUIREMENT.match(line)[0]) for line in project.CONSTRAINTS.read_text().splitlines()[1:]}  # type: ignore[index]
    assert declared() <= pinned


def test_constraints_name_no_place_to_install_from() -> None:
    """Versions alone, so that a mirror works and no machine's configuration has got in."""
    assert not re.search(r"://|--|@", project.CONSTRAINTS.read_text())


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "ERROR: Could not find a version that satisfies the requirement msgspec<0.23 (from versions: none)\n"
            "ERROR: No matching distribution found for msgspec<0.23,>=0.20\n",
            "msgspec has no release that installs on Python 3.",
        ),
        (
            "  error: gcc failed\n  ERROR: Failed building wheel for tree-sitter\n",
            "tree-sitter has no release",
        ),
        (
            "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\n"
            "ERROR: No matching distribution found for setuptools>=68\n",
            "the package index cannot be reached",
        ),
        ("ERROR: something else\n", "The installation failed. pip's output is above."),
    ],
)
def test_a_failed_installation_is_one_sentence_with_its_cause(output: str, sentence: str) -> None:
    said = project.installation_problem(output, Path(sys.executable))
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("newest", "sentence"),
    [
        ((3, 10), "msgspec has no release that installs on Python 3."),
        ((3, 99), "the version of msgspec in constraints.txt does not install with pyproject.toml on Python 3."),
    ],
)
def test_a_constraint_that_does_not_install_is_named(
    monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], sentence: str
) -> None:
    """On a Python newer than those that constraints.txt is made for, it is the Python."""
    monkeypatch.setattr(project, "NEWEST", newest)
    output = (
        "The conflict is caused by:\n    ibkr-link 0.1.0 depends on msgspec<0.23 and >=0.20\n"
        "    The user requested (constraint) msgspec==0.21.1\n"
        "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io\n"
    )
    assert sentence in project.installation_problem(output, Path(sys.executable))


def test_what_starts_processes_is_found_by_what_the_tests_import() -> None:
    found = {Path(path).name for path in project.tests_with_processes(ROOT / "tests")}
    assert {"test_foreground.py", "test_parent.py", "test_survived.py", "test_story_alive.py"} <= found
    assert "test_backoff.py" not in found
