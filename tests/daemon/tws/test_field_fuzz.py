"""Meanings, not bytes: a recorded session is replayed with one field of one message changed.

After each: the session goes on, no list that is known is shorter than it was, no row has a 0 or an unset value that
was not sent, and nothing is logged as an error. `python -m tests.daemon.tws.test_field_fuzz` tries every
value in every field of every kind of message; the test empties each, and takes a sample of the rest.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from daemon.link.events import Failed, Lost, Target
from daemon.simulator import Gateway, World
from daemon.state.store import Store
from daemon.tws import Limits, Tws
from shared.clock import SystemClock
from tests.daemon.tws.scripted import frame
from tests.daemon.tws.sessions import Session

ACCOUNTS = ("DU1111111", "DU2222222")
TOPICS = ("summary", "pnl", "positions", "orders", "fills")
VALUES = ("", "?", "-1", "1.7976931348623157E308", "2147483647", "9223372036854775807", "1e30", "NaN", "a\\b", "Mars/X")
KEPT = 5
"""Messages of each kind that are kept of the recording."""

FAST = Limits(rate=10_000)


class Case(NamedTuple):
    message: int  # its place in the recording
    at: int  # the field's place; beyond the last: one more field; -1: the last one is cut off
    text: str


class Recording(NamedTuple):
    messages: list[list[str]]
    rows: dict[str, dict[str, Any]]  # what they make


async def record() -> Recording:
    """What a simulated gateway sends up to the end of the first snapshots."""
    messages: list[list[str]] = []
    kinds: Counter[str] = Counter()
    world = World(accounts=ACCOUNTS, positions=4, orders=3, fills=3, completed=2)
    async with Gateway(world) as gateway:
        made = Session(gateway.port, limits=FAST)
        await made.tws.open()
        deliver = made.tws.wire.message

        def tap(fields: list[str]) -> None:
            kinds[fields[0]] += 1
            if kinds[fields[0]] <= KEPT:
                messages.append(list(fields))
            deliver(fields)

        made.tws.wire.message = tap
        assert await made.tws.sync() == frozenset()
        made.tws.abort()
    store, _ = await replay(messages)
    sync: dict[str, Any] = dict(store.rows("sync"))
    assert all(sync[topic].known and store.rows(topic) for topic in TOPICS)
    return Recording(messages, {topic: dict(store.rows(topic)) for topic in TOPICS})


def cases(recording: Recording) -> Iterator[Case]:
    first = {fields[0]: place for place, fields in reversed(list(enumerate(recording.messages)))}
    for place in first.values():
        fields = recording.messages[place]
        yield Case(place, -1, "")
        yield Case(place, len(fields), "7")
        yield from (Case(place, at, text) for at in range(1, len(fields)) for text in VALUES)


class Nowhere:
    """A transport without a peer."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


async def replay(messages: list[list[str]], case: Case | None = None) -> tuple[Store, list[object]]:
    """The rows and the events of a session that receives `messages`."""
    store, events = Store("e1", SystemClock()), list[object]()
    target = Target(host="nowhere", port=1, clientId=7, timeout=60)
    tws = Tws(3, target, events.append, store, SystemClock(), FAST)
    tws.wire.connection_made(Nowhere())  # type: ignore[arg-type]
    start = [(178, "20261125 10:00:00 UTC"), (15, 1, ",".join(ACCOUNTS)), (9, 1, 1)]
    tws.wire.data_received(b"".join(frame(*fields) for fields in start))
    reading = asyncio.create_task(tws.sync())
    while tws.messages_out < 8:  # noqa: ASYNC110 - until the requests have gone out, under the recording's ids
        await asyncio.sleep(0)
    for place, fields in enumerate(messages):
        changed = list(fields)
        if case is not None and place == case.message:
            changed[case.at :] = [case.text, *changed[case.at + 1 :]] if case.at >= 0 else []
        tws.wire.data_received(frame(*changed))
    reading.cancel()
    await asyncio.wait([reading])
    tws.abort()
    return store, events


async def wrong(recording: Recording, case: Case) -> list[str]:
    store, events = await replay(recording.messages, case)
    found = [f"session: {event}" for event in events if isinstance(event, Lost | Failed)]
    for topic in TOPICS:
        found += compare(topic, store, recording.rows[topic], case.text)
    return found


def compare(topic: str, store: Store, recorded: dict[str, Any], text: str) -> Iterator[str]:
    sync: Any = store.row("sync", topic)
    rows = store.rows(topic)
    if sync.known and not sync.stale and len(rows) < len(recorded):
        yield f"{topic}: {len(rows)} of {len(recorded)} rows, and known"
    for key in rows.keys() & recorded.keys():
        for name in rows[key].__struct_fields__:
            value, before = getattr(rows[key], name), getattr(recorded[key], name)
            if isinstance(value, float) and (not math.isfinite(value) or abs(value) > 1e100):
                yield f"{topic}.{name} is {value}"
            if value == 0 and value is not False and before and name != "conId" and text in ("", "?", "NaN"):
                yield f"{topic}.{name} is 0 and was {before}"


async def test_a_changed_field_costs_what_it_carried(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    recording = await record()
    chance = random.Random(7)
    for case in cases(recording):
        if case.text == "" or chance.random() < 0.1:
            assert await wrong(recording, case) == [], (recording.messages[case.message], case)
    assert not [record for record in caplog.records if record.name != "asyncio"]


async def every() -> int:
    recording = await record()
    count = 0
    for case in cases(recording):
        for what in await wrong(recording, case):
            count += 1
            print(recording.messages[case.message][0], case, what)
    return count


if __name__ == "__main__":
    sys.exit(asyncio.run(every()) > 0)
