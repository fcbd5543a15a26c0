"""Which quotes and bars remote facades use: a lease ends by release, or when it is not renewed in time."""

from __future__ import annotations

from collections.abc import Iterable

from shared.scaleout import LEASE

MAX_LEASES = 256
"""Leases at once: as many as the local socket has connections."""


class Leases:
    """By the facade's name of its lease: its topics, and the monotonic time at which it expires."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[set[str], float]] = {}

    def topics(self) -> set[str]:
        """Every topic of a lease."""
        return {topic for topics, _ in self._leases.values() for topic in topics}

    def add(self, lease: str, topics: Iterable[str], now: float) -> bool:
        """Add `topics` to a lease, and renew it. False where it would be one lease too many."""
        if lease not in self._leases and len(self._leases) >= MAX_LEASES:
            return False
        held, _ = self._leases.get(lease, (set(), 0.0))
        self._leases[lease] = (held.union(topics), now + LEASE)
        return True

    def remove(self, lease: str, topics: Iterable[str]) -> None:
        if lease in self._leases:
            held, expires = self._leases[lease]
            held = held.difference(topics)
            if held:
                self._leases[lease] = (held, expires)
            else:
                del self._leases[lease]

    def renew(self, lease: str, now: float) -> bool:
        """False where the lease has expired."""
        if lease not in self._leases:
            return False
        self._leases[lease] = (self._leases[lease][0], now + LEASE)
        return True

    def expire(self, now: float) -> list[str]:
        """Remove the leases that have expired; their names."""
        expired = [lease for lease, (_, expires) in self._leases.items() if expires <= now]
        for lease in expired:
            del self._leases[lease]
        return expired

    def clear(self) -> list[str]:
        """Remove all; their names."""
        names = list(self._leases)
        self._leases.clear()
        return names
