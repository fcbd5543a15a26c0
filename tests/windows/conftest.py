"""What is particular to running on Windows, or on wine in its place."""

import sys

import pytest


def on_wine() -> bool:
    """Whether this Windows is wine: its ntdll exports `wine_get_version`."""
    import ctypes

    return sys.platform == "win32" and hasattr(ctypes.windll.ntdll, "wine_get_version")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_windows: what wine does not do as Windows does")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if on_wine():
        for item in items:
            if item.get_closest_marker("real_windows"):
                item.add_marker(pytest.mark.skip(reason="needs real Windows"))
