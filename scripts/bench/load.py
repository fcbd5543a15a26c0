"""Load on one URL from another process: wrk where it is installed, else a bundled asyncio client that says so."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

WRK = shutil.which("wrk")
CLIENT = "wrk" if WRK else "bundled asyncio client (wrk is not installed)"


@dataclass(frozen=True)
class Load:
    """What one round showed: requests answered with 2xx, how many not, seconds, and the median latency in s."""

    requests: int
    errors: int
    seconds: float
    p50: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def load(url: str, connections: int = 16, seconds: float = 2.0) -> Load:
    """`connections` keep-alive clients ask for `url` as fast as they are answered, for `seconds`."""
    return _wrk(url, connections, seconds) if WRK else _bundled(url, connections, seconds)


UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _wrk(url: str, connections: int, seconds: float) -> Load:
    # wrk takes whole seconds only
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    done = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    half = re.search(r"50%\s+([\d.]+)(us|ms|s)", text)
    if done is None or half is None:
        raise RuntimeError(f"wrk said: {text}")
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = int(bad[1]) if bad else 0
    errors += sum(map(int, sockets.groups())) if sockets else 0
    return Load(int(done[1]), errors, float(done[2]) * UNITS[done[3]], float(half[1]) * UNITS[half[2]])


def _bundled(url: str, connections: int, seconds: float) -> Load:
    command = [sys.executable, __file__, url, str(connections), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    return Load(**json.loads(done.stdout))


async def _client(url: str, connections: int, seconds: float) -> Load:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    ends = time.perf_counter() + seconds
    latencies: list[float] = []
    errors = 0

    async def one() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (begun := time.perf_counter()) < ends:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(found[1]) if found else 0)
            if head[9:10] == b"2":
                latencies.append(time.perf_counter() - begun)
            else:
                errors += 1
        writer.close()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(connections):
            tasks.create_task(one(), name=f"client {number}")
    taken = time.perf_counter() - begun
    latencies.sort()
    return Load(len(latencies), errors, taken, latencies[len(latencies) // 2] if latencies else float("nan"))


if __name__ == "__main__":
    result = asyncio.run(_client(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps(result.__dict__))
