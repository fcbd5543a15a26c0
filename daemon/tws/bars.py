"""Streams of bars: a request with its past, then each bar as it grows. Handed on once a network packet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ib_async as ib

from daemon.tws.client import GatewayClient
from daemon.tws.errors import TwsUnreadable
from daemon.tws.send_queue import Lane, SendQueue
from shared.messages import Bar

EPOCH_SECONDS = 2
"""The form of dates that needs no time zone: seconds, and YYYYMMDD of daily bars."""

NO_CODE = 0
"""In the place of IBKR's code, where the trouble is that its answer could not be read."""


class BarStream:
    """One request. `past`: the bars before now, complete and not yet handed on; `changed`: what the packet changed."""

    __slots__ = ("changed", "con_id", "has_past", "last", "past", "sent")

    def __init__(self, con_id: int) -> None:
        self.con_id = con_id
        self.has_past = False
        self.past: Sequence[Bar] | None = None
        self.changed: dict[str, Bar] = {}
        self.last = ""
        self.sent = False


class Bars:
    """One session's streams. `publish(request, bars)`: first the past, oldest first, then the bars that changed.
    `trouble(request, code, text)`: the request has failed."""

    def __init__(
        self,
        client: GatewayClient,
        queue: SendQueue,
        publish: Callable[[int, Sequence[Bar]], None],
        trouble: Callable[[int, int, str], None],
    ) -> None:
        self._client = client
        self._queue = queue
        self._publish = publish
        self._trouble = trouble
        self._streams: dict[int, BarStream] = {}
        self._changed: dict[int, BarStream] = {}

    def __contains__(self, request: int) -> bool:
        return request in self._streams

    def con_id(self, request: int) -> int | None:
        stream = self._streams.get(request)
        return stream.con_id if stream else None

    def subscribe(self, contract: ib.Contract, duration: str, bar_size: str, what: str, use_rth: bool) -> int:
        """Request a stream; its request id."""
        client = self._client
        request = client.getReqId()
        stream = self._streams[request] = BarStream(contract.conId)

        def send() -> None:
            if request in self._streams:  # else it was cancelled while it waited
                stream.sent = True
                client.reqHistoricalData(
                    request, contract, "", duration, bar_size, what, use_rth, EPOCH_SECONDS, True, []
                )

        self._queue.send(Lane.RESUBSCRIBE, send)
        return request

    def unsubscribe(self, request: int) -> None:
        stream = self._streams.pop(request, None)
        self._changed.pop(request, None)
        if stream is not None and stream.sent:
            self._queue.send(Lane.READ, lambda: self._client.cancelHistoricalData(request))

    def clear(self) -> None:
        self._streams.clear()
        self._changed.clear()

    def past(self, request: int, bars: Sequence[Bar]) -> None:
        """All bars before now."""
        stream = self._streams.get(request)
        if stream is not None and not stream.has_past:
            stream.has_past, stream.past = True, bars
            stream.last = bars[-1].date if bars else ""
            self._changed[request] = stream

    def update(self, request: int, bar: Bar) -> None:
        """The newest bar has grown, or a new one has begun. What is older than the newest is an echo."""
        stream = self._streams.get(request)
        if stream is not None and stream.has_past and bar.date >= stream.last:
            stream.last = bar.date
            stream.changed[bar.date] = bar
            self._changed[request] = stream

    def fail(self, request: int, error: TwsUnreadable) -> None:
        """Its past could not be read."""
        if request in self._streams:
            self._trouble(request, NO_CODE, str(error))

    def flush(self) -> None:
        """The packet is over."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for request, stream in changed.items():
            past, stream.past = stream.past, None
            if past is not None:
                self._publish(request, past)
            if stream.changed:
                bars, stream.changed = list(stream.changed.values()), {}
                self._publish(request, bars)
