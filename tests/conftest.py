"""What holds for every test."""

import os
import signal
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.talking import peers  # noqa: F401 - a fixture

# a shared machine stops a test for longer than hypothesis' 200 ms: time is no promise of any test here
settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fields", type=int, default=20, help="fields of each kind to alter in test_story_fields; 0: all")
    parser.addoption("--kills", type=int, default=3, help="how often test_survived kills the daemon under its clients")


LONG_FILES = ("tests/browser/", "tests/abuse/", "tests/scaleout/", "tests/test_", "tests/facade/keeper/")
"""Beginnings of the files that take longest, for their browser and processes: side by side they are to start first."""

LONGEST_NAME = 100
"""Characters of a parameter in a test's name: what a person reads."""


def pytest_configure() -> None:
    """Under nohup SIGHUP is ignored, also by the processes that a test starts; they do not inherit a function."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, tests are handed out by name: of several with one name, one would run and the rest vanish."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests have one name: {', '.join(twice)}")
    items.sort(key=lambda item: not item.nodeid.startswith(LONG_FILES))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where LINK_TEST_SKIPS=none, what a test needs is to be there: a browser, root, systemd. CI says so."""
    report = yield
    if report.skipped and os.environ.get("LINK_TEST_SKIPS") == "none":
        report.outcome = "failed"
    return report


def pytest_make_parametrize_id(val: object) -> str | None:
    """A megabyte that is tried is not the test's name: Windows takes 32 767 characters for what pytest makes of it."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_NAME:
        return f"{ascii(val[:20])[:40]}... of {len(val)}"
    return None
