"""One question to the daemon and its answer, for a program that lives for one: where it is, who it is, what it says.

Imports what an interpreter has loaded in milliseconds (`socket`, `json`), never asyncio. Long conversations are
`rpc.Client`'s.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from time import monotonic, sleep  # the one clock outside clock.py, which would bring asyncio with it

TYPE_CHECKING = False  # typing itself takes a tenth of the time that the whole program has
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1  # messages.PROTOCOL, spelled here because that module costs msgspec; a test holds them together
MAX_LINE = 1 << 20  # rpc.MAX_LINE, likewise


class Refused(Exception):  # noqa: N818 - what the daemon did
    """The daemon answered with an error: JSON-RPC's `code` and `message`, and `data` with its `reason`."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


def default_path(env: Mapping[str, str]) -> str:
    """Where a daemon of this user listens when nobody says otherwise; `IBKR_SOCKET` in `env` says otherwise."""
    return env.get("IBKR_SOCKET") or usual_path(env)


def call_once(path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float = 2.0) -> Any:
    """`method`'s result, decoded. `timeout`: s for all of it.

    Raises `Refused` with the daemon's error, an `OSError` when it cannot be asked (`FileNotFoundError`,
    `ConnectionRefusedError`, `TimeoutError`, `PermissionError` where somebody else listens there).
    """
    ends = monotonic() + timeout
    with _Line(path, ends) as line:
        hello = {"protocol": PROTOCOL, "client": "ibkr/1"}
        line.send({"jsonrpc": "2.0", "id": 0, "method": "hello", "params": hello})
        _result(line, 0)
        line.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}})
        return _result(line, 1)


def _result(line: _Line, number: int) -> Any:
    while True:  # ends with the line's deadline
        answer = line.receive()
        if answer.get("id") == number and ("result" in answer or "error" in answer):
            break
        if "error" in answer and answer.get("id") is None:
            break  # said of the connection as a whole
    if "error" in answer:
        error = answer["error"]
        raise Refused(error["code"], error["message"], error.get("data"))
    return answer["result"]


class _Line:
    """Objects out and in, a line each, until `ends`."""

    def __init__(self, path: str, ends: float) -> None:
        self._ends = ends
        self._stream = opened(path, ends)
        self._got = bytearray()

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def send(self, message: Mapping[str, Any]) -> None:
        self._stream.settimeout(left(self._ends))
        self._stream.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        searched = 0
        while (end := self._got.find(b"\n", searched)) < 0:
            searched = len(self._got)
            if searched > MAX_LINE:
                raise ConnectionError("The daemon sent a line over 1 MiB.")
            self._stream.settimeout(left(self._ends))
            data = self._stream.recv(1 << 16)
            if not data:
                raise ConnectionResetError("The daemon closed the connection without an answer.")
            self._got += data
        text = bytes(self._got[:end])
        del self._got[: end + 1]
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise ConnectionError("What answers there does not speak the daemon's protocol.")
        return message


def left(ends: float) -> float:
    left = ends - monotonic()
    if left <= 0:
        raise TimeoutError("The daemon did not answer in time.")
    return left


if sys.platform == "win32":
    from shared.plain import PlainPipe

    def usual_path(env: Mapping[str, str]) -> str:  # noqa: ARG001 - the SID says it all
        """A name that no other user's daemon has."""
        from shared.sid import own_sid

        return rf"\\.\pipe\ibkr-{own_sid()}"

    opened = PlainPipe
else:
    import contextlib
    from collections.abc import Iterator

    LONGEST = 103 if sys.platform == "darwin" else 107
    """Bytes of a socket's path that the kernel takes, without the closing zero."""

    @contextlib.contextmanager
    def reachable(path: str) -> Iterator[str]:
        """An address to connect to `path` by, short enough for the kernel. Raises `OSError` where there is none."""
        if len(os.fsencode(path)) <= LONGEST:
            yield path
            return
        if sys.platform != "linux":
            raise OSError(
                f"{path} is too long for a socket (at most {LONGEST} bytes): set IBKR_SOCKET to a shorter one."
            )
        directory, name = os.path.split(os.path.abspath(path))
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{name}"
        finally:
            os.close(fd)

    def credentials(sock: socket.socket) -> tuple[int | None, int]:
        """Process and user at the other end, vouched for by the kernel. The pid is for people: numbers are reused."""
        if sys.platform == "darwin":
            (uid,) = struct.unpack_from("=I", sock.getsockopt(0, 1, 76), 4)  # LOCAL_PEERCRED: xucred after its version
            try:
                return sock.getsockopt(0, 2), uid  # LOCAL_PEERPID
            except OSError:
                return None, uid
        pid, uid, _gid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid or None, uid

    def must_be_ours(sock: socket.socket, path: str) -> None:
        """Raises `PermissionError` where another user listens, who must be told nothing. Root may speak to anybody."""
        _pid, uid = credentials(sock)
        if os.getuid() not in (uid, 0) and uid != 0:
            raise PermissionError(f"{path} is served by another user (uid {uid}); nothing was said to them.")

    def _home(env: Mapping[str, str]) -> str:
        if home := env.get("HOME"):
            return home
        import pwd

        try:
            return pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise OSError("This user has no home directory: set IBKR_SOCKET and IBKR_STATE_DIR.") from None

    def _private(directory: str) -> bool:
        try:
            found = os.lstat(directory)
        except OSError:
            return False
        return found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.getuid()

    def usual_path(env: Mapping[str, str]) -> str:
        """The per-user runtime directory; where there is none, a directory of our own below the state directory."""
        if sys.platform == "darwin":
            return os.path.join(_home(env), "Library", "Application Support", "ibkr", "daemon.sock")
        # without a login session's environment (cron, sudo) the directory is the same, so that both ends meet
        runtime = env.get("XDG_RUNTIME_DIR", "")
        for place in (runtime, f"/run/user/{os.getuid()}"):
            if os.path.isabs(place) and _private(place):
                return os.path.join(place, "ibkr", "daemon.sock")
        state = env.get("XDG_STATE_HOME", "")
        if not os.path.isabs(state):
            state = os.path.join(_home(env), ".local", "state")
        return os.path.join(state, "ibkr", "run", "daemon.sock")

    def opened(path: str, ends: float) -> socket.socket:
        """A connection to `path`, whose owner is known to be this user (or root), by `ends`."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with reachable(path) as address:
                while True:
                    sock.settimeout(left(ends))
                    try:
                        sock.connect(address)
                        break
                    except BlockingIOError:  # the queue is full: the daemon lives, and is busy
                        sleep(0.02)
            must_be_ours(sock, path)
        except BaseException:
            sock.close()
            raise
        return sock
