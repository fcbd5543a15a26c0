"""Row 6: events to 100 clients beside the floor: as many bytes sent raw, once to each. Both on asyncio's own loop."""

from __future__ import annotations

import contextlib
import selectors
import socket
import statistics
import time
from collections.abc import Iterator

from processes import HERE, Pace, Process, free_port, python, ratio, stack, subscribe, until
from report import Figure, at_least, at_most
from ticks import EVENTS, Side, latencies

CLIENTS = 100
SECONDS = 2.0
RATES = (100, 300)  # ticks a second, each an event of its own for every client
STALLED = 10


class Readers:
    """Clients that only count what they get."""

    def __init__(self, url: str, target: str, clients: int) -> None:
        self.events = 0
        self.octets = 0
        self._selector = selectors.DefaultSelector()
        for _ in range(clients):
            sock, _rest = subscribe(url, target)
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ)

    def read(self, seconds: float) -> None:
        self.events = self.octets = 0
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                data = key.fileobj.recv(1 << 16)
                if not data:
                    raise ConnectionError("a stream ended")
                self.events += data.count(b"\ndata:")
                self.octets += len(data)

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


TRIES = 3


def cpu_an_event(process: Process, url: str, target: str, rate: float) -> tuple[float, int]:
    """s of processor time an event and client, and bytes of an event.

    Tried again where the machine had no time for us: then events are merged, and another thing is measured.
    """
    for _ in range(TRIES):
        used, events, octets = _read(process, url, target)
        if events > 0.8 * rate * CLIENTS * SECONDS:
            return used / events, octets // events
    raise RuntimeError(f"only {events} events came from {url}{target}")


def _read(process: Process, url: str, target: str) -> tuple[float, int, int]:
    readers = Readers(url, target, CLIENTS)
    try:
        readers.read(1.0)  # snapshots and first ticks
        before = process.cpu()
        readers.read(SECONDS)
        used = process.cpu() - before
    finally:
        readers.close()
    return used, readers.events, readers.octets


def _beside_the_floor(rate: int, rounds: int) -> Figure:
    """Processor time an event and client: what remains of a second when many listen."""
    raw, mine, again = [], [], []
    with stack(pace=Pace(rate)) as ours:
        _, size = cpu_an_event(ours.facade, ours.url, EVENTS, rate)
        port = free_port()
        floor = python("floor", str(HERE / "floor.py"), str(port), str(rate), str(size))
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
            for _ in range(rounds):
                raw.append(cpu_an_event(floor, url, "/", rate)[0])
                mine.append(cpu_an_event(ours.facade, ours.url, EVENTS, rate)[0])
                again.append(cpu_an_event(floor, url, "/", rate)[0])
        finally:
            floor.stop()
    ratios = ratio(raw, mine)
    times = f"{statistics.median(mine) * 1e6:.1f} µs to {statistics.median(raw) * 1e6:.1f} µs"
    what = f"{rate} events/s to each of {CLIENTS} clients ÷ raw send floor, by CPU an event of {size} B ({times})"
    return Figure("6", what, "≥ 0.8", ratios, at_least(0.8, ratios), "×", ratio(raw, again))


@contextlib.contextmanager
def stalled(url: str) -> Iterator[None]:
    """Clients that ask for everything and read nothing."""
    with contextlib.ExitStack() as open_ones:
        for _ in range(STALLED):
            sock, _rest = subscribe(url, EVENTS)
            open_ones.enter_context(sock)
        yield


def _p50(side: Side) -> float:
    sock, rest = subscribe(side.url, side.target)
    with sock:
        return statistics.median(latencies(sock, rest, SECONDS))


def _beside_the_stalled(rounds: int) -> Figure:
    quiet, crowded, again = [], [], []
    with stack(pace=Pace(RATES[0])) as ours:
        side = Side(ours.url, EVENTS, ours.facade, ours.gateway)
        for _ in range(rounds):
            quiet.append(_p50(side))
            with stalled(ours.url):
                crowded.append(_p50(side))
            again.append(_p50(side))
    ratios = ratio(crowded, quiet)
    what = f"p50 of an event beside {STALLED} clients that do not read ÷ without them"
    return Figure("6", what, "≤ 1.2", ratios, at_most(1.2, ratios), "×", ratio(again, quiet))


def run(rounds: int) -> Iterator[Figure]:
    for rate in RATES:
        yield _beside_the_floor(rate, rounds)
    yield _beside_the_stalled(rounds)
