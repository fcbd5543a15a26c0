"""Rows 4 and 5: the way of a tick from the gateway to an event client, and the daemon's processor time a tick."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from processes import HERE, Process, free_port, get, python, stack, until
from report import Figure, at_most

RATES = (100, 1000)  # ticks a second, all lines together
CON_ID = 265598
SECONDS = 3.0


async def _latencies(url: str, target: str, seconds: float) -> list[float]:
    """s from each marked tick's sending (its last price is the sender's monotonic clock) to its arrival here."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    found: list[float] = []
    ends = time.monotonic() + seconds + 1
    warm = time.monotonic() + 1
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + 5):
            while time.monotonic() < ends:
                line = await reader.readline()
                now = time.monotonic()
                if line.startswith(b"data:") and now > warm:
                    rows = json.loads(line[5:])["rows"].values()
                    found += [now - row["last"] for row in rows if row and row.get("last")]
    writer.transport.abort()
    return found


def _p50(url: str, target: str) -> float:
    found = asyncio.run(_latencies(url, target, SECONDS))
    if not found:
        raise RuntimeError(f"no tick came from {url}{target}")
    return statistics.median(found)


@contextlib.contextmanager
def _alone(gateway_port: int) -> Iterator[tuple[Process, str]]:
    """ib_async and an event stream in one process: the least there can be."""
    port = free_port()
    process = python("alone", str(HERE / "peers" / "one_process.py"), str(port), str(gateway_port), str(CON_ID))
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: get(f"{url}/ready") is not None)
        yield process, url
    finally:
        process.stop()


def _latency(rate: int, rounds: int) -> Figure:
    ratios, control, ours_ms = [], [], []
    with stack(tick_rate=rate) as ours, _alone(ours.gateway_port) as (_process, url):
        ours.tell("mark")
        events = f"/api/ibkr/events?topics=quotes:{CON_ID}"
        for _ in range(max(3, rounds // 2)):
            alone = _p50(url, "/events")
            mine = _p50(ours.url, events)
            again = _p50(url, "/events")
            ratios.append(mine / alone)
            control.append(again / alone)
            ours_ms.append(mine * 1000)
    notes = {"ours, ms": statistics.median(ours_ms)}
    what = f"tick → event client at {rate}/s, p50 ÷ one process ({statistics.median(ours_ms):.2f} ms)"
    return Figure("4", what, "≤ 1.3", ratios, at_most(1.3, ratios), "×", control, notes)


def _cpu(rate: int, rounds: int) -> Figure:
    """Both sessions see the same ticks at the same time; a reader of ours keeps the line."""
    ratios = []
    with stack(tick_rate=rate) as ours, _alone(ours.gateway_port) as (alone, _url):
        assert ours.daemon is not None
        parts = urlsplit(ours.url)
        request = f"GET /api/ibkr/events?topics=quotes:{CON_ID} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()

        async def reading(seconds: float) -> float:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1)
            assert ours.daemon is not None
            mine, theirs = ours.daemon.cpu(), alone.cpu()
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                await reader.read(1 << 16)
            ratio = (ours.daemon.cpu() - mine) / max(1e-6, alone.cpu() - theirs)
            writer.transport.abort()
            return ratio

        ratios = [asyncio.run(reading(SECONDS)) for _ in range(rounds)]
    return Figure("5", f"daemon CPU a tick ÷ ib_async alone at {rate}/s", "≤ 1.25", ratios, at_most(1.25, ratios), "×")


def run(rounds: int) -> Iterator[Figure]:
    for rate in RATES:
        yield _latency(rate, rounds)
    for rate in RATES:
        yield _cpu(rate, rounds)
