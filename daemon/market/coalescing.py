"""Equal requests in flight share one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from shared.reasons import Problem

Answer = TypeVar("Answer")
Spawn = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]
"""Start a task in its owner's group, under a name."""


class _Flight(Generic[Answer]):
    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        # the last waiter may have gone: an unread exception is no news
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self.waiters = 0
        self.task: asyncio.Task[None] | None = None


class Requests(Generic[Answer]):
    """One request per key, however many callers wait for it; cancelled when the last of them has gone."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._flights: dict[Hashable, _Flight[Answer]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def ask(self, key: Hashable, name: str, request: Callable[[], Awaitable[Answer]], timeout: float) -> Answer:
        """The answer to `request`, shared with every caller of `key` meanwhile; `brokerTimeout` after `timeout` s."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._spawn(self._fly(key, flight, request), name)
        flight.waiters += 1
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(flight.answer)
        except TimeoutError:
            raise Problem("brokerTimeout", f"No complete answer to {name} within {timeout:g} s.") from None
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.answer.done():
                self._cancel(key, flight)  # a later caller's request is a new one

    def interrupt(self, problem: Callable[[], Problem]) -> None:
        """End every request in flight with a problem for its callers."""
        for key, flight in list(self._flights.items()):
            if not flight.answer.done():
                flight.answer.set_exception(problem())
                self._cancel(key, flight)

    async def _fly(self, key: Hashable, flight: _Flight[Answer], request: Callable[[], Awaitable[Answer]]) -> None:
        try:
            answer = await request()
        except asyncio.CancelledError:
            if not flight.answer.done():
                flight.answer.set_exception(Problem("shuttingDown"))
            raise
        except Exception as failure:
            if not flight.answer.done():
                flight.answer.set_exception(failure)
        else:
            if not flight.answer.done():
                flight.answer.set_result(answer)
        finally:
            self._close(key, flight)

    def _cancel(self, key: Hashable, flight: _Flight[Answer]) -> None:
        self._close(key, flight)
        if flight.task is not None:
            flight.task.cancel()

    def _close(self, key: Hashable, flight: _Flight[Answer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
