"""The smallest Sink: dictionaries. What the store makes of rows has its own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct


class Kept:
    """Rows, and every step that changed them. A topic is `True` when known, `False` when stale, absent when unknown."""

    def __init__(self) -> None:
        self.topics: dict[str, dict[str, Any]] = {}
        self.state: dict[str, bool] = {}
        self.steps: list[dict[str, dict[str, Any]]] = []

    def put(self, changes: Mapping[str, Mapping[str, Struct | None]]) -> int:
        step: dict[str, dict[str, Any]] = {}
        for topic, rows in changes.items():
            kept = self.topics.setdefault(topic, {})
            for key, row in rows.items():
                if kept.get(key) == row:
                    continue
                step.setdefault(topic, {})[key] = row
                if row is None:
                    del kept[key]
                else:
                    kept[key] = row
        if step:
            self.steps.append(step)
        return len(self.steps)

    def replace(
        self, topic: str, rows: Mapping[str, Struct], where: Callable[[str, Struct], bool] | None = None
    ) -> int:
        old = self.topics.get(topic, {})
        gone = {key: None for key, row in old.items() if key not in rows and (where is None or where(key, row))}
        return self.put({topic: {**gone, **rows}})

    def known(self, topic: str) -> None:
        self.topics.setdefault(topic, {})
        self.state[topic] = True

    def stale(self, topics: Iterable[str]) -> None:
        for topic in topics:
            if topic in self.state:
                self.state[topic] = False

    def forget(self, topic: str) -> None:
        self.state.pop(topic, None)

    def rows(self, topic: str) -> Mapping[str, Any]:
        return self.topics.get(topic, {})
