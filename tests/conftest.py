"""What holds for every test."""

import os
from collections import Counter
from collections.abc import Generator

import pytest
from hypothesis import settings

# a shared machine stops a test for longer than hypothesis' 200 ms: time is no promise of any test here
settings.register_profile("no timing", deadline=None)
settings.load_profile("no timing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side, tests are handed out by name: of several with one name, one would run and the rest vanish."""
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"several tests have one name: {', '.join(twice)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where LINK_TEST_SKIPS=none, what a test needs is to be there: a browser, root, systemd. CI says so."""
    report = yield
    if report.skipped and os.environ.get("LINK_TEST_SKIPS") == "none":
        report.outcome = "failed"
    return report
