"""Equal questions in flight share one answer.

Owns who waits for what. Never remembers an answer and never knows what is asked.
"""

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
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())  # perhaps nobody waits
        self.askers = 0
        self.task: asyncio.Task[None] | None = None


class Questions(Generic[Answer]):
    """Each question is asked once, however many wait; it is cancelled when the last of them has gone."""

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._flights: dict[Hashable, _Flight[Answer]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def ask(self, key: Hashable, name: str, question: Callable[[], Awaitable[Answer]], timeout: float) -> Answer:
        """The answer, shared with everybody who asks under `key` meanwhile; `brokerTimeout` after `timeout` s."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = self._spawn(self._fly(key, flight, question), name)
        flight.askers += 1
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(flight.answer)
        except TimeoutError:
            raise Problem("brokerTimeout", f"No complete answer to {name} within {timeout:g} s.") from None
        finally:
            flight.askers -= 1
            if not flight.askers and not flight.answer.done() and flight.task:
                self._close(key, flight)  # who asks from here on asks anew
                flight.task.cancel()

    async def _fly(self, key: Hashable, flight: _Flight[Answer], question: Callable[[], Awaitable[Answer]]) -> None:
        try:
            flight.answer.set_result(await question())
        except asyncio.CancelledError:
            flight.answer.set_exception(Problem("shuttingDown"))  # to whoever still waits: the daemon ends
            raise
        except Exception as failure:
            flight.answer.set_exception(failure)
        finally:
            self._close(key, flight)

    def _close(self, key: Hashable, flight: _Flight[Answer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
