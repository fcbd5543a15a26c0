"""The default path of the daemon's socket; a Unix socket's address and the credentials of its peer.

Imports only what an interpreter loads in milliseconds: `ibkr status` starts with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

DEFAULT_SESSION = "default"


class AnotherSession(ConnectionError):  # noqa: N818 - the name says what is the case
    """The daemon at the socket holds another session than the one that is named."""


def check_session(path: str, named: str, held: str) -> None:
    """Raises `AnotherSession` where the daemon at `path` holds another session than `named`; `""` names none.

    A daemon of the default session may be named by its socket, in `IBKR_SESSIONS` or in the session's own file.
    """
    if named and held not in (named, DEFAULT_SESSION):
        raise AnotherSession(
            f"The daemon at {path} holds the session {held!r}, not {named!r}: correct IBKR_SOCKET or IBKR_SESSIONS."
        )


def default_path(env: Mapping[str, str], session: str = DEFAULT_SESSION) -> str:
    """`IBKR_SOCKET` in `env`, else the per-user default of `session`. Raises `OSError` without a home directory."""
    return env.get("IBKR_SOCKET") or _per_user_path(env, session)


if sys.platform == "win32":

    def _per_user_path(env: Mapping[str, str], session: str) -> str:  # noqa: ARG001 - the SID is enough
        """A pipe name with this user's SID in it, so that no other user's daemon has the same."""
        from shared.transport.windows_security import own_sid

        return rf"\\.\pipe\ibkr-{own_sid()}" + ("" if session == DEFAULT_SESSION else f"-{session}")

else:
    import contextlib
    import socket
    import struct
    from collections.abc import Iterator

    MAX_PATH = 103 if sys.platform == "darwin" else 107
    """Bytes of a socket's path that the kernel takes, without the closing zero."""

    @contextlib.contextmanager
    def short_address(path: str) -> Iterator[str]:
        """An address of `path` that is short enough for the kernel. Raises `OSError` where there is none."""
        if len(os.fsencode(path)) <= MAX_PATH:
            yield path
            return
        if sys.platform != "linux":
            raise OSError(
                f"{path} is too long for a socket (at most {MAX_PATH} bytes): set IBKR_SOCKET to a shorter one."
            )
        directory, name = os.path.split(os.path.abspath(path))
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}/{name}"
        finally:
            os.close(fd)

    def peer_credentials(sock: socket.socket) -> tuple[int | None, int]:
        """Process id and uid of the peer, from the kernel. The pid is for display only: pids are reused."""
        if sys.platform == "darwin":
            (uid,) = struct.unpack_from("=I", sock.getsockopt(0, 1, 76), 4)  # LOCAL_PEERCRED: xucred after its version
            try:
                return sock.getsockopt(0, 2), uid  # LOCAL_PEERPID
            except OSError:
                return None, uid
        pid, uid, _gid = struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid or None, uid

    def require_own_peer(sock: socket.socket, path: str) -> None:
        """Raises `PermissionError` where the listener is another user's. Root's listener, and root, are allowed."""
        _pid, uid = peer_credentials(sock)
        if os.getuid() not in (uid, 0) and uid != 0:
            raise PermissionError(f"{path} is served by another user (uid {uid}); no data was sent.")

    def _home(env: Mapping[str, str]) -> str:
        if home := env.get("HOME"):
            return home
        import pwd

        try:
            return pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise OSError("This user has no home directory: set IBKR_SOCKET and IBKR_STATE_DIR.") from None

    def _is_private(directory: str) -> bool:
        try:
            status = os.lstat(directory)
        except OSError:
            return False
        return status.st_mode & 0o170077 == 0o040000 and status.st_uid == os.getuid()

    def _per_user_path(env: Mapping[str, str], session: str) -> str:
        """In the per-user runtime directory; where there is none, in a private one below the state directory."""
        name = "daemon.sock" if session == DEFAULT_SESSION else f"{session}.sock"
        if sys.platform == "darwin":
            return os.path.join(_home(env), "Library", "Application Support", "ibkr", name)
        # without a login session's environment (cron, sudo) the directory is the same, so that both ends meet
        runtime = env.get("XDG_RUNTIME_DIR", "")
        for place in (runtime, f"/run/user/{os.getuid()}"):
            if os.path.isabs(place) and _is_private(place):
                return os.path.join(place, "ibkr", name)
        state = env.get("XDG_STATE_HOME", "")
        if not os.path.isabs(state):
            state = os.path.join(_home(env), ".local", "state")
        return os.path.join(state, "ibkr", "run", name)
