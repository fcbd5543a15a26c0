"""How the keeper of a state directory is found and has its child replaced: its lock, its state file, its signal.

Standard library only, since the keeper imports it.
"""

from __future__ import annotations

import errno
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
    """Print to standard error, where there is one (pythonw has none)."""
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


NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def unwritable(path: Path, error: OSError) -> str:
    """One line about a file of the state directory: what happened, what it means, what to do."""
    step = "make room on that disk" if error.errno in NO_ROOM else "ibkr doctor checks the state directory"
    return f"{path} cannot be written ({error.strerror}): the facade serves on, but cannot be restarted; {step}."


REPLACE_TRIES = 100
"""Half a second in all; a reader has the file open for a fraction of a millisecond."""


def write_whole(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Replace the content of `path` at once: a reader sees the old or the new. `durable`: also after a power cut."""
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    for tries_left in reversed(range(REPLACE_TRIES)):
        try:
            os.replace(new, path)
            return
        except PermissionError:  # on Windows, while a reader has it open
            if not (WINDOWS and tries_left):
                raise
            time.sleep(POLL / 4)


# --- restart --------------------------------------------------------------------------------------------------------

RESTART_LIMIT = 30.0
"""s for the new child to serve and to hold a complete replica."""
POLL = 0.02
"""s between reads of the state file."""


def restart(state_dir: Path, limit: float = RESTART_LIMIT) -> int:
    """Have the keeper of `state_dir` replace its child: 0 when the new one has a complete replica, else 1."""
    before = state_of(state_dir)
    if before is None:
        say(f"No facade runs for {state_dir}. Start it: ./scripts/start, or python -m facade")
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
            say("The facade ended instead of restarting; see ibkr logs facade.")
            return 1
        if after["failures"] > before["failures"]:
            say("The new facade could not serve, the old one goes on; see ibkr logs facade.")
            return 1
        if after["generation"] > before["generation"] and after["complete"]:
            return 0
    replaced = after is not None and after["generation"] > before["generation"]
    say(
        "The facade was restarted, but the daemon does not answer; see ibkr doctor."
        if replaced
        else f"The facade was not restarted within {limit:g} s; see ibkr logs facade."
    )
    return 1


def state_of(state_dir: Path) -> dict[str, Any] | None:
    """The state that the running keeper has written; `None` where none runs."""
    try:
        lock = locked(state_dir / LOCK_FILE)
        if lock is not None:  # no process holds it: the file is left over
            os.close(lock)
            return None
        state: dict[str, Any] = json.loads((state_dir / STATE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return state
