"""Simulated gateway, daemon and facade as processes of Windows' own Python."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid

import pytest

from tests.ports import free_port
from tests.waiting import until_now

if sys.platform != "win32":
    pytest.skip("the same chain on Unix has its own tests", allow_module_level=True)

pytestmark = pytest.mark.timeout(400)

PATIENCE = 120.0
"""s for anything to come about: on wine, beside other work, a Python takes ten to start."""


class Process:
    """A Python with `arguments`, its words kept."""

    def __init__(self, env, *arguments):
        self.popen = subprocess.Popen(
            [sys.executable, "-X", "utf8", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        self.said = ""
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self):
        for line in self.popen.stdout:
            self.said += line

    def says(self, pattern):
        """What matches `pattern` in its words, once it has said it."""
        return until_now(lambda: re.search(pattern, self.said) or self.over(), f"{pattern!r} in {self.said}")

    def over(self):
        if self.popen.poll() is not None:
            pytest.fail(f"ended with {self.popen.poll()}: {self.said}")

    def ends(self):
        """Its exit status."""
        status = self.popen.wait(PATIENCE)
        self._listening.join(PATIENCE)
        return status

    def kill(self):
        self.popen.kill()
        self.ends()
        self.popen.stdout.close()


class Chain:
    """The processes of one test, and requests to them."""

    def __init__(self, directory):
        self.processes = []
        self.port = free_port()
        (directory / "empty.env").touch()
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")} | {
            "IBKR_ENV_FILE": str(directory / "empty.env"),
            "IBKR_STATE_DIR": str(directory / "state"),
            "IBKR_SOCKET": rf"\\.\pipe\ibkr-test-{uuid.uuid4()}",
            "IBKR_FACADE_PORT": str(self.port),
            "IBKR_AUTO_CONNECT": "true",
        }
        gateway = self.start("-m", "daemon.simulator", "--port", "0")
        self.env["IBKR_PORT"] = gateway.says(r"simulated gateway on [\d.]+:(\d+)")[1]

    def start(self, *arguments):
        self.processes.append(Process(self.env, *arguments))
        return self.processes[-1]

    def daemon(self):
        return self.start("-m", "daemon")

    def facade(self):
        return self.start("-m", "facade")

    def run(self, *arguments):
        """Exit status and words of a command."""
        process = self.start("-m", *arguments)
        return process.ends(), process.said

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/ibkr/{path}", timeout=10) as answer:
            return answer.read()

    def status(self):
        """`GET /status`, or `None` while there is no answer."""
        try:
            return json.loads(self.get("status"))
        except OSError:
            return None

    def link(self):
        return json.loads(self.get("link"))

    def connected(self):
        until_now(lambda: self.status() == {"connected": True, "available": True}, "a connected status")


@pytest.fixture
def chain(tmp_path):
    chain = Chain(tmp_path)
    yield chain
    for process in reversed(chain.processes):
        process.kill()


def test_the_chain_answers_and_a_restart_of_the_facade_keeps_the_session(chain):
    chain.daemon().says("✓ Connected to IBKR")
    chain.facade()
    chain.connected()
    assert chain.get("status") == b'{"connected": true, "available": true}'
    assert len(json.loads(chain.get("positions"))["data"]) == 25
    before = chain.link()
    refused, done = [], threading.Event()

    def knock():
        while not done.is_set():
            try:
                socket.create_connection(("127.0.0.1", chain.port), 10).close()
            except OSError as error:
                refused.append(error)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        status, words = chain.run("facade", "restart")
    finally:
        done.set()
        knocking.join()

    assert status == 0, words
    assert refused == []
    after = chain.link()
    assert (after["session"], after["epoch"], after["phase"]) == (before["session"], before["epoch"], "ready")
    assert chain.run("facade.cli", "status")[0] == 0


def test_a_second_daemon_names_the_first_and_stop_ends_the_first(chain):
    first = chain.daemon()
    first.says("✓ Connected to IBKR")

    status, words = chain.run("daemon")
    assert (status, str(first.popen.pid) in words) == (75, True)

    assert chain.run("facade.cli", "stop")[0] == 0
    assert first.ends() == 0
    assert chain.run("facade.cli", "status")[0] == 3
    chain.daemon().says("✓ Connected to IBKR")


def test_a_killed_daemon_is_missed_and_found_again(chain):
    first = chain.daemon()
    chain.facade()
    chain.connected()
    epoch = chain.link()["epoch"]

    first.kill()
    until_now(lambda: chain.status() == {"connected": False, "available": False}, "an unavailable daemon")
    chain.daemon()
    chain.connected()

    assert chain.link()["epoch"] != epoch


def test_the_serving_child_ends_with_its_keeper(chain):
    keeper = chain.facade()
    until_now(chain.status, "an answer")

    keeper.kill()

    until_now(lambda: chain.status() is None and free(chain.port), "a free port")


def free(port):
    """Whether `port` can be had."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
