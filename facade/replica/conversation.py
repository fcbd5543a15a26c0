"""A conversation with one daemon as the facade needs it: call, watch, be notified of deltas and of the end.

`facade.replica.local` implements it over the local socket. Everything above this interface is the same whichever
transport is below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Raw

CLIENT_NAME = "ibkr-facade/1"


class Watched(msgspec.Struct, frozen=True):
    """The response to a watch: the step that the following deltas bring the topics to.

    `reset`: the deltas are a whole snapshot of the topics, not what changed after `since`.
    """

    epoch: str
    seq: int
    reset: bool


class Conversation(Protocol):
    """One connection to a daemon, used once: after its end a new one is opened.

    Every method raises `ConnectionLost` after the end, `RpcError` where the daemon refuses, `TimeoutError`.
    """

    daemon: str
    """Name and version of the daemon."""
    epoch: str
    """The daemon's run. It is new at each daemon start."""

    async def call(self, method: str, params: Any, timeout: float | None) -> Raw:
        """The encoded result of `method`. `timeout`: s; `None`: until the conversation ends, which pings decide."""

    async def watch(self, topics: Collection[str], epoch: str | None, since: int | None, timeout: float) -> Watched:
        """Receive deltas of `topics`, from step `since` of `epoch` where the daemon can resume there, else all rows."""

    async def unwatch(self, topics: Collection[str], timeout: float) -> None:
        """Receive no more deltas of `topics`, but for those already under way."""

    async def ping(self) -> None:
        """Return if the daemon was alive within the last 2 s. Raises `TimeoutError` otherwise."""

    def daemon_time(self) -> datetime:
        """The latest that the daemon's wall clock can show now: what its rows date from is at most as old as by this.

        It is another machine's clock where the daemon is on another machine.
        """

    def abort(self, reason: str = "aborted") -> None:
        """End now."""


class Connect(Protocol):
    """Opens conversations with one daemon."""

    async def __call__(
        self,
        on_delta: Callable[[Raw], None],
        on_read: Callable[[], None],
        on_close: Callable[[str], None],
        timeout: float,
    ) -> Conversation:
        """Open a conversation within `timeout` s. Raises `OSError`, `RpcError`, `TimeoutError`.

        `on_delta` receives the params of each `delta` notification, encoded; `on_read` is called after all deltas that
        arrived together; `on_close` once, with the reason, when the conversation ends after it was opened.
        """
