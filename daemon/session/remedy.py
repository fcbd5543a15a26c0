"""Runs the user's own program when the gateway has not answered for a long time: a restart of it, for example."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from shared.clock import Clock
from shared.messages import Link, LinkEvent

log = structlog.get_logger("daemon.session")

REASONS = frozenset({"probeTimeout", "handshakeTimeout"})
"""The port is open and TWS does not answer: what a restart of TWS mends. One after the other counts as one time."""

RUN_TIMEOUT = 60.0
"""s for the program, which only starts the restart; then its process group is killed."""
KILL_TIMEOUT = 2.0
"""s for the killed program to be gone; the system ends it at once unless it waits for a disk."""
RUNS_A_DAY = 2
DAY = 86_400.0
LOOK_INTERVAL = 1.0
"""s between looks at the link's row."""


class Due:
    """When the program is due: once each time the link has been without an answer for `after` s. Pure."""

    def __init__(self, after: float) -> None:
        self._after = after
        self._since: float | None = None
        self._done = False

    def look(self, link: Link, now: float) -> bool:
        """Whether it is due at `now` (monotonic s). A planned window only postpones it."""
        if link.reason not in REASONS:
            self._since, self._done = None, False
            return False
        if self._since is None:
            self._since = now
        return not self._done and now - self._since >= self._after and not link.expected.active

    def done(self) -> None:
        """It was run, or must not be: not again before the link has had another reason, or none."""
        self._done = True


class Remedies(Protocol):
    """The ledger, as far as this needs it."""

    async def remedies(self, seconds: float) -> int:
        """How many were run in the last `seconds`, by any daemon of this state directory."""

    def remedy(self, event: LinkEvent) -> None:
        """Record the outcome of one."""


class Remedy:
    """`after`: s. `link` is the current row of topic `link`; `session` the name of this daemon's session;
    `environ` what the program inherits."""

    def __init__(
        self,
        program: Path,
        after: float,
        *,
        link: Callable[[], Link | None],
        ledger: Remedies,
        clock: Clock,
        session: str,
        environ: Mapping[str, str],
    ) -> None:
        self._program = program
        self._due = Due(after)
        self._link = link
        self._ledger = ledger
        self._clock = clock
        self._environ = {**environ, "IBKR_SESSION": session}
        self._runs: deque[float] = deque(maxlen=RUNS_A_DAY)  # monotonic s, for a ledger that cannot be written or read

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_INTERVAL)
            link = self._link()
            if link is not None and self._due.look(link, self._clock.monotonic()):
                self._due.done()
                await self._apply(link)

    async def _apply(self, link: Link) -> None:
        reason = link.reason or ""
        now = self._clock.monotonic()
        own = sum(now - at < DAY for at in self._runs)
        if max(own, await self._ledger.remedies(DAY)) >= RUNS_A_DAY:
            log.warning(
                "remedy.limit",
                message=f"IBKR_REMEDY is not run: it was run {RUNS_A_DAY} times within a day. Restart TWS by hand.",
                reason=reason,
            )
            return
        log.warning("remedy.run", message=f"Running {self._program}: TWS does not answer.", reason=reason)
        self._runs.append(now)
        outcome = await execute(self._program, self._environ | {"LINK_REASON": reason})
        log.warning("remedy.outcome", message=f"{self._program}: {outcome}.", reason=reason)
        link = self._link() or link
        self._ledger.remedy(
            LinkEvent(
                at=self._clock.now(),
                phase=link.phase or "waiting",
                reason=link.reason,
                expected=link.expected.active,
                session=link.session,
                remedy=outcome,
            )
        )


async def execute(program: Path, environ: Mapping[str, str], timeout: float = RUN_TIMEOUT) -> str:
    """Run `program` without arguments, shell or output, in `environ`; what came of it, in words."""
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return f"could not be started ({error.strerror})"
    try:
        async with asyncio.timeout(timeout):
            return f"exit status {await process.wait()}"
    except TimeoutError:
        return f"killed after {timeout:g} s"
    finally:  # also where the daemon ends
        if process.returncode is None:
            _kill(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KILL_TIMEOUT):
                    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
