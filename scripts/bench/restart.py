"""Row 3: what a restart of the web process costs its clients and the broker's session."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from clients import request
from measure import Figure
from processes import ROOT, Gateway, Stack, gateway, peer, stack

RESTARTS = 25
CLIENTS = 16
BETWEEN = 0.3  # s between restarts: long enough for every client to meet both children
LIMIT = 20.0  # s for the last fill to be read


@dataclass
class Clients:
    """Half keep-alive, half a connection a request; the outcome of each request."""

    url: str
    outcomes: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._client(keep=number % 2 == 0), name=f"client {number}")

    async def _client(self, *, keep: bool) -> None:
        (host, port), asking = request(self.url, "/api/ibkr/status", "" if keep else "Connection: close\r\n")
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopped:
            try:
                async with asyncio.timeout(10):
                    if link is None:
                        link = await asyncio.open_connection(host, port)
                    reader, writer = link
                    writer.write(asking)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                    body = json.loads(await reader.readexactly(length))
                self.outcomes["ok" if body == {"connected": True, "available": True} else "wrong"] += 1
                if not keep or b"connection: close" in head.lower():
                    writer.close()
                    link = None
            except ConnectionRefusedError:
                self.outcomes["refused"] += 1
            except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError, TimeoutError):
                self.outcomes["reset"] += 1
                link = None
        if link is not None:
            link[1].close()


@dataclass
class Follower:
    """An event stream that resumes by its last id, as a browser does; the fills it received, and the resets."""

    url: str
    fills: set[str] = field(default_factory=set)
    resets: int = 0
    connections: int = 0
    last_id: str = ""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._once()
            await asyncio.sleep(0.05)

    async def _once(self) -> None:
        resume = f"Last-Event-ID: {self.last_id}\r\n" if self.last_id else ""
        (host, port), head = request(self.url, "/api/ibkr/events?topics=fills,link", resume)
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
        writer.write(head)
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            while True:
                event = dict(
                    line.split(": ", 1)
                    for line in (await reader.readuntil(b"\n\n")).decode().splitlines()
                    if ": " in line
                )
                self.resets += event.get("event") == "reset"
                data = json.loads(event.get("data", "{}"))
                if data.get("topic") == "fills":
                    self.fills |= data["rows"].keys()
                self.last_id = event.get("id", self.last_id)
        finally:
            writer.close()


async def _restarts(ours: Stack) -> tuple[Counter[str], Follower, int, set[str]]:
    """The clients' outcomes, the follower, failed restarts, and the executions that happened."""
    clients, follower = Clients(ours.url), Follower(ours.url)
    load = asyncio.create_task(clients.run(), name="clients")
    following = asyncio.create_task(follower.run(), name="follower")
    failed, happened = 0, set()
    for _ in range(RESTARTS):
        command = [sys.executable, "-m", "facade", "restart"]
        environ = ours.environ | {"PYTHONPATH": str(ROOT), "PATH": os.defpath}
        done = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.DEVNULL)
        ended = asyncio.create_task(done.wait(), name="restart")
        while not ended.done():
            answer = await asyncio.to_thread(ours.gateway.send, "fill=AAPL,1")
            happened.add(answer.split()[-1])
            await asyncio.wait([ended], timeout=0.1)
        failed += ended.result() != 0
        await asyncio.sleep(BETWEEN)
    clients.stopped = True
    await load
    ends = time.monotonic() + LIMIT
    while not happened <= follower.fills and time.monotonic() < ends:  # noqa: ASYNC110 - bounded, and a benchmark
        await asyncio.sleep(0.05)
    following.cancel()
    await asyncio.wait([following])
    return clients.outcomes, follower, failed, happened


def _peer_downtime(simulated: Gateway, rounds: int) -> Iterator[float]:
    """s from the end of the peer's web process, and its session, until its successor has a session and positions."""
    ended = 0.0
    for _ in range(rounds + 1):
        with peer(simulated.port):
            if ended:
                yield time.perf_counter() - ended
        ended = time.perf_counter()


def restart(rounds: int) -> Iterator[Figure]:
    with stack() as ours:
        before = ours.gateway.status()["connections"]["total"]
        outcomes, follower, failed, happened = asyncio.run(_restarts(ours))
        connections = ours.gateway.status()["connections"]["total"] - before
        under = f"{RESTARTS} restarts under {CLIENTS} clients ({outcomes['ok']} answers)"
        for what, value in (
            ("new broker connections", connections),
            ("refused", outcomes["refused"]),
            ("reset", outcomes["reset"]),
            ("wrong answers", outcomes["wrong"]),
            ("failed restarts", failed),
            (f"fills lost to a reader that resumed, of {len(happened)}", len(happened - follower.fills)),
            ("resets sent to that reader", follower.resets),
        ):
            yield Figure("3", f"{under}: {what}", [value], "0")
    with gateway() as simulated:
        gaps = list(_peer_downtime(simulated, rounds))
    yield Figure("3", "without session and web after a web restart, FastAPI peer (ours: 0)", gaps, unit="s")
