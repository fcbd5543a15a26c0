"""The whole chain under abuse: a simulated gateway in a thread, daemon and facade as processes, and what each holds.

Blocking sockets throughout: no HTTP library stands between a test and the bytes it means.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import psutil

from daemon.simulator import Gateway, World
from tests.ports import free_port
from tests.waiting import until_now

ROOT = Path(__file__).resolve().parents[2]
WITNESS = Path(__file__).parent / "witness"

LIMIT = 30.0
"""s for anything here to come true; only ends a test that would hang."""

SERVED = 1.0
"""s within which a good client is served whatever others do."""

CHANCES = 3
"""Good clients that ask one after the other: one that is late is the machine, three are a hang."""

GROWTH = 40e6
"""bytes of resident memory that an attack may leave behind: arenas (20 MB where the daemon has just started)."""

HELLO = b'{"jsonrpc":"2.0","id":0,"method":"hello","params":{"protocol":1,"client":"test/1"}}\n'

HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


def unix(path: str, timeout: float = LIMIT) -> socket.socket:
    """A connection to the daemon. A blocking one waits its turn in the daemon's queue where others get EAGAIN."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *divmod(int(timeout * 1e6), 10**6)))
    try:
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise TimeoutError from None
    except OSError:
        sock.close()
        raise
    sock.settimeout(timeout)
    return sock


class Simulated:
    """A gateway in a loop and a thread of its own, so that it goes on whatever a test waits for."""

    def __init__(self, world: World | None = None, **options: Any) -> None:
        self.gateway: Gateway
        self._world, self._options = world, options
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        async with Gateway(self._world or World(seed=7), **self._options) as self.gateway:
            self._up.set()
            await self._ended.wait()

    def __enter__(self) -> Simulated:
        self._thread.start()
        assert self._up.wait(LIMIT)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(LIMIT)

    def do(self, act: Callable[[Gateway], Any]) -> Any:
        """`act` in the gateway's own loop."""

        async def acted() -> Any:
            return act(self.gateway)

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(LIMIT)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_guarded(self) -> None:
        """Every answer, whoever refused: our headers, no `Server`, nothing for another origin."""
        for name, value in HEADERS.items():
            assert self.headers.get(name) == value, (name, self.headers)
        assert self.headers["content-security-policy"].startswith("default-src 'self'")
        assert self.headers["cache-control"] in ("no-store", "no-cache")
        assert not [name for name in self.headers if name == "server" or name.startswith("access-control-")]

    def refuses(self, status: int, *reasons: str) -> None:
        """A problem of RFC 9457 and nothing else: one of `reasons`, and no data."""
        self.is_guarded()
        assert self.status == status, (self.status, self.body[:300])
        assert self.headers["content-type"] == "application/problem+json"
        if self.body:
            assert self.json["status"] == status
            assert self.json["reason"] in reasons, self.json
            assert "data" not in self.json
            assert len(self.body) < 4096


def answer_of(sock: socket.socket, method: str = "GET") -> Answer:
    """The next answer on `sock`; of a stream, which has no end, the head."""
    response = HTTPResponse(sock, method=method)
    try:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        endless = headers.get("content-type", "").startswith("text/event-stream")
        return Answer(response.status, headers, b"" if endless else response.read())
    finally:
        response.close()


@dataclass(frozen=True)
class Weight:
    """What daemon and serving child hold: descriptors, tasks by name, resident bytes."""

    descriptors: dict[str, int]
    tasks: dict[str, Counter[str]]
    memory: dict[str, int]


NUMBERS = re.compile(r"\d+")


class Chain:
    def __init__(self, directory: Path, simulated: Simulated, **settings: str) -> None:
        self.directory = directory
        self.simulated = simulated
        self.port = free_port()
        self.token = ""
        self.trouble_seen: list[str] = []
        """What `trouble` was at the end."""
        self.broken = False
        """What an attack must leave as it was is not so, or is not known to be."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (directory / "none.env").touch()
        (directory / "run").mkdir(mode=0o700)
        self.socket = str(directory / "run" / "d.sock")
        self.state = Path(settings.get("IBKR_STATE_DIR", directory / "state"))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
        self.environ = clean | {
            "PYTHONPATH": os.pathsep.join((str(WITNESS), str(ROOT))),
            "PYTHONWARNINGS": "default::ResourceWarning",
            "LINK_TEST_WITNESS": str(directory),
            "IBKR_ENV_FILE": str(directory / "none.env"),
            "IBKR_AUTO_CONNECT": "true",
            "IBKR_PORT": str(simulated.gateway.port),
            "IBKR_FACADE_PORT": str(self.port),
            "IBKR_SOCKET": self.socket,
            "IBKR_STATE_DIR": str(self.state),
            "IBKR_LOG_FORMAT": "json",
            **settings,
        }
        self.process_options: dict[str, Any] = {"cwd": directory}

    # processes

    def start(self, name: str) -> subprocess.Popen[bytes]:
        self.processes[name] = process = self.run(name, self.directory / f"{name}.out")
        return process

    def run(self, name: str, output: Path, **settings: str) -> subprocess.Popen[bytes]:
        with output.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", name],
                env=self.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                **self.process_options,
            )

    def up(self) -> Chain:
        """Both processes, connected, and everything loaded that the first question loads."""
        for name in ("daemon", "facade"):
            self.start(name)
        self.is_connected()
        until_now(lambda: self.child)
        for path in (
            "/metrics",
            "/docs",
            "/api/ibkr/openapi.json",
            "/api/ibkr/executions?since=2020-01-01T00:00:00Z",
            "/api/ibkr/link/events?since=2020-01-01T00:00:00Z",
        ):
            self.get(path)
        return self

    def down(self) -> None:
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def daemon(self) -> psutil.Process:
        return psutil.Process(self.processes["daemon"].pid)

    @property
    def child(self) -> psutil.Process:
        """The facade's serving process, as its keeper has written it down."""
        pid = json.loads((self.state / "facade.json").read_text())["child"]
        if pid is None:
            raise ProcessLookupError("no child is serving")
        return psutil.Process(pid)

    # good clients

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(self, method: str, path: str, *lines: str, body: bytes | None = None, close: bool = True) -> bytes:
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.authority}", *lines]
        if self.token:
            head.append(f"Authorization: Bearer {self.token}")
        if body is not None:
            head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        if close:
            head.append("Connection: close")
        return "\r\n".join([*head, "", ""]).encode() + (body or b"")

    def dial(self, timeout: float = LIMIT) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, raw: bytes, method: str = "GET", timeout: float = LIMIT) -> Answer:
        """What these very bytes are answered, first."""
        with self.dial(timeout) as sock:
            try:
                sock.sendall(raw)
            except ConnectionError:
                pass  # the peer closed before it read the rest; its answer stands
            return answer_of(sock, method)

    def get(self, path: str, timeout: float = LIMIT) -> Answer:
        return self.send(self.request("GET", path), timeout=timeout)

    def post(self, path: str, body: bytes = b"{}") -> Answer:
        return self.send(self.request("POST", path, body=body))

    def link(self) -> dict[str, Any]:
        return dict(self.get("/api/ibkr/link").json)

    def is_connected(self) -> dict[str, Any]:
        try:
            return dict(until_now(lambda: (link := self.link())["connected"] and link))
        except AssertionError:
            said = "\n".join(self.lines()[-30:])
            raise AssertionError(f"the link is not ready\n{said}") from None

    def served(self) -> None:
        """A good client of either door gets its answer in time."""
        for chance in range(CHANCES):
            try:
                answer = self.get("/api/ibkr/status", SERVED)
                assert (answer.status, answer.json) == (200, {"connected": True, "available": True})
                assert self.ask("ping", timeout=SERVED) == {}
                return
            except TimeoutError:
                if chance == CHANCES - 1:
                    raise

    def talk(self, timeout: float = LIMIT) -> Talk:
        return Talk(self.socket, timeout)

    def ask(self, method: str, timeout: float = LIMIT, **params: Any) -> Any:
        with self.talk(timeout) as talk:
            talk.hello()
            return talk.call(method, **params)

    # what it holds

    def tasks(self, process: psutil.Process) -> Counter[str]:
        names_file = self.directory / f"{process.pid}.tasks"
        names_file.unlink(missing_ok=True)
        process.send_signal(signal.SIGVTALRM)
        names = json.loads(until_now(lambda: names_file.exists() and names_file.read_text(), "the loop does not turn"))
        # asyncio numbers the nameless; connections and requests are numbered too
        return Counter(NUMBERS.sub("#", name) for name in names)

    def weight(self) -> Weight:
        processes = {"daemon": self.daemon, "facade": self.child}
        return Weight(
            {name: process.num_fds() for name, process in processes.items()},
            {name: self.tasks(process) for name, process in processes.items()},
            {name: process.memory_info().rss for name, process in processes.items()},
        )

    def outgoing(self) -> set[tuple[str, int]]:
        """Whom daemon and serving child have dialled over TCP, as far as a connection stands or is tried."""
        found = set()
        for process in (self.daemon, self.child):
            for connection in process.net_connections("inet"):
                if connection.raddr and connection.laddr.port != self.port:
                    found.add((connection.raddr.ip, connection.raddr.port))
        return found

    # what it says

    def lines(self) -> list[str]:
        """What both have said, on the terminal and in their files."""
        files = [*self.directory.glob("*.out"), *self.state.glob("logs/*")]
        return [line for file in sorted(files) for line in file.read_bytes().decode("utf-8").split("\n") if line]

    def trouble(self) -> list[str]:
        """Lines that no attack may cause: faults of ours, tracebacks, what was never closed or awaited."""
        signs = ('"ERROR"', '"CRITICAL"', "Traceback", "ResourceWarning", "never awaited", "rpc.fault", "facade.fault")
        lines = self.lines()
        found = [number for number, line in enumerate(lines) if any(sign in line for sign in signs)]
        return ["\n".join(lines[number : number + 30]) for number in found]

    def logs_no_secret(self) -> None:
        """No full account id and no token, wherever anything was written down."""
        secrets = {*self.simulated.gateway.world.managed, *filter(None, [self.token])}
        said = "\n".join(self.lines())
        assert said
        assert not [secret for secret in secrets if secret in said]


class Talk:
    """One conversation on the daemon's socket."""

    def __init__(self, path: str, timeout: float = LIMIT) -> None:
        self.sock = unix(path, timeout)
        self._file = self.sock.makefile("rb")
        self._number = 0

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def say(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def receive(self) -> dict[str, Any] | None:
        """The next message; `None` at the end."""
        try:
            line = self._file.readline()
        except ConnectionError:
            return None
        return json.loads(line) if line else None

    def hello(self) -> dict[str, Any]:
        self.say(HELLO)
        welcome = self.receive()
        assert welcome is not None
        return dict(welcome["result"])

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        self.say(
            json.dumps({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}).encode() + b"\n"
        )
        while True:
            said = self.receive()
            assert said is not None, "the end came before the answer"
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]


@contextmanager
def chain(
    directory: Path | None = None, *, up: bool = True, gateway: dict[str, Any] | None = None, **settings: str
) -> Iterator[Chain]:
    """The chain, connected. `directory`: where it may write; a short path of its own, for the socket's sake."""
    own = Path(tempfile.mkdtemp(prefix="abuse-")) if directory is None else directory
    try:
        with Simulated(**{"tick_rate": 0.0, **(gateway or {})}) as simulated:
            built = Chain(own, simulated, **settings)
            try:
                yield built.up() if up else built
            finally:
                built.down()
                built.trouble_seen = built.trouble()
            built.logs_no_secret()
    finally:
        if directory is None:
            shutil.rmtree(own, ignore_errors=True)
