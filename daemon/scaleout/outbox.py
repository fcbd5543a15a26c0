"""The NATS publisher as a reader of the feed: one delta at a time, the rest merged until NATS has stored it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct


class _Params(Struct):
    seq: int | None = None


class _Delta(Struct):
    params: _Params


class Outgoing(Struct, frozen=True, kw_only=True):
    """A message for the stream. `id` makes a repeated publication recognizable. `since`: the step before the delta."""

    id: str
    line: bytes
    since: int
    fresh: tuple[str, ...]


_delta = msgspec.json.Decoder(_Delta)


class Outbox:
    """Implements `daemon.state.feed.Reader`. Holds one line at most, until it is stored, through any outage.

    `current`: the store's present step. `resumed` is called when the feed may write again. `numbers`: one for each
    message, never repeated in a daemon's run.
    """

    client = "nats"

    def __init__(
        self, epoch: str, since: int, current: Callable[[], int], resumed: Callable[[], None], numbers: Iterator[int]
    ) -> None:
        self.writable = True
        self.overrun = False
        """The feed gave up: what this reader lacks is no longer known."""
        self._epoch = epoch
        self._since = since
        self._current = current
        self._resumed = resumed
        self._fresh: tuple[str, ...] = ()  # in the delta being written
        self._next_fresh: tuple[str, ...] = ()
        self._seq = -1  # of the delta being written
        self._numbers = numbers
        self._inside = False  # a page was written and more follow
        self._lines: deque[Outgoing] = deque()
        self._filled = asyncio.Event()

    def whole(self, topics: Iterable[str]) -> None:
        """The next delta contains `topics` as a whole, beside what else it contains."""
        self._next_fresh = tuple(dict.fromkeys((*self._next_fresh, *topics)))

    def write(self, line: bytes) -> None:
        if not self._inside:
            self._fresh, self._next_fresh = self._next_fresh, ()
            self._seq = self._current()
        identity = f"{self._epoch}-{self._seq}-{next(self._numbers)}"
        self._lines.append(Outgoing(id=identity, line=line, since=self._since, fresh=self._fresh))
        self._inside = _delta.decode(line).params.seq is None
        if not self._inside:
            self._since = self._seq
        self.writable = False
        self._filled.set()

    def abort(self, _reason: str) -> None:
        self.overrun = True
        self._filled.set()

    async def next(self) -> Outgoing | None:
        """The oldest message; `None` after an overrun. It stays until `done`."""
        await self._filled.wait()
        return None if self.overrun else self._lines[0]

    def done(self) -> None:
        """The oldest message is stored."""
        self._lines.popleft()
        if not self._lines:
            self._filled.clear()
            self.writable = True
            self._resumed()
