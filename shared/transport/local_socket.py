"""The local socket of this platform: a Unix socket, or a named pipe on Windows, with the same three functions.

A path that is not this user's alone is refused and left untouched; a socket that another process serves is kept.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from shared.transport.named_pipe import connect, listen, peer_identity
else:
    from shared.transport.unix_socket import connect, listen, peer_identity

__all__ = ["connect", "listen", "peer_identity"]
