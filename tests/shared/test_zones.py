"""Zone data: the newer of the system's and the package's is the one that times are computed with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import PROJECT_ROOT
from shared.zones import ZoneData, newest, package_version


def system(tmp_path: Path, version: str | None, name: str = "tzdata.zi") -> str:
    (tmp_path / "America").mkdir()
    (tmp_path / "America" / "New_York").write_bytes(b"TZif")
    if version is not None:
        (tmp_path / name).write_text(f"{'# version ' if name == 'tzdata.zi' else ''}{version}\nR A 1916 o\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("stated", "package", "source", "version"),
    [
        ("2025b", "2025c", "package", "2025c"),
        ("2026a", "2025c", "system", "2026a"),
        ("2025c", "2025c", "system", "2025c"),
        ("2025za", "2025c", "system", "2025za"),
        (None, "2025c", "system", None),
        ("2020a", None, "system", "2020a"),
    ],
)
def test_the_newer_data_is_used(
    tmp_path: Path, stated: str | None, package: str | None, source: str, version: str | None
) -> None:
    found = newest([str(tmp_path / "absent"), system(tmp_path, stated)], package)
    assert (found.source, found.version) == (source, version)


def test_macos_states_its_version_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert newest([system(tmp_path, "2024b", "+VERSION")], "2024a").version == "2024b"


def test_without_data_of_the_system_the_package_is_used(tmp_path: Path) -> None:
    assert newest([str(tmp_path)], "2025c").source == "package"
    assert newest([str(tmp_path)], None) == ZoneData("none", None, "tzdata from PyPI")


@pytest.mark.skipif(package_version() is None, reason="needs the tzdata package")
def test_older_data_of_the_system_is_not_read(tmp_path: Path) -> None:
    """The file that stands for New York in the system's data is no zone: reading it would fail."""
    code = (
        "import sys, zoneinfo; zoneinfo.reset_tzpath(to=[sys.argv[1]]); from shared.zones import use_newest;"
        "print(use_newest().source, zoneinfo.ZoneInfo('America/New_York'))"
    )
    place = system(tmp_path, "1990a")
    done = subprocess.run(
        [sys.executable, "-c", code, place], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["package", "America/New_York"]
