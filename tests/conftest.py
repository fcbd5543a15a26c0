"""What holds for every test."""

from collections import Counter

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
