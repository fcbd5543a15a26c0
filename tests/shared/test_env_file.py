"""Every spelling of a settings file works as meant or is refused with file, line and what was meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared.settings import PROJECT_ROOT, TABLE, Settings, SettingsError

posix = pytest.mark.skipif(os.name == "nt", reason="paths and modes of POSIX")


def load(tmp_path: Path, content: str | bytes, **environ: str) -> Settings:
    path = tmp_path / "own.env"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Settings.load({"IBKR_ENV_FILE": str(path), **environ}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("IBKR_PORT=4002", "port", 4002),
        ("IBKR_PORT = 4002", "port", 4002),
        ("  IBKR_PORT=4002  ", "port", 4002),
        ("\tIBKR_PORT=4002", "port", 4002),
        ("export IBKR_PORT=4002", "port", 4002),
        ('IBKR_PORT="4002"', "port", 4002),
        ("IBKR_PORT='4002'", "port", 4002),
        ("'IBKR_PORT'=4002", "port", 4002),
        ("IBKR_PORT=4002 # Gateway", "port", 4002),
        ('IBKR_PORT="4002" # Gateway', "port", 4002),
        ("IBKR_ACCOUNT=   # none", "account", ""),
        ("IBKR_PORT\u00a0=\u00a04002", "port", 4002),
        ("IBKR_PORT=4002\r\nIBKR_CLIENT_ID=7\r\n", "client_id", 7),
        ("IBKR_PORT=4002\rIBKR_CLIENT_ID=7\r", "client_id", 7),
        ("IBKR_PORT=4002".encode("utf-8-sig"), "port", 4002),
        ("IBKR_PORT=4002\r\n".encode("utf-16"), "port", 4002),
        (b"\xfe\xff" + "IBKR_PORT=4002".encode("utf-16-be"), "port", 4002),
        ("IBKR_PORT=4002\nIBKR_PORT=4002\n", "port", 4002),
        ("# IBKR_PORT=1\n#IBKR_PORT=2\nIBKR_PORT=4002", "port", 4002),
        ("IB_PORT=1\nTWS_PORT=2\nPORT=3\nIBKR_PORT=4002", "port", 4002),
        ("KEY='line\nIBKR_PORT=1\n'\nIBKR_PORT=4002", "port", 4002),
        ("IBKR_AUTO_CONNECT=Yes", "auto_connect", True),
        ("IBKR_AUTO_CONNECT=off", "auto_connect", False),
        ("IBKR_HOST=tws.lan", "host", "tws.lan"),
        ("IBKR_HOST=ib_gateway", "host", "ib_gateway"),
        ("IBKR_HOST=::1", "host", "::1"),
        ("IBKR_HOST=10.0.0.7", "host", "10.0.0.7"),
        ("IBKR_MARKET_DATA=Delayed", "market_data", "delayed"),
        ("IBKR_CONNECT_TIMEOUT=2.5", "connect_timeout", 2.5),
    ],
)
def test_a_spelling_that_works_means_what_it_looks_like(
    tmp_path: Path, content: str | bytes, name: str, value: Any
) -> None:
    assert getattr(load(tmp_path, content), name) == value


@pytest.mark.parametrize(
    ("content", "line", "meant"),
    [
        ("ibkr_port=4002", 1, "IBKR_PORT=4002"),
        ("\n\nIbkr_Port=4002", 3, "IBKR_PORT=4002"),
        ('$env:IBKR_PORT="4002"', 1, "IBKR_PORT=4002"),
        ("$IBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ("set IBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ('set "IBKR_PORT=4002"', 1, "IBKR_PORT=4002"),
        ("setx IBKR_PORT 4002", 1, "IBKR_PORT=4002"),
        ("IBKR_PORT: 4002", 1, "IBKR_PORT=4002"),
        ("- IBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ('"IBKR_PORT"=4002', 1, "IBKR_PORT=4002"),
        ('"IBKR_PORT": "4002",', 1, "IBKR_PORT=4002"),
        ("IBKR_PORT 4002", 1, "IBKR_PORT=4002"),
        ("IBKR_PORT", 1, "IBKR_PORT=…"),
        ("IBKR_PORT\uff1d4002", 1, "IBKR_PORT=4002"),
        ("IBKR-PORT=4002", 1, "IBKR_PORT=4002"),
        ("IBKR PORT=4002", 1, "IBKR_PORT=4002"),
        ("IBKRPORT=4002", 1, "IBKR_PORT=…"),
        ("IKBR_PORT=4002", 1, "IBKR_PORT=…"),
        ("IB\u041aR_PORT=4002", 1, "IBKR_PORT=…"),
        ("\u200bIBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ("export ibkr_port=4002", 1, "IBKR_PORT=4002"),
        ("; IBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ("// IBKR_PORT=4002", 1, "IBKR_PORT=4002"),
        ("[ibkr]\nport=4002", 1, "NAME=value"),
        ('A=1\nIBKR_PORT="4002\nIBKR_CLIENT_ID=2\n', 2, "not closed"),
        ("IBKR_PORT='4002\nIBKR_CLIENT_ID=2'\n", 1, "Close the quote"),
        ('IBKR_STATE_DIR="C:\\new\\table"', 1, "single quotes"),
        ("IBKR_PORT=4002\nIBKR_PORT=7496\n", 2, "on line 1"),
        ("IBKR_PROT=4002", 1, "IBKR_PORT?"),
        ("IBKR_PORT=4002 IBKR_CLIENT_ID=2", 1, "1 to 65535"),
        ("IBKR_PORT==4002", 1, "1 to 65535"),
        ("IBKR_PORT=4002;", 1, "1 to 65535"),
        ("IBKR_PORT=\u201c4002\u201d", 1, "1 to 65535"),
        ("IBKR_PORT=${PORT}", 1, "1 to 65535"),
        ("IBKR_PORT=4002#Gateway", 1, "1 to 65535"),
        ("IBKR_HOST=127.0.0.1:7497", 1, "IBKR_PORT=7497"),
        ("IBKR_HOST=[::1]:7497", 1, "IBKR_PORT=7497"),
        ("IBKR_FACADE_HOST=127.0.0.1:9101", 1, "IBKR_FACADE_PORT=9101"),
        ("IBKR_HOST=http://localhost", 1, "without http://"),
        ("IBKR_HOST=1.2.3", 1, "four numbers"),
        ("IBKR_HOST=127.1", 1, "four numbers"),
        ("IBKR_HOST=2130706433", 1, "four numbers"),
        ("IBKR_HOST=127.0.0.256", 1, "four numbers"),
        ("IBKR_HOST=127.0.0.01", 1, "four numbers"),
        ("IBKR_HOST=0x7f000001", 1, "four numbers"),
        ("IBKR_HOST=127..0.1", 1, "a host name or address"),
        ("IBKR_HOST=:::1", 1, "a host name or address"),
        ("IBKR_ALLOWED_HOSTS=tws.lan,10.0.0", 1, "four numbers"),
        ("IBKR_CONNECT_TIMEOUT=10 s", 1, "number of seconds"),
        ("IBKR_CONNECT_TIMEOUT=1,5", 1, "number of seconds"),
        ("IBKR_CONNECT_TIMEOUT=1e999", 1, "number of seconds"),
        ("IBKR_STATE_DIR=$HOME/ibkr", 1, "not expanded"),
        ("IBKR_SOCKET=%TEMP%\\ibkr.sock", 1, "not expanded"),
        ("IBKR_ENV_FILE=other.env", 1, "in the environment"),
        ("# Gr\u00fc\u00dfe\nIBKR_PORT=4002".encode("cp1252"), 1, "Save the file as UTF-8"),
        ("IBKR_PORT=4002".encode("utf-16-le"), None, "UTF-8"),
    ],
)
def test_a_spelling_that_does_not_work_is_refused_with_file_line_and_what_was_meant(
    tmp_path: Path, content: str | bytes, line: int | None, meant: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, content)
    sentence = str(caught.value)
    assert str(tmp_path / "own.env") in sentence
    assert line is None or f"line {line}" in sentence
    assert meant in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("line", ["IBKR_PASSWORD=hunter2", "ibkr_password=hunter2", "IBKR_PASSWORD: hunter2"])
def test_the_value_of_an_unknown_name_is_not_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, line)
    assert "hunter2" not in str(caught.value)


def test_a_line_that_is_there_twice_is_warned_of(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, "IBKR_PORT=4002\n\nIBKR_PORT=4002\n").warnings
    assert "line 3" in warning
    assert "line 1" in warning
    assert load(tmp_path, "IBKR_PORT=4002\n").warnings == ()


def test_a_name_in_small_letters_in_the_environment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="did you mean IBKR_PORT"):
        load(tmp_path, "", ibkr_port="4002")


@posix
def test_a_relative_path_is_relative_to_the_file_or_to_the_working_directory(tmp_path: Path) -> None:
    place = tmp_path / "etc"
    place.mkdir()
    (place / "own.env").write_text("IBKR_STATE_DIR=state\nIBKR_SOCKET=run/d.sock\nIBKR_FACADE_TOKEN_FILE=../token\n")
    settings = Settings.load({"IBKR_ENV_FILE": "etc/own.env"}, cwd=tmp_path)
    assert settings.state_dir == place / "state"
    assert settings.socket == str(place / "run" / "d.sock")
    assert settings.facade_token_file is not None
    assert settings.facade_token_file.parent.resolve() == tmp_path
    assert Settings.load({"IBKR_STATE_DIR": "state"}, cwd=tmp_path).state_dir == tmp_path / "state"


def test_what_stands_where_the_settings_file_belongs_and_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(SettingsError, match="is not a file"):
        Settings.load({}, cwd=tmp_path)


@posix
def test_a_settings_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(tmp_path / ".env")
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.load({}, cwd=tmp_path)


@posix
def test_a_working_directory_that_is_gone_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SettingsError, match="working directory"):
        Settings.load({})


def test_the_seeds_block_works_and_its_whole_guide_does_not(tmp_path: Path) -> None:
    """The guide names every gateway's port in turn: which of them is meant is unknown."""
    block = "".join((PROJECT_ROOT / ".env.example").read_text(encoding="utf-8").splitlines(keepends=True)[:5])
    assert load(tmp_path, block).auto_connect
    with pytest.raises(SettingsError, match="IBKR_PORT is set here and, differently"):
        load(tmp_path, block + "IBKR_PORT=7496  # For live trading\n")


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.secret])
@pytest.mark.parametrize("form", ["{}: {}", "{} {}", '$env:{}="{}"', "set {}={}", "- {}={}", '{}="{}'])
def test_a_line_that_is_not_read_as_a_secret_does_not_show_it(tmp_path: Path, name: str, form: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, form.format(name, "https://hooks.example.com/SECRET"))

    assert name in str(refused.value)
    assert "SECRET" not in str(refused.value)
