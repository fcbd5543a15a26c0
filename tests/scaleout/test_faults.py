"""Eight remote replicas under random faults of the server, the stream, the network, the daemon and the clocks."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import nats
import pytest
from nats.js.api import StorageType, StreamConfig

from daemon.process import Daemon
from facade.replica.mirror import Mirror
from shared.messages import STATE_TOPICS, Bar, Link, Position, Proof
from shared.scaleout import Subjects
from tests.scaleout.conftest import FastClock, NatsServer, Proxy, equal, proxied, published, remote
from tests.waiting import until

REPLICAS = 8
PROOF_LIMIT = 6.0
SUBJECTS = Subjects("ibkr", "default")
BARS = ("bars:1:1day", "bars:2:1day")


def bar(day: int, price: float) -> dict[str, Bar]:
    date = f"2026-01-{day:02}"
    return {date: Bar(date=date, open=price, high=price, low=price, close=price)}


@dataclass
class Law:
    """Every state that a daemon has been in, and what replicas may therefore say."""

    clock: FastClock
    states: dict[tuple[str, int], dict[str, dict[str, bytes]]] = field(default_factory=dict)
    last_proof: float = float("-inf")
    violations: list[str] = field(default_factory=list)
    checks: int = 0

    def record(self, daemon: Daemon) -> None:
        replica = daemon.store.replica

        def step() -> None:
            self.states[replica.epoch, replica.seq] = {topic: replica.rows(topic) for topic in replica.topics()}

        step()
        daemon.store.on_step.append(step)

    def prove(self, daemon: Daemon) -> None:
        """The gateway has just sent something."""
        link = daemon.store.row("link", "link")
        assert isinstance(link, Link)
        self.last_proof = self.clock.monotonic()
        proof = Proof(at=self.clock.now(), ageMs=0)
        daemon.store.put({"link": {"link": msgspec.structs.replace(link, connected=True, proof=proof)}})

    def check(self, number: int, mirror: Mirror) -> None:
        now, state = self.clock.monotonic(), mirror.state
        # 2 ms: row ages are whole milliseconds
        if state.connected and now - self.last_proof > PROOF_LIMIT + 0.002:
            self.violations.append(f"replica {number} is connected {now - self.last_proof:.3f} s after the last proof")
        replica = state.replica
        if not state.reachable or replica is None:
            return
        self.checks += 1
        expected = self.states.get((replica.epoch, replica.seq))
        if expected is None:
            self.violations.append(f"replica {number} is at {replica.epoch}-{replica.seq}, which no daemon was")
            return
        for topic in {*STATE_TOPICS, *replica.topics()}:
            if replica.rows(topic) != expected.get(topic, {}):
                self.violations.append(f"replica {number}: {topic} at step {replica.seq} is not the daemon's")


@dataclass
class World:
    """What the faults work on."""

    rng: random.Random
    server: NatsServer
    law: Law
    daemon: Daemon
    link: Proxy
    proxies: list[Proxy]
    mirrors: list[Mirror]
    restart: Callable[[], Awaitable[Daemon]]
    second: Callable[[], Awaitable[None]]

    def change(self, steps: int) -> None:
        for _ in range(steps):
            number = self.rng.randrange(30)
            gone = self.rng.random() < 0.3
            position = Position(account="DU1", conId=number, position=self.rng.random())
            self.daemon.store.put({"positions": {f"DU1:{number}": None if gone else position}})
            self.daemon.store.put({self.rng.choice(BARS): bar(self.rng.randrange(1, 9), self.rng.random())})
        if self.rng.random() < 0.8:
            self.law.prove(self.daemon)

    async def busy(self, seconds: float) -> None:
        """Changes for `seconds` of the test's clock."""
        ends = self.law.clock.monotonic() + seconds
        while self.law.clock.monotonic() < ends:
            self.change(self.rng.randrange(4))
            await self.law.clock.sleep(self.rng.choice((0.02, 0.2)))

    # --- faults ---

    async def none(self) -> None:
        await self.busy(1.0)

    async def kill_server(self) -> None:
        self.server.kill()
        await self.busy(self.rng.random() * 3)
        self.server.start()

    async def empty_server(self) -> None:
        self.server.kill()
        self.server.forget()
        self.change(3)
        self.server.start()

    async def stop_server(self) -> None:
        self.server.signal(signal.SIGSTOP)
        await self.busy(self.rng.random() * 6)
        self.server.signal(signal.SIGCONT)

    async def stall(self) -> None:
        """Some replicas' networks hold everything back for a while, the daemon's too."""
        chosen = [proxy for proxy in (*self.proxies, self.link) if self.rng.random() < 0.4]
        for proxy in chosen:
            proxy.stall()
        await self.busy(self.rng.choice((0.5, 2.0, 5.0)))
        for proxy in chosen:
            proxy.resume()

    async def cut(self) -> None:
        for proxy in (*self.proxies, self.link):
            if self.rng.random() < 0.4:
                proxy.cut()
        await self.busy(0.5)

    async def away(self) -> None:
        """Some replicas have no connection for a while; the stream may lose what they miss."""
        chosen = [proxy for proxy in self.proxies if self.rng.random() < 0.6]
        for proxy in chosen:
            proxy.refuse()
        await self.busy(2.0)
        if self.rng.random() < 0.5:
            await self.purge()
        await self.busy(0.5)
        for proxy in chosen:
            proxy.resume()

    async def without_proof(self) -> None:
        """The gateway is silent, the rows change on."""
        self.daemon.store.put({"positions": {"DU1:1": Position(account="DU1", conId=1, position=self.rng.random())}})
        await self.law.clock.sleep(PROOF_LIMIT * self.rng.random() * 1.5)

    async def set_clock(self) -> None:
        self.law.clock.ahead += self.rng.choice((-40.0, -2.0, 2.0, 40.0))
        await self.busy(1.0)

    async def subscribe(self) -> None:
        for mirror in self.mirrors:
            if self.rng.random() < 0.3:
                mirror.subscribe([self.rng.choice(BARS)])
            elif self.rng.random() < 0.3:
                mirror.unsubscribe([self.rng.choice(BARS)])
        await self.busy(0.5)

    async def purge(self) -> None:
        await self._with_stream(lambda js: js.purge_stream(SUBJECTS.stream))

    async def delete(self) -> None:
        await self._with_stream(lambda js: js.delete_stream(SUBJECTS.stream))

    async def store_twice(self) -> None:
        """The last messages are stored once more, as after an outage that was longer than the duplicate window."""

        async def repeat(js: Any) -> None:
            state = (await js.stream_info(SUBJECTS.stream)).state
            for seq in range(max(state.first_seq, state.last_seq - self.rng.randrange(4)), state.last_seq + 1):
                message = await js.get_msg(SUBJECTS.stream, seq)
                await js.publish(SUBJECTS.delta, message.data, headers=message.headers)

        await self._with_stream(repeat)
        await self.busy(0.3)

    async def restart_daemon(self) -> None:
        self.daemon = await self.restart()

    async def second_daemon(self) -> None:
        await self.second()

    async def _with_stream(self, act: Callable[[Any], Awaitable[Any]]) -> None:
        try:
            client = await nats.connect(self.server.url, connect_timeout=1, allow_reconnect=False, error_cb=_ignore)
        except Exception:  # nats-py's errors have no common base; the fault before is not over
            return
        try:
            await act(client.jetstream(timeout=1))
        except Exception:
            pass  # no stream at present
        finally:
            await client.close()


async def _ignore(_error: Exception) -> None: ...


FAULTS = {
    "none": 1,
    "kill_server": 2,
    "empty_server": 1,
    "stop_server": 2,
    "stall": 3,
    "cut": 2,
    "away": 3,
    "without_proof": 1,
    "set_clock": 1,
    "subscribe": 3,
    "purge": 1,
    "delete": 1,
    "store_twice": 2,
    "restart_daemon": 1,
    "second_daemon": 1,
}
"""By method of `World`: how often one is chosen, relative to the others."""


async def prepare_stream(server: NatsServer, rng: random.Random) -> None:
    """In memory or on disk, large or so small that it rolls over all the time, with the shortest duplicate window."""

    client = await nats.connect(server.url)
    config = StreamConfig(
        name=SUBJECTS.stream,
        subjects=[SUBJECTS.delta],
        storage=rng.choice((StorageType.FILE, StorageType.MEMORY)),
        max_bytes=rng.choice((20_000, 64_000_000)),
        duplicate_window=0.1,
    )
    await client.jetstream().add_stream(config)
    await client.close()


@asynccontextmanager
async def world(server: NatsServer, seed: int) -> AsyncIterator[World]:
    rng = random.Random(seed)
    clock = FastClock()
    law = Law(clock)
    await prepare_stream(server, rng)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(proxied(server))
        daemons = AsyncExitStack()
        stack.push_async_callback(daemons.aclose)

        async def start(url: str) -> Daemon:
            daemon = await daemons.enter_async_context(published(server, clock=clock, url=url))
            law.record(daemon)
            await until(lambda: daemon.store.row("link", "link"))
            for day in range(1, 9):
                daemon.store.put({topic: bar(day, 1.0) for topic in BARS})
            law.prove(daemon)
            return daemon

        async def restart() -> Daemon:
            await daemons.aclose()
            return await start(link.url)

        async def second() -> None:
            async with published(server, clock=clock) as other:
                law.record(other)
                other.store.put({"positions": {"DU9:9": Position(account="DU9", conId=9, position=9.0)}})
                await asyncio.sleep(rng.random())

        daemon = await start(link.url)
        proxies, mirrors = [], []
        for number in range(REPLICAS):
            proxy = await stack.enter_async_context(proxied(server))
            skewed = FastClock(ahead=rng.choice((-3600.0, -15.0, 0.0, 15.0, 3600.0)))
            mirror = await stack.enter_async_context(
                remote(server, clock=skewed, url=proxy.url, proof_limit=PROOF_LIMIT)
            )
            mirror.state.add_listener(lambda number=number, mirror=mirror: law.check(number, mirror))
            proxies.append(proxy)
            mirrors.append(mirror)
        yield World(rng, server, law, daemon, link, proxies, mirrors, restart, second)


async def keep_checking(law: Law, mirrors: list[Mirror]) -> None:
    while True:
        for number, mirror in enumerate(mirrors):
            law.check(number, mirror)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(int(os.environ.get("LINK_TEST_SEEDS", "5"))))
async def test_eight_remote_replicas_have_a_state_of_the_daemon_or_are_stale(
    nats_server: NatsServer, seed: int
) -> None:
    """At every moment; `connected` never longer than the proof; afterwards all of them have the daemon's state."""
    async with world(nats_server, seed) as it:
        checking = asyncio.create_task(keep_checking(it.law, it.mirrors), name="check")
        try:
            for name in it.rng.choices(list(FAULTS), FAULTS.values(), k=5):
                if it.rng.random() < 0.5:  # else the next fault comes before the last one is over
                    await until(lambda: all(equal(mirror, it.daemon) for mirror in it.mirrors), f"before {name}")
                it.change(it.rng.randrange(1, 20))
                await getattr(it, name)()
            for number, mirror in enumerate(it.mirrors):
                await until(lambda mirror=mirror: equal(mirror, it.daemon), f"replica {number} is not the daemon's")

            def connected() -> bool:
                it.law.prove(it.daemon)
                return all(mirror.state.connected for mirror in it.mirrors)

            await until(connected, "not every replica is connected")
        finally:
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
        assert it.law.violations == []
        assert it.law.checks >= REPLICAS
