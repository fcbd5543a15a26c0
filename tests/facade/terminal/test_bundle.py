"""The support bundle: everything that explains a fault, and nothing that names an account or opens a door."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from facade.terminal.bundle import bundle
from tests.facade.fake_daemon import FakeDaemon
from tests.ports import free_port


@pytest.mark.parametrize("name", ["bundle.tar.gz", "bundle.zip"])
async def test_a_bundle_holds_neither_account_ids_nor_tokens_and_is_its_owners_alone(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    logs = tmp_path / "state" / "logs"
    logs.mkdir(parents=True)
    (tmp_path / "state").chmod(0o700)
    (logs / "daemon.log").write_text('{"message":"orders of DU1234567","header":"Bearer s3cret"}\n')
    daemon.answer("link.get", {"phase": "ready", "accounts": ["DU1234567"]})
    daemon.answer("link.events", {"events": [{"text": "logged in to U7654321"}]})
    daemon.answer("daemon.info", {"text": "authorization: bearer s3cret"})
    environ = {
        "HOME": str(tmp_path),
        "IBKR_ACCOUNT": "DU1234567",
        "IBKR_FACADE_PORT": str(free_port()),
        "IBKR_FACADE_TOKEN_FILE": str(token),
        "IBKR_PORT": str(free_port()),
        "IBKR_SOCKET": daemon.path,
        "IBKR_STATE_DIR": str(tmp_path / "state"),
    }
    target = tmp_path / name
    target.touch(mode=0o644)

    assert await asyncio.to_thread(bundle, environ, target, ask=None) == 0

    assert os.name == "nt" or target.stat().st_mode & 0o777 == 0o600
    shutil.unpack_archive(target, tmp_path / "unpacked")
    root = tmp_path / "unpacked" / "ibkr-support"
    parts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert {"settings.json", "doctor.txt", "link.json", "link-events.json", "daemon.json", "logs/daemon.log"} == set(
        parts
    )
    assert "DU…67" in parts["link.json"]
    assert "U7…21" in parts["link-events.json"]
    for part, text in parts.items():
        assert not [secret for secret in ("1234567", "7654321", "s3cret") if secret in text], part


async def test_a_name_that_is_no_archives_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"HOME": str(tmp_path), "IBKR_STATE_DIR": str(tmp_path / "state")}
    assert await asyncio.to_thread(bundle, environ, tmp_path / "bundle.rar", ask=None) == 2
    assert ".zip" in capsys.readouterr().err
    assert not (tmp_path / "bundle.rar").exists()
