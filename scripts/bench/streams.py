"""Row 6: events to 100 clients beside the floor: the same bytes sent raw, once to each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from processes import HERE, free_port, python, stack
from report import Figure, at_least

CLIENTS = 100
SECONDS = 3.0
TICKS = 400  # a second on the one line: each is an event of its own for every client


@dataclass
class Readers:
    """Clients that only count what they get."""

    counts: list[int] = field(default_factory=list)
    octets: int = 0

    async def run(self, host: str, port: int, request: bytes, clients: int, seconds: float) -> float:
        """Events a second over all clients, each `data:` an event."""
        self.counts = [0] * clients
        links = [await asyncio.open_connection(host, port) for _ in range(clients)]
        for _reader, writer in links:
            writer.write(request)
        await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in links))
        await asyncio.sleep(1)
        begun = time.perf_counter()
        tasks = [
            asyncio.create_task(self._read(number, reader), name=f"reader {number}")
            for number, (reader, _) in enumerate(links)
        ]
        self.counts = [0] * clients
        await asyncio.sleep(seconds)
        taken = time.perf_counter() - begun
        total = sum(self.counts)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _reader, writer in links:
            writer.transport.abort()
        return total / taken

    async def _read(self, number: int, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(1 << 16):
            self.counts[number] += data.count(b"\ndata:")
            self.octets += len(data)


def _cpu_per_event(process, url: str, target: str) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    before = process.cpu()
    rate = asyncio.run(Readers().run(parts.hostname, parts.port, request, CLIENTS, SECONDS))
    return rate, (process.cpu() - before) / max(1.0, rate * SECONDS)


def run(rounds: int) -> Iterator[Figure]:
    """Processor time an event and client: what remains of a second when many listen."""
    ratios, control = [], []
    con_id = 265598
    with stack(tick_rate=TICKS) as ours:
        assert ours.facade is not None
        port = free_port()
        floor = python("floor", str(HERE / "floor.py"), str(port), str(TICKS))
        url = f"http://127.0.0.1:{port}"
        time.sleep(1)
        try:
            for _ in range(min(rounds, 12)):
                _rate, raw = _cpu_per_event(floor, url, "/")
                _rate, mine = _cpu_per_event(ours.facade, ours.url, f"/api/ibkr/events?topics=quotes:{con_id}")
                _rate, again = _cpu_per_event(floor, url, "/")
                ratios.append(raw / mine)
                control.append(raw / again)
        finally:
            floor.stop()
    yield Figure(
        "6", f"events to {CLIENTS} clients ÷ raw send floor", "≥ 0.8", ratios, at_least(0.8, ratios), "×", control
    )
