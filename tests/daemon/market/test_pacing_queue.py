"""The queue before IBKR's history servers."""

from __future__ import annotations

import asyncio

import pytest

from daemon.market.pacing import OPEN, Request
from daemon.market.pacing_queue import QUEUE, PacingQueue
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import START
from tests.waiting import refused


@pytest.fixture
def queue() -> PacingQueue:
    return PacingQueue(HandClock(START))


def day_bars(number: int) -> Request:
    return Request(key=number, group=number, small=False, deadline=10_000.0)


async def test_those_who_wait_are_let_through_in_the_order_of_their_coming(queue: PacingQueue) -> None:
    slots = [await queue.enter(day_bars(number)) for number in range(OPEN)]
    order: list[int] = []

    async def come(number: int) -> None:
        await queue.enter(day_bars(number))
        order.append(number)

    waiting = [asyncio.ensure_future(come(number)) for number in range(100, 103)]
    await settled()
    for slot in slots[:3]:
        slot.leave()
        await settled()

    await asyncio.gather(*waiting)
    assert order == [100, 101, 102]


async def test_a_slot_is_given_back_once(queue: PacingQueue) -> None:
    slot = await queue.enter(day_bars(1))
    slot.leave()
    slot.leave()

    assert queue.budget.open == 0


async def test_an_unused_slot_has_cost_nothing(queue: PacingQueue) -> None:
    (await queue.enter(day_bars(1))).leave(sent=False)
    again = await queue.enter(day_bars(1))

    assert (queue.budget.open, queue.budget.sent) == (1, ())
    again.leave()


async def test_a_slot_of_a_lost_session_frees_nothing_in_the_next(queue: PacingQueue) -> None:
    old = await queue.enter(day_bars(1))
    queue.lost()
    await queue.enter(day_bars(2))
    old.leave()

    assert queue.budget.open == 1


async def test_the_queue_is_bounded(queue: PacingQueue) -> None:
    for number in range(OPEN):
        await queue.enter(day_bars(number))
    waiting = [asyncio.ensure_future(queue.enter(day_bars(number))) for number in range(OPEN, OPEN + QUEUE)]
    await settled()

    raised = await refused(queue.enter(day_bars(0)))
    assert (raised.reason, queue.waiting) == ("pacingBudget", QUEUE)

    queue.lost()
    assert {each.reason for each in await asyncio.gather(*waiting, return_exceptions=True)} == {"notConnected"}


async def test_who_is_cancelled_as_he_is_let_through_leaves_no_slot_behind(queue: PacingQueue) -> None:
    slots = [await queue.enter(day_bars(number)) for number in range(OPEN)]
    late = asyncio.ensure_future(queue.enter(day_bars(99)))
    await settled()
    slots[0].leave()  # lets `late` through, whose task has not run yet
    late.cancel()
    await settled()

    assert late.cancelled()
    assert queue.budget.open == OPEN - 1
