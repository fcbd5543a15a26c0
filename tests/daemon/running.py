"""A whole daemon in this process, and peers that talk to it over its real socket."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from daemon.link.windows import Calendar
from daemon.process import Daemon, Surroundings
from daemon.state.ledger import Ledger
from shared.clock import Clock, SystemClock
from shared.jsonrpc.client import Client
from shared.messages import STATE_TOPICS
from shared.replica import Replica, TopicDelta, TopicState
from shared.settings import Settings
from shared.transport.private_paths import private_directory

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 60.0
"""s for anything here to come true."""


class Mirror:
    """A peer that folds the deltas that it receives, as a facade does."""

    def __init__(self) -> None:
        self.replica: Replica | None = None
        self.client: Client
        self.steps: list[int] = []
        self.lines = 0
        self._pages: dict[str, TopicDelta] = {}
        self._moved = asyncio.Event()

    @classmethod
    async def join(cls, path: str, topics: tuple[str, ...] = STATE_TOPICS, resume: Replica | None = None) -> Mirror:
        self = cls()
        self.client = await Client.open(path, "test/1", self._receive, timeout=LIMIT)
        params: dict[str, Any] = {"topics": topics}
        if resume is not None:
            params |= {"epoch": resume.epoch, "since": resume.seq}
            self.replica = resume  # the delta may come with the answer
        answer = msgspec.json.decode(await self.client.call("watch", params, LIMIT))
        assert answer["reset"] == (resume is None)
        await self.until(lambda: self.replica is not None and self.replica.seq >= answer["seq"])
        return self

    def _receive(self, method: str, params: msgspec.Raw) -> None:
        assert method == "delta"
        self.lines += 1
        delta = msgspec.json.decode(params, type=Delta)
        for topic, topic_delta in delta.topics.items():
            before = self._pages[topic].rows if topic in self._pages else {}
            entries = {
                key: (step, None if bytes(row) == b"null" else bytes(row))
                for (key, row), step in zip(topic_delta.rows.items(), topic_delta.seqs, strict=True)
            }
            self._pages[topic] = TopicDelta(TopicState(topic_delta.seq, topic_delta.asOf or ""), {**before, **entries})
        if delta.seq is not None:
            if self.replica is None or self.replica.epoch != delta.epoch:
                self.replica = Replica(delta.epoch)
            pages, self._pages = self._pages, {}
            self.replica.fold(delta.seq, delta.floor, pages)
            self.steps.append(delta.seq)
            self._moved.set()

    def rows(self, topic: str) -> dict[str, Any]:
        """Decoded."""
        assert self.replica is not None
        return {key: msgspec.json.decode(row) for key, row in self.replica.rows(topic).items()}

    @property
    def link(self) -> dict[str, Any]:
        return self.rows("link").get("link", {"phase": None, "connected": False})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for news until `condition` holds."""
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def call(self, method: str, **params: Any) -> Any:
        return msgspec.json.decode(await self.client.call(method, params, LIMIT))

    async def all(self, method: str, rows: str = "rows", **params: Any) -> list[Any]:
        """Every page of an answer."""
        found: list[Any] = []
        while True:
            answer = await self.call(method, **params)
            found += answer[rows]
            if answer["next"] is None:
                return found
            place = "cursor" if method in {"executions.list", "link.events"} else "after"
            params = {**params, place: answer["next"]}

    async def leave(self) -> None:
        await self.client.close()


class TopicRows(msgspec.Struct):
    asOf: str | None
    seq: int
    rows: dict[str, msgspec.Raw]
    seqs: list[int]


class Delta(msgspec.Struct):
    epoch: str
    topics: dict[str, TopicRows]
    seq: int | None
    floor: int


@asynccontextmanager
async def place() -> AsyncIterator[Path]:
    """A private directory with a path short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="link-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def settings(directory: Path, **more: Any) -> Settings:
    name = f"\\\\.\\pipe\\link-{secrets.token_hex(8)}" if sys.platform == "win32" else str(directory / "run" / "d.sock")
    state = directory / "state"
    with private_directory(str(state), "IBKR_STATE_DIR"):
        pass  # made as the daemon makes it
    return Settings(**{"state_dir": state, "socket": name, "connect_timeout": 60.0, **more})


@asynccontextmanager
async def running(config: Settings, clock: Clock | None = None) -> AsyncIterator[Daemon]:
    """The daemon that `daemon.process.run` makes, ended as it ends."""
    around = Surroundings(clock=clock or SystemClock(), random_unit=lambda: 0.5, calendar=Calendar(()), version="test")
    ledger = await Ledger.open(config.state_dir, around.clock)
    try:
        tasks = asyncio.TaskGroup()
        daemon = Daemon(config, around, ledger, tasks, asyncio.Event())
        await daemon.load()
        await daemon.listen()
        async with tasks:
            daemon.start()
            try:
                yield daemon
            finally:
                await daemon.end()
    finally:
        await ledger.close()


def environment(directory: Path, **more: str) -> dict[str, str]:
    """For a daemon in a process of its own."""
    config = settings(directory)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
    return {**kept, "IBKR_STATE_DIR": str(config.state_dir), "IBKR_SOCKET": config.socket, **more}


@asynccontextmanager
async def process(
    *program: str,
    env: dict[str, str],
    cwd: Path,
    stdout: int | None = None,
    stderr: int | None = asyncio.subprocess.DEVNULL,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python PROGRAM`, killed if it is still there at the end."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        env=env | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()
