"""The support bundle: what a developer needs to understand a fault, in one archive, redacted.

Its contents are listed before it is written. Account ids and tokens are masked.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from facade.terminal import diagnosis
from facade.terminal.requests import named_session
from shared.jsonrpc import blocking_client
from shared.log import masked, protect
from shared.settings import TABLE, Settings

LOG_BYTES = 2_000_000
"""The end of each log that goes into the bundle: days of a quiet link, and small enough to send."""
REQUEST_TIMEOUT = 5.0  # s for the daemon's history


def bundle(environ: Mapping[str, str], target: Path | None, *, ask: Callable[[str], bool] | None) -> int:
    """Write the archive and print its path; 0 if it was written.

    `ask`: called with a question before anything is written; `None`: write without one. The name ends in .zip, .tar.gz
    or .tgz: 2 for any other.
    """
    if target is not None and not target.name.lower().endswith((".zip", ".tar.gz", ".tgz")):
        print(f"{target} is no name of an archive: it must end in .zip, .tar.gz or .tgz.", file=sys.stderr)
        return 2
    settings = Settings.load(environ)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path = target or Path.cwd() / f"ibkr-support-{stamp}.tar.gz"
    found = dict(contents(environ, settings))
    protect([settings.account, *_accounts(found["link.json"])])
    parts = {name: masked(text) for name, text in found.items()}
    print(f"{path} will hold, with account ids masked:")
    for name, text in parts.items():
        print(f"  {name:<24} {len(text.encode()):>9} bytes")
    if ask is not None and not ask("Write it?"):
        print("Nothing was written.")
        return 1
    try:
        write(path, parts)
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    print(path)
    return 0


def contents(environ: Mapping[str, str], settings: Settings) -> Iterator[tuple[str, str]]:
    """Name and text of each part, not yet masked."""
    yield "settings.json", json.dumps(_settings(settings), indent=2)
    yield "doctor.txt", "\n".join(line for check in diagnosis.examine(environ) for line in check.lines(colour=False))
    for name, method in (
        ("link.json", "link.get"),
        ("link-events.json", "link.events"),
        ("daemon.json", "daemon.info"),
    ):
        yield name, _answer_of(settings, method)
    for log in sorted((settings.state_dir / "logs").glob("*.log*")):
        yield f"logs/{log.name}", _end_of(log)


def _accounts(link: str) -> list[str]:
    """The accounts in the link row; none where the daemon did not answer with one."""
    try:
        row = json.loads(link)
    except ValueError:
        return []
    return [str(each) for each in row.get("accounts") or ()] if isinstance(row, dict) else []


def write(path: Path, parts: Mapping[str, str]) -> None:
    """A zip where the name ends so, else a gzipped tar; only its owner can read it."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    with path.open("wb") as file:
        (_zip if path.suffix.lower() == ".zip" else _tar)(file, {f"ibkr-support/{name}": parts[name] for name in parts})


def _zip(file: BinaryIO, parts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def _tar(file: BinaryIO, parts: Mapping[str, str]) -> None:
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in parts.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            archive.addfile(member, io.BytesIO(data))


def _settings(settings: Settings) -> dict[str, str]:
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    named = {name: str(values[row.field]) for name, row in TABLE.items()}
    return named | {"IBKR_ENV_FILE": str(settings.env_file or "")}


def _answer_of(settings: Settings, method: str) -> str:
    try:
        return json.dumps(
            blocking_client.call_once(
                settings.socket_path, method, {}, REQUEST_TIMEOUT, session=named_session(settings)
            ),
            indent=2,
            ensure_ascii=False,
        )
    except (OSError, blocking_client.CallError) as error:
        return json.dumps({"unknown": f"The daemon did not answer: {error}"})


def _end_of(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, io.SEEK_END)
        file.seek(max(0, file.tell() - LOG_BYTES))
        return file.read().decode("utf-8", "replace")
