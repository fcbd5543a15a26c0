"""Loaded by the processes under abuse before anything else: what their loop holds, and another wall clock, on a signal.

SIGVTALRM writes the names of the loop's tasks to `$LINK_TEST_WITNESS/PID.tasks`. SIGPROF makes the wall clock jump to
as many seconds from now as `$LINK_TEST_WITNESS/jump` says; monotonic time goes on.
"""

import asyncio
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path


def write_task_names(*_: object) -> None:
    names = sorted(task.get_name() for task in asyncio.all_tasks())
    written = place / f"{os.getpid()}.writing"
    written.write_text(json.dumps(names))
    written.rename(place / f"{os.getpid()}.tasks")


def jump(*_: object) -> None:
    import time_machine

    while jumps:
        jumps.pop().stop()
    seconds = float((place / "jump").read_text())
    if seconds:
        travel = time_machine.travel(datetime.now(UTC) + timedelta(seconds=seconds), tick=True)
        travel.start()
        jumps.append(travel)
    (place / f"{os.getpid()}.jumped").write_text(str(seconds))


jumps: list = []
if "LINK_TEST_WITNESS" in os.environ:
    place = Path(os.environ["LINK_TEST_WITNESS"])
    signal.signal(signal.SIGVTALRM, write_task_names)
    signal.signal(signal.SIGPROF, jump)
