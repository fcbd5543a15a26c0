"""Interleaved measurement: figures with their spread, each beside its goal and beside an A/A control."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Samples = dict[str, list[float]]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    `values`: one a round. `goal`: `≤ 1.3`, `≥ 0.75`, `0`, or empty where the figure is only for comparison.
    `control`: the same ratio of a thing to itself, which shows how far noise moves a ratio from 1.
    """

    row: str
    what: str
    values: Sequence[float]
    goal: str = ""
    unit: str = ""
    control: Sequence[float] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """`None` where there is no goal."""
        if not self.goal:
            return None
        sign, _, number = self.goal.rpartition(" ")
        limit = float(number.split()[0])
        return self.median >= limit if sign == "≥" else self.median <= limit

    def cells(self) -> tuple[str, ...]:
        goal = f"{self.goal} {self.unit}".strip() if self.goal and self.unit != "×" else self.goal
        reached = {True: "yes", False: "**no**", None: ""}[self.reached]
        return self.row, self.what, goal, _spread(self.values, self.unit), _spread(self.control), reached


def interleaved(rounds: int, **measures: Callable[[], float]) -> Samples:
    """Each of `measures` once a round, in the order given."""
    samples: Samples = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            samples[name].append(measure())
    return samples


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def compared(
    row: str, what: str, samples: Samples, above: str, below: str, goal: str = "", control: str = "", unit: str = "µs"
) -> Figure:
    """`above` ÷ `below`. `control`: the second measurement of `below`. `unit` of the medians shown: empty for none."""
    if unit:
        scale = {"µs": 1e6, "ms": 1e3, "s": 1.0, "MB": 1.0}[unit]
        medians = (statistics.median(samples[name]) * scale for name in (above, below))
        what = f"{what} ({' to '.join(map(shown, medians))} {unit})"
    again = ratios(samples[control], samples[below]) if control else ()
    return Figure(row, what, ratios(samples[above], samples[below]), goal, "×", again)


HEADER = ("row", "what", "goal", "median (middle half)", "control", "reached")


def table(figures: Iterable[Figure]) -> str:
    """In Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in _lines(figures))


def _lines(figures: Iterable[Figure]) -> Iterator[Sequence[str]]:
    yield HEADER
    yield ["---"] * len(HEADER)
    yield from (figure.cells() for figure in figures)


def _spread(values: Sequence[float], unit: str = "") -> str:
    if not values:
        return ""
    text = f"{shown(statistics.median(values))} {unit}".rstrip(" ×")
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        text += f" ({shown(low)}–{shown(high)})"
    return text


def shown(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
