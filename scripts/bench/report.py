"""What a benchmark says: a figure with its spread beside the goal, and the control that shows the noise."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figure:
    """One measured figure. `control` is the same ratio of a thing with itself: how far 1.0 may be off by noise."""

    row: str
    what: str
    goal: str
    values: Sequence[float]
    reached: bool | None = None
    unit: str = ""
    control: Sequence[float] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The middle half of the rounds."""
        return quartiles(self.values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median, "spread": self.spread}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 4:
        return min(values), max(values)
    low, _middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def at_least(goal: float, values: Sequence[float]) -> bool:
    return statistics.median(values) >= goal


def at_most(goal: float, values: Sequence[float]) -> bool:
    return statistics.median(values) <= goal


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table."""
    lines = [
        "| row | what | goal | median (middle half) | control (middle half) | reached |",
        "|---|---|---|---|---|---|",
    ]
    for figure in figures:
        unit = "" if figure.unit == "×" else f" {figure.unit}"
        measured = f"{shown(figure.median)}{unit}"
        if len(figure.values) > 1:
            measured += f" ({_span(figure.spread)})"
        control = ""
        if figure.control:
            control = f"{shown(statistics.median(figure.control))} ({_span(quartiles(figure.control))})"
        reached = {True: "yes", False: "**no**", None: ""}[figure.reached]
        lines.append(f"| {figure.row} | {figure.what} | {figure.goal} | {measured} | {control} | {reached} |")
    return "\n".join(lines)


def _span(ends: tuple[float, float]) -> str:
    return f"{shown(ends[0])}–{shown(ends[1])}"


def shown(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
