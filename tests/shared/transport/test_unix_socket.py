import asyncio
import contextlib
import errno
import gc
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

import pytest
from structlog.testing import capture_logs

if sys.platform == "win32":
    pytest.skip("the named pipe has its own tests, in tests/windows", allow_module_level=True)

import resource

from shared.transport import unix_socket
from shared.transport.interfaces import PeerIdentity
from shared.transport.private_paths import AlreadyRunning, UnsafePath
from shared.transport.unix_socket import connect, listen, peer_identity
from tests.talking import Talk, serving
from tests.waiting import until


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run" / "daemon.sock")


def is_there(path):
    return os.path.lexists(path)


def dead_socket(path):
    """What a killed daemon leaves behind."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


# --- where and for whom ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
async def test_the_socket_is_its_owners_alone(path, peers, umask):
    before = os.umask(umask)
    try:
        async with serving(path, peers):
            assert os.umask(umask) == umask
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.lstat(os.path.dirname(path)).st_mode) == 0o700
    finally:
        os.umask(before)


async def test_the_two_ends_identify_each_other(path, peers):
    async with serving(path, peers):
        transport, _ = await connect(Talk, path, 5)
        await until(lambda: peers)

        assert (
            peer_identity(peers[0].transport) == peer_identity(transport) == PeerIdentity(os.getpid(), str(os.getuid()))
        )
        transport.abort()


async def test_a_long_path_is_served_and_found(tmp_path, peers):
    path = str(tmp_path / ("d" * 100) / "daemon.sock")
    assert len(path) > 107

    if sys.platform != "linux":
        with pytest.raises(UnsafePath, match="too long"):
            await listen(Talk, path)
        return
    async with serving(path, peers):
        transport, _ = await connect(Talk, path, 5)
        transport.abort()
        with pytest.raises(AlreadyRunning):
            await listen(Talk, path)
    assert not is_there(path)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be another user")
async def test_a_peer_of_another_user_is_closed_without_a_byte(peers):
    directory = tempfile.mkdtemp()
    path = os.path.join(directory, "daemon.sock")
    try:
        async with serving(path, peers) as listener:
            os.chmod(directory, 0o755)
            os.chmod(path, 0o666)
            received = await asyncio.to_thread(as_another_user, path)

            assert received == b""
            assert listener.refused == 1
            assert peers == []
            os.chmod(directory, 0o700)
    finally:
        shutil.rmtree(directory)


def as_another_user(path):
    """What another user receives at `path`."""
    program = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.settimeout(60);"
        "s.connect(sys.argv[1]); sys.stdout.buffer.write(s.recv(100))"
    )
    return subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, timeout=60).stdout


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to be another user")
def test_nothing_is_sent_to_another_users_server():
    """A client of another user hangs up on the imposter before its hello. Root may speak to anybody."""
    directory = tempfile.mkdtemp()
    os.chmod(directory, 0o755)
    path = os.path.join(directory, "daemon.sock")
    program = (
        "import os, sys; sys.path.insert(0, '.'); import asyncio\n"
        "from shared.transport import local_socket; os.setuid(65534)\n"
        "try: asyncio.run(local_socket.connect(asyncio.Protocol, sys.argv[1], 10))\n"
        "except PermissionError as error: print(error)\n"
    )
    with socket.socket(socket.AF_UNIX) as imposter:
        os.chown(directory, 1000, 1000)
        os.seteuid(1000)  # the kernel remembers who listened
        try:
            imposter.bind(path)
            imposter.listen()
            os.seteuid(0)
            os.chmod(path, 0o666)
            imposter.settimeout(60)
            with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True) as client:
                conn, _ = imposter.accept()
                with conn:
                    conn.settimeout(60)
                    assert conn.recv(100) == b""
                    assert "another user" in client.stdout.read()
        finally:
            os.seteuid(0)
            shutil.rmtree(directory)


# --- what is at the path --------------------------------------------------------------------------------------------


async def test_a_stale_socket_is_replaced(path, peers):
    dead_socket(path)

    async with serving(path, peers):
        transport, _ = await connect(Talk, path, 5)
        transport.abort()


async def test_a_live_socket_is_never_stolen(path, peers):
    async with serving(path, peers):
        before = os.lstat(path)
        with pytest.raises(AlreadyRunning) as refused:
            await listen(Talk, path)

        assert refused.value.pid == os.getpid()
        assert os.lstat(path).st_ino == before.st_ino
        transport, _ = await connect(Talk, path, 5)
        transport.abort()


async def test_a_live_socket_with_a_full_queue_is_not_stolen(path):
    os.makedirs(os.path.dirname(path), mode=0o700)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(path) == errno.EAGAIN:
                break

        with pytest.raises(AlreadyRunning):
            await listen(Talk, path)
        with pytest.raises(TimeoutError):  # and a client waits for a place instead of assuming it has one
            await connect(Talk, path, 0.05)


async def test_of_many_daemons_that_start_at_once_one_serves(path, peers):
    dead_socket(path)

    results = await asyncio.gather(*(listen(lambda: Talk(peers), path) for _ in range(8)), return_exceptions=True)

    (winner,) = [result for result in results if not isinstance(result, Exception)]
    assert sum(isinstance(result, AlreadyRunning) for result in results) == 7
    transport, _ = await connect(Talk, path, 5)
    transport.abort()
    winner.close()
    await winner.wait_closed()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling", "fifo"])
async def test_what_is_no_socket_of_ours_is_refused_and_untouched(path, tmp_path, kind):
    os.makedirs(os.path.dirname(path), mode=0o700)
    if kind == "file":
        with open(path, "w", encoding="utf-8") as file:  # noqa: ASYNC230 - a test's file
            file.write("precious")
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        dead_socket(str(tmp_path / "other" / "sock"))
        os.symlink(tmp_path / "other" / ("sock" if kind == "link" else "nothing"), path)
    before = os.lstat(path)

    with pytest.raises(UnsafePath, match=f"mv {path} {path}.old"):
        await listen(Talk, path)

    assert os.lstat(path) == before


async def test_an_unsafe_directory_is_refused(path):
    os.makedirs(os.path.dirname(path))
    os.chmod(os.path.dirname(path), 0o755)

    with pytest.raises(UnsafePath, match="chmod 700"):
        await listen(Talk, path)


async def test_closing_takes_the_name_away_and_only_ours(path, peers):
    async with serving(path, peers):
        pass
    assert not is_there(path)

    async with serving(path, peers):
        os.rename(path, path + ".moved")
        dead_socket(path)
    assert is_there(path)


async def test_closing_twice_is_closing_once(path, peers):
    listener = await listen(lambda: Talk(peers), path)
    listener.close()
    assert not is_there(path)
    async with serving(path, peers):
        listener.close()
        await listener.wait_closed()
        assert is_there(path)


async def test_a_socket_without_a_listener_is_distinguished(path, peers):
    with pytest.raises(FileNotFoundError):
        await connect(Talk, path, 5)
    dead_socket(path)
    with pytest.raises(ConnectionRefusedError):
        await connect(Talk, path, 5)


# --- when the machine has nothing left ------------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors_left(count):
    """Let this process open `count` more files and no more."""
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probes = [os.open("/dev/null", os.O_RDONLY) for _ in range(count + 1)]
    for probe in probes:
        os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(probes), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_it_waits_and_logs_it_once(path, peers, monkeypatch):
    monkeypatch.setattr(unix_socket, "ACCEPT_PAUSE", 0.01)
    async with serving(path, peers) as listener:
        with capture_logs() as logs:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            with descriptors_left(0):
                client.connect(path)
                await until(lambda: listener.starved >= 3)
                assert peers == []
            await until(lambda: peers)

        assert [line["event"] for line in logs] == ["socket.starved", "socket.accepting"]
        assert logs[0]["log_level"] == "warning"
        assert logs[1]["refusedBefore"] >= 3
        client.close()


async def test_a_starved_listener_can_be_closed(path, peers):
    async with serving(path, peers) as listener:
        with socket.socket(socket.AF_UNIX) as client, descriptors_left(0):
            client.setblocking(False)
            client.connect(path)
            await until(lambda: listener.starved == 1)


async def test_a_factory_that_fails_costs_its_own_peer(path):
    made = []

    def factory():
        made.append(Talk())
        if len(made) == 1:
            raise RuntimeError("no")
        return made[-1]

    listener = await listen(factory, path)
    with capture_logs() as logs:
        first, one = await connect(Talk, path, 5)
        await one.lost.wait()
        second, _ = await connect(Talk, path, 5)
        await until(lambda: len(made) == 2)

    assert [line["event"] for line in logs] == ["socket.peer_failed"]
    first.abort()
    second.abort()
    await made[1].lost.wait()
    listener.close()
    await listener.wait_closed()
