"""Where the keeper of a state directory is found: its lock, its state in a file, how it is asked for a new child.

Standard library only; the keeper is one of the two who use it. Starts and stops nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from facade.keeper.handover import WINDOWS

STATE_FILE = "facade.json"
LOCK_FILE = "facade.lock"
REQUEST_FILE = "facade.restart"


def say(text: str) -> None:
    """To the terminal, where there is one (pythonw has none)."""
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


# --- the lock and the file ------------------------------------------------------------------------------------------


def locked(path: Path) -> int | None:
    """A descriptor that holds the lock on `path` while it is open; `None` where another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


REPLACE_TRIES = 100
"""Half a second in all; a reader has the file open for a fraction of a millisecond."""


def write_whole(path: Path, data: bytes) -> None:
    """Whoever reads `path` sees what was or what is."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    for tries_left in reversed(range(REPLACE_TRIES)):
        try:
            os.replace(new, path)
            return
        except PermissionError:  # on Windows, while somebody reads what was
            if not (WINDOWS and tries_left):
                raise
            time.sleep(POLL / 4)


# --- restart --------------------------------------------------------------------------------------------------------

RESTART_LIMIT = 30.0
"""s for the new child to serve and to hold a complete replica."""
POLL = 0.02
"""s between looks at the state file."""


def restart(state_dir: Path, limit: float = RESTART_LIMIT) -> int:
    """Ask the keeper of `state_dir` for a new child; 0 when that answers from a complete replica, else 1 and why."""
    before = state_of(state_dir)
    if before is None:
        say(f"No facade is kept for {state_dir}. Start it: python -m facade")
        return 1
    if WINDOWS:
        (state_dir / REQUEST_FILE).touch()
    else:
        os.kill(before["keeper"], signal.SIGHUP)
    ends = time.monotonic() + limit
    after: dict[str, Any] | None = before
    while time.monotonic() < ends:
        time.sleep(POLL)
        after = state_of(state_dir)
        if after is None:
            say("The facade ended instead of restarting; its log says why.")
            return 1
        if after["failures"] > before["failures"]:
            say("The new facade could not serve, the old one goes on; the log says why.")
            return 1
        if after["generation"] > before["generation"] and after["complete"]:
            return 0
    replaced = after is not None and after["generation"] > before["generation"]
    say(
        "The facade was restarted but the daemon does not answer it."
        if replaced
        else f"The facade was not restarted within {limit:g} s; its log says why."
    )
    return 1


def state_of(state_dir: Path) -> dict[str, Any] | None:
    """What the keeper has written, if it lives."""
    try:
        lock = locked(state_dir / LOCK_FILE)
        if lock is not None:  # nobody holds it, whatever the file says
            os.close(lock)
            return None
        state: dict[str, Any] = json.loads((state_dir / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return state
