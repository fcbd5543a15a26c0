"""How a socket goes from one process to another, and what parent and child say to each other about it.

Standard library only: the parent stays small. POSIX hands over descriptors, Windows duplicates sockets by process id.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

WINDOWS = os.name == "nt"
PIECE = 65536
"""Bytes read at once; what is said is a few hundred."""


class Line:
    """One end of the conversation between parent and child: JSON lines, some with a socket. Its end is the end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._got = b""
        self._given: list[socket.socket] = []

    def say(self, message: dict[str, Any], given: socket.socket | None = None, to: int = 0) -> None:
        """Tell the other end (process `to`); `given` goes along, duplicated. Raises `OSError` where nobody listens."""
        if given is not None and WINDOWS:
            message = {**message, "socket": _shared(given, to)}
        line = json.dumps(message).encode() + b"\n"
        if given is not None and not WINDOWS:
            socket.send_fds(self.sock, [line], [given.fileno()])
        else:
            self.sock.sendall(line)

    def hear(self) -> list[dict[str, Any]] | None:
        """What was said since, a socket under `given`; `None` at the end. Blocks only where nothing is there."""
        try:
            if WINDOWS:
                data = self.sock.recv(PIECE)
            else:
                data, descriptors, _, _ = socket.recv_fds(self.sock, PIECE, 4)
                self._given += [socket.socket(fileno=fd) for fd in descriptors]
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._got = (self._got + data).split(b"\n")
        heard = [json.loads(line) for line in lines]
        for message in heard:
            if "socket" in message:
                message["given"] = _from_shared(message.pop("socket"))
            elif self._given and message.get("gives"):
                message["given"] = self._given.pop(0)
        return heard

    def close(self) -> None:
        self.sock.close()


def spawn(command: Sequence[str], listener: socket.socket | None) -> tuple[subprocess.Popen[bytes], Line]:
    """Start `command` with one end of a conversation and, where there is one, the listening socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        if WINDOWS:
            process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own interpreter and module
            shared = {"control": _shared(theirs, process.pid)}
            if listener is not None:
                shared["listener"] = _shared(listener, process.pid)
            assert process.stdin is not None  # noqa: S101 - for the type checker
            with process.stdin as stdin:
                stdin.write(json.dumps(shared).encode() + b"\n")
            return process, Line(ours)
        passed = [theirs.fileno()] + ([listener.fileno()] if listener is not None else [])
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, *map(str, passed)], pass_fds=passed, stdin=subprocess.DEVNULL
        )
        return process, Line(ours)


def received(arguments: Sequence[str]) -> tuple[Line, socket.socket | None]:
    """In the child: the conversation with the parent, and the listening socket if one was handed over."""
    if WINDOWS:
        shared = json.loads(sys.stdin.buffer.readline())
        listener = _from_shared(shared["listener"]) if "listener" in shared else None
        return Line(_from_shared(shared["control"])), listener
    sockets = [socket.socket(fileno=int(fd)) for fd in arguments]
    for sock in sockets:
        sock.set_inheritable(False)
    return Line(sockets[0]), sockets[1] if len(sockets) > 1 else None


if sys.platform == "win32":

    def _shared(sock: socket.socket, pid: int) -> str:
        return base64.b64encode(sock.share(pid)).decode()

    def _from_shared(text: str) -> socket.socket:
        return socket.fromshare(base64.b64decode(text))

else:

    def _shared(sock: socket.socket, pid: int) -> str:
        raise NotImplementedError("descriptors are handed over instead")

    def _from_shared(text: str) -> socket.socket:
        raise NotImplementedError("descriptors are handed over instead")
