"""How far the gateway's answers can be trusted: the state of its link to IBKR and of the data farms, now and lately."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from shared.messages import FarmState, Upstream

FarmType = Literal["market", "hmds", "secdef"]
Trust = Literal["sound", "settling", "impaired"]
"""Of an answer: upstream and all farms are up; up again for less than `SETTLING`; one of them is down."""

SETTLING = 60.0
"""s after an outage in which TWS may still answer from it (FAULTS 10)."""


class Conditions:
    """`upstream`: the gateway has its link to IBKR. Until `observe` was called, everything counts as fine."""

    def __init__(self) -> None:
        self.upstream = True
        self._bad: frozenset[str] = frozenset()  # types of farms, any of which is broken or still connecting
        self._impaired_at = -math.inf

    def observe(self, upstream: Upstream, farms: Mapping[str, FarmState], now: float) -> bool:
        """The conditions from `now` (monotonic s) on; returns whether anything changed."""
        before = (self.upstream, self._bad)
        if self.impaired:
            self._impaired_at = now
        self.upstream = upstream != "lost"
        self._bad = frozenset(farm.type for farm in farms.values() if farm.state in ("broken", "connecting"))
        if self.impaired:
            self._impaired_at = now
        return before != (self.upstream, self._bad)

    @property
    def impaired(self) -> bool:
        """Upstream or a farm is impaired now."""
        return not self.upstream or bool(self._bad)

    def trust(self, now: float) -> Trust:
        """At `now`, monotonic s."""
        if self.impaired:
            return "impaired"
        return "settling" if now - self._impaired_at < SETTLING else "sound"

    def farm(self, kind: FarmType) -> bool:
        """Farms of this type are up, as far as the gateway has reported."""
        return kind not in self._bad
