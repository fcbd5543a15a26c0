"""Seconds to wait between attempts, as pure arithmetic. Sleeps nowhere; randomness is an argument."""

from __future__ import annotations

from collections.abc import Sequence

SPREAD = (0.8, 1.2)
"""The random factor of each wait: enough that several clients of one gateway part, little enough to be predictable."""


def doubling(first: float, cap: float, tries: int) -> float:
    """Seconds after the `tries`-th failure in a row (1, 2, 3 …): `first`, doubled each time, never above `cap`."""
    # the exponent is bounded so that years of failures do not overflow
    return min(cap, first * 2.0 ** min(tries - 1, 32))


def ladder(steps: Sequence[float], tries: int) -> float:
    """The `tries`-th of `steps`; the last one for ever after."""
    return steps[min(tries, len(steps)) - 1]


def spread(seconds: float, random_unit: float) -> float:
    """`seconds` times a factor in 0.8–1.2; `random_unit` is uniform in 0–1."""
    low, high = SPREAD
    return seconds * (low + (high - low) * random_unit)
