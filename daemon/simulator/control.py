"""Faults while the gateway runs: lines in, one line of answer each, over a Unix socket or the standard input.

A line is a verb of `faults` or one of `status`, `help`, `quit`. Answers are `ok …` or `error: …`.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Final

from daemon.simulator import faults
from daemon.simulator.server import Gateway

LONGEST_LINE: Final = 4096
"""Bytes of a control line; the longest verb needs about a hundred."""

MAX_PEERS: Final = 16
"""Control connections at a time; more than a person and a benchmark have."""


def status(gateway: Gateway) -> dict[str, object]:
    """What the gateway has seen, as JSON has it."""
    return {
        "port": gateway.port,
        "listening": gateway.listening,
        "connections": asdict(gateway.connections),
        "clients": sorted(gateway.client_ids),
        "lines": gateway.quotes.by_contract(),
        "ticks": gateway.quotes.sent,
        "requests": len(gateway.requests),
        "historyUsed": gateway.history.used(gateway.clock.monotonic()),
        "historyViolations": gateway.history.violations,
    }


def obey(gateway: Gateway, line: str, quit_: Callable[[], None]) -> str:
    """Run the verb on a line; the answer, without a line end."""
    word = line.strip()
    if word == "status":
        return json.dumps(status(gateway))
    if word == "help":
        return "; ".join(f"{name}: {verb.does}" for name, verb in faults.VERBS.items())
    if word == "quit":
        quit_()
        return "ok"
    try:
        outcome = faults.apply(gateway, word)
    except ValueError as error:
        return f"error: {error}"
    except KeyError as error:
        return f"error: nothing is called {error}"
    return "ok" if outcome is None else f"ok {getattr(outcome, 'execId', outcome)}"


class ControlPeer(asyncio.Protocol):
    """One control connection."""

    def __init__(self, gateway: Gateway, quit_: Callable[[], None], peers: set[ControlPeer]) -> None:
        self._gateway, self._quit, self._peers = gateway, quit_, peers
        self._data = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self.transport = transport
            self._peers.add(self)
            if len(self._peers) > MAX_PEERS:
                transport.close()

    def data_received(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            if line.strip() and self.transport is not None:
                answer = obey(self._gateway, line.decode("utf-8", "replace"), self._quit)
                self.transport.write(answer.encode() + b"\n")
        if len(self._data) > LONGEST_LINE and self.transport is not None:
            self.transport.write(b"error: the line is too long\n")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 asyncio's signature
        self._peers.discard(self)
        self.transport = None


@asynccontextmanager
async def unix_socket(gateway: Gateway, path: str, quit_: Callable[[], None]) -> AsyncIterator[None]:
    """Listen for control lines at `path` (mode 0600), and remove it in the end. A dead socket there is replaced."""
    await _gone(path)
    peers: set[ControlPeer] = set()
    loop = asyncio.get_running_loop()
    before = os.umask(0o177)
    try:
        server = await loop.create_unix_server(lambda: ControlPeer(gateway, quit_, peers), path)
    finally:
        os.umask(before)
    try:
        yield
    finally:
        server.close()
        for peer in list(peers):
            if peer.transport is not None:
                peer.transport.close()
        with suppress(FileNotFoundError):  # from Python 3.13 on the server removes its socket itself
            os.unlink(path)


async def _gone(path: str) -> None:
    """Remove a socket at `path` without a listener. OSError: it has one, or something else is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} exists and is no socket")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), 2.0)
    except (ConnectionError, TimeoutError):
        os.unlink(path)
        return
    writer.close()
    with suppress(OSError):
        await asyncio.wait_for(writer.wait_closed(), 2.0)
    raise FileExistsError(f"{path} is in use by another simulator")


async def standard_input(gateway: Gateway, quit_: Callable[[], None]) -> None:
    """Obey the lines of the standard input until it ends; answers go to the standard output."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            if line.strip():
                print(obey(gateway, line.decode("utf-8", "replace"), quit_), flush=True)
    finally:
        transport.close()
