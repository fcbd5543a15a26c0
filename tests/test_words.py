"""Words that are never right here: no module hears or tells, and a client, user or peer is named as what it is."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = ("daemon", "facade", "shared", "scripts", "tests", "docs", "deploy")
TEXT = {".py", ".js", ".mjs", ".css", ".html", ".md", ".yml", ".ps1", ""}
WORDS = re.compile(
    r"(?<![a-z])(told|tells?|telling|heard|hears?|hearing|nobody|somebody|asked|asks|hungry|deaf|believe[sd]?|believing"
    r"|anew|in vain)(?![a-z])"
)
HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

EXCEPTIONS = {
    "the method of a file object": ("file.tell()",),
    "the prices at which a market sells": ("asks (side 0)",),
    "words of the page and the terminal for the age of the last answer": ("Last heard", "last heard", "  heard     "),
}
"""What is right in its place, by the reason."""


def lines() -> Iterator[tuple[str, str]]:
    """Place and text of each line of product, tests and documentation."""
    files = [file for place in PLACES for file in sorted((ROOT / place).rglob("*")) if file.is_file()]
    for file in [*files, *sorted(ROOT.glob("*.md")), ROOT / ".env.example"]:
        if file.suffix in TEXT and not {"vendor", "__pycache__"} & set(file.parts) and file != Path(__file__):
            for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                yield f"{file.relative_to(ROOT).as_posix()}:{number}", line


def found_in(line: str) -> list[str]:
    for phrases in EXCEPTIONS.values():
        for phrase in phrases:
            line = line.replace(phrase, "")
    return WORDS.findall(HUMP.sub("_", line).replace("_", " ").lower())


def test_product_tests_and_documentation_use_standard_terms() -> None:
    found = [f"{place}: {', '.join(words)}" for place, line in lines() if (words := found_in(line))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("phrase", [phrase for phrases in EXCEPTIONS.values() for phrase in phrases])
def test_each_exception_is_still_used(phrase: str) -> None:
    assert any(phrase in line for _, line in lines())


@pytest.mark.parametrize("line", ["_tell_all()", "heardAt: float", "class Told:", "Nobody waits.", "ASKED_AGAIN = 1"])
def test_a_word_is_found_in_identifiers_and_prose(line: str) -> None:
    assert found_in(line)
