"""The last lines of a log file, as people read them, and those that come. Never writes one."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from shared.log import PADDING

LOOK_EVERY = 0.5  # s between looks for new lines: a person reads no faster


class LogMissing(Exception):  # noqa: N818 - the name is the sentence
    """There is no such log."""


def show(path: Path, number: int, *, follow: bool, as_json: bool, out: TextIO) -> None:
    """The last `number` lines of `path`; with `follow` also what comes, until interrupted."""
    if not path.exists():
        raise LogMissing(f"There is no log at {path}: nothing has run with this state directory yet.")
    with path.open(encoding="utf-8", errors="replace") as file:
        last = deque(file, maxlen=number)
        for line in itertools.chain(last, _coming(path, file) if follow else ()):
            print(line.rstrip() if as_json else readable(line), file=out, flush=follow)


def _coming(path: Path, file: TextIO) -> Iterator[str]:
    """The lines after those that were read from `file`, also across its rotation. Closes what it reads."""
    try:
        while True:
            if line := file.readline():
                yield line
                continue
            time.sleep(LOOK_EVERY)
            try:
                rotated = path.stat().st_ino != os.fstat(file.fileno()).st_ino
            except FileNotFoundError:  # between the old one's going and the new one's coming
                continue
            if rotated:
                yield from file  # what was written before it went
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
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
