"""Row 7: resident memory with 25 positions, and what an idle event stream costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from http_get import peer
from processes import Stack, stack
from report import Figure, at_most

MB = 1e6
STREAMS = 200
"""Enough that one stream's cost is well above the noise of the whole process."""


async def _idle_streams(ours: Stack, number: int) -> tuple[int, int]:
    """Resident bytes of the serving child without and with `number` idle streams."""
    assert ours.facade is not None
    parts = urlsplit(ours.url)
    request = f"GET /api/ibkr/events?topics=link HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    before = max(ours.facade.memory())
    writers = []
    for _ in range(number):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"snapshot")
        writers.append(writer)
    await asyncio.sleep(1)
    after = max(ours.facade.memory())
    for writer in writers:
        writer.close()
    with contextlib.suppress(OSError):
        await asyncio.gather(*(writer.wait_closed() for writer in writers))
    return before, after


def run(rounds: int) -> Iterator[Figure]:
    daemon, child, parent, stream, other = [], [], [], [], []
    for _ in range(min(rounds, 3)):  # memory hardly varies
        with stack() as ours, peer(ours.gateway_port) as (beside, _url):
            assert ours.daemon is not None
            assert ours.facade is not None
            daemon.append(ours.daemon.memory()[0] / MB)
            keeper, *children = ours.facade.memory()
            parent.append(keeper / MB)
            child.append(max(children) / MB)
            other.append(beside.memory()[0] / MB)
            before, after = asyncio.run(_idle_streams(ours, STREAMS))
            stream.append((after - before) / STREAMS / 1000)
    yield Figure("7", "daemon, resident", "≤ 50 MB", daemon, at_most(50, daemon), "MB")
    yield Figure("7", "facade's serving child, resident", "≤ 42 MB", child, at_most(42, child), "MB")
    yield Figure("7", "facade's parent, resident", "≤ 15 MB", parent, at_most(15, parent), "MB")
    yield Figure("7", "an idle event stream", "≤ 13 KB", stream, at_most(13, stream), "KB")
    yield Figure("7", "FastAPI peer, resident", "", other, unit="MB")
