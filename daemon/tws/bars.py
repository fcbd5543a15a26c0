"""Streams of bars: a request with its past, then each bar as it grows. Handed on once a network packet.

Never decides which streams are wanted; the budget of such requests is the market's business.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Sequence

import ib_async as ib
from ib_async.util import parseIBDatetime

from daemon.tws.api import Api
from daemon.tws.gate import Gate, Lane
from daemon.tws.rows import bar_row
from shared.messages import Bar

EPOCH_SECONDS = 2
"""The form of dates that needs no time zone: seconds, and YYYYMMDD of daily bars."""


class BarStream:
    """One request. `past` collects until its end marker; `complete` is the past told to its end, not yet handed on;
    `changed` is what is new since the last packet."""

    __slots__ = ("changed", "complete", "con_id", "last", "past", "sent")

    def __init__(self, con_id: int) -> None:
        self.con_id = con_id
        self.past: list[Bar] | None = []
        self.complete: list[Bar] | None = None
        self.changed: dict[str, Bar] = {}
        self.last = ""
        self.sent = False


class Bars:
    """One session's streams. `told(request, bars)`: first the past, oldest first, then the bars that changed."""

    def __init__(self, api: Api, gate: Gate, told: Callable[[int, Sequence[Bar]], None]) -> None:
        self._told = told
        self._api = api
        self._gate = gate
        self._streams: dict[int, BarStream] = {}
        self._changed: dict[int, BarStream] = {}

    def __contains__(self, request: int) -> bool:
        return request in self._streams

    def con_id(self, request: int) -> int | None:
        stream = self._streams.get(request)
        return stream.con_id if stream else None

    def subscribe(self, contract: ib.Contract, duration: str, bar_size: str, what: str, use_rth: bool) -> int:
        """Ask for a stream; its request id."""
        client = self._api.client
        request = int(client.getReqId())
        stream = self._streams[request] = BarStream(contract.conId)

        def ask() -> None:
            if request in self._streams:  # nobody has changed his mind
                stream.sent = True
                client.reqHistoricalData(
                    request, contract, "", duration, bar_size, what, use_rth, EPOCH_SECONDS, True, []
                )

        self._gate.send(Lane.RESUBSCRIBE, ask)
        return request

    def unsubscribe(self, request: int) -> None:
        stream = self._streams.pop(request, None)
        self._changed.pop(request, None)
        if stream is not None and stream.sent:
            self._gate.send(Lane.READ, lambda: self._api.client.cancelHistoricalData(request))

    def clear(self) -> None:
        self._streams.clear()
        self._changed.clear()

    def bar(self, request: int, bar: ib.BarData) -> None:
        """One bar of the past; its date is a text still."""
        stream = self._streams.get(request)
        if stream is not None and stream.past is not None:
            stream.past.append(dated(bar))

    def end(self, request: int) -> None:
        """The past is told."""
        stream = self._streams.get(request)
        if stream is not None and stream.past is not None:
            stream.complete, stream.past = stream.past, None
            stream.last = stream.complete[-1].date if stream.complete else ""
            self._changed[request] = stream

    def update(self, request: int, bar: ib.BarData) -> None:
        """The newest bar has grown, or a new one has begun. What is older than the newest is an echo."""
        stream = self._streams.get(request)
        if stream is None or stream.past is not None:
            return
        row = dated(bar)
        if row.date >= stream.last:
            stream.last = row.date
            stream.changed[row.date] = row
            self._changed[request] = stream

    def flush(self) -> None:
        """The packet is over."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for request, stream in changed.items():
            past, stream.complete = stream.complete, None
            if past is not None:
                self._told(request, past)
            if stream.changed:
                bars, stream.changed = list(stream.changed.values()), {}
                self._told(request, bars)


def dated(bar: ib.BarData) -> Bar:
    """The row of a bar as the decoder gives it, with a text for its date."""
    bar.date = parseIBDatetime(str(bar.date))
    return bar_row(bar)
