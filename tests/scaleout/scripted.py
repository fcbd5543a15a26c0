"""A daemon's side of NATS that publishes what a test says: gaps, repetitions, any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec
import nats
from nats.js.api import StreamConfig

from daemon.state.feed import delta_line, delta_lines
from shared.clock import Clock
from shared.messages import STATE_TOPICS
from shared.replica import Replica, TopicDelta, TopicState
from shared.scaleout import (
    ALIVE_INTERVAL,
    FRESH,
    LEASE_METHOD,
    RELEASE,
    SINCE,
    SNAPSHOT,
    TIME,
    Alive,
    DaemonTime,
    Subjects,
)
from tests.scaleout.conftest import NatsServer

SUBJECTS = Subjects("ibkr", "default")
AT = "2026-01-05T15:00:00Z"


class ScriptedDaemon:
    """Holds rows in a replica; publishes nothing by itself but signs of life."""

    def __init__(self, client: Any, clock: Clock, epoch: str = "e1") -> None:
        self.snapshots = 0
        """Snapshots requested."""
        self.leases = 0
        self.alive_late = 0.0
        """s that a sign of life is under way."""
        self.clock_readable = True
        """Whether requests for the time are answered with one."""
        self.snapshot_allowed = asyncio.Event()
        self.snapshot_allowed.set()
        self._client = client
        self._clock = clock
        self._number = 0
        self.replica: Replica
        self.restart(epoch)

    def restart(self, epoch: str) -> None:
        self.replica = Replica(epoch)
        self.replica.put(1, AT, {topic: {} for topic in STATE_TOPICS})

    def put(self, changes: Mapping[str, Mapping[str, bytes | None]]) -> int:
        """One step, which is not published."""
        self.replica.put(self.replica.seq + 1, AT, changes)
        return self.replica.seq

    def accounts(self, *names: str) -> int:
        return self.put({"accounts": {name: b'{"account":"%s"}' % name.encode() for name in names}})

    async def publish(
        self, since: int, seq: int | None = None, *, number: int | None = None, topics: Iterable[str] = STATE_TOPICS
    ) -> tuple[str, bytes, dict[str, str]]:
        """Store what has changed after `since`, as one page that completes step `seq` (the present one)."""
        lacking = self.replica.since(frozenset(topics), since)
        assert lacking is not None
        seq = self.replica.seq if seq is None else seq
        until_seq = {
            topic: TopicDelta(delta.state, {key: entry for key, entry in delta.rows.items() if entry[0] <= seq})
            for topic, delta in lacking.items()
        }
        return await self.publish_page(until_seq, since, seq, number=number)

    async def publish_page(
        self,
        parts: Mapping[str, TopicDelta],
        since: int,
        seq: int,
        *,
        last: bool = True,
        number: int | None = None,
        fresh: Iterable[str] = (),
    ) -> tuple[str, bytes, dict[str, str]]:
        self._number = self._number + 1 if number is None else number
        line = delta_line(self.replica.epoch, parts, seq if last else None, 0)
        headers = {"Nats-Msg-Id": f"{self.replica.epoch}-{seq}-{self._number}", SINCE: str(since)}
        if fresh:
            headers[FRESH] = ",".join(fresh)
        message = (SUBJECTS.delta, line, headers)
        await self.repeat(message)
        return message

    async def repeat(self, message: tuple[str, bytes, dict[str, str]]) -> None:
        """Store a message, again where it was stored long ago."""
        subject, line, headers = message
        last = (await self._client.jetstream().stream_info(SUBJECTS.stream)).state.last_seq
        while (await self._client.jetstream().publish(subject, line, headers=headers)).seq <= last:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # within the stream's duplicate window

    async def serve(self) -> None:
        respond = {SNAPSHOT: self._snapshot, TIME: self._time, LEASE_METHOD: self._lease, RELEASE: self._released}
        for method, handler in respond.items():
            await self._client.subscribe(SUBJECTS.call(method), cb=handler)
        while True:
            now = self._clock.now() - timedelta(seconds=self.alive_late)
            alive = Alive(epoch=self.replica.epoch, seq=self.replica.seq, daemon="test", now=now)
            await self._client.publish(SUBJECTS.alive, msgspec.json.encode(alive))
            await self._clock.sleep(ALIVE_INTERVAL)

    async def _snapshot(self, message: Any) -> None:
        self.snapshots += 1
        replica = self.replica
        (page,) = delta_lines(replica.epoch, replica.snapshot(STATE_TOPICS), replica.seq, replica.floor)

        async def respond() -> None:
            await self.snapshot_allowed.wait()
            await message.respond(page)

        self._responding = asyncio.create_task(respond())

    async def _time(self, message: Any) -> None:
        await message.respond(msgspec.json.encode(DaemonTime(self._clock.now())) if self.clock_readable else b"soon")

    async def _lease(self, message: Any) -> None:
        self.leases += 1
        await message.respond(msgspec.json.encode({"epoch": self.replica.epoch, "seq": self.replica.seq}))

    async def _released(self, message: Any) -> None:
        await message.respond(b"{}")


def part(seq: int, **rows: bytes | None) -> TopicDelta:
    """A topic's rows, each of step `seq`."""
    return TopicDelta(TopicState(seq, AT), {key: (seq, row) for key, row in rows.items()})


@asynccontextmanager
async def scripted(server: NatsServer, clock: Clock) -> AsyncIterator[ScriptedDaemon]:
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(
        StreamConfig(name=SUBJECTS.stream, subjects=[SUBJECTS.delta], duplicate_window=0.1)
    )
    daemon = ScriptedDaemon(client, clock)
    serving = asyncio.create_task(daemon.serve(), name="scripted daemon")
    try:
        yield daemon
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await client.close()
