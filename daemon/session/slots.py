"""Named tasks of which each name has at most one, in a group that owns them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Slots:
    """`failed` is called with a task's name and exception, which ends nothing else."""

    def __init__(self, group: asyncio.TaskGroup, failed: Callable[[str, Exception], None]) -> None:
        self._group = group
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin `work` in place of the task of the same name."""
        self.cancel(name)
        task = self._group.create_task(self._guarded(name, work), name=f"link: {name}")
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done, work))
        return task

    def _forget(self, name: str, task: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
        work.close()  # of a task that was cancelled before its first step
        if self._tasks.get(name) is task:
            del self._tasks[name]

    def running(self, name: str) -> bool:
        return name in self._tasks

    def cancel(self, *names: str) -> None:
        """End the named tasks, where there are any."""
        for name in names:
            task = self._tasks.pop(name, None)
            if task is not None:
                task.cancel()

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as fault:
            self._failed(name, fault)
