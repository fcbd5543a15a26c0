"""The last lines of a log file, as people read them, and those that come. Never writes one."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shared.log import PADDING

LOOK_EVERY = 0.5  # s between looks for new lines: a person reads no faster


class LogMissing(Exception):  # noqa: N818 - the name says what is the case
    """There is no such log."""


def show(path: Path, number: int, *, follow: bool, as_json: bool, out: TextIO) -> None:
    """The last `number` lines of `path`; with `follow` also what comes, until interrupted."""
    if not path.exists():
        raise LogMissing(f"There is no log at {path}: nothing has run with this state directory yet.")
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque(file, maxlen=number):
            print(line.rstrip() if as_json else readable(line), file=out)
        inode = os.fstat(file.fileno()).st_ino
    if follow:
        for line in _coming(path, inode):
            print(line.rstrip() if as_json else readable(line), file=out, flush=True)


def _coming(path: Path, inode: int) -> Iterator[str]:
    """New lines, also across the file's rotation."""
    file = path.open(encoding="utf-8", errors="replace")
    file.seek(0, os.SEEK_END)
    try:
        while True:
            line = file.readline()
            if line:
                yield line
                continue
            time.sleep(LOOK_EVERY)
            if path.exists() and path.stat().st_ino != inode:
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
                inode = os.fstat(file.fileno()).st_ino
    finally:
        file.close()


def readable(line: str) -> str:
    """A JSON line as the console shows it, with its time; any other line as it is."""
    try:
        fields = json.loads(line)
        time_, level, message = fields.pop("time"), fields.pop("level"), fields.pop("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return line.rstrip()
    fields.pop("logger", None)
    fields.pop("event", None)
    rest = "".join(f" {name}={json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return f"{time_} {PADDING.get(level, level + ': ')}{message}{rest}"
