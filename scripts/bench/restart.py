"""Row 3: what a facade restart costs its clients and the broker, and how soon a cold facade answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from processes import HERE, ROOT, Stack, free_port, get, python, stack, until
from report import Figure, at_most

RESTARTS = 25
CLIENTS = 16
BETWEEN = 0.3  # s between restarts: long enough for every client to meet both children


@dataclass
class Clients:
    """Half keep-alive, half a connection a request; what each request met."""

    url: str
    met: Counter[str] = field(default_factory=Counter)
    stopped: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._client(keep=number % 2 == 0), name=f"client {number}")

    async def _client(self, *, keep: bool) -> None:
        parts = urlsplit(self.url)
        close = "" if keep else "Connection: close\r\n"
        request = f"GET /api/ibkr/status HTTP/1.1\r\nHost: {parts.netloc}\r\n{close}\r\n".encode()
        link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopped:
            try:
                if link is None:
                    link = await asyncio.open_connection(parts.hostname, parts.port)
                reader, writer = link
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.met["ok" if body == {"connected": True, "available": True} else "wrong"] += 1
                if not keep or b"connection: close" in head.lower():
                    writer.close()
                    link = None
            except ConnectionRefusedError:
                self.met["refused"] += 1
            except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError):
                self.met["reset"] += 1
                link = None


async def _restarts(ours: Stack) -> tuple[Counter[str], int]:
    clients = Clients(ours.url)
    load = asyncio.create_task(clients.run(), name="clients")
    failed = 0
    for _ in range(RESTARTS):
        command = [sys.executable, "-m", "facade", "restart"]
        environ = ours.environ | {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.DEVNULL)
        failed += await done.wait() != 0
        await asyncio.sleep(BETWEEN)
    clients.stopped = True
    await load
    return clients.met, failed


def _first_200(*command: str, url: str, environ: dict[str, str] | None = None) -> float:
    begun = time.perf_counter()
    process = python("cold", *command, environ=environ)
    try:
        until(lambda: get(url) is not None, pause=0.002)
        return time.perf_counter() - begun
    finally:
        process.stop()


def run(rounds: int) -> Iterator[Figure]:
    with stack() as ours:
        before = json.loads(ours.tell("status"))["connections"]["total"]
        met, failed = asyncio.run(_restarts(ours))
        after = json.loads(ours.tell("status"))["connections"]["total"]
        notes = {"requests": met["ok"], "restarts": RESTARTS, "failed restarts": failed}
        for what, value in (
            ("new broker connections", after - before),
            ("refused", met["refused"]),
            ("reset", met["reset"]),
            ("wrong answers", met["wrong"]),
        ):
            told = f"{RESTARTS} restarts under {CLIENTS} clients ({met['ok']} answers): {what}"
            yield Figure("3", told, "0", [value], value == 0, notes=notes)
        ratios, control = [], []
        for _ in range(rounds):
            port = free_port()
            environ = ours.environ | {"IBKR_FACADE_PORT": str(port), "IBKR_STATE_DIR": str(ours.directory / "cold")}
            ports = [free_port(), free_port()]
            bare, again = (
                _first_200(str(HERE / "bare.py"), str(number), url=f"http://127.0.0.1:{number}/") for number in ports
            )
            with contextlib.suppress(FileNotFoundError):
                mine = _first_200("-m", "facade", url=f"http://127.0.0.1:{port}/api/ibkr/status", environ=environ)
            ratios.append(mine / bare)
            control.append(again / bare)
    yield Figure(
        "3", "cold start to the first 200 ÷ bare aiohttp's", "≤ 1.15", ratios, at_most(1.15, ratios), "×", control
    )
