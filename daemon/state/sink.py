"""What a session may do to the rows: the seam between `daemon/tws` and `store.py`.

Never holds rows itself. All methods are synchronous: nothing can slip between reading and writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from shared.messages import Notice


class Sink(Protocol):
    """Where rows go. Each call that changes something is one step, whose number it returns; equal rows cost none."""

    def put(self, changes: Mapping[str, Mapping[str, Struct | None]]) -> int:
        """Change rows of one or more topics (topic → key → row, `None` = gone)."""

    def replace(
        self,
        topic: str,
        rows: Mapping[str, Struct],
        where: Callable[[Struct], bool] | None = None,
        *,
        known: bool = False,
    ) -> int:
        """Make `rows` all that `topic` has (of those that `where` picks): what is missing becomes gone.

        `known`: this is a complete snapshot.
        """

    def known(self, topic: str) -> int:
        """The snapshot of `topic` is complete and current."""

    def stale(self, topics: Iterable[str]) -> int:
        """What is known of `topics` may be old."""

    def forget(self, topic: str) -> int:
        """`topic` is unknown."""

    def notice(self, notice: Notice) -> int:
        """One more of IBKR's texts."""

    def rows(self, topic: str) -> Mapping[str, Struct]:
        """The rows of `topic`, to be read and not kept."""
