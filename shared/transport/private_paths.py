"""Directories that only this user can enter, and the lock that allows one daemon per state directory.

An unsafe path is refused with the command that fixes it, and left unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
import sys
from collections.abc import Iterator

LOCK = "daemon.lock"
"""It is never unlinked: that would let two processes lock two files of the same name."""


class UnsafePath(OSError):  # noqa: N818 - the name says what is the case
    """A path that another user controls or can read. The message ends with the command that fixes it (exit 78)."""


class AlreadyRunning(Exception):  # noqa: N818 - the name says what is the case
    """Another daemon holds the state directory or the socket (exit 75). `pid` is `None` where it cannot be read."""

    def __init__(self, pid: int | None, place: str) -> None:
        super().__init__(
            f"A daemon is already running{f' (process {pid})' if pid else ''}: it holds {place}. "
            "Stop it with `ibkr stop`, or give this one its own IBKR_STATE_DIR and IBKR_SOCKET."
        )
        self.pid = pid


class Claim:
    """The lock on a state directory, held until `release` or the end of the process."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    def in_place(self) -> bool:
        """Whether the locked file is still the one at its path. If not, another process can lock the new one."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except OSError as error:
            return error.errno in EXHAUSTED

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)  # so that the next process does not read this pid
            os.close(self._fd)
            self._fd = -1


def claim(state_dir: str | os.PathLike[str]) -> Claim:
    """Lock `state_dir` for this process, creating it (0700) where it is missing.

    Call it before touching anything in the directory, or the socket. Raises `AlreadyRunning` with the holder's pid,
    `UnsafePath` where the directory or the lock file is not this user's alone.
    """
    directory = os.path.abspath(state_dir)
    path = os.path.join(directory, LOCK)
    with private_directory(directory, "IBKR_STATE_DIR") as directory_fd:
        try:
            flags = os.O_RDWR | os.O_CREAT | _OPEN_FLAGS
            fd = os.open(LOCK, flags, 0o600, dir_fd=directory_fd) if directory_fd >= 0 else os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            if not os.path.lexists(path):
                raise UnsafePath(
                    f"The directory {directory} cannot be written ({error.strerror}). {_elsewhere('IBKR_STATE_DIR')}"
                ) from None
            raise UnsafePath(
                f"The lock file {path} cannot be opened ({error.strerror}). {rename_advice(path)}"
            ) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _is_own(status):
            raise UnsafePath(f"The lock file {path} is not a regular file of this user. {rename_advice(path)}")
        if not _try_lock(fd):
            raise AlreadyRunning(_pid(fd), path)
        with contextlib.suppress(OSError):  # a full disk: the pid is for display, the lock works without it
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(fd)
        raise
    return Claim(fd, path)


def holder(state_dir: str | os.PathLike[str]) -> int | None:
    """The pid of the daemon that holds `state_dir`; `None` where no process does, or its pid cannot be read."""
    try:
        fd = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | _OPEN_FLAGS)
    except OSError:
        return None
    try:
        return None if _try_lock(fd) else _pid(fd)  # a lock that was free is released by the close
    finally:
        os.close(fd)


EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
"""Errors of exhausted resources, which pass: nothing is wrong with the path."""


@contextlib.contextmanager
def private_directory(path: str, variable: str) -> Iterator[int]:
    """Yield a descriptor of the directory `path` after checking that only this user can enter it (-1 on Windows).

    Missing directories are created 0700. Raises `UnsafePath`, naming the setting `variable`, for a link, another user's
    directory, one open to others, and for anything that is not a directory.
    """
    path = os.path.abspath(path)
    try:
        _make_with_parents(path)
        status = os.lstat(path)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise UnsafePath(
            f"The directory {path} cannot be created or entered ({error.strerror}). {_elsewhere(variable)}"
        ) from None
    _check(path, status, variable)
    if sys.platform == "win32":
        yield -1  # no directory descriptors on Windows
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(fd), variable)  # what was opened, even if the name was changed meanwhile
        yield fd
    finally:
        os.close(fd)


def closing(path: str, mode: int) -> str:
    """The command that closes the file `path` (of `st_mode` `mode`) to other users; empty where it is closed."""
    if sys.platform == "win32":
        opened = windows_security.access_of_path(path).open_to_others
        return f'icacls "{path}" /inheritance:r /grant:r "*{windows_security.own_sid()}:F"' if opened else ""
    return f"chmod 600 {shlex.quote(path)}" if mode & 0o077 else ""


def _make_with_parents(path: str) -> None:
    """Create `path` and its missing parents, each 0700 whatever the umask."""
    if os.path.lexists(path):
        return
    above = os.path.dirname(path)
    if above != path:
        _make_with_parents(above)
    try:
        _make_directory(path)
    except FileExistsError:
        pass  # another process was faster; the directory is checked like any other


def _check(path: str, status: os.stat_result, variable: str) -> None:
    quoted = shlex.quote(path)
    mode = stat.S_IMODE(status.st_mode)
    if _is_link(status):
        raise UnsafePath(
            f"{path} is a link, and its target can be changed. Name the real directory in {variable}, "
            f"or remove the link: rm {quoted}"
        )
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafePath(f"{path} is not a directory. {rename_advice(path)}")
    if not _is_own(status):
        raise UnsafePath(f"The directory {path} belongs to another user (uid {status.st_uid}). {_elsewhere(variable)}")
    if sys.platform == "win32":
        _check_access(path, variable)
        return
    if mode & 0o077 == 0:
        return
    if mode & stat.S_ISVTX:  # a shared directory such as /tmp: closing it would harm other users
        raise UnsafePath(f"The directory {path} is open to every user (mode {mode:04o}). {_elsewhere(variable)}")
    raise UnsafePath(f"The directory {path} is open to other users (mode {mode:04o}). Close it: chmod 700 {quoted}")


def _is_own(status: os.stat_result) -> bool:
    return sys.platform == "win32" or status.st_uid == os.getuid()


def _elsewhere(variable: str) -> str:
    if sys.platform == "win32":
        return f"Use the usual one: Remove-Item Env:{variable}"
    name = "ibkr/daemon.sock" if variable == "IBKR_SOCKET" else "ibkr"
    return f'Use a directory of your own: mkdir -p -m 700 "$HOME/ibkr" && export {variable}="$HOME/{name}"'


def rename_advice(path: str) -> str:
    """The command that moves `path` aside."""
    if sys.platform == "win32":
        return f'Move it out of the way: Rename-Item "{path}" "{os.path.basename(path)}.old"'
    quoted = shlex.quote(path)
    return f"Move it out of the way: mv {quoted} {shlex.quote(path + '.old')}"


if sys.platform == "win32":
    import msvcrt

    from shared.transport import windows_security

    _OPEN_FLAGS = os.O_BINARY | os.O_NOINHERIT

    def _is_link(status: os.stat_result) -> bool:
        junction = status.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT
        return junction or stat.S_ISLNK(status.st_mode)

    def _check_access(path: str, variable: str) -> None:
        """Directories in a profile are private by inheritance; elsewhere Windows lets every user read."""
        access = windows_security.access_of_path(path)
        if access.owner not in {windows_security.own_sid(), *windows_security.ADMINISTRATORS}:
            raise UnsafePath(f"The directory {path} belongs to another user ({access.owner}). {_elsewhere(variable)}")
        if access.open_to_others:
            command = f'icacls "{path}" /inheritance:r /grant:r "*{windows_security.own_sid()}:(OI)(CI)F"'
            raise UnsafePath(f"The directory {path} is open to other users. Close it: {command}")

    _make_directory = windows_security.make_directory

    _LOCK_OFFSET = 1 << 20  # other processes cannot read a locked byte, so it is beyond the pid

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _LOCK_OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    _OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

    def _is_link(status: os.stat_result) -> bool:
        return stat.S_ISLNK(status.st_mode)

    def _make_directory(path: str) -> None:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # the umask may have removed the owner's bits

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _pid(fd: int) -> int | None:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        text = os.read(fd, 32).strip()
        return int(text) if text.isdigit() else None
    except OSError:
        return None
