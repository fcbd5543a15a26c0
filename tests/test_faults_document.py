"""`docs/faults.md` and the tests it names are held together."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
TABLE = re.compile(r"^\| (\d+) \| (.+) \| (.+) \|$", re.MULTILINE)
NAME = re.compile(r"`([\w/]+)::(\w+)(\*?)`")


def rows() -> list[tuple[int, str]]:
    """Number and last column of every row."""
    text = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    return [(int(number), tests) for number, _promise, tests in TABLE.findall(text)]


@functools.cache
def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_row_of_the_catalogue_is_there_once_and_in_order() -> None:
    assert [number for number, _row in rows()] == list(range(1, 57))


def test_every_row_has_its_test_or_its_reason() -> None:
    for number, tests in rows():
        assert NAME.search(tests) or tests.startswith("No test: "), number


def test_every_test_that_is_named_exists() -> None:
    for number, tests in rows():
        for where, name, star in NAME.findall(tests):
            file = TESTS / f"{where}.py" if "/" in where else TESTS / f"test_{where}.py"
            found = [test for test in names_in(file) if (test.startswith(name) if star else test == name)]
            assert found, f"row {number}: {where}::{name}"


def test_every_numbered_story_is_named() -> None:
    tests = dict(rows())
    for file in TESTS.glob("test_story_*.py"):
        for test in names_in(file):
            if found := re.match(r"test_(\d\d)_", test):
                names = NAME.findall(tests[int(found[1])])
                assert any(test.startswith(name) for _where, name, _star in names), f"{file.name}::{test}"
