"""What time brings to the link: the gateway's silence, our own absence, the ends of windows, moments asked for.

Says so as events. Decides nothing: whether a silence ends a session is for the machine.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from daemon.link import events as ev
from daemon.session.seams import Tws
from daemon.session.silence import Silence, absent
from daemon.session.slots import Slots
from shared.clock import Clock
from shared.messages import Expected

log = structlog.get_logger("daemon.session")

TURN = 0.25
"""s between looks at what time brings where nothing is nearer: a person notices no more, a processor no less."""


class Listening:
    """`interval` and `timeout` of probes in s. `hear` takes events; `lag`: s by which the last turn was late."""

    def __init__(
        self, clock: Clock, interval: float, timeout: float, hear: Callable[[ev.Event], None], slots: Slots
    ) -> None:
        self._clock = clock
        self._interval = interval
        self._timeout = timeout
        self._hear = hear
        self._to: tuple[Tws, int, Silence] | None = None  # the session listened to, its number, its silence
        self._slots = slots
        self._overdue = False  # the last probe was, and nothing has been heard since
        self._wake: float | None = None
        self.away = clock.monotonic()  # when we were last found to have been absent
        self.lag = 0.0

    @property
    def heard(self) -> float | None:
        """Monotonic s of the last complete message of the session listened to."""
        return None if self._to is None else self._to[0].heard

    def begin(self, tws: Tws, session: int) -> None:
        """A session stands; its silence counts from here."""
        if self._to is None or self._to[1] != session:
            self._to = (tws, session, Silence(self._interval, self._timeout))
            self._overdue = False

    def end(self) -> None:
        self._to = None
        self._slots.cancel("probe")

    def wake_at(self, wake: float | None) -> None:
        """Say `TimeCame` at this moment, and at no other that was asked for before."""
        if wake != self._wake:
            self._wake = wake
            self._slots.cancel("timer")
            if wake is not None:
                self._slots.start("timer", self._ring(wake))

    def probe(self) -> None:
        """Ask the gateway for a sign of life now."""
        if self._to is not None:
            tws, session, silence = self._to
            silence.asked()
            self._slots.start("probe", self._ask_time(tws, session))

    async def run(self, expected: Callable[[], Expected], turned: Callable[[], None]) -> None:
        """For ever. `expected`: the planned window around now; `turned` is called after each turn."""
        window = expected()
        while True:
            wanted = TURN if self._to is None else min(TURN, self._to[2].next_turn)
            monotonic, wall = self._clock.monotonic(), self._clock.now()
            await self._clock.sleep(wanted)
            elapsed = self._clock.monotonic() - monotonic
            self.lag = max(0.0, elapsed - wanted)
            if away := absent(wanted, elapsed, (self._clock.now() - wall).total_seconds()):
                self.away = self._clock.monotonic()
                log.info("link.away", message="We were asleep or stopped; listening again.", seconds=round(away))
                self._hear(ev.MachineWoke(seconds=away))
            was, window = window, expected()
            if was.active and not window.active:
                self._hear(ev.WindowEnded())
            if self._to is not None:
                self._judge(*self._to, wanted, elapsed)
            turned()

    def _judge(self, tws: Tws, session: int, silence: Silence, wanted: float, elapsed: float) -> None:
        match silence.turn(wanted, elapsed, self._clock.monotonic(), tws.heard):
            case "heard" if self._overdue:
                self._overdue = False
                self._hear(ev.Heard(session=session))
            case "overdue":
                self._overdue = True
                self._hear(ev.ProbeOverdue(session=session))
            case "send":
                self.probe()

    async def _ask_time(self, tws: Tws, session: int) -> None:
        """A probe. Whether it is overdue is for `Silence` to say, which knows when we were not listening."""
        try:
            # a little less than we allow, so that the session is free to send the second one when we want it
            rtt = await tws.probe(0.95 * self._timeout)
        except TimeoutError:
            return
        self._hear(ev.ProbeAnswered(session=session, rtt=rtt))

    async def _ring(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.monotonic()))
        self._wake = None
        self._hear(ev.TimeCame())
