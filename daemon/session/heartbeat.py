"""Heartbeat and timer of the link: probes a silent gateway, notices suspends, ends of windows and due times.

Posts events; whether a silence ends the session is decided by the link machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import structlog

from daemon.link import events as ev
from daemon.session.interfaces import Tws
from daemon.session.slots import Slots
from shared.clock import Clock
from shared.messages import Expected

log = structlog.get_logger("daemon.session")

TURN = 0.25
"""s between turns where nothing is due sooner: a person notices no more, a processor no less."""
SUSPENDED = 5.0
"""s that must be missing before the machine counts as suspended: no busy loop or swap storm takes as long."""

Verdict = Literal["received", "send", "overdue"] | None


class SilenceTimer:
    """How long one session's gateway has sent nothing while this process was running. s; `now` is monotonic.

    Time in which nothing could have been received (the process was stopped, the machine slept, the loop was busy) is
    not the gateway's silence; after it, what has arrived is read first and the time starts again.
    """

    def __init__(self, interval: float, timeout: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self.stall = min(1.0, timeout / 2)
        """A turn later than this cannot be judged: answers may lie unread. A busy loop is far from a second late."""
        self._quiet = 0.0
        self._probed = False
        self._last_message = 0.0

    @property
    def next_turn(self) -> float:
        """Seconds until the next turn is due: exactly at a limit, else often enough to notice that we did not run."""
        limit = self.timeout if self._probed else self.interval
        return max(0.001, min(0.25, self.interval / 4, self.timeout / 4, limit - self._quiet))

    def turn(self, slept: float, elapsed: float, now: float, last_message: float) -> Verdict:
        """`slept`: s that the turn should have slept; `elapsed`: s that it did."""
        if last_message > self._last_message:
            self._last_message, self._quiet, self._probed = last_message, min(elapsed, now - last_message), False
            return "received"
        if elapsed - slept >= self.stall:
            self._quiet = 0.0
            return None
        self._quiet += elapsed
        if self._probed and self._quiet >= self.timeout:
            self._quiet, self._probed = 0.0, False
            return "overdue"
        return "send" if not self._probed and self._quiet >= self.interval else None

    def probed(self) -> None:
        """A probe has been sent."""
        self._quiet, self._probed = 0.0, True


def suspended(slept: float, elapsed: float, wall: float) -> float:
    """Seconds of a turn in which this process did not run, 0 for none.

    `elapsed` by the monotonic clock, which on some systems stands still while the machine sleeps, `wall` by the other.
    """
    away = max(elapsed - slept, wall - slept)
    return away if away >= SUSPENDED else 0.0


class Heartbeat:
    """`interval` and `timeout` of probes in s. `post` takes events; `lag`: s by which the last turn was late."""

    def __init__(
        self, clock: Clock, interval: float, timeout: float, post: Callable[[ev.Event], None], slots: Slots
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._post = post
        self._watched: tuple[Tws, int, SilenceTimer] | None = None  # the session, its number, its silence
        self._slots = slots
        self._overdue = False  # the last probe was, and no message has come since
        self._wake: float | None = None
        self.suspended_at = clock.monotonic()
        """Monotonic s at which the last suspend was noticed; at first, when this began."""
        self.lag = 0.0

    @property
    def last_message(self) -> float | None:
        """Monotonic s of the last complete message of the watched session."""
        return None if self._watched is None else self._watched[0].last_received

    def begin(self, tws: Tws, session: int) -> None:
        """Watch this session; its silence counts from here."""
        if self._watched is None or self._watched[1] != session:
            self._watched = (tws, session, SilenceTimer(self._interval, self._timeout))
            self._overdue = False

    def end(self) -> None:
        self._watched = None
        self._slots.cancel("probe")

    def wake_at(self, wake: float | None) -> None:
        """Post `TimerExpired` at this moment, and at none that was set before."""
        if wake != self._wake:
            self._wake = wake
            self._slots.cancel("timer")
            if wake is not None:
                self._slots.start("timer", self._expire(wake))

    def probe(self) -> None:
        """Send the gateway a probe now."""
        if self._watched is not None:
            tws, session, silence = self._watched
            silence.probed()
            self._slots.start("probe", self._probe(tws, session))

    async def run(self, expected: Callable[[], Expected], after_turn: Callable[[], None]) -> None:
        """Until cancelled. `expected`: the planned window around now."""
        window = expected()
        while True:
            wanted = TURN if self._watched is None else min(TURN, self._watched[2].next_turn)
            monotonic, wall = self._clock.monotonic(), self._clock.now()
            await self._clock.sleep(wanted)
            elapsed = self._clock.monotonic() - monotonic
            self.lag = max(0.0, elapsed - wanted)
            if seconds := suspended(wanted, elapsed, (self._clock.now() - wall).total_seconds()):
                self.suspended_at = self._clock.monotonic()
                log.info("link.resumed", message="Resumed after suspend.", seconds=round(seconds))
                self._post(ev.MachineResumed(seconds=seconds))
            before, window = window, expected()
            if before.active and not window.active:
                self._post(ev.WindowEnded())
            if self._watched is not None:
                self._judge(*self._watched, wanted, elapsed)
            after_turn()

    def _judge(self, tws: Tws, session: int, silence: SilenceTimer, wanted: float, elapsed: float) -> None:
        match silence.turn(wanted, elapsed, self._clock.monotonic(), tws.last_received):
            case "received" if self._overdue:
                self._overdue = False
                self._post(ev.MessageReceived(session=session))
            case "overdue":
                self._overdue = True
                self._post(ev.ProbeOverdue(session=session))
            case "send":
                self.probe()

    async def _probe(self, tws: Tws, session: int) -> None:
        """Whether the probe is overdue is `SilenceTimer`'s to decide, which leaves out the time of a suspend."""
        try:
            # a little less than the limit, so that the session is free to send the second one when it is due
            rtt = await tws.probe(0.95 * self._timeout)
        except TimeoutError:
            return
        self._post(ev.ProbeAnswered(session=session, rtt=rtt))

    async def _expire(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.monotonic()))
        self._wake = None
        self._post(ev.TimerExpired())
