"""Is anybody there? The question for the time, one at a time, whose answer nothing else can steal.

Never decides when to ask or what silence means.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
from collections import deque

from daemon.tws.api import Api
from daemon.tws.errors import LinkLost
from daemon.tws.gate import Gate, Lane
from shared.clock import Clock


class Probe:
    """reqCurrentTime has no request id: a second question would steal the first one's answer, so calls share one."""

    def __init__(self, api: Api, gate: Gate, clock: Clock) -> None:
        self._api = api
        self._gate = gate
        self._clock = clock
        self._open: asyncio.Future[float] | None = None
        self._asked: deque[float] = deque()  # when each question without an answer was sent
        self.overdue = False
        """A question's time is over, and nothing at all has been heard since."""

    async def ask(self, timeout: float) -> float:
        """Seconds the answer took. Raises TimeoutError after `timeout` s, `LinkLost` at the session's end."""
        if self._open is None or self._open.done():
            self._gate.send(Lane.PROBE, self._send)
            self._open = asyncio.get_running_loop().create_future()
            self._open.add_done_callback(lambda answer: answer.cancelled() or answer.exception())  # who knows who waits
        question = self._open
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(question)
        except TimeoutError:
            self.overdue = True
            if self._open is question:
                self._open = None
            raise

    def _send(self) -> None:
        self._asked.append(self._clock.monotonic())
        self._api.client.reqCurrentTime()

    def answered(self) -> None:
        """The time came. Answers come in the order of the questions, so a late one is measured as what it is."""
        if not self._asked:
            return
        took = self._clock.monotonic() - self._asked.popleft()
        if self._open is not None and not self._open.done():
            self._open.set_result(took)

    def fail(self, error: LinkLost) -> None:
        """No answer will come."""
        if self._open is not None and not self._open.done():
            self._open.set_exception(error)
