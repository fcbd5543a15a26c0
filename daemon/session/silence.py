"""How long the gateway has been silent while we were listening, and when that calls for a probe.

Pure arithmetic: no clock, no task. Time in which we could not have heard anything (we were stopped, the machine slept,
our own loop was busy) is not the gateway's silence; after it, what has arrived is read first and the clock starts anew.
"""

from __future__ import annotations

from typing import Literal

SLEPT = 5.0
"""s that must be missing before the machine is said to have slept: no busy loop or swap storm takes as long."""

Verdict = Literal["heard", "send", "overdue"] | None


class Silence:
    """One session's silence. Seconds throughout; `now` and `heard`, when the last message came, are monotonic."""

    def __init__(self, interval: float, timeout: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self.stall = min(1.0, timeout / 2)
        """A turn later than this cannot be judged: answers may lie unread. A busy loop is far from a second late."""
        self._quiet = 0.0
        self._asked = False
        self._heard = 0.0

    @property
    def next_turn(self) -> float:
        """Seconds until the next turn is due: exactly at a limit, else often enough to notice our own absence."""
        limit = self.timeout if self._asked else self.interval
        return max(0.001, min(0.25, self.interval / 4, self.timeout / 4, limit - self._quiet))

    def turn(self, slept: float, elapsed: float, now: float, heard: float) -> Verdict:
        """`slept`: what we meant to sleep since the last turn; `elapsed`: what it became."""
        if heard > self._heard:
            self._heard, self._quiet, self._asked = heard, min(elapsed, now - heard), False
            return "heard"
        if elapsed - slept >= self.stall:
            self._quiet = 0.0
            return None
        self._quiet += elapsed
        if self._asked and self._quiet >= self.timeout:
            self._quiet, self._asked = 0.0, False
            return "overdue"
        return "send" if not self._asked and self._quiet >= self.interval else None

    def asked(self) -> None:
        """A probe has been sent."""
        self._quiet, self._asked = 0.0, True


def absent(slept: float, elapsed: float, wall: float) -> float:
    """Seconds for which we were away in a turn, 0 for none.

    `elapsed` by the monotonic clock, which on some systems stands still while the machine sleeps, `wall` by the other.
    """
    away = max(elapsed - slept, wall - slept)
    return away if away >= SLEPT else 0.0
