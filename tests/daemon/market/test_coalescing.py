"""Equal requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from daemon.market.coalescing import Requests
from shared.reasons import Problem
from tests.clock import settled
from tests.daemon.market.fakes import Tasks
from tests.waiting import refused


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    group = Tasks()
    yield group
    await group.end()


async def test_equal_requests_share_one_answer_or_failure(tasks: Tasks) -> None:
    requests: Requests[int] = Requests(tasks)
    calls = 0

    async def fail() -> int:
        nonlocal calls
        calls += 1
        raise Problem("notFound")

    outcomes = await asyncio.gather(*(requests.ask("k", "it", fail, 9.0) for _ in range(5)), return_exceptions=True)

    assert {each.reason for each in outcomes} == {"notFound"}
    assert (calls, len(requests)) == (1, 0)


async def test_a_request_after_the_last_waiter_has_gone_is_a_new_one(tasks: Tasks) -> None:
    requests: Requests[int] = Requests(tasks)
    answer = asyncio.Event()

    async def request() -> int:
        await answer.wait()
        return 1

    first = asyncio.ensure_future(requests.ask("k", "it", request, 9.0))
    await settled()
    first.cancel()
    second = asyncio.ensure_future(requests.ask("k", "it", request, 9.0))
    await settled()
    answer.set()

    assert await second == 1
    assert first.cancelled()


async def test_each_waiter_has_its_own_deadline(tasks: Tasks) -> None:
    requests: Requests[int] = Requests(tasks)
    answer = asyncio.Event()

    async def request() -> int:
        await answer.wait()
        return 1

    patient = asyncio.ensure_future(requests.ask("k", "it", request, 9.0))
    raised = await refused(requests.ask("k", "it", request, 0.0))
    answer.set()

    assert raised.reason == "brokerTimeout"
    assert await patient == 1


async def test_the_end_of_the_daemon_ends_what_is_in_flight(tasks: Tasks) -> None:
    requests: Requests[int] = Requests(tasks)

    async def for_ever() -> int:
        await asyncio.Event().wait()
        return 1

    waiting = asyncio.ensure_future(requests.ask("k", "it", for_ever, 9.0))
    await settled()
    await tasks.end()

    assert (await refused(waiting)).reason == "shuttingDown"
