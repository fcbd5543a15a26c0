"""Signatures of webhooks after Standard Webhooks (standardwebhooks.com), and the file with their secret."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from shared.transport.private_paths import closing

PREFIX = "whsec_"
FILE = "alerts.secret"
"""In the state directory, where `IBKR_ALERTS_SECRET_FILE` names no other."""


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = b"%s.%d.%s" % (message_id.encode("ascii"), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode("ascii")


def secret_of(path: Path) -> bytes:
    """The secret in the file at `path`, made there if it is missing. Raises `ValueError` with a sentence."""
    try:
        if not path.exists():  # else its directory need not be writable
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                _make(path)
    except OSError as error:
        raise ValueError(f"The secret for alerts in {str(path)!r} cannot be made: {error.strerror}.") from error
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4097).strip().decode("ascii", "replace")
    except OSError as error:
        raise ValueError(f"The secret for alerts in {str(path)!r} cannot be read: {error.strerror}.") from error
    if mend := closing(str(path), mode):
        raise ValueError(f"Others can read the secret for alerts in {str(path)!r}; run: {mend}")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(PREFIX) or not 24 <= len(secret) <= 64:
        raise ValueError(f"{str(path)!r} holds no secret for alerts: {PREFIX} and the base64 of 24 to 64 bytes.")
    return secret


def _make(path: Path) -> None:
    """Whole from the beginning: the other process may read it at any moment."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii") + "\n")
    try:
        if os.name == "nt":
            draft.rename(path)  # raises where it exists
        else:
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
