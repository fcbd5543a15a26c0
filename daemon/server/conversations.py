"""The local socket's server: accepts connections, one `Conversation` each.

The methods are in `commands.py`, what is published in `state/feed.py`, lines and limits in `shared/jsonrpc/`.
"""

from __future__ import annotations

from daemon.server.commands import Commands
from daemon.state.feed import Feed
from shared.jsonrpc.server import RpcService, ServerConnection
from shared.transport import local_socket
from shared.transport.interfaces import Listener


class Conversation(ServerConnection):
    """A connection that may watch."""

    def __init__(self, service: RpcService, feed: Feed, commands: Commands) -> None:
        super().__init__(service)
        self._feed = feed
        self._commands = commands

    def drained(self) -> None:
        self._feed.drained(self)

    def lost(self, reason: str) -> None:  # noqa: ARG002 - the peer keeps it
        self._commands.closed(self)


class Server:
    """`service` is shared by all peers: the methods, the connections, the counters."""

    def __init__(self, service: RpcService, feed: Feed, commands: Commands) -> None:
        self.service = service
        self._feed = feed
        self._commands = commands
        self._listener: Listener | None = None

    async def listen(self, path: str) -> str:
        """Serve `path`; the address. Raises `UnsafePath`, `AlreadyRunning`, `OSError`."""
        self._listener = await local_socket.listen(lambda: Conversation(self.service, self._feed, self._commands), path)
        return self._listener.address

    async def relisten(self) -> bool:
        """Serve the path again where its file or directory was removed; whether that was so. Connections stay.

        Raises `UnsafePath`, `AlreadyRunning`, `OSError`; the next call tries again.
        """
        listener = self._listener
        if listener is None or listener.in_place():
            return False
        await self.listen(listener.address)
        listener.close()
        await listener.wait_closed()
        return True

    async def close(self) -> None:
        """Accept no more, and end every connection after what was written for it."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            await listener.wait_closed()
        await self.service.close()

    def figures(self) -> dict[str, int]:
        service, listener = self.service, self._listener
        return {
            "peers": len(service.connections),
            "peersTurnedAway": service.rejected,
            "peersDropped": service.dropped,
            "peersRefused": 0 if listener is None else listener.refused,
            "peersStarved": 0 if listener is None else listener.starved,
            "faults": service.faults,
        }
