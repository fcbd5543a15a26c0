"""Equal questions in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from daemon.market.questions import Questions
from shared.reasons import Problem
from tests.daemon.market.fakes import Tasks, settled


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    group = Tasks()
    yield group
    await group.end()


async def test_all_who_ask_the_same_share_one_answer_or_failure(tasks: Tasks) -> None:
    questions: Questions[int] = Questions(tasks)
    asked = 0

    async def fail() -> int:
        nonlocal asked
        asked += 1
        raise Problem("notFound")

    outcomes = await asyncio.gather(*(questions.ask("k", "it", fail, 9.0) for _ in range(5)), return_exceptions=True)

    assert {each.reason for each in outcomes} == {"notFound"}
    assert (asked, len(questions)) == (1, 0)


async def test_who_asks_after_the_last_one_left_asks_anew(tasks: Tasks) -> None:
    """A question that is being cancelled is nobody's to join."""
    questions: Questions[int] = Questions(tasks)
    answer = asyncio.Event()

    async def question() -> int:
        await answer.wait()
        return 1

    first = asyncio.ensure_future(questions.ask("k", "it", question, 9.0))
    await settled()
    first.cancel()
    second = asyncio.ensure_future(questions.ask("k", "it", question, 9.0))
    await settled()
    answer.set()

    assert await second == 1
    assert first.cancelled()


async def test_each_asker_has_a_deadline_of_his_own(tasks: Tasks) -> None:
    """One who will not wait is told so; the others go on waiting for the same answer."""
    questions: Questions[int] = Questions(tasks)
    answer = asyncio.Event()

    async def question() -> int:
        await answer.wait()
        return 1

    patient = asyncio.ensure_future(questions.ask("k", "it", question, 9.0))
    with pytest.raises(Problem) as raised:
        await questions.ask("k", "it", question, 0.0)
    answer.set()

    assert raised.value.reason == "brokerTimeout"
    assert await patient == 1


async def test_the_end_of_the_daemon_is_told_to_those_who_wait(tasks: Tasks) -> None:
    questions: Questions[int] = Questions(tasks)

    async def for_ever() -> int:
        await asyncio.Event().wait()
        return 1

    waiting = asyncio.ensure_future(questions.ask("k", "it", for_ever, 9.0))
    await settled()
    await tasks.end()

    with pytest.raises(Problem) as raised:
        await waiting
    assert raised.value.reason == "shuttingDown"
