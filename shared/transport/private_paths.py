"""What is this user's alone: directories nobody else can enter, and the lock of one daemon a state directory.

Never mends what it finds: what is wrong is refused with the command that mends it, and left as it was.
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
"""Stays in the state directory for ever: unlinking a lock file would let two processes lock two files of one name."""


class UnsafePath(OSError):  # noqa: N818 - the name says what is the case
    """A path that somebody else controls or can read: a sentence, and the command that mends it (exit 78)."""


class AlreadyRunning(Exception):  # noqa: N818 - the name says what is the case
    """Another daemon holds the state directory or the socket. `pid` is `None` where it cannot be read (exit 75)."""

    def __init__(self, pid: int | None, place: str) -> None:
        super().__init__(
            f"A daemon is already running{f' (process {pid})' if pid else ''}: it holds {place}. "
            "Stop it with `ibkr stop`, or give this one its own IBKR_STATE_DIR and IBKR_SOCKET."
        )
        self.pid = pid


class Claim:
    """The lock on a state directory; it lasts as long as the process or until `release`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Let another daemon have the directory. Twice is once."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)  # nobody's pid: the next one that finds it locked must not read ours
            os.close(self._fd)
            self._fd = -1


def claim(state_dir: str | os.PathLike[str]) -> Claim:
    """Lock `state_dir` for this process, making it (0700) where it is missing.

    Raises `AlreadyRunning` with the holder's pid, `UnsafePath` where the directory or the lock file is not ours alone.
    Take it before anything below the directory, or the socket's path, is touched.
    """
    directory = os.path.abspath(state_dir)
    path = os.path.join(directory, LOCK)
    with private_directory(directory, "IBKR_STATE_DIR") as inside:
        try:
            flags = os.O_RDWR | os.O_CREAT | _CAREFULLY
            fd = os.open(LOCK, flags, 0o600, dir_fd=inside) if inside >= 0 else os.open(path, flags, 0o600)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise UnsafePath(
                f"The lock file {path} cannot be opened ({error.strerror}). {out_of_the_way(path)}"
            ) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not _ours(found):
            raise UnsafePath(f"The lock file {path} is not a file of ours. {out_of_the_way(path)}")
        if not _locked(fd):
            raise AlreadyRunning(_pid(fd), path)
        with contextlib.suppress(OSError):  # a full disk: the pid is for people, the lock is what counts
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
    except BaseException:
        os.close(fd)
        raise
    return Claim(fd)


EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})
"""What passes by itself: nothing is wrong with the path."""


@contextlib.contextmanager
def private_directory(path: str, variable: str) -> Iterator[int]:
    """A descriptor of the directory `path`, once it is known to be this user's alone.

    Missing directories are made 0700. Raises `UnsafePath`, naming the setting `variable`, for a link, a directory of
    another user, one open to others, and whatever is no directory.
    """
    path = os.path.abspath(path)
    try:
        _make(path)
        found = os.lstat(path)
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise UnsafePath(
            f"The directory {path} cannot be made or entered ({error.strerror}). {_elsewhere(variable)}"
        ) from None
    _check(path, found, variable)
    if sys.platform == "win32":
        yield -1  # directories have no descriptors there
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(fd), variable)  # what was opened, whatever happened to the name meanwhile
        yield fd
    finally:
        os.close(fd)


def closing(path: str, mode: int) -> str:
    """The command that closes the file `path` (of `st_mode` `mode`) to other users; empty where it is closed."""
    if sys.platform == "win32":
        opened = windows_security.access_of_path(path).open_to_everybody
        return f'icacls "{path}" /inheritance:r /grant:r "*{windows_security.own_sid()}:F"' if opened else ""
    return f"chmod 600 {shlex.quote(path)}" if mode & 0o077 else ""


def _make(path: str) -> None:
    """`path` and what is missing above it, each 0700 whatever the umask."""
    if os.path.lexists(path):
        return
    above = os.path.dirname(path)
    if above != path:
        _make(above)
    try:
        _make_one(path)
    except FileExistsError:
        pass  # another process was faster; what it made is checked like anything else


def _check(path: str, found: os.stat_result, variable: str) -> None:
    quoted = shlex.quote(path)
    mode = stat.S_IMODE(found.st_mode)
    if _is_link(found):
        raise UnsafePath(
            f"{path} is a link, and a link can be turned elsewhere. Name the real directory in {variable}, "
            f"or remove the link: rm {quoted}"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafePath(f"{path} is no directory. {out_of_the_way(path)}")
    if not _ours(found):
        raise UnsafePath(f"The directory {path} belongs to another user (uid {found.st_uid}). {_elsewhere(variable)}")
    if sys.platform == "win32":
        _check_access(path, variable)
        return
    if mode & 0o077 == 0:
        return
    if mode & stat.S_ISVTX:  # a place that everybody shares: closing it would harm them
        raise UnsafePath(f"The directory {path} is open to every user (mode {mode:04o}). {_elsewhere(variable)}")
    raise UnsafePath(f"The directory {path} is open to other users (mode {mode:04o}). Close it: chmod 700 {quoted}")


def _ours(found: os.stat_result) -> bool:
    return sys.platform == "win32" or found.st_uid == os.getuid()


def _elsewhere(variable: str) -> str:
    if sys.platform == "win32":
        return f"Use the usual one: Remove-Item Env:{variable}"
    name = "ibkr/daemon.sock" if variable == "IBKR_SOCKET" else "ibkr"
    return f'Use a directory of your own: mkdir -p -m 700 "$HOME/ibkr" && export {variable}="$HOME/{name}"'


def out_of_the_way(path: str) -> str:
    """The advice for a thing that has the place of ours."""
    if sys.platform == "win32":
        return f'Move it out of the way: Rename-Item "{path}" "{os.path.basename(path)}.old"'
    quoted = shlex.quote(path)
    return f"Move it out of the way: mv {quoted} {shlex.quote(path + '.old')}"


if sys.platform == "win32":
    import msvcrt

    from shared.transport import windows_security

    _CAREFULLY = os.O_BINARY | os.O_NOINHERIT

    def _is_link(found: os.stat_result) -> bool:
        junction = found.st_reparse_tag == stat.IO_REPARSE_TAG_MOUNT_POINT
        return junction or stat.S_ISLNK(found.st_mode)

    def _check_access(path: str, variable: str) -> None:
        """The profile's own directories are private by inheritance; elsewhere Windows lets every user read."""
        access = windows_security.access_of_path(path)
        if access.owner not in {windows_security.own_sid(), *windows_security.ADMINISTRATORS}:
            raise UnsafePath(f"The directory {path} belongs to another user ({access.owner}). {_elsewhere(variable)}")
        if access.open_to_everybody:
            mend = f'icacls "{path}" /inheritance:r /grant:r "*{windows_security.own_sid()}:(OI)(CI)F"'
            raise UnsafePath(f"The directory {path} is open to other users. Close it: {mend}")

    _make_one = windows_security.make_directory

    _FAR = 1 << 20  # a locked byte cannot be read by others, so it lies where the pid never is

    def _locked(fd: int) -> bool:
        os.lseek(fd, _FAR, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    _CAREFULLY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

    def _is_link(found: os.stat_result) -> bool:
        return stat.S_ISLNK(found.st_mode)

    def _make_one(path: str) -> None:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # the umask may have taken even the owner's bits

    def _locked(fd: int) -> bool:
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
