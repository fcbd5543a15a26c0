import asyncio
import contextlib
import ctypes
import os
import subprocess
import sys
import uuid

import pytest
from structlog.testing import capture_logs

if sys.platform != "win32":
    pytest.skip("named pipes are Windows'", allow_module_level=True)

import _winapi

from shared.transport import named_pipe
from shared.transport import windows_security as security
from shared.transport.address import default_path
from shared.transport.interfaces import PeerIdentity
from shared.transport.named_pipe import connect, listen, peer_identity
from shared.transport.private_paths import AlreadyRunning, UnsafePath
from tests.talking import Echo, Talk, serving
from tests.waiting import until


@pytest.fixture
def path():
    return rf"\\.\pipe\ibkr-test-{uuid.uuid4()}"


async def hung_up(transport, protocol):
    """Our end of a connection, ended."""
    transport.abort()
    await protocol.lost.wait()


@contextlib.contextmanager
def instance(path, sddl):
    """One pipe instance of another owner, with the descriptor `sddl`."""
    with security._attributes(sddl) as attributes:
        handle = _winapi.CreateNamedPipe(
            path, _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED, 0, 2, 4096, 4096, 0, attributes
        )
    try:
        yield handle
    finally:
        _winapi.CloseHandle(handle)


def unread(handle):
    """Number of bytes that a client has written to the instance and that are not read yet."""
    try:
        return _winapi.PeekNamedPipe(handle, 0)[0]
    except BrokenPipeError:  # it came and left without any
        return 0


async def test_the_two_ends_identify_each_other(path, peers):
    async with serving(path, peers, Echo):
        transport, protocol = await connect(Talk, path, 10)
        await until(lambda: peers)

        assert peer_identity(peers[0].transport) == PeerIdentity(os.getpid(), security.own_sid())
        await hung_up(transport, protocol)


async def test_the_pipe_is_its_users_alone(path, peers):
    async with serving(path, peers, Echo):
        for _ in range(2):
            transport, protocol = await connect(Talk, path, 10)
            assert security.access_of_pipe(transport.get_extra_info("pipe").fileno()).private
            await hung_up(transport, protocol)
        await until(lambda: len(peers) == 2)


async def test_long_lines_pass_whole_and_in_order(path, peers):
    data = os.urandom(1 << 20)
    async with serving(path, peers, Echo):
        transport, protocol = await connect(Talk, path, 10)
        transport.write(data)
        await until(lambda: len(protocol.received) == len(data))

        assert protocol.received == data
        await hung_up(transport, protocol)


async def test_many_clients_at_once_are_served(path, peers):
    async def one(number):
        transport, protocol = await connect(Talk, path, 60)
        transport.write(b"%d" % number)
        await until(lambda: protocol.received == b"%d" % number)
        await hung_up(transport, protocol)

    async with serving(path, peers, Echo):
        await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_live_pipe_is_never_stolen(path, peers):
    async with serving(path, peers, Echo):
        with pytest.raises(AlreadyRunning) as refused:
            await listen(Talk, path)
        assert refused.value.pid == os.getpid()

        transport, protocol = await connect(Talk, path, 10)
        transport.write(b"still there")
        await until(lambda: protocol.received == b"still there")
        await hung_up(transport, protocol)


async def test_a_closed_pipe_can_be_served_again(path, peers):
    for _ in range(3):
        async with serving(path, peers, Echo):
            await hung_up(*await connect(Talk, path, 10))
            await until(lambda: peers)
            await peers[-1].lost.wait()
        with pytest.raises(FileNotFoundError):
            await connect(Talk, path, 10)


SERVE = """
import asyncio, sys
from shared.transport import local_socket
async def main():
    await local_socket.listen(asyncio.Protocol, sys.argv[1])
    print("serving", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_the_pipe_of_a_killed_daemon_is_free(path, peers):
    with subprocess.Popen(  # noqa: ASYNC220 - a test's process
        [sys.executable, "-c", SERVE, path], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert (await asyncio.to_thread(daemon.stdout.readline)).strip() == "serving"
        with pytest.raises(AlreadyRunning) as refused:
            await listen(Talk, path)
        assert refused.value.pid == daemon.pid
        daemon.kill()
        await asyncio.to_thread(daemon.wait)

    async with serving(path, peers, Echo):
        pass


async def test_nothing_is_sent_to_another_users_server(path):
    sddl = f"O:SYD:(A;;GA;;;{security.own_sid()})"
    with contextlib.ExitStack() as stack:
        try:
            squatters = [stack.enter_context(instance(path, sddl)) for _ in range(2)]
        except OSError:
            pytest.skip("no pipe of another user can be made here: needs real Windows and a second user")
        made = []
        with pytest.raises(PermissionError, match="another user"):
            await connect(lambda: made.append(1), path, 10)
        with pytest.raises(UnsafePath, match="another user"):
            await listen(Talk, path)

        assert made == []
        assert [unread(squatter) for squatter in squatters] == [0, 0]


def test_a_pipe_that_came_out_open_to_others_is_not_served(path):
    with instance(path, f"O:{security.own_sid()}D:(A;;GA;;;{security.own_sid()})(A;;GR;;;WD)") as handle:
        assert security.access_of_pipe(handle).open_to_others
        with pytest.raises(UnsafePath, match="open to others"):
            named_pipe.require_private(handle, path)


async def test_without_memory_it_waits_and_logs_it_once(path, peers, monkeypatch):
    monkeypatch.setattr(named_pipe, "ACCEPT_PAUSE", 0.01)
    made, failing = named_pipe.create_instance, True

    def sometimes(*arguments):
        if failing and not arguments[1]:
            raise OSError(8, "Not enough memory")
        return made(*arguments)

    monkeypatch.setattr(named_pipe, "create_instance", sometimes)
    with capture_logs() as logs:
        async with serving(path, peers, Echo) as listener:
            await until(lambda: listener.starved >= 3)
            failing = False
            transport, protocol = await connect(Talk, path, 10)
            await until(lambda: peers)
            await hung_up(transport, protocol)

    assert [line["event"] for line in logs] == ["socket.starved", "socket.accepting"]


@pytest.mark.parametrize("name", ["daemon.sock", r"C:\run\daemon.sock", r"\\.\pipe\ ".strip() + "x" * 300])
async def test_what_is_no_pipe_name_is_refused(name):
    with pytest.raises(UnsafePath, match="is not a pipe name"):
        await listen(Talk, name)


def test_the_usual_name_is_this_users():
    assert default_path({}) == rf"\\.\pipe\ibkr-{security.own_sid()}"
    assert security.own_sid().startswith("S-1-5-")


@pytest.mark.real_windows
def test_the_name_can_be_taken_once(path):
    """FIRST_PIPE_INSTANCE: a squatter that comes between our look and our making is found out."""
    handle = named_pipe.create_instance(path, True, True)
    with pytest.raises(UnsafePath):
        named_pipe.create_instance(path, True, True)
    _winapi.CloseHandle(handle)


@pytest.mark.real_windows
async def test_the_pipe_is_not_reached_over_the_network(path, peers):
    async with serving(path, peers, Echo):
        with pytest.raises(OSError, match=r"."):
            os.open(path.replace("\\\\.\\", "\\\\127.0.0.1\\"), os.O_RDWR)
        assert peers == []


@pytest.mark.real_windows
async def test_programs_of_low_integrity_are_kept_out(path, peers):
    async with serving(path, peers, Echo):
        transport, protocol = await connect(Talk, path, 10)
        handle = transport.get_extra_info("pipe").fileno()
        sacl, descriptor = ctypes.c_void_p(), ctypes.c_void_p()
        label = 0x10  # LABEL_SECURITY_INFORMATION
        assert security._of_handle(handle, security.SE_KERNEL_OBJECT, label, None, None, None, sacl, descriptor) == 0
        assert ctypes.c_ushort.from_address(sacl.value + 4).value == 1
        await hung_up(transport, protocol)
