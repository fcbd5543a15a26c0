"""The interfaces that the link's shell needs: session, rows, memory, market."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from daemon.link.events import Event, Target
from daemon.state.sink import Sink
from shared.messages import FarmState, Gap, LinkEvent, Pacing, Streams, Upstream


class Tws(Protocol):
    """One session with the gateway (`daemon.tws.Tws`). `last_received`: monotonic s of the last complete message."""

    last_received: float

    @property
    def decode_errors(self) -> Mapping[str, int]:
        """Kind of message → how many could not be decoded."""

    @property
    def messages_in(self) -> int: ...
    @property
    def messages_out(self) -> int: ...
    async def open(self) -> None: ...
    async def sync(self, topics: frozenset[str] | None = None) -> Any: ...
    async def recover(self, cause: str) -> Any: ...
    async def probe(self, timeout: float) -> float: ...
    async def prove_upstream(self, timeout: float) -> bool: ...
    def abort(self) -> None: ...
    async def close(self, timeout: float) -> None: ...


Factory = Callable[[int, Target, Callable[[Event], None]], Tws]
"""Session number, target, and where its events go."""


class Rows(Sink, Protocol):
    """The store, as the link needs it."""

    @property
    def seq(self) -> int: ...
    @property
    def epoch(self) -> str: ...
    def gap(self, gap: Gap) -> int: ...
    async def recorded(self) -> None:
        """Wait until every fill received so far is in the ledger, and shown."""


class Memory(Protocol):
    """What outlives the daemon: the ledger."""

    held: bool

    def phase(self, event: LinkEvent) -> None: ...
    async def set_held(self, held: bool) -> None: ...


class Market(Protocol):
    """The streams that readers want, whatever session there is."""

    def ready(self, tws: Any) -> int:
        """Request every wanted stream of this session, each once; how many."""

    def over(self) -> None:
        """The session is gone, and its streams with it."""

    def link_changed(self, upstream: Upstream, farms: Mapping[str, FarmState]) -> None:
        """The gateway's own link to IBKR, or one of its data farms, has changed."""

    def on_pacing_refusal(self, call: Callable[[], None]) -> None:
        """Call `call` before each request that is refused for IBKR's pacing rules."""

    def streams(self) -> Streams: ...
    def pacing(self) -> Pacing: ...
