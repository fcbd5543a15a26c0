"""The queue before IBKR's history servers."""

from __future__ import annotations

import asyncio

import pytest

from daemon.market.gate import QUEUE, Gate
from daemon.market.pacing import OPEN, Request
from shared.reasons import Problem
from tests.daemon.market.fakes import HandClock, settled


@pytest.fixture
def gate() -> Gate:
    return Gate(HandClock())


def day_bars(number: int) -> Request:
    return Request(key=number, group=number, small=False, deadline=10_000.0)


async def test_those_who_wait_are_let_through_in_the_order_of_their_coming(gate: Gate) -> None:
    slots = [await gate.enter(day_bars(number)) for number in range(OPEN)]
    order: list[int] = []

    async def come(number: int) -> None:
        await gate.enter(day_bars(number))
        order.append(number)

    waiting = [asyncio.ensure_future(come(number)) for number in range(100, 103)]
    await settled()
    for slot in slots[:3]:
        slot.leave()
        await settled()

    await asyncio.gather(*waiting)
    assert order == [100, 101, 102]


async def test_a_slot_is_given_back_once(gate: Gate) -> None:
    slot = await gate.enter(day_bars(1))
    slot.leave()
    slot.leave()

    assert gate.budget.open == 0


async def test_a_slot_that_nobody_used_has_cost_nothing(gate: Gate) -> None:
    """What was never sent is no request of IBKR's: the next equal one need not wait 15 s for it."""
    (await gate.enter(day_bars(1))).leave(sent=False)
    again = await gate.enter(day_bars(1))

    assert (gate.budget.open, gate.budget.sent) == (1, ())
    again.leave()


async def test_a_slot_of_a_lost_session_frees_nothing_in_the_next(gate: Gate) -> None:
    old = await gate.enter(day_bars(1))
    gate.lost()
    await gate.enter(day_bars(2))
    old.leave()

    assert gate.budget.open == 1


async def test_the_queue_is_bounded(gate: Gate) -> None:
    """Beyond it nobody waits: the answer is at once that too many do."""
    for number in range(OPEN):
        await gate.enter(day_bars(number))
    waiting = [asyncio.ensure_future(gate.enter(day_bars(number))) for number in range(OPEN, OPEN + QUEUE)]
    await settled()

    with pytest.raises(Problem) as raised:
        await gate.enter(day_bars(0))
    assert (raised.value.reason, gate.waiting) == ("pacingBudget", QUEUE)

    gate.lost()
    assert {each.reason for each in await asyncio.gather(*waiting, return_exceptions=True)} == {"notConnected"}


async def test_who_is_cancelled_as_he_is_let_through_leaves_no_slot_behind(gate: Gate) -> None:
    slots = [await gate.enter(day_bars(number)) for number in range(OPEN)]
    late = asyncio.ensure_future(gate.enter(day_bars(99)))
    await settled()
    slots[0].leave()  # lets `late` through, whose task has not run yet
    late.cancel()
    await settled()

    assert late.cancelled()
    assert gate.budget.open == OPEN - 1
