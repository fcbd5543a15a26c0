"""What the Unix socket and the named pipe have in common: a peer's identity and a listener."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class PeerIdentity(NamedTuple):
    """Process and user at the other end of a connection.

    `pid` is for display only (process ids are reused); `user` is a uid or a SID, as text.
    """

    pid: int | None
    user: str


class Listener(Protocol):
    """Accepts connections. Closing it leaves the accepted connections open."""

    address: str
    refused: int
    """Connections of other users, closed without a byte."""
    starved: int
    """Failed accepts: no file descriptors, no memory."""

    def in_place(self) -> bool:
        """Whether a client that connects to the address reaches this listener."""
        ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...
