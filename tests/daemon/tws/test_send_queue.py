from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tws import LinkLost, TwsBusy
from daemon.tws.send_queue import WAITING, Bucket, Lane, SendQueue
from shared.clock import SystemClock


@given(st.integers(5, 50), st.lists(st.floats(0, 0.5), min_size=1, max_size=300))
def test_no_second_sees_more_than_the_rate(rate: int, idle: list[float]):
    now, sent = 100.0, []
    bucket = Bucket(rate, now)
    for pause in idle:
        now += pause + bucket.wait(now + pause)
        assert bucket.wait(now) == 0
        bucket.take()
        sent.append(now)

    for start in sent:
        assert sum(start <= moment < start + 1 for moment in sent) <= rate


def test_halving_has_an_end():
    bucket = Bucket(40, 0)
    rates = []
    for _ in range(5):
        bucket.halve()
        rates.append(bucket.rate)

    assert rates == [20, 10, 5, 5, 5]


async def test_a_higher_lane_is_sent_first():
    queue, sent = SendQueue(SystemClock()), []
    queue.pause(paused=True)
    for name, lane in [
        ("c", Lane.RESUBSCRIBE),
        ("b1", Lane.READ),
        ("b2", Lane.READ),
        ("a", Lane.PROBE),
        ("o", Lane.ORDER),
    ]:
        queue.send(lane, lambda name=name: sent.append(name))
    assert sent == []
    queue.pause(paused=False)

    assert sent == ["o", "a", "b1", "b2", "c"]


async def test_beyond_the_burst_a_send_waits():
    queue, sent = SendQueue(SystemClock(), 40), []
    for number in range(9):
        queue.send(Lane.READ, lambda number=number: sent.append(number))

    assert sent == list(range(8))
    assert queue.waiting == 1
    queue.close()


async def test_a_cancelled_waiter_takes_no_turn():
    queue = SendQueue(SystemClock())
    queue.pause(paused=True)
    turn = asyncio.create_task(queue.admit(Lane.READ))
    await asyncio.sleep(0)
    assert queue.waiting == 1
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn

    assert queue.waiting == 0


async def test_the_end_of_the_session_fails_its_waiters():
    queue = SendQueue(SystemClock())
    queue.pause(paused=True)
    turn = asyncio.create_task(queue.admit(Lane.READ))
    await asyncio.sleep(0)
    queue.close()

    with pytest.raises(LinkLost):
        await turn
    with pytest.raises(LinkLost):
        await queue.admit(Lane.READ)


async def test_waiting_has_a_bound():
    queue = SendQueue(SystemClock())
    queue.pause(paused=True)
    for _ in range(WAITING):
        queue.send(Lane.READ, lambda: None)

    with pytest.raises(TwsBusy):
        queue.send(Lane.READ, lambda: None)


async def test_a_flood_of_requests_keeps_no_probe_out():
    queue, sent = SendQueue(SystemClock()), []
    queue.pause(paused=True)
    for _ in range(WAITING):
        queue.send(Lane.READ, lambda: None)
    queue.send(Lane.PROBE, lambda: sent.append("probe"))
    queue.pause(paused=False)

    assert sent == ["probe"]
    queue.close()
