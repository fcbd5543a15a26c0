"""The keeper: a small parent that holds the listening sockets and replaces the child that serves them without a gap.

Standard library only, to stay small. The first child reads the settings, binds and hands the sockets up; a new child
serves before the old one stops.
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

from facade.keeper.handover import WINDOWS, ParentChannel, spawn
from facade.keeper.state_file import LOCK_FILE, REQUEST_FILE, STATE_FILE, locked, say, unwritable, write_whole

START_TIMEOUT = 20.0
"""s for a new child to serve; a cold Python on a slow disk takes a few."""
RETIRE_TIMEOUT = 3.0
"""s for a retired child to answer the requests under way and exit; then it is killed."""
RETRY_FIRST, RETRY_MOST = 0.1, 5.0
"""s before a child that died is replaced, doubling while its successors die too."""
STEADY = 30.0
"""s of serving after which a death counts as the first again."""
POLL_EVERY = 0.25
"""s between checks of the request file where there are no signals (Windows), and of children that are to end."""

COMMAND = (sys.executable, "-m", "facade", "serve")


class Child:
    """One serving process."""

    def __init__(self, process: subprocess.Popen[bytes], channel: ParentChannel, now: float) -> None:
        self.process = process
        self.channel: ParentChannel | None = channel
        self.since = now
        self.serving = False
        self.complete = False
        self.retired_at: float | None = None

    def retire(self, now: float) -> None:
        """Close the channel: the child answers the requests under way and exits."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.retired_at is None:
            self.retired_at = now


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
        self._unwritable = False
        self._address = ""
        self._wait = RETRY_FIRST
        self._due: float | None = 0.0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Run until a signal, or until the first child cannot serve. The exit status."""
        with _signals(self) as wakeup:
            self._selector.register(wakeup, selectors.EVENT_READ)
            try:
                while not self._ended():
                    self._step(wakeup)
            finally:
                self._close()
        return self.status

    # --- one step ---

    def _step(self, wakeup: socket.socket) -> None:
        now = time.monotonic()
        if self._due is not None and now >= self._due and not self.stopping:
            self._due = None
            self._start(now)
        for key, _ in self._selector.select(self._select_timeout(now)):
            if key.fileobj is wakeup:
                with contextlib.suppress(BlockingIOError):
                    wakeup.recv(4096)
            else:
                self._receive(key.data)
        now = time.monotonic()
        self._check_request_file()
        if self.restart_wanted and not self.stopping and not self._starting():
            self.restart_wanted = False
            self._start(now)
        if self.stopping:
            for child in self.children:
                self._retire(child, now)
        for child in tuple(self.children):
            self._reap(child, now)

    def _select_timeout(self, now: float) -> float | None:
        if WINDOWS or any(child.retired_at is not None or not child.serving for child in self.children):
            return POLL_EVERY
        return None if self._due is None else max(0.0, self._due - now)

    def _ended(self) -> bool:
        return self.stopping and not self.children

    def _starting(self) -> bool:
        return any(not child.serving and child.retired_at is None for child in self.children)

    def _start(self, now: float) -> None:
        command = [*COMMAND, "--activated"] if self.activated else [*COMMAND]
        try:
            process, channel = spawn(command, self.listeners)
        except OSError as error:  # no memory, no descriptor, no process is left
            self._not_started(error, now)
            return
        channel.sock.setblocking(False)
        child = Child(process, channel, now)
        self.children.append(child)
        self._selector.register(channel.sock, selectors.EVENT_READ, child)

    def _not_started(self, error: OSError, now: float) -> None:
        """The old child serves on; without one, it is tried again, as after a death, once one has served."""
        self.failures += 1
        serving = any(child.serving and child.retired_at is None for child in self.children)
        step = "the old one serves on" if serving else "trying again" if self.generation else "the facade ends"
        say(f"WARNING:  The facade's process cannot be started ({error.strerror}): {step}.")
        self._write()
        if not self.generation:
            self.status, self.stopping = 1, True
        elif not serving:
            self._wait = min(RETRY_MOST, self._wait * 2)
            self._due = now + self._wait

    # --- children ---

    def _receive(self, child: Child) -> None:
        if child.channel is None:
            return
        messages = child.channel.receive()
        if messages is None:
            self._selector.unregister(child.channel.sock)
            child.channel.close()
            child.channel = None
            return
        for message in messages:
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
                        self._retire(other, child.since)
            child.complete = child.complete or bool(message.get("complete"))
            self._write()

    def _adopt(self, listeners: list[socket.socket]) -> None:
        """The sockets that a child has bound; earlier ones, of other settings, are closed with their last child."""
        for listener in self.listeners:
            listener.close()
        self.listeners = listeners

    def _retire(self, child: Child, now: float) -> None:
        if child.channel is not None:
            self._selector.unregister(child.channel.sock)
        child.retire(now)

    def _reap(self, child: Child, now: float) -> None:
        status = child.process.poll()
        if status is None:
            limit = RETIRE_TIMEOUT if child.retired_at is not None else START_TIMEOUT
            since = child.retired_at if child.retired_at is not None else child.since
            if (child.retired_at is not None or not child.serving) and now - since > limit:
                child.process.kill()
            return
        self._retire(child, now)
        self.children.remove(child)
        if self.stopping:
            return
        if any(other.serving for other in self.children):
            if not child.serving:  # a replacement that could not serve: the old one stays
                self.failures += 1
                self._write()
            return
        if self._starting():
            return
        if not self.generation:  # it never served; its own output is on the terminal
            self.status = status if status > 0 else 1
            self.stopping = True
            return
        self._wait = RETRY_FIRST if now - child.since > STEADY else min(RETRY_MOST, self._wait * 2)
        self._due = now + self._wait

    # --- the state file ---

    def _claim(self, state_dir: Path) -> None:
        """Become the facade that `restart` finds in this state directory."""
        if self._state_dir == state_dir:
            return
        self._release()
        self._state_dir = state_dir
        try:
            self._lock = locked(state_dir / LOCK_FILE)
        except OSError as error:
            say(f"WARNING:  {unwritable(state_dir / LOCK_FILE, error)}")
            return
        if self._lock is None:
            say(f"WARNING:  Another facade runs for {state_dir}; restart_facade restarts that one.")

    def _write(self) -> None:
        if self._lock is None or self._state_dir is None:
            return
        serving = [child for child in self.children if child.serving and child.retired_at is None]
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
        except OSError as error:
            if not self._unwritable:
                say(f"WARNING:  {unwritable(path, error)}")
            self._unwritable = True
        else:
            self._unwritable = False

    def _check_request_file(self) -> None:
        if self._lock is None or self._state_dir is None:
            return
        request = self._state_dir / REQUEST_FILE
        if request.exists():
            with contextlib.suppress(OSError):
                request.unlink()
                self.restart_wanted = True

    def _release(self) -> None:
        if self._lock is not None and self._state_dir is not None:
            with contextlib.suppress(OSError):
                (self._state_dir / STATE_FILE).unlink()
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
    """Signals wake the selector and set a flag."""
    wakeup, wake = socket.socketpair()
    wakeup.setblocking(False)
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
        yield wakeup
    finally:
        signal.set_wakeup_fd(waker)
        for number, respond in before.items():
            signal.signal(number, respond)
        wakeup.close()
        wake.close()


def keep(environ: Mapping[str, str]) -> int:
    """Run the keeper until it is stopped, with systemd's sockets where there are any."""
    return Keeper(activated(environ)).run()


def activated(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd hands to this process."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    return [socket.socket(fileno=3 + number) for number in range(int(environ.get("LISTEN_FDS", "0")))]
