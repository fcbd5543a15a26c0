"""The local socket as a Unix socket: safe creation at its path, accepting this user's processes only, connecting.

A path that is not this user's alone is refused and left untouched; a socket that another process serves is kept.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from shared.transport.interfaces import Listener, PeerIdentity
from shared.transport.private_paths import AlreadyRunning, UnsafePath, private_directory, rename_advice

assert sys.platform != "win32"  # noqa: S101 - for the type checker: everything below is POSIX

from shared.transport.address import MAX_PATH, peer_credentials, require_own_peer, short_address  # noqa: E402

log = structlog.get_logger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)

BACKLOG = 64
"""Connections in the accept queue while the loop is busy; clients that find it full retry."""

ACCEPT_PAUSE = 1.0
"""s until the next accept() after one failed for lack of descriptors or memory."""

CONNECT_PAUSE = 0.02
"""s until a client retries a full accept queue, or a listener the directory's lock."""

LOCK_TIMEOUT = 2.0
"""s to wait for another process that holds the directory's lock while it binds; binding takes microseconds."""


async def listen(factory: Callable[[], asyncio.Protocol], path: str) -> Listener:
    """Serve `path`, created with mode 0600 in a directory that only this user can enter; replace a stale socket.

    `factory` is called for each connection of this user (or root). Raises `UnsafePath` where the directory, or what is
    at `path`, is not this user's alone, `AlreadyRunning` where another process serves it, other `OSError`s as raised.
    """
    directory, name = _split(path)
    with private_directory(directory, "IBKR_SOCKET") as directory_fd:
        _require_short_path(path)
        await _lock_directory(directory_fd, path)
        try:
            _remove_stale_socket(directory_fd, name, path)
            sock = _bind(path)
            return _UnixListener(factory, path, sock, os.dup(directory_fd), name)
        finally:
            fcntl.flock(directory_fd, fcntl.LOCK_UN)  # the listener's copy of the descriptor would keep the lock


async def connect(factory: Callable[[], P], path: str, timeout: float) -> tuple[asyncio.Transport, P]:
    """Connect to `path`. The listener's user is checked before a byte is sent.

    Raises `FileNotFoundError` or `ConnectionRefusedError` where there is no listener, `TimeoutError` after `timeout` s,
    `PermissionError` where it is another user's (not root's).
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            with short_address(path) as address:
                # not loop.sock_connect: it reports success on a full accept queue
                while (code := sock.connect_ex(address)) == errno.EAGAIN:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(CONNECT_PAUSE)
            if code:
                raise OSError(code, os.strerror(code), path)
            require_own_peer(sock, path)
            transport, protocol = await loop.create_unix_connection(factory, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport, protocol


def peer_identity(transport: asyncio.BaseTransport) -> PeerIdentity:
    """Process and user at the other end of `transport`."""
    pid, uid = peer_credentials(transport.get_extra_info("socket"))
    return PeerIdentity(pid, str(uid))


def _split(path: str) -> tuple[str, str]:
    return os.path.split(os.path.abspath(path))


async def _lock_directory(directory_fd: int, path: str) -> None:
    """Lock the directory, so that check, unlink and bind are atomic among daemons that start together."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LOCK_TIMEOUT
    while True:
        try:
            return fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= deadline:
                raise AlreadyRunning(None, path) from None
        await asyncio.sleep(CONNECT_PAUSE)


def _remove_stale_socket(directory_fd: int, name: str, path: str) -> None:
    """Remove a socket that no process serves; raise for anything else at `path`."""
    try:
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.getuid():
        raise UnsafePath(f"{path} exists and is not a socket of this user. {rename_advice(path)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_address(path) as address:
        probe.setblocking(False)
        code = probe.connect_ex(address)
        if code in (0, errno.EAGAIN, errno.EINPROGRESS):  # EAGAIN: served, its accept queue is full
            raise AlreadyRunning(peer_credentials(probe)[0] if code == 0 else None, path)
    if code != errno.ECONNREFUSED:
        raise UnsafePath(f"Connecting to {path} failed ({os.strerror(code)}). {rename_advice(path)}")
    os.unlink(name, dir_fd=directory_fd)


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)  # created with mode 0600; process-wide, for as long as bind takes
    try:
        with short_address(path) as address:
            sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _require_short_path(path: str) -> None:
    if sys.platform != "linux" and len(os.fsencode(path)) > MAX_PATH:
        short = 'mkdir -p -m 700 "$HOME/.ibkr" && export IBKR_SOCKET="$HOME/.ibkr/daemon.sock"'
        raise UnsafePath(f"{path} is too long for a socket (at most {MAX_PATH} bytes). Use a shorter one: {short}")


class _UnixListener:
    """Accepts connections of this user. Without descriptors it pauses accepting and logs that once."""

    def __init__(
        self, factory: Callable[[], asyncio.Protocol], path: str, sock: socket.socket, directory_fd: int, name: str
    ) -> None:
        self.address = path
        self.refused = 0
        self.starved = 0
        self._factory = factory
        self._sock = sock
        self._directory_fd = directory_fd
        self._name = name
        self._inode = self._inode_at_path()
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._accept_paused = False
        self._loop.add_reader(sock.fileno(), self._accept)

    def in_place(self) -> bool:
        """Whether the path still leads to this socket: its file or directory may have been removed or replaced."""
        try:
            found = os.stat(self.address, follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def close(self) -> None:
        """Stop accepting, and unlink the path if it is still this socket. Idempotent."""
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        # while it still listens, no other daemon can find the path stale and replace it
        if self._inode is not None and self._inode_at_path() == self._inode:
            os.unlink(self._name, dir_fd=self._directory_fd)
        os.close(self._directory_fd)
        self._sock.close()

    async def wait_closed(self) -> None:
        """Wait until the last accepted connection has its protocol."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _inode_at_path(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name, dir_fd=self._directory_fd, follow_symlinks=False)
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(error)
                return
            if self._accept_paused:
                self._accept_paused = False
                log.info("socket.accepting", message="Accepting connections again.", refusedBefore=self.starved)
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            if not self._is_allowed(sock):
                sock.close()
                return
            protocol = self._factory()
        except Exception as error:  # must not stop accepting the next
            log.warning("socket.peer_failed", message="An accepted connection could not be set up.", error=str(error))
            sock.close()
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock), name="socket.open")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _is_allowed(self, sock: socket.socket) -> bool:
        """Whether the peer is this user or root; others are counted. Raises `OSError` where it has closed already."""
        _pid, uid = peer_credentials(sock)
        if uid in (os.getuid(), 0):
            return True
        self.refused += 1
        return False

    def _pause_accepting(self, error: OSError) -> None:
        """Stop accepting for `ACCEPT_PAUSE`; clients wait in the accept queue meanwhile."""
        self.starved += 1
        if not self._accept_paused:
            self._accept_paused = True
            log.warning(
                "socket.starved",
                message="accept() failed; the link stays up. Raise the limit of open files: ulimit -n 4096",
                error=str(error),
            )
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)
        self._accept()
