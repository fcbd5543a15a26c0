"""Named tasks: one of each name, a failure ends nothing but its own."""

from __future__ import annotations

import asyncio

from daemon.session.slots import Slots


async def wait_for_ever(log: list[str], name: str) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        log.append(name)


async def test_a_name_has_one_task_and_the_later_takes_its_place() -> None:
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        slots = Slots(group, lambda _name, _fault: None)
        first = slots.start("a", wait_for_ever(log, "first"))
        await asyncio.sleep(0)
        slots.start("a", wait_for_ever(log, "second"))
        await asyncio.wait([first])
        assert slots.running("a")
        await asyncio.sleep(0)
        slots.cancel("a", "unknown")
        assert not slots.running("a")

    assert log == ["first", "second"]


async def test_a_task_cancelled_before_its_first_step_leaves_nothing() -> None:
    log: list[str] = []
    async with asyncio.TaskGroup() as group:
        slots = Slots(group, lambda _name, _fault: None)
        slots.start("a", wait_for_ever(log, "never begun"))
        slots.cancel("a")

    assert log == []


async def test_a_failure_is_reported_and_ends_nothing_else() -> None:
    reported: list[tuple[str, str]] = []

    async def fail() -> None:
        raise ValueError("broken")

    async with asyncio.TaskGroup() as group:
        slots = Slots(group, lambda name, fault: reported.append((name, str(fault))))
        other = slots.start("other", wait_for_ever([], "other"))
        await asyncio.wait([slots.start("a", fail())])
        assert not other.done()
        slots.cancel("other")

    assert reported == [("a", "broken")]
