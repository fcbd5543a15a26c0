"""Row 7: resident memory with 25 positions, and what an idle event stream costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from load import load
from processes import Stack, peer, stack, subscribe
from report import Figure, at_most

MB = 1e6
STREAMS = 200
"""Enough that one stream's cost is well above the noise of the whole process; 256 is the most a facade serves."""
LIMIT = 10.0


def _idle_streams(ours: Stack, number: int) -> tuple[int, int]:
    """Resident bytes of the serving child without and with `number` idle streams of the page's usual topics."""
    before = max(ours.facade.memory())
    with contextlib.ExitStack() as open_ones:
        for _ in range(number):
            sock, data = subscribe(ours.url, "/api/ibkr/events?topics=link,positions,orders,pnl")
            open_ones.enter_context(sock)
            ends = time.monotonic() + LIMIT
            while data.count(b'"complete":true') < 1 and time.monotonic() < ends:
                data += sock.recv(1 << 18)
        after = max(ours.facade.memory())
    return before, after


def run(rounds: int) -> Iterator[Figure]:
    daemon, child, parent, used, stream, other = [], [], [], [], [], []
    for _ in range(min(rounds, 3)):  # memory hardly varies
        with stack() as ours, peer(ours.gateway_port) as (beside, _url):
            daemon.append(ours.daemon.memory()[0] / MB)
            keeper, *children = ours.facade.memory()
            parent.append(keeper / MB)
            child.append(max(children) / MB)
            other.append(beside.memory()[0] / MB)
            before, after = _idle_streams(ours, STREAMS)
            stream.append((after - before) / STREAMS / 1000)
            load(f"{ours.url}/api/ibkr/positions", seconds=2)
            used.append(max(ours.facade.memory()) / MB)
    yield Figure("7", "daemon, resident", "≤ 50 MB", daemon, at_most(50, daemon), "MB")
    yield Figure("7", "facade's serving child, resident", "≤ 42 MB", child, at_most(42, child), "MB")
    yield Figure("7", "the same after 200 streams and 2 s of load", "", used, unit="MB")
    yield Figure("7", "facade's parent, resident", "≤ 15 MB", parent, at_most(15, parent), "MB")
    yield Figure("7", "an idle event stream", "≤ 13 KB", stream, at_most(13, stream), "KB")
    yield Figure("7", "FastAPI peer, resident", "", other, unit="MB")
