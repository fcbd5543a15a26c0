import errno
import os
import shutil
import stat
import subprocess
import sys

import pytest

from shared.transport.private_paths import LOCK, AlreadyRunning, UnsafePath, claim, private_directory

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are Unix's")


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@posix
def test_missing_directories_are_made_for_their_owner_alone(tmp_path):
    before = os.umask(0o777)
    try:
        with private_directory(str(tmp_path / "a" / "b" / "c"), "IBKR_STATE_DIR"):
            pass
    finally:
        os.umask(before)

    assert [mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")] == [0o700] * 3


@posix
@pytest.mark.parametrize("bits", [0o701, 0o710, 0o720, 0o755, 0o777])
def test_a_directory_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path, bits):
    directory = tmp_path / "it's open"
    directory.mkdir()
    directory.chmod(bits)

    with pytest.raises(UnsafePath) as refused, private_directory(str(directory), "IBKR_STATE_DIR"):
        pass

    assert mode(directory) == bits
    command = str(refused.value).rsplit(": ", 1)[1]
    assert command.startswith("chmod 700 ")
    subprocess.run(command, shell=True, check=True)
    with private_directory(str(directory), "IBKR_STATE_DIR"):
        pass


@posix
def test_a_shared_directory_gets_no_advice_to_close_it(tmp_path):
    """`chmod 700 /tmp` would mend our problem and break everybody's."""
    tmp_path.chmod(0o1777)

    with pytest.raises(UnsafePath, match="IBKR_SOCKET") as refused, private_directory(str(tmp_path), "IBKR_SOCKET"):
        pass

    assert "chmod" not in str(refused.value)
    tmp_path.chmod(0o700)


@posix
def test_a_link_is_refused(tmp_path):
    real = tmp_path / "real"
    real.mkdir(0o700)
    (tmp_path / "link").symlink_to(real)

    with pytest.raises(UnsafePath, match="is a link"), private_directory(str(tmp_path / "link"), "IBKR_STATE_DIR"):
        pass


def test_what_is_no_directory_is_refused_and_untouched(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")

    with pytest.raises(UnsafePath, match="not a directory"), private_directory(str(file), "IBKR_STATE_DIR"):
        pass

    assert file.read_text() == "mine"


@posix
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to give things away")
def test_a_directory_of_another_user_is_refused(tmp_path):
    directory = tmp_path / "theirs"
    directory.mkdir(0o700)
    os.chown(directory, 65534, 65534)

    with pytest.raises(UnsafePath, match="another user"), private_directory(str(directory), "IBKR_STATE_DIR"):
        pass


def test_one_claim_at_a_time(tmp_path):
    directory = tmp_path / "state"
    first = claim(directory)

    with pytest.raises(AlreadyRunning) as refused:
        claim(directory)
    assert refused.value.pid == os.getpid()
    assert str(os.getpid()) in str(refused.value)

    first.release()
    first.release()
    claim(directory).release()
    assert (directory / LOCK).exists()


HOLD = """
import sys
from shared.transport.private_paths import claim
held = claim(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_the_claim_of_a_killed_daemon_is_free(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "state")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(AlreadyRunning) as refused:
            claim(tmp_path / "state")
        assert refused.value.pid == holder.pid
        holder.kill()

    claim(tmp_path / "state").release()


@posix
def test_the_lock_is_not_inherited(tmp_path):
    """A child that outlives the daemon does not hold its directory."""
    held = claim(tmp_path / "state")
    assert not os.get_inheritable(held._fd)
    assert mode(tmp_path / "state" / LOCK) == 0o600
    held.release()


@posix
@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_lock_file_that_is_none_is_refused_and_untouched(tmp_path, kind):
    tmp_path.chmod(0o700)
    lock = tmp_path / LOCK
    if kind == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    before = os.lstat(lock)

    with pytest.raises(UnsafePath, match="mv "):
        claim(tmp_path)

    assert os.lstat(lock).st_ino == before.st_ino
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove an open file")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_claim_notices_that_its_lock_file_is_gone(tmp_path, replaced):
    directory = tmp_path / "state"
    held = claim(directory)
    assert held.in_place()

    shutil.rmtree(directory)
    if replaced:
        claim(directory).release()

    assert not held.in_place()
    held.release()


def test_a_directory_that_cannot_be_written_is_refused_with_another_to_use(tmp_path, monkeypatch):
    opened = os.open

    def read_only(path, flags, *arguments, **more):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *arguments, **more)

    monkeypatch.setattr(os, "open", read_only)

    with pytest.raises(UnsafePath, match="cannot be written") as refused:
        claim(tmp_path / "state")
    assert "IBKR_STATE_DIR" in str(refused.value)
    assert "Move it" not in str(refused.value)
