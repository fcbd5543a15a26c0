"""The user's own program against a gateway that does not answer: when it is run, and what is recorded of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from daemon.session.remedy import Due, Remedy, execute
from shared.messages import Expected, Link, LinkEvent
from tests.clock import HandClock
from tests.waiting import until

READY = Link(phase="ready", reason=None, sentence="")
FROZEN = Link(phase="unproven", reason="probeTimeout", sentence="")
MUTE = Link(phase="waiting", reason="handshakeTimeout", sentence="")
CLOSED = Link(phase="waiting", reason="portClosed", sentence="")
LOGIN = Link(phase="waiting", reason="loginRequired", sentence="")

posix = pytest.mark.skipif(sys.platform == "win32", reason="the programs are shell scripts")


def test_it_is_due_once_after_both_reasons_have_lasted_together() -> None:
    due = Due(300.0)
    assert not due.look(READY, 0.0)
    assert not due.look(FROZEN, 100.0)
    assert not due.look(MUTE, 399.9)
    assert due.look(MUTE, 400.0)

    due.done()
    assert not due.look(MUTE, 4000.0)


@pytest.mark.parametrize("between", [READY, CLOSED, LOGIN])
def test_another_reason_begins_the_time_again(between: Link) -> None:
    due = Due(300.0)
    due.look(MUTE, 0.0)
    due.look(between, 299.0)

    assert not due.look(MUTE, 300.0)
    assert not due.look(MUTE, 599.0)
    assert due.look(MUTE, 600.0)


def test_a_planned_window_postpones_it() -> None:
    due = Due(300.0)
    planned = replace(MUTE, expected=Expected(active=True, kind="nightlyReset"))
    due.look(planned, 0.0)

    assert not due.look(planned, 3000.0)
    assert due.look(MUTE, 3001.0)


class Recorded:
    """The ledger's part: what was run before, and what is recorded. `forgets`: on a disk that is full."""

    def __init__(self, before: int, *, forgets: bool = False) -> None:
        self.before = before
        self.forgets = forgets
        self.events: list[LinkEvent] = []

    async def remedies(self, seconds: float) -> int:
        assert seconds == 86_400
        return self.before + (0 if self.forgets else len(self.events))

    def remedy(self, event: LinkEvent) -> None:
        self.events.append(event)


def script(directory: Path, text: str) -> Path:
    program = directory / "restart"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o700)
    return program


@posix
@pytest.mark.parametrize(("before", "forgets", "runs"), [(0, False, 2), (1, False, 1), (2, False, 0), (0, True, 2)])
async def test_it_is_run_twice_a_day_at_most_and_its_outcome_is_recorded(
    tmp_path: Path, before: int, forgets: bool, runs: int
) -> None:
    program = script(tmp_path, f'echo "$LINK_REASON $IBKR_SESSION" >> {tmp_path}/runs; exit 3')
    clock, ledger = HandClock(), Recorded(before, forgets=forgets)
    link = [READY]
    remedy = Remedy(program, 5.0, link=lambda: link[0], ledger=ledger, clock=clock, session="paper", environ={})
    running = asyncio.create_task(remedy.run(), name="the remedy under test")
    for outage in range(1, 4):
        link[0] = MUTE
        await clock.pass_(7)
        await until(lambda outage=outage: len(ledger.events) == min(runs, outage))
        link[0] = READY
        await clock.pass_(3)
    running.cancel()

    assert [event.remedy for event in ledger.events] == ["exit status 3"] * runs
    found = (tmp_path / "runs").read_text().splitlines() if runs else []
    assert found == ["handshakeTimeout paper"] * runs


@posix
async def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 3600 & echo $! > {tmp_path}/child; wait")

    assert await execute(program, {}, timeout=1.0) == "killed after 1 s"
    child = int((tmp_path / "child").read_text())
    await until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@posix
async def test_a_program_that_cannot_be_started_is_an_outcome(tmp_path: Path) -> None:
    assert (await execute(tmp_path / "missing", {})).startswith("could not be started")
