"""The daemon with a monitor of its loop: `python monitored.py FILE`. Each turn longer than a moment is a line of FILE:

    {"wall": s, "cpu": s, "outside": s}

from the return of the selector to the end of the turn; `cpu` is the loop's thread alone, and `outside` what of it was
not ib_async's own decoding. On a machine with other work `wall` also holds the time in which others had the processor.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
import time
from pathlib import Path
from typing import Any

from ib_async.decoder import Decoder

from daemon.__main__ import main

MOMENT = 0.001  # s; what is shorter is no stall and would only make the file long


class Watched(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """A selector that knows when it last gave the loop something to do, and writes down how long that took."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._out = file.open("a", buffering=1)
        self._begun: tuple[float, float] | None = None
        self.decoding = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if self._begun is not None:
            wall, cpu = time.perf_counter() - self._begun[0], time.thread_time() - self._begun[1]
            if wall > MOMENT:
                self._out.write(json.dumps({"wall": wall, "cpu": cpu, "outside": cpu - self.decoding}) + "\n")
        found = super().select(timeout)
        self._begun, self.decoding = (time.perf_counter(), time.thread_time()), 0.0
        return found


class Policy(asyncio.DefaultEventLoopPolicy):
    """Loops on the watched selector."""

    def __init__(self, selector: Watched) -> None:
        super().__init__()
        self._selector = selector

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(self._selector)


def watch(file: Path) -> None:
    selector = Watched(file)
    interpret = Decoder.interpret

    def timed(decoder: Decoder, fields: Any) -> None:
        begun = time.thread_time()
        try:
            interpret(decoder, fields)
        finally:
            selector.decoding += time.thread_time() - begun

    Decoder.interpret = timed
    asyncio.set_event_loop_policy(Policy(selector))


if __name__ == "__main__":
    watch(Path(sys.argv.pop()))
    sys.exit(main([]))
