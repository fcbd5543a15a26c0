"""Clients for the benchmarks: HTTP load, event readers that count, and one that measures each event's age."""

from __future__ import annotations

import json
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

LIMIT = 30.0  # s beyond what a measurement takes


def request(url: str, target: str, headers: str = "") -> tuple[tuple[str, int], bytes]:
    """Where to connect, and a GET of `target` as bytes."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    text = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n"
    return (parts.hostname, parts.port), text.encode()


# --- load -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """Requests answered with 2xx, and seconds."""

    requests: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def load(url: str, connections: int = 16, seconds: int = 1) -> Load:
    """`connections` keep-alive clients request `url` as fast as it answers. Raises RuntimeError for any error."""
    if not shutil.which("wrk"):
        raise RuntimeError("wrk is not installed (Debian: apt-get install wrk)")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + LIMIT).stdout
    done = re.search(r"(\d+) requests in ([\d.]+)s", text)
    if done is None or "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"{url}: {text}")
    return Load(int(done[1]), float(done[2]))


# --- events ---------------------------------------------------------------------------------------------------------


def subscribe(url: str, target: str) -> tuple[socket.socket, bytes]:
    """An event stream's socket behind its response head, and what came with it."""
    address, head = request(url, target)
    sock = socket.create_connection(address, timeout=LIMIT)
    sock.sendall(head)
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(1 << 16)
        if not more:
            raise ConnectionError(f"{url}{target} ended: {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0] + b" ":
        raise ConnectionError(f"{url}{target}: {head!r}")
    return sock, rest


class Readers:
    """Clients that count events and bytes, and look at nothing."""

    def __init__(self, url: str, target: str, clients: int) -> None:
        self.events = 0
        self.octets = 0
        self._selector = selectors.DefaultSelector()
        for _ in range(clients):
            sock, _rest = subscribe(url, target)
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()

    def read(self, seconds: float) -> None:
        """Count from 0 for `seconds`."""
        self.events = self.octets = 0
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 18)
                if not data:
                    raise ConnectionError("a stream ended")
                self.events += data.count(b"data: ")
                self.octets += len(data)


def ages(sock: socket.socket, rest: bytes, seconds: float, burst: int = 1) -> list[float]:
    """s from each packet's sending to the arrival of an event that is at least as new.

    A tick's price is the monotonic time of its sending, its size its number. `burst`: ticks in a packet.
    """
    found: list[float] = []
    before: tuple[float, float] | None = None  # number and time of the last tick received
    begun = time.monotonic()
    sock.settimeout(LIMIT)
    while time.monotonic() < begun + seconds:
        data = sock.recv(1 << 18)
        now = time.monotonic()
        if not data:
            raise ConnectionError("the stream ended")
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            for row in json.loads(line[5:]).get("rows", {}).values():
                sent, number = row.get("last"), row.get("lastSize")
                if not sent or not number or sent < begun:
                    continue
                # packets that were merged into this one arrived with it; they were sent evenly since the one before
                missed = max(1, round((number - before[0]) / burst)) if before else 1
                since = before[1] if before else sent
                found += [now - (since + (sent - since) * n / missed) for n in range(1, missed + 1)]
                before = (number, sent)
    if not found:
        raise RuntimeError("no tick arrived")
    return found


def median_age(url: str, target: str, seconds: float = 0.8, burst: int = 1) -> float:
    sock, rest = subscribe(url, target)
    with sock:
        ages(sock, rest, 0.2, burst)
        return statistics.median(ages(sock, b"", seconds, burst))
