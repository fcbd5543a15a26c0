"""Which time zone data `zoneinfo` reads: the system's or the `tzdata` package's, whichever is newer."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path


@dataclass(frozen=True)
class ZoneData:
    """`source`: "system", "package", or "none" where there is neither. `version`: such as 2025b; None: unknown."""

    source: str
    version: str | None
    place: str

    @property
    def year(self) -> int | None:
        return int(self.version[:4]) if self.version else None


def use_newest() -> ZoneData:
    """Make `zoneinfo` read the newest data from here on. Zones that the process has loaded already stay as they are."""
    found = newest(zoneinfo.TZPATH, package_version())
    if found.source == "package":
        zoneinfo.reset_tzpath(to=())
    return found


def newest(tzpath: Sequence[str], package: str | None) -> ZoneData:
    """The newest of the data below `tzpath` and the version of the package. Equal or unknown: the system's."""
    system = next((ZoneData("system", version_in(Path(place)), place) for place in tzpath if has_zones(place)), None)
    if system is None:
        return ZoneData("none" if package is None else "package", package, "tzdata from PyPI")
    if package is not None and system.version is not None and order(package) > order(system.version):
        return ZoneData("package", package, "tzdata from PyPI")
    return system


def order(version: str) -> tuple[str, int, str]:
    """2025z comes before 2025za."""
    return version[:4], len(version), version


def has_zones(place: str) -> bool:
    return (Path(place) / "America" / "New_York").is_file()


def version_in(place: Path) -> str | None:
    """The version that `tzdata.zi` (Linux) or `+VERSION` (macOS, BSD) below `place` states."""
    for name, pattern in (("tzdata.zi", r"# version (\d{4}[a-z]+)"), ("+VERSION", r"(\d{4}[a-z]+)")):
        try:
            with (place / name).open(encoding="ascii", errors="replace") as file:
                stated = re.match(pattern, file.readline(64))
        except OSError:
            continue
        if stated:
            return stated[1]
    return None


def package_version() -> str | None:
    """The version of the data in the `tzdata` package; `None` where it is not installed."""
    try:
        with resources.files("tzdata").joinpath("zones").open():  # a namespace package left behind holds nothing
            from tzdata import IANA_VERSION
    except (ImportError, OSError):
        return None
    return str(IANA_VERSION)
