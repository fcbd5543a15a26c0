"""The channel between the facade's parent and its serving child: JSON lines, and sockets that are handed over.

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
"""Bytes read at once; a message has a few hundred."""
MAX_SOCKETS = 8
"""Sockets handed over at once; a name of this machine has two addresses."""


class ParentChannel:
    """One end of the channel. When it is closed, the other process ends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        self._given: list[socket.socket] = []

    def send(self, message: dict[str, Any], sockets: Sequence[socket.socket] = (), to: int = 0) -> None:
        """Send to the other process (pid `to`), with duplicates of `sockets`. Raises `OSError` if it is closed."""
        if sockets:
            message = {**message, "sockets": [_shared(sock, to) for sock in sockets] if WINDOWS else len(sockets)}
        line = json.dumps(message).encode() + b"\n"
        if sockets and not WINDOWS:
            socket.send_fds(self.sock, [line], [sock.fileno() for sock in sockets])
        else:
            self.sock.sendall(line)

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages since the last call, sockets under `given`; `None` at the end. Blocks while there are none."""
        try:
            if WINDOWS:
                data = self.sock.recv(PIECE)
            else:
                data, descriptors, _, _ = socket.recv_fds(self.sock, PIECE, MAX_SOCKETS)
                self._given += [socket.socket(fileno=fd) for fd in descriptors]
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            sockets = message.pop("sockets", 0)
            if isinstance(sockets, list):
                message["given"] = [_from_shared(sock) for sock in sockets]
            elif sockets:
                message["given"], self._given = self._given[:sockets], self._given[sockets:]
        return messages

    def close(self) -> None:
        self.sock.close()


def spawn(command: Sequence[str], listeners: Sequence[socket.socket]) -> tuple[subprocess.Popen[bytes], ParentChannel]:
    """Start `command` with one end of a channel and the listening sockets, if there are any."""
    ours, theirs = socket.socketpair()
    with theirs:
        if WINDOWS:
            process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own interpreter and module
            shared = [_shared(sock, process.pid) for sock in (theirs, *listeners)]
            assert process.stdin is not None  # noqa: S101 - for the type checker
            with process.stdin as stdin:
                stdin.write(json.dumps(shared).encode() + b"\n")
            return process, ParentChannel(ours)
        passed = [sock.fileno() for sock in (theirs, *listeners)]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, *map(str, passed)], pass_fds=passed, stdin=subprocess.DEVNULL
        )
        return process, ParentChannel(ours)


def received(arguments: Sequence[str]) -> tuple[ParentChannel, list[socket.socket]]:
    """In the child: the channel to the parent, and the listening sockets that were handed over."""
    if WINDOWS:
        sockets = [_from_shared(sock) for sock in json.loads(sys.stdin.buffer.readline())]
    else:
        sockets = [socket.socket(fileno=int(fd)) for fd in arguments]
        for sock in sockets:
            sock.set_inheritable(False)
    return ParentChannel(sockets[0]), sockets[1:]


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
