"""What ends a process or denies it something at its start or for good: killed, a full disk, an odd environment."""

from __future__ import annotations

import contextlib
import http.client
import json
import operator
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.abuse.chain import LIMIT, ROOT, Chain, answer_of, chain, unix
from tests.waiting import until_now

KILLS = 5


@contextmanager
def load(built: Chain) -> Iterator[list[str]]:
    """Readers that ask all the time, and one that follows events; what they hold against what was published."""
    ended, complaints = threading.Event(), []

    def ask(path: str) -> None:
        while not ended.is_set():
            try:
                answer = built.get(path, timeout=5)
                if answer.status not in (200, 503):
                    complaints.append(f"{path}: {answer}")
                json.loads(answer.body)
            except (ConnectionError, TimeoutError):
                pass  # it was killed meanwhile
            except Exception as error:
                complaints.append(f"{path}: {error!r}")

    def follow() -> None:
        while not ended.is_set():
            try:
                with built.dial(5) as sock:
                    sock.sendall(built.request("GET", "/api/ibkr/events"))
                    while sock.recv(65536) and not ended.is_set():
                        pass
            except OSError:
                pass

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/api/ibkr/positions", "/api/ibkr/link")]
    threads.append(threading.Thread(target=follow))
    for thread in threads:
        thread.start()
    try:
        yield complaints
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_kill_9_of_either_process_loses_nothing() -> None:
    """Under load: a killed serving child is replaced and the session untouched; a killed daemon leaves nothing in the
    way of the next, and every fill that was shown is still there."""
    random_unit = random.Random(8)
    with chain() as built, load(built) as complaints:
        gateway = built.simulated
        shown: set[str] = set()
        for _ in range(KILLS):
            sessions = gateway.gateway.connections.sessions
            shown.add(gateway.do(lambda it: it.fill("AAPL", random_unit.choice((1, -1)))).execId)
            until_now(lambda: shown <= fills(built))
            if random_unit.random() < 0.5:
                victim = built.child
                os.kill(victim.pid, signal.SIGKILL)
                until_now(lambda gone=victim.pid: built.child.pid != gone)
                built.is_connected()
                assert gateway.gateway.connections.sessions == sessions
            else:
                shown.add(gateway.do(lambda it: it.fill("AAPL", 1)).execId)  # perhaps it is received, perhaps not
                built.processes["daemon"].kill()
                built.processes["daemon"].wait()
                until_now(lambda: built.get("/api/ibkr/status").json["available"] is False)
                built.start("daemon")
                built.is_connected()
                until_now(lambda before=sessions: gateway.gateway.connections.sessions == before + 1)
            assert shown <= until_now(lambda: (now := fills(built)) >= shown and now)
            built.served()
        assert len(built.get("/api/ibkr/positions").json["data"]) == len(gateway.do(lambda it: list(it.world.held())))
        assert gateway.gateway.connections.now == 1
    assert complaints == []
    assert built.trouble_seen == []


def fills(built: Chain) -> set[str]:
    answer = built.get("/api/ibkr/executions")
    return {row["execId"] for row in answer.json["data"]} if answer.status == 200 else set()


CLIENTS = 16
STREAMS = 2
PAUSE = 0.1
"""s between two requests of a client, as a page that polls makes them."""


class Clients:
    """Clients of the facade that keep their connections: some send requests, some read the event stream."""

    def __init__(self, built: Chain) -> None:
        self.built = built
        self.ended = threading.Event()
        self.complaints: list[str] = []
        self.responses = [0] * CLIENTS
        self.events = [b""] * STREAMS
        self._streams = [built.dial() for _ in range(STREAMS)]
        self._threads = [
            *(threading.Thread(target=self._checked, args=(self._request, n)) for n in range(CLIENTS)),
            *(threading.Thread(target=self._checked, args=(self._read_events, n)) for n in range(STREAMS)),
        ]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _checked(self, run: Callable[[int], None], number: int) -> None:
        try:
            run(number)
        except Exception as error:
            self.complaints.append(f"{run.__name__} {number}: {error!r}")

    def _request(self, number: int) -> None:
        path = ("/api/ibkr/status", "/api/ibkr/positions", "/api/ibkr/link", "/api/ibkr/executions")[number % 4]
        connection = http.client.HTTPConnection("127.0.0.1", self.built.port, timeout=LIMIT)
        with contextlib.closing(connection):
            while not self.ended.wait(PAUSE):
                connection.request("GET", path)
                response = connection.getresponse()
                json.loads(response.read())
                assert response.status in (200, 503), response.status
                assert not response.will_close, "the facade closes the connection"
                self.responses[number] += 1

    def _read_events(self, number: int) -> None:
        with self._streams[number] as sock:
            sock.sendall(self.built.request("GET", "/api/ibkr/events", close=False))
            while received := sock.recv(1 << 16):
                self.events[number] += received
            assert self.ended.is_set(), "the stream ended"


def test_a_killed_daemon_costs_neither_serving_process_nor_connection(pytestconfig: pytest.Config) -> None:
    """However often it is killed: no stream and no connection ends, and each daemon's state arrives on them."""
    with chain() as built, Clients(built) as clients:
        child = built.child.pid
        for _ in range(pytestconfig.getoption("--kills")):
            built.processes["daemon"].kill()
            built.processes["daemon"].wait()
            until_now(lambda: built.get("/api/ibkr/status").json == {"connected": False, "available": False})
            pid = built.start("daemon").pid
            built.is_connected()
            until_now(lambda pid=pid: all(f'"pid":{pid},'.encode() in events for events in clients.events))
            before = list(clients.responses)
            until_now(lambda before=before: all(map(operator.gt, clients.responses, before)))
        assert clients.complaints == []
        assert built.child.pid == child
    assert clients.complaints == []
    assert built.trouble_seen == []


def test_a_killed_keeper_leaves_neither_child_nor_port() -> None:
    with chain() as built:
        child, session = built.child, built.is_connected()["session"]
        built.processes["facade"].kill()
        built.processes["facade"].wait()
        child.wait(20)
        built.start("facade")
        assert built.is_connected()["session"] == session
        built.served()
    assert built.trouble_seen == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of two MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a full file system")
    place = Path(tempfile.mkdtemp(prefix="disk-"))
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(place)]):
        place.rmdir()
        pytest.skip("this machine allows no mount")
    try:
        yield place
    finally:
        subprocess.call(["umount", str(place)])
        shutil.rmtree(place)


def test_a_full_disk_costs_neither_link_nor_answers(small_disk: Path) -> None:
    """State and logs cannot be written: one counted warning, what happens is shown all the same, and kept when there
    is room; commands and a new serving child work meanwhile."""
    with chain(IBKR_STATE_DIR=str(small_disk)) as built:
        session = built.is_connected()["session"]
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        gateway = built.simulated
        made = {gateway.do(lambda it: it.fill("AAPL", 1)).execId for _ in range(300)}
        until_now(lambda: made <= fills(built))
        until_now(lambda: "ledger.failing" in (built.directory / "daemon.out").read_text(), "the disk was not full")
        assert built.post("/api/ibkr/reconnect").status == 202
        assert built.is_connected()["session"] == session
        victim = built.child.pid
        os.kill(victim, signal.SIGKILL)  # its successor cannot be written down; it serves
        until_now(lambda: built.get("/api/ibkr/status").json == {"connected": True, "available": True})
        assert made <= fills(built)

        ballast.unlink()
        more = gateway.do(lambda it: it.fill("AAPL", 1)).execId
        until_now(lambda: {*made, more} <= fills(built))
        until_now(lambda: "ledger.working" in (built.directory / "daemon.out").read_text(), "it was not said")
        said = (built.directory / "daemon.out").read_text()
        assert (said.count('"ledger.failing"'), said.count('"ledger.working"')) == (1, 1)
        listed = built.get("/api/ibkr/executions?since=2020-01-01T00:00:00Z").json["data"]
        assert {*made, more} <= {row["execId"] for row in listed}
        assert built.is_connected()["session"] == session


ODD = {
    "ASCII alone": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII, strictly": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"},
    "a locale that is none": {"LC_ALL": "xx_YY.KLINGON", "LANG": "tlh"},
    "a zone that is none": {"TZ": "Nowhere/Atlantis"},
    "another zone": {"TZ": "Pacific/Apia"},
    "an empty environment": {},
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_environment_is_no_obstacle(kind: str) -> None:
    """No HOME, no PATH, umask 0, no terminal, a read-only directory, no locale: it runs, and what it
    writes is its owner's alone."""
    with chain(up=False, IBKR_LOG_FORMAT="console") as built:
        needed = {name: value for name, value in built.environ.items() if name.startswith(("IBKR_", "LINK_TEST_"))}
        state = built.directory / "home-less"
        needed |= {"PYTHONPATH": built.environ["PYTHONPATH"], "XDG_STATE_HOME": str(state)}
        del needed["IBKR_STATE_DIR"]
        built.environ = needed | ODD[kind]
        built.state = state / "ibkr"
        built.process_options = {"cwd": "/", "umask": 0, "start_new_session": True, "close_fds": True}
        built.up().served()
        for path in (built.state, *built.state.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
        said = (built.directory / "daemon.out").read_bytes()
        assert b"Connected to IBKR on port" in said
        if kind.startswith("ASCII"):
            assert said.isascii()
        outputs = [(built.directory / f"{name}.out").read_text("utf-8") for name in ("daemon", "facade")]
    for output in outputs:
        assert "Traceback" not in output
        assert "ERROR" not in output


def test_without_a_terminal_it_runs_too() -> None:
    with chain(up=False) as built:
        closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m"]
        for name in ("daemon", "facade"):
            built.processes[name] = subprocess.Popen([*closed, name], env=built.environ, cwd=ROOT)
        built.is_connected()
        built.served()
        assert "link.connected" in (built.state / "logs" / "daemon.log").read_text()
        with unix(built.socket):
            pass
        with built.dial() as sock:
            sock.sendall(built.request("GET", "/"))
            assert answer_of(sock).status == 200
        assert psutil.Process(built.processes["daemon"].pid).num_fds() < 40
