"""Waiting for a condition with a deadline, and a client that is nothing but a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import ib_async

from daemon.simulator import Gateway

LIMIT = 60.0  # s; a loopback answer takes milliseconds, this only ends a test that would hang

Connect = Callable[..., Awaitable[ib_async.IB]]


class Raw:
    """A client that is nothing but a socket. `opened`: those of the test, closed at its end."""

    opened: ClassVar[list[Raw]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def dial(cls, port: int) -> Raw:
        cls.opened.append(cls(*await asyncio.open_connection("127.0.0.1", port)))
        return cls.opened[-1]

    @classmethod
    async def open(cls, port: int, client_id: int = 1, versions: str = "v157..178") -> Raw:
        """Dial, exchange versions and start the API."""
        raw = await cls.dial(port)
        raw.greet(versions)
        assert len(await raw.read()) == 2
        raw.send(71, 2, client_id, "")
        return raw

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def greet(self, versions: str = "v157..178") -> None:
        self.write(b"API\0" + len(versions).to_bytes(4, "big") + versions.encode())

    def send(self, *fields: object) -> None:
        payload = "".join(f"{field}\0" for field in fields).encode()
        self.write(len(payload).to_bytes(4, "big") + payload)

    async def read(self, limit: float = LIMIT) -> list[str]:
        """The fields of the next message. EOFError (IncompleteReadError) or ConnectionError: there is none."""
        async with asyncio.timeout(limit):
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            return (await self._reader.readexactly(length)).decode().split("\0")[:-1]

    async def until(self, *begin: str, limit: float = LIMIT) -> list[str]:
        """The next message that begins with these fields; those before it are dropped."""
        async with asyncio.timeout(limit):
            while True:
                fields = await self.read(limit)
                if fields[: len(begin)] == list(begin):
                    return fields

    async def silent(self) -> bool:
        """Whether nothing has come, after the loop (which runs both ends) has had every chance to bring it."""
        for _ in range(50):
            await asyncio.sleep(0)
        return not self._reader._buffer  # type: ignore[attr-defined]

    async def exactly(self, count: int, limit: float = LIMIT) -> bytes:
        async with asyncio.timeout(limit):
            return await self._reader.readexactly(count)

    def stop_reading(self) -> None:
        self._reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def rest(self, limit: float = LIMIT) -> bytes:
        """What comes until the end. ConnectionResetError: it ended with RST."""
        async with asyncio.timeout(limit):
            return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            pass


APPLE = (265598, "AAPL", "STK", "", 0, "", "", "SMART", "", "USD", "", "")
"""The twelve fields of a contract in a request."""


async def ready(gateway: Gateway, client_id: int = 1) -> Raw:
    """A client whose session has begun and whose farm notices are read."""
    client = await Raw.open(gateway.port, client_id)
    await client.until("9")
    if gateway.faults.upstream is None:
        await client.until("4", "2", "-1", "2158")
    return client


def quote(client: Raw, req_id: int, contract: tuple[object, ...] = APPLE, snapshot: int = 0) -> None:
    """Ask for market data."""
    client.send(1, 11, req_id, *contract, 0, "", snapshot, 0, "")
