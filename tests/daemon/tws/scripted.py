"""A gateway that follows a script, for what no well-behaved gateway does: half a handshake, garbage, resets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any


def frame(*fields: Any) -> bytes:
    body = "".join(f"{field}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


class Peer:
    """One connection, seen from the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received: list[list[str]] = []

    async def next(self) -> list[str]:
        """The client's next message."""
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        fields = (await self.reader.readexactly(length)).decode().split("\0")[:-1]
        self.received.append(fields)
        return fields

    async def until(self, number: int) -> list[str]:
        """Read messages up to the first one of type `number`."""
        while (fields := await self.next())[0] != str(number):
            pass
        return fields

    async def hello(self) -> bytes:
        """`API\\0` and the versions the client offers."""
        assert await self.reader.readexactly(4) == b"API\0"
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        return await self.reader.readexactly(length)

    def send(self, *fields: Any) -> None:
        self.writer.write(frame(*fields))

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def error(self, code: int, text: str, request: int = -1) -> None:
        self.send(4, 2, request, code, text, "")

    async def greet(self, version: Any = 176) -> None:
        await self.hello()
        self.send(version, "20261125 10:00:00 UTC")

    async def shake(self, accounts: str = "DU1234567", version: int = 176) -> None:
        """The whole handshake."""
        await self.greet(version)
        await self.until(71)
        self.send(15, 1, accounts)
        self.send(9, 1, 1)

    async def finish(self) -> None:
        """Wait until the client has gone."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class ScriptedGateway:
    """`async with ScriptedGateway(script) as gateway`: each connection is given to `script(peer)`, then closed."""

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: list[BaseException] = []

    async def __aenter__(self) -> ScriptedGateway:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(Peer(reader, writer)), name="scripted peer")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        except Exception as error:
            self.failed.append(error)
        finally:
            peer.writer.close()
            with suppress(ConnectionError):
                await peer.writer.wait_closed()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.failed and error is None:
            raise self.failed[0]


@asynccontextmanager
async def scripted(script: Callable[[Peer], Awaitable[None]]) -> Any:
    async with ScriptedGateway(script) as gateway:
        yield gateway
