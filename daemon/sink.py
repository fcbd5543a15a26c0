"""What a session may do to the rows: the seam between `daemon/tws` and the store.

Never holds rows itself. All methods are synchronous: nothing can slip between reading and writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

Changes = Mapping[str, Mapping[str, Struct | None]]
"""topic → key → row, `None` = gone."""


class Sink(Protocol):
    """Where rows go. Each `put` or `replace` that changes something is one step; equal rows cost none."""

    def put(self, changes: Changes) -> int:
        """Change rows of one or more topics in one step; the step's number."""

    def replace(
        self, topic: str, rows: Mapping[str, Struct], where: Callable[[str, Struct], bool] | None = None
    ) -> int:
        """Make `rows` all that `topic` has (of those for which `where(key, row)`): what is missing becomes gone."""

    def known(self, topic: str) -> None:
        """`topic` has now been told to its end and is current."""

    def stale(self, topics: Iterable[str]) -> None:
        """What is known of `topics` may be old."""

    def forget(self, topic: str) -> None:
        """`topic` is unknown."""

    def rows(self, topic: str) -> Mapping[str, Struct]:
        """The rows of `topic`, not to be changed by the caller."""
