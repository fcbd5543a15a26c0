"""Liveness probes: reqCurrentTime, one at a time."""

from __future__ import annotations

import asyncio
from collections import deque

from daemon.tws.client import GatewayClient
from daemon.tws.errors import LinkLost
from daemon.tws.send_queue import Lane, SendQueue
from shared.clock import Clock


class Probe:
    """reqCurrentTime has no request id: a second one would take the first one's answer, so calls share one."""

    def __init__(self, client: GatewayClient, queue: SendQueue, clock: Clock) -> None:
        self._client = client
        self._queue = queue
        self._clock = clock
        self._open: asyncio.Future[float] | None = None
        self._sent: deque[float] = deque()  # when each request without an answer was sent
        self.overdue = False
        """A request's time is over, and no message at all has been received since."""

    @property
    def under_way(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._sent)

    async def send(self, timeout: float) -> float:
        """Seconds the answer took. Raises TimeoutError after `timeout` s, `LinkLost` at the session's end."""
        if self._open is None or self._open.done():
            self._queue.send(Lane.PROBE, self._write)
            self._open = asyncio.get_running_loop().create_future()
            self._open.add_done_callback(
                lambda answer: answer.cancelled() or answer.exception()
            )  # its waiters may all have gone
        request = self._open
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(request)
        except TimeoutError:
            self.overdue = True
            if self._open is request:
                self._open = None
            raise

    def _write(self) -> None:
        self._sent.append(self._clock.monotonic())
        self._client.reqCurrentTime()

    def answered(self) -> None:
        """The time came. Answers come in the order of the requests: a late one is measured against its own."""
        if not self._sent:
            return
        took = self._clock.monotonic() - self._sent.popleft()
        if self._open is not None and not self._open.done():
            self._open.set_result(took)

    def fail(self, error: LinkLost) -> None:
        """No answer will come."""
        if self._open is not None and not self._open.done():
            self._open.set_exception(error)
