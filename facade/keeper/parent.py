"""The small parent: keeps the listening socket and one child that serves it, and replaces the child unnoticed.

Standard library only, so that it costs next to nothing. The first child reads the settings, binds and hands the socket
up; a new one serves before the old one stops. Knows nothing of HTTP or of the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facade.keeper.handover import WINDOWS, Line, spawn
from facade.keeper.whereabouts import LOCK_FILE, REQUEST_FILE, STATE_FILE, locked, say, write_whole

START_LIMIT = 20.0
"""s for a new child to serve; a cold Python on a slow disk takes a few."""
LEAVE_LIMIT = 3.0
"""s for a child to answer what is on its way and go; then it is killed."""
AGAIN_FIRST, AGAIN_MOST = 0.1, 5.0
"""s before a child that died is replaced, doubling while its successors die too."""
STEADY = 30.0
"""s of serving after which a death counts as the first again."""
LOOK_EVERY = 0.25
"""s between looks at the request file where there are no signals (Windows), and at children that are to end."""

COMMAND = (sys.executable, "-m", "facade", "serve")


class Child:
    """One serving process."""

    def __init__(self, process: subprocess.Popen[bytes], line: Line, now: float) -> None:
        self.process = process
        self.line: Line | None = line
        self.since = now
        self.serving = False
        self.complete = False
        self.leaving: float | None = None

    def leave(self, now: float) -> None:
        """End the conversation: the child answers what is on its way and goes."""
        if self.line is not None:
            self.line.close()
            self.line = None
        if self.leaving is None:
            self.leaving = now


class Keeper:
    """The listening sockets, and the child that serves them."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        self.listeners = listeners
        self.activated = bool(listeners)
        self.children: list[Child] = []
        self.generation = 0
        self.failures = 0
        self.stopping = False
        self.restart_wanted = False
        self.status = 0
        self._state_dir: Path | None = None
        self._lock: int | None = None
        self._address = ""
        self._wait = AGAIN_FIRST
        self._due: float | None = 0.0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Until a signal, or until the first child cannot serve. The exit status."""
        with _signals(self) as woken:
            self._selector.register(woken, selectors.EVENT_READ)
            try:
                while not self._ended():
                    self._turn(woken)
            finally:
                self._close()
        return self.status

    # --- one turn ---

    def _turn(self, woken: socket.socket) -> None:
        now = time.monotonic()
        if self._due is not None and now >= self._due and not self.stopping:
            self._due = None
            self._start(now)
        for key, _ in self._selector.select(self._patience(now)):
            if key.fileobj is woken:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
            else:
                self._hear(key.data)
        now = time.monotonic()
        self._look_for_request()
        if self.restart_wanted and not self.stopping and not self._starting():
            self.restart_wanted = False
            self._start(now)
        if self.stopping:
            for child in self.children:
                self._let_go(child, now)
        for child in tuple(self.children):
            self._look_after(child, now)

    def _patience(self, now: float) -> float | None:
        if WINDOWS or any(child.leaving is not None or not child.serving for child in self.children):
            return LOOK_EVERY
        return None if self._due is None else max(0.0, self._due - now)

    def _ended(self) -> bool:
        return self.stopping and not self.children

    def _starting(self) -> bool:
        return any(not child.serving and child.leaving is None for child in self.children)

    def _start(self, now: float) -> None:
        command = [*COMMAND, "--activated"] if self.activated else [*COMMAND]
        process, line = spawn(command, self.listeners)
        line.sock.setblocking(False)
        child = Child(process, line, now)
        self.children.append(child)
        self._selector.register(line.sock, selectors.EVENT_READ, child)

    # --- children ---

    def _hear(self, child: Child) -> None:
        if child.line is None:
            return
        heard = child.line.hear()
        if heard is None:
            self._selector.unregister(child.line.sock)
            child.line.close()
            child.line = None
            return
        for message in heard:
            if "given" in message:
                self._adopt(message["given"])
            if "stateDir" in message:
                self._address = message["address"]
                self._claim(Path(message["stateDir"]))
            if message.get("serving"):
                child.serving = True
                child.since = time.monotonic()
                self.generation += 1
                for other in self.children:
                    if other is not child and other.serving:
                        self._let_go(other, child.since)
            child.complete = child.complete or bool(message.get("complete"))
            self._write()

    def _adopt(self, listeners: list[socket.socket]) -> None:
        """The sockets that a child has bound; earlier ones, of other settings, are closed with their last child."""
        for listener in self.listeners:
            listener.close()
        self.listeners = listeners

    def _let_go(self, child: Child, now: float) -> None:
        if child.line is not None:
            self._selector.unregister(child.line.sock)
        child.leave(now)

    def _look_after(self, child: Child, now: float) -> None:
        status = child.process.poll()
        if status is None:
            limit = LEAVE_LIMIT if child.leaving is not None else START_LIMIT
            since = child.leaving if child.leaving is not None else child.since
            if (child.leaving is not None or not child.serving) and now - since > limit:
                child.process.kill()
            return
        self._let_go(child, now)
        self.children.remove(child)
        if self.stopping:
            return
        if any(other.serving for other in self.children):
            if not child.serving:  # a replacement that could not serve: the old one goes on
                self.failures += 1
                self._write()
            return
        if self._starting():
            return
        if not self.generation:  # it never worked; its own words are on the terminal
            self.status = status if status > 0 else 1
            self.stopping = True
            return
        self._wait = AGAIN_FIRST if now - child.since > STEADY else min(AGAIN_MOST, self._wait * 2)
        self._due = now + self._wait

    # --- how it is found ---

    def _claim(self, state_dir: Path) -> None:
        """Be the facade that `restart` finds in this state directory."""
        if self._state_dir == state_dir:
            return
        self._release()
        self._state_dir = state_dir
        self._lock = locked(state_dir / LOCK_FILE)
        if self._lock is None:
            say(f"WARNING:  Another facade is kept for {state_dir}; restart_facade will restart that one.")

    def _write(self) -> None:
        if self._lock is None or self._state_dir is None:
            return
        serving = [child for child in self.children if child.serving and child.leaving is None]
        state = {
            "keeper": os.getpid(),
            "child": serving[-1].process.pid if serving else None,
            "address": self._address,
            "generation": self.generation,
            "complete": bool(serving) and serving[-1].complete,
            "failures": self.failures,
        }
        path = self._state_dir / STATE_FILE
        try:
            write_whole(path, json.dumps(state).encode())
        except OSError as error:  # a full disk: serving goes on, only the restart command waits in vain
            say(f"WARNING:  {path} cannot be written: {error.strerror}")

    def _look_for_request(self) -> None:
        if self._lock is None or self._state_dir is None:
            return
        request = self._state_dir / REQUEST_FILE
        if request.exists():
            request.unlink(missing_ok=True)
            self.restart_wanted = True

    def _release(self) -> None:
        if self._lock is not None and self._state_dir is not None:
            (self._state_dir / STATE_FILE).unlink(missing_ok=True)
            os.close(self._lock)
        self._lock = None

    def _close(self) -> None:
        for child in self.children:
            child.process.kill()
            child.process.wait()
        self._release()
        self._selector.close()
        for listener in self.listeners:
            listener.close()


@contextlib.contextmanager
def _signals(keeper: Keeper) -> Iterator[socket.socket]:
    """Signals wake the selector; what they ask is noted."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)

    def stop(_number: int, _frame: Any) -> None:
        keeper.stopping = True

    def restart(_number: int, _frame: Any) -> None:
        keeper.restart_wanted = True

    wanted: dict[str, Any] = {"SIGTERM": stop, "SIGINT": stop, "SIGBREAK": stop, "SIGHUP": restart}
    wanted["SIGCHLD"] = lambda _number, _frame: None
    before = {}
    for name, respond in wanted.items():
        number = getattr(signal, name, None)
        if number is not None:
            before[number] = signal.signal(number, respond)
    waker = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(waker)
        for number, respond in before.items():
            signal.signal(number, respond)
        woken.close()
        wake.close()


def keep(environ: Mapping[str, str]) -> int:
    """Run the keeper until it is stopped. systemd's sockets are taken where there are any."""
    return Keeper(activated(environ)).run()


def activated(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd hands over, if they are meant for this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return [socket.socket(fileno=3 + number) for number in range(int(environ.get("LISTEN_FDS", "0")))]
