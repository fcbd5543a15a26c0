"""Waiting in tests: for what comes, with a deadline that costs nothing when it does; never for a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psutil
import pytest

from shared.reasons import Problem

T = TypeVar("T")

LIMIT = 60.0
"""s for anything that a test waits for: cold processes on a busy machine."""

LOOK_EVERY = 0.002
"""s between looks at what has no event of its own: other code's state, or another process."""


async def until(condition: Callable[[], T], what: str = "it did not come true", limit: float = LIMIT) -> T:
    """Let the loop turn until `condition()` holds; what it gave. Fails with `what` after `limit` s."""
    try:
        async with asyncio.timeout(limit):
            while not (found := condition()):  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(what) from None
    return found


async def answered(
    ask: Callable[[], Awaitable[T]],
    enough: Callable[[T], bool] = lambda _: True,
    limit: float = LIMIT,
    *,
    absent: type[Exception] = OSError,
) -> T:
    """The first answer that is `enough`, of what may not be there yet: `ask` again while it raises `absent`."""
    last = "no answer"
    try:
        async with asyncio.timeout(limit):
            while True:
                try:
                    if enough(answer := await ask()):
                        return answer
                except absent as error:
                    last = f"the last attempt raised {error!r}"
                else:
                    last = f"the last answer was {answer!r}"
                await asyncio.sleep(10 * LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(last) from None


def until_now(condition: Callable[[], T], what: str = "it did not come true", limit: float = LIMIT) -> T:
    """The same without a loop, of other processes; no listener counts as not yet."""
    ends = time.monotonic() + limit
    while True:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if found := condition():
                return found
        assert time.monotonic() < ends, what
        time.sleep(10 * LOOK_EVERY)


async def refused(request: Awaitable[object]) -> Problem:
    """The problem with which `request` is refused."""
    with pytest.raises(Problem) as caught:
        await request
    return caught.value
