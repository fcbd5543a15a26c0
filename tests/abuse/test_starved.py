"""What the machine does to the processes: stopped, without descriptors, a clock that jumps. The session stays."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import pytest

from tests.abuse.chain import HELLO, Chain, answer_of, chain, unix
from tests.waiting import until_now

SPARE = 3
"""Descriptors that are left: less than the crowd that comes."""

CROWD = 30


@pytest.fixture(scope="module")
def whole() -> Iterator[Chain]:
    with chain(IBKR_PROBE_INTERVAL="2", IBKR_PROBE_TIMEOUT="2") as built:
        yield built


def count(attacked: Chain, event: str) -> int:
    """How often the log says so, on the terminal."""
    outs = [file.read_text() for file in attacked.directory.glob("*.out")]
    return sum(f'"event":"{event}"' in line for out in outs for line in out.splitlines())


@contextmanager
def few_descriptors(process: psutil.Process) -> Iterator[None]:
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + SPARE, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, before)


def test_a_facade_without_descriptors_serves_those_it_has(attacked: Chain) -> None:
    request = attacked.request("GET", "/api/ibkr/status", close=False)
    with attacked.dial() as kept:
        kept.sendall(request)
        assert answer_of(kept).status == 200
        with few_descriptors(attacked.child):
            crowd = [attacked.dial() for _ in range(CROWD)]
            until_now(lambda: count(attacked, "facade.starved"), "it was not said")
            kept.sendall(request)
            assert answer_of(kept).json == {"connected": True, "available": True}
            assert attacked.ask("link.get")["connected"] is True
        for sock in crowd:
            sock.sendall(request)
            assert answer_of(sock).status == 200
            sock.close()
    until_now(lambda: count(attacked, "facade.accepting"))
    assert (count(attacked, "facade.starved"), count(attacked, "facade.accepting")) == (1, 1)
    attacked.served()


def test_a_daemon_without_descriptors_serves_those_it_has(attacked: Chain) -> None:
    with few_descriptors(attacked.daemon):
        crowd = [unix(attacked.socket) for _ in range(CROWD)]
        until_now(lambda: count(attacked, "socket.starved"), "it was not said")
        assert attacked.get("/api/ibkr/status").json == {"connected": True, "available": True}
        assert attacked.get("/api/ibkr/link/events").status == 200
    for sock in crowd:
        sock.sendall(HELLO)
        assert b'"result"' in sock.recv(4096)
        sock.close()
    until_now(lambda: count(attacked, "socket.accepting"))
    assert (count(attacked, "socket.starved"), count(attacked, "socket.accepting")) == (1, 1)
    attacked.served()


def test_a_stopped_daemon_is_unreachable_and_comes_back_with_its_session(attacked: Chain) -> None:
    attacked.daemon.send_signal(signal.SIGSTOP)
    try:
        until_now(lambda: attacked.get("/api/ibkr/status").json == {"connected": False, "available": False})
        attacked.get("/api/ibkr/positions").refuses(503, "daemonUnreachable")
        attacked.get("/api/ibkr/quotes?conIds=1").refuses(503, "daemonUnreachable")
        attacked.post("/api/ibkr/reconnect").refuses(503, "daemonUnreachable")
        assert attacked.get("/api/ibkr/positions?allowStale=true").json["meta"]["stale"] is True
        assert attacked.get("/livez").status == 200
        assert attacked.get("/readyz").status == 503
    finally:
        attacked.daemon.send_signal(signal.SIGCONT)
    attacked.is_connected()


def test_a_stopped_facade_does_not_touch_the_session(attacked: Chain) -> None:
    gateway = attacked.simulated
    with attacked.dial() as reader:
        reader.sendall(attacked.request("GET", "/api/ibkr/events?topics=fills"))
        assert answer_of(reader).status == 200
        attacked.child.send_signal(signal.SIGSTOP)
        try:
            fills = [gateway.do(lambda it: it.fill("AAPL", 1)).execId for _ in range(200)]
            until_now(lambda: set(fills) <= {row["execId"] for row in everything(attacked, "executions.list")})
            assert attacked.ask("link.get")["connected"] is True
            waiting = [attacked.dial() for _ in range(CROWD)]
        finally:
            attacked.child.send_signal(signal.SIGCONT)
        said = b""
        while not all(fill.encode() in said for fill in fills):
            said += reader.recv(1 << 20)
        for sock in waiting:
            sock.sendall(attacked.request("GET", "/api/ibkr/status"))
            assert answer_of(sock).status == 200
            sock.close()
    attacked.served()


def everything(attacked: Chain, method: str) -> list[dict[str, str]]:
    """Every page of an answer."""
    rows, params = [], {}
    with attacked.talk() as talk:
        talk.hello()
        while True:
            page = talk.call(method, **params)
            rows += page["rows"]
            if page["next"] is None:
                return rows
            params = {"after": page["next"]}


@pytest.mark.parametrize("seconds", [7200, -7200, 40 * 86400, -40 * 86400])
def test_a_clock_that_jumps_changes_nothing(attacked: Chain, seconds: int) -> None:
    before = attacked.ask("daemon.info")["link"]
    known = {row["execId"] for row in everything(attacked, "executions.list")}

    def jump(seconds: int) -> None:
        (attacked.directory / "jump").write_text(str(seconds))
        jumped_files = {
            process: attacked.directory / f"{process.pid}.jumped" for process in (attacked.daemon, attacked.child)
        }
        for process, file in jumped_files.items():
            file.unlink(missing_ok=True)
            process.send_signal(signal.SIGPROF)
        for file in jumped_files.values():
            until_now(file.exists)

    for there in (seconds, 0):
        jump(there)

        def proven(there: int = there) -> bool:
            """By a proof of the new time."""
            row = attacked.link()
            ahead = datetime.fromisoformat(row["proof"]["at"]) - datetime.now(UTC)
            return bool(row["connected"]) and abs(ahead.total_seconds() - there) < 60

        until_now(proven)
        attacked.served()
        assert attacked.get("/api/ibkr/positions").json["data"]
        assert attacked.get("/api/ibkr/link/events").status == 200
    assert {row["execId"] for row in everything(attacked, "executions.list")} >= known
    assert attacked.ask("daemon.info")["link"]["attempts"] == before["attempts"]
