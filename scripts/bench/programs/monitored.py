"""The daemon with a monitor of its loop: `python monitored.py FILE`.

Each turn of more than a moment is a line of FILE: s of the loop's own processor time from the selector's return to the
end of the turn.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from pathlib import Path
from typing import Any

from daemon.__main__ import main

MOMENT = 0.001  # s; what is shorter is no stall and would only make the file long


class TimedSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Measures what the loop does between two of its calls."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._out = file.open("a", buffering=1)
        self._begun = time.thread_time()

    def select(self, timeout: float | None = None) -> Any:
        taken = time.thread_time() - self._begun
        if taken > MOMENT:
            self._out.write(f"{taken}\n")
        found = super().select(timeout)
        self._begun = time.thread_time()
        return found


if __name__ == "__main__":
    path = Path(sys.argv.pop())

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return asyncio.SelectorEventLoop(TimedSelector(path))

    asyncio.set_event_loop_policy(Policy())
    sys.exit(main([]))
