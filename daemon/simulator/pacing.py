"""IBKR's limits as the gateway applies them: messages a second, and historical requests.

Pure: time is an argument. What a breach leads to is decided by the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

SMALL_BAR: Final = 30
"""Seconds: the limits of rows 2 to 4 hold for bars of this size and smaller."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """IBKR's published limits for historical data of small bars."""

    requests: int = 60
    window_s: float = 600.0
    identical_s: float = 15.0
    per_contract: int = 6
    per_contract_s: float = 2.0
    open: int = 50


@dataclass(slots=True)
class HistoryPacing:
    """What the gateway remembers of the historical requests of one user."""

    limits: HistoryLimits = field(default_factory=HistoryLimits)
    enabled: bool = True
    violations: int = 0
    requests: int = 0
    _all: deque[float] = field(default_factory=deque)
    _identical: dict[Hashable, float] = field(default_factory=dict)
    _contract: dict[Hashable, deque[float]] = field(default_factory=dict)

    def used(self, now: float) -> int:
        """Requests that count against the window just now; BID_ASK counts twice."""
        while self._all and now - self._all[0] >= self.limits.window_s:
            self._all.popleft()
        return len(self._all)

    def admit(self, now: float, bar_size: int, identity: Hashable, contract: Hashable, weight: int = 1) -> bool:
        """Count a request; False if it breaks a limit (it counts all the same, as IBKR counts it)."""
        self.requests += 1
        if bar_size > SMALL_BAR:
            return True
        limits = self.limits
        within = self.used(now) + weight <= limits.requests
        before = self._identical.get(identity)
        within &= before is None or now - before >= limits.identical_s
        recent = self._contract.setdefault(contract, deque())
        while recent and now - recent[0] >= limits.per_contract_s:
            recent.popleft()
        within &= len(recent) + 1 < limits.per_contract
        self._all.extend([now] * weight)
        self._identical[identity] = now
        recent.append(now)
        self._prune(now)
        if not within:
            self.violations += 1
        return within or not self.enabled

    def _prune(self, now: float) -> None:
        if len(self._identical) > 1000:
            self._identical = {k: t for k, t in self._identical.items() if now - t < self.limits.identical_s}
            self._contract = {k: d for k, d in self._contract.items() if d and now - d[-1] < self.limits.per_contract_s}


def over_rate(sent_at: deque[float], now: float, limit: int) -> int:
    """Note a message at `now`; how many came in the last second if that is above `limit`, else 0."""
    while sent_at and now - sent_at[0] >= 1.0:
        sent_at.popleft()
    sent_at.append(now)
    return len(sent_at) if len(sent_at) > limit else 0
