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
from shared.transport.private_paths import AlreadyRunning, UnsafePath, out_of_the_way, private_directory

assert sys.platform != "win32"  # noqa: S101 - for the type checker: everything below is POSIX

from shared.transport.address import MAX_PATH, peer_credentials, require_own_peer, short_address  # noqa: E402

log = structlog.get_logger(__name__)

P = TypeVar("P", bound=asyncio.BaseProtocol)

BACKLOG = 64
"""Connections that may wait to be accepted while the loop is busy; clients that find it full try again."""

ACCEPT_PAUSE = 1.0
"""s between looks at the queue while there are no descriptors: soon enough for people, no busy loop."""

CONNECT_PAUSE = 0.02
"""s before a client tries a full queue, or a listener the directory's lock, again."""

START_LIMIT = 2.0
"""s that another process may hold the directory while it binds; binding takes microseconds."""


async def listen(factory: Callable[[], asyncio.Protocol], path: str) -> Listener:
    """Serve `path`, 0600 from birth in a directory of this user alone; what a dead process left there is replaced.

    `factory` is called once a peer of this user (or root). Raises `UnsafePath` for a place, or a thing at it, that
    is not ours, `AlreadyRunning` when somebody serves it, other `OSError`s as the system gives them.
    """
    directory, name = _parts(path)
    with private_directory(directory, "IBKR_SOCKET") as inside:
        _short_enough(path)
        await _sole_starter(inside, path)
        try:
            _make_way(inside, name, path)
            sock = _bound(path)
            return _UnixListener(factory, path, sock, os.dup(inside), name)
        finally:
            fcntl.flock(inside, fcntl.LOCK_UN)  # the listener's copy of the descriptor would keep it


async def connect(factory: Callable[[], P], path: str, timeout: float) -> tuple[asyncio.Transport, P]:
    """A connection to whoever serves `path`, who is known to be this user (or root) before a byte is sent.

    Raises `FileNotFoundError` or `ConnectionRefusedError` where nobody listens, `TimeoutError` after `timeout` s,
    `PermissionError` where another user does.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout):
            with short_address(path) as address:
                # not loop.sock_connect: it takes a full queue for success
                while (answer := sock.connect_ex(address)) == errno.EAGAIN:  # noqa: ASYNC110 - nothing tells us
                    await asyncio.sleep(CONNECT_PAUSE)
            if answer:
                raise OSError(answer, os.strerror(answer), path)
            require_own_peer(sock, path)
            transport, protocol = await loop.create_unix_connection(factory, sock=sock)
    except BaseException:
        sock.close()
        raise
    return transport, protocol


def peer_identity(transport: asyncio.BaseTransport) -> PeerIdentity:
    """Who is at the other end of `transport`."""
    pid, uid = peer_credentials(transport.get_extra_info("socket"))
    return PeerIdentity(pid, str(uid))


def _parts(path: str) -> tuple[str, str]:
    return os.path.split(os.path.abspath(path))


async def _sole_starter(inside: int, path: str) -> None:
    """The lock on the directory: looking, unlinking and binding are one act among daemons that start at once."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + START_LIMIT
    while True:
        try:
            return fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() >= ends:
                raise AlreadyRunning(None, path) from None
        await asyncio.sleep(CONNECT_PAUSE)


def _make_way(inside: int, name: str, path: str) -> None:
    """Remove a socket that nobody serves; refuse everything else that has the name."""
    try:
        found = os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid():
        raise UnsafePath(f"What is at {path} is no socket of ours. {out_of_the_way(path)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short_address(path) as address:
        probe.setblocking(False)
        answer = probe.connect_ex(address)
        if answer in (0, errno.EAGAIN, errno.EINPROGRESS):  # EAGAIN: served, its queue is full
            raise AlreadyRunning(peer_credentials(probe)[0] if answer == 0 else None, path)
    if answer != errno.ECONNREFUSED:
        raise UnsafePath(f"{path} cannot be tried ({os.strerror(answer)}). {out_of_the_way(path)}")
    os.unlink(name, dir_fd=inside)


def _bound(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)  # 0600 from birth; process-wide, for as long as bind takes
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


def _short_enough(path: str) -> None:
    if sys.platform != "linux" and len(os.fsencode(path)) > MAX_PATH:
        short = 'mkdir -p -m 700 "$HOME/.ibkr" && export IBKR_SOCKET="$HOME/.ibkr/daemon.sock"'
        raise UnsafePath(f"{path} is too long for a socket (at most {MAX_PATH} bytes). Use a shorter one: {short}")


class _UnixListener:
    """Accepts, looks who it is, hands on. Without descriptors it pauses and says so once."""

    def __init__(
        self, factory: Callable[[], asyncio.Protocol], path: str, sock: socket.socket, inside: int, name: str
    ) -> None:
        self.address = path
        self.refused = 0
        self.starved = 0
        self._factory = factory
        self._sock = sock
        self._inside = inside
        self._name = name
        self._born = self._at_the_name()
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._hungry = False
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept nobody any more, and take the name away if it is still ours. Twice is once."""
        if self._sock.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        # while it still listens nobody can think the name stale and put theirs in its place
        if self._born is not None and self._at_the_name() == self._born:
            os.unlink(self._name, dir_fd=self._inside)
        os.close(self._inside)
        self._sock.close()

    async def wait_closed(self) -> None:
        """Until who was accepted last is a peer like the others."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _at_the_name(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._name, dir_fd=self._inside, follow_symlinks=False)
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
                self._starve(error)
                return
            if self._hungry:
                self._hungry = False
                log.info("socket.accepting", message="Peers are accepted again.", refusedBefore=self.starved)
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            if not self._welcome(sock):
                sock.close()
                return
            protocol = self._factory()
        except Exception as error:  # one peer's trouble is not the next one's
            log.warning("socket.peer_failed", message="A peer could not be served.", error=str(error))
            sock.close()
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, sock), name="socket.open")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _welcome(self, sock: socket.socket) -> bool:
        """Whether the peer is this user or root; others are counted. Raises `OSError` where it has gone already."""
        _pid, uid = peer_credentials(sock)
        if uid in (os.getuid(), 0):
            return True
        self.refused += 1
        return False

    def _starve(self, error: OSError) -> None:
        """The queue keeps who waits; ask again in a second, and count."""
        self.starved += 1
        if not self._hungry:
            self._hungry = True
            log.warning(
                "socket.starved",
                message="No peer can be accepted for now; the link stays up. More open files: ulimit -n 4096",
                error=str(error),
            )
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)
        self._accept()
