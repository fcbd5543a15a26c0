"""Waiting for a condition with a deadline, and the type of the fixture that connects a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import ib_async

LIMIT = 10.0  # s; a loopback answer takes milliseconds, this only ends a test that would hang

Connect = Callable[..., Awaitable[ib_async.IB]]


async def until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.002)
