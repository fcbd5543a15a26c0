"""Whether what the gateway says just now can be believed: its link to IBKR and the data farms, and until lately.

Remembers when it was last bad. Never decides about the link.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from shared.messages import FarmState, Upstream

FarmType = Literal["market", "hmds", "secdef"]

SETTLING = 60.0
"""s after a trouble for which a “no such contract” is still not believed: TWS answers from the outage (FAULTS 10)."""


class Conditions:
    """`upstream`: the gateway has its link to IBKR. Until `observe` was called, everything counts as fine."""

    def __init__(self) -> None:
        self.upstream = True
        self._bad: frozenset[str] = frozenset()  # types of farms, any of which is broken or still connecting
        self._troubledAt = -math.inf

    def observe(self, upstream: Upstream, farms: Mapping[str, FarmState], now: float) -> bool:
        """The conditions from `now` (monotonic s) on; returns whether anything changed."""
        before = (self.upstream, self._bad)
        if self.troubled:
            self._troubledAt = now
        self.upstream = upstream != "lost"
        self._bad = frozenset(farm.type for farm in farms.values() if farm.state in ("broken", "connecting"))
        if self.troubled:
            self._troubledAt = now
        return before != (self.upstream, self._bad)

    @property
    def troubled(self) -> bool:
        """Upstream or a farm is impaired now."""
        return not self.upstream or bool(self._bad)

    def doubtful(self, now: float) -> bool:
        """Impaired now, or less than a minute ago."""
        return self.troubled or now - self._troubledAt < SETTLING

    def farm(self, kind: FarmType) -> bool:
        """Farms of this type are up, as far as they have been heard of."""
        return kind not in self._bad
