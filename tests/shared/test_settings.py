"""The settings as a user writes them: defaults, files, comments, and one sentence for everything that is wrong."""

from __future__ import annotations

import os
import re
import sys
from datetime import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.settings import PROJECT_ROOT, TABLE, Settings, SettingsError, shared_client_ids

homes = pytest.mark.skipif(os.name == "nt", reason="Windows takes any name's home for one beside the user's own")

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes have their own test")


def load(tmp_path: Path, file: str | None = None, **environ: str) -> Settings:
    """Settings from a `.env` with this content, or from none at all."""
    path = tmp_path / "settings.env"
    path.write_text(file or "", encoding="utf-8")
    return Settings.load({"IBKR_ENV_FILE": str(path), **environ})


def test_without_settings_the_documented_defaults_hold(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.auto_connect, settings.host, settings.port, settings.client_id) == (False, "127.0.0.1", 7497, 1)
    assert (settings.facade_host, settings.facade_port, settings.peer_check) == ("127.0.0.1", 9101, True)
    assert (settings.connect_timeout, settings.probe_interval, settings.probe_timeout) == (10, 5, 5)
    assert (settings.reconnect_max, settings.market_data, settings.restart_at) == (15, "live", None)


def test_the_example_is_complete_and_spells_the_defaults(tmp_path: Path) -> None:
    """Copied as it stands, `.env.example` changes nothing but auto-connect."""
    example = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^#? ?(IBKR_\w+)=", example, re.MULTILINE))
    assert named == {*TABLE, "IBKR_ENV_FILE"}
    path = tmp_path / ".env"
    path.write_text(example, encoding="utf-8")
    given_settings = Settings.load({}, cwd=tmp_path)
    plain = load(tmp_path, IBKR_AUTO_CONNECT="true")
    for name, row in TABLE.items():
        assert getattr(given_settings, row.field) == getattr(plain, row.field), name


def test_the_example_begins_with_the_seeds_block() -> None:
    example = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    assert example.startswith(
        "# IBKR Auto-Connect Settings\n"
        "IBKR_AUTO_CONNECT=true          # Enable/disable auto-connect\n"
        "IBKR_HOST=127.0.0.1             # IBKR host (usually localhost)\n"
        "IBKR_PORT=7497                  # Port number\n"
        "IBKR_CLIENT_ID=1                # Client ID\n"
    )


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "IBKR_PORT=4002\nIBKR_CLIENT_ID=5\n", IBKR_PORT="7496").port == 7496


def test_the_working_directorys_file_is_read_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IBKR_CLIENT_ID=7\n")
    (tmp_path / "other").write_text("IBKR_CLIENT_ID=8\n")
    assert Settings.load({}, cwd=tmp_path).client_id == 7
    assert Settings.load({"IBKR_ENV_FILE": str(tmp_path / "other")}, cwd=tmp_path).client_id == 8


@posix
def test_a_named_session_has_a_socket_and_a_state_directory_of_its_own(tmp_path: Path) -> None:
    default, paper = load(tmp_path), load(tmp_path, IBKR_SESSION="paper")

    assert (default.session, paper.session) == ("default", "paper")
    assert Path(paper.socket_path) == Path(default.socket_path).with_name("paper.sock")
    assert paper.state_dir == default.state_dir / "sessions" / "paper"
    assert load(tmp_path, IBKR_SESSION="paper", IBKR_SOCKET="/x/own.sock").socket_path == "/x/own.sock"
    assert load(tmp_path, IBKR_SESSION="paper", IBKR_STATE_DIR="/x/own").state_dir == Path("/x/own")


def test_a_named_session_reads_its_own_file_before_the_common_one(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IBKR_CLIENT_ID=7\nIBKR_PORT=7497\n")
    (tmp_path / ".env.live").write_text("IBKR_PORT=7496\n")

    live = Settings.load({"IBKR_SESSION": "live"}, cwd=tmp_path)
    assert (live.port, live.client_id, live.env_file) == (7496, 7, tmp_path / ".env.live")
    assert Settings.load({"IBKR_SESSION": "live", "IBKR_PORT": "4001"}, cwd=tmp_path).port == 4001
    assert Settings.load({}, cwd=tmp_path).port == 7497
    assert Settings.load({"IBKR_SESSION": "other"}, cwd=tmp_path).port == 7497


def test_a_sessions_file_that_names_another_session_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IBKR_SESSION=live\n")
    (tmp_path / ".env.live").write_text("IBKR_SESSION=paper\n")
    with pytest.raises(SettingsError, match=r"\.env\.live, line 1: IBKR_SESSION is another one than 'live'"):
        Settings.load({}, cwd=tmp_path)


@posix
def test_a_facade_serves_the_sessions_of_the_list_in_its_order(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IBKR_SESSIONS=live,default,far=run/far.sock\nIBKR_PROBE_INTERVAL=3\n")
    (tmp_path / ".env.live").write_text("IBKR_ACCOUNT=U1\nIBKR_PROBE_INTERVAL=2\n")
    settings = Settings.load({}, cwd=tmp_path)
    served = settings.of_sessions({}, tmp_path)

    assert [(name, one.account, one.probe_interval) for name, one in served.items()] == [
        ("live", "U1", 2),
        ("default", "", 3),
        ("far", "", 3),
    ]
    assert [one.socket_path for one in served.values()] == [
        str(Path(settings.socket_path).with_name("live.sock")),
        settings.socket_path,
        str(tmp_path / "run" / "far.sock"),
    ]
    alone = load(tmp_path, IBKR_SESSION="live", IBKR_SOCKET="/x/s")
    assert alone.of_sessions({}) == {"live": alone}


@posix
def test_sessions_of_services_of_the_system_have_their_own_files_beside_the_named_one(tmp_path: Path) -> None:
    """As `ibkr install --system` writes them; a session without such a file has the named one's settings."""
    (tmp_path / "ibkr.env").write_text(
        "IBKR_SESSIONS=default,paper,far=/x/far.sock\nIBKR_ACCOUNT=U1\nIBKR_STATE_DIR=/x\n"
    )
    (tmp_path / "paper.env").write_text("IBKR_ACCOUNT=DU1\nIBKR_STATE_DIR=/x/paper\nIBKR_SOCKET=/x/paper.sock\n")
    environ = {"IBKR_ENV_FILE": "ibkr.env"}
    settings = Settings.load(environ, cwd=tmp_path)
    served = settings.of_sessions(environ, tmp_path)
    assert [(name, one.account, str(one.state_dir)) for name, one in served.items()] == [
        ("default", "U1", "/x"),
        ("paper", "DU1", "/x/paper"),
        ("far", "U1", "/x"),
    ]
    assert served["paper"].socket == "/x/paper.sock"
    assert Settings.load(environ | {"IBKR_SESSION": "paper"}, cwd=tmp_path) == served["paper"]
    (paper,) = settings.other_sessions(environ, tmp_path).values()
    assert paper.gateway_client == settings.gateway_client  # which the facade warns of


@pytest.mark.parametrize(
    "environ",
    [
        {"IBKR_SESSIONS": "live=/run/a.sock,paper=/run/a.sock"},
        {"IBKR_SESSIONS": "live,paper", "IBKR_SOCKET": "/run/a.sock"},
    ],
)
def test_two_sessions_of_one_socket_are_an_error(tmp_path: Path, environ: dict[str, str]) -> None:
    settings = Settings.load(environ, cwd=tmp_path)
    with pytest.raises(SettingsError, match="live and paper are the same socket"):
        settings.of_sessions(environ, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IBKR_SESSION", "Live"),
        ("IBKR_SESSION", "-x"),
        ("IBKR_SESSION", "x" * 33),
        ("IBKR_SESSION", "../up"),
        ("IBKR_SESSIONS", "live,live"),
        ("IBKR_SESSIONS", "live="),
        ("IBKR_SESSIONS", "=/x"),
        ("IBKR_SESSIONS", "a b"),
    ],
)
def test_bad_names_of_sessions_are_errors(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is"):
        load(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"IBKR_NATS_URL": "http://x:4222"}, "IBKR_NATS_URL is"),
        ({"IBKR_NATS_URL": "nats://user:secret@x:4222"}, "IBKR_NATS_URL is"),
        ({"IBKR_NATS_PREFIX": "a.b"}, "IBKR_NATS_PREFIX is"),
        ({"IBKR_NATS_PREFIX": "*"}, "IBKR_NATS_PREFIX is"),
        ({"IBKR_SESSIONS": "far=nats"}, "that needs IBKR_NATS_URL"),
        ({"IBKR_NATS_URL": "nats://x:4222", "IBKR_NATS_CREDS": "/nowhere/creds"}, "which cannot be read"),
    ],
)
def test_bad_settings_of_nats_are_errors(tmp_path: Path, environ: dict[str, str], named: str) -> None:
    pytest.importorskip("nats")
    with pytest.raises(SettingsError, match=named):
        load(tmp_path, **environ)


@posix
def test_credentials_that_others_can_read_are_refused_with_the_command(tmp_path: Path) -> None:
    pytest.importorskip("nats")
    path = tmp_path / "creds"
    path.write_text("reader:secret\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match=f"run: chmod 600 {path}"):
        load(tmp_path, IBKR_NATS_URL="nats://x:4222", IBKR_NATS_CREDS=str(path))
    path.chmod(0o600)
    assert load(tmp_path, IBKR_NATS_URL="nats://x:4222", IBKR_NATS_CREDS=str(path)).nats_creds == path


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"IBKR_ENV_FILE is .*gone"):
        Settings.load({"IBKR_ENV_FILE": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("IBKR_AUTO_CONNECT", "maybe", "true or false"),
        ("IBKR_AUTO_CONNECT", "", "true or false"),
        ("IBKR_PORT", "0", "1 to 65535"),
        ("IBKR_PORT", "65536", "1 to 65535"),
        ("IBKR_PORT", "7497.5", "1 to 65535"),
        ("IBKR_CLIENT_ID", "-1", "0 to 2147483647"),
        ("IBKR_CONNECT_TIMEOUT", "0", "above 0 and at most 3600"),
        ("IBKR_CONNECT_TIMEOUT", "nan", "above 0 and at most 3600"),
        ("IBKR_PROBE_TIMEOUT", "inf", "above 0 and at most 3600"),
        ("IBKR_PROBE_INTERVAL", "3600.1", "above 0 and at most 3600"),
        ("IBKR_MARKET_DATA", "frozen", "live or delayed"),
        ("IBKR_RESTART_AT", "25:00", "HH:MM"),
        ("IBKR_RESTART_AT", "9:30", "HH:MM"),
        ("IBKR_PROBE_INTERVAL", "1_0", "number of seconds"),
        ("IBKR_PROBE_INTERVAL", "\u0665", "number of seconds"),
        ("IBKR_ALERTS_ON", "", "some of down"),
        ("IBKR_REMEDY", "/bin/sh -c true", "executable file"),
        ("IBKR_REMEDY", "/x" * 3000, "executable file"),  # the system refuses to look
        ("IBKR_REMEDY_AFTER", "0", "above 0 and at most 3600"),
        ("IBKR_LOG_LEVEL", "LOUD", "DEBUG, INFO"),
        ("IBKR_LOG_FORMAT", "xml", "console or json"),
        ("IBKR_HOST", "", "host name"),
        ("IBKR_HOST", "a b", "host name"),
        ("IBKR_FACADE_NAMES", "dash.local", "host:port"),
        ("IBKR_FACADE_NAMES", "a.local:9101,dash.local:99999", "dash.local:99999 names port 99999; a port is"),
        ("IBKR_FACADE_NAMES", "dash.local:0", "a port is a whole number from 1 to 65535"),
        pytest.param("IBKR_STATE_DIR", "~no-such-user-here/x", "a directory", marks=homes),
        pytest.param("IBKR_SOCKET", "~no-such-user-here/x", "a socket path", marks=homes),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(tmp_path: Path, name: str, value: str, accepted: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(tmp_path, **{name: value})
    sentence = str(error.value)
    assert name in sentence
    assert repr(value) in sentence
    assert accepted in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("named", ["~no-such-user-here/x", "x" * 5000])
def test_a_settings_file_that_cannot_even_be_looked_for_is_an_error(named: str) -> None:
    with pytest.raises(SettingsError, match="IBKR_ENV_FILE is"):
        Settings.load({"IBKR_ENV_FILE": named})


def test_names_of_others_are_none_of_our_business(tmp_path: Path) -> None:
    assert load(tmp_path, "OTHER=1\nIBKR_PORT=4001\n", PATH="/bin").port == 4001


def test_times_and_lists_are_parsed(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        IBKR_RESTART_AT="23:45",
        IBKR_ALLOWED_HOSTS="tws.lan, 10.0.0.7",
        IBKR_FACADE_NAMES="dash.local:9101",
    )
    assert settings.restart_at == time(23, 45)
    assert settings.allowed_hosts == ("tws.lan", "10.0.0.7")
    assert settings.facade_names == ("dash.local:9101",)


def test_hosts_are_kept_as_they_are_written_since_they_are_compared_as_text(tmp_path: Path) -> None:
    """What a request names as `.env` does is allowed; a `Host` comes in whatever case a browser likes."""
    settings = load(tmp_path, IBKR_ALLOWED_HOSTS="Tws.Lan", IBKR_FACADE_NAMES="Dash.Local:9101")
    assert settings.allowed_hosts == ("Tws.Lan",)
    assert settings.facade_names == ("dash.local:9101",)


def test_sessions_of_one_gateway_with_one_client_id_are_found_in_their_files(tmp_path: Path) -> None:
    """`localhost` and 127.0.0.1 are one gateway; this process's own environment is not the other daemon's."""
    (tmp_path / ".env").write_text("IBKR_PORT=7497\nIBKR_SESSIONS=live,far=nats\n")
    for name, lines in {
        "paper": "IBKR_HOST=localhost\n",
        "live": "IBKR_PORT=7496\n",
        "third": "IBKR_CLIENT_ID=9\n",
        "broken": "IBKR_PORT=none\n",
        "local": "# of another program\nPORT=7497\n",
    }.items():
        (tmp_path / f".env.{name}").write_text(lines)
    pytest.importorskip("nats")
    environ = {"IBKR_SESSION": "mine", "IBKR_PORT": "7497", "IBKR_NATS_URL": "nats://127.0.0.1:1"}
    mine = Settings.load(environ, tmp_path)
    assert set(mine.known_sessions(tmp_path)) == {"live", "far", "paper", "third", "broken", "local"}
    known = {"mine": mine, **mine.other_sessions(environ, tmp_path)}
    assert set(known) == {"mine", "live", "paper", "third"}
    found = list(shared_client_ids({name: one.gateway_client for name, one in known.items()}))
    assert [(one, other) for one, other, _ in found] == [("mine", "paper")]
    assert "mine and paper both use 127.0.0.1:7497 with client id 1" in found[0][2]


@given(st.sampled_from(sorted(TABLE)), st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=40))
def test_any_text_is_either_accepted_or_refused_in_one_sentence(name: str, value: str) -> None:
    try:
        Settings.load({name: value}, cwd=Path("/nonexistent"))
    except SettingsError as error:
        sentence = str(error)
    else:
        return
    assert name in sentence


def test_a_bind_beyond_this_machine_needs_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::"):
        with pytest.raises(SettingsError, match="IBKR_FACADE_TOKEN_FILE"):
            load(tmp_path, IBKR_FACADE_HOST=host).token()
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert load(tmp_path, IBKR_FACADE_HOST=host).token() is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9101"),
        ("::1", "http://[::1]:9101"),
        ("192.0.2.1", "http://192.0.2.1:9101"),
        ("0.0.0.0", "http://127.0.0.1:9101"),
        ("::", "http://[::1]:9101"),
    ],
)
def test_the_facade_is_addressed_by_a_name_that_it_answers_to(tmp_path: Path, host: str, url: str) -> None:
    assert load(tmp_path, IBKR_FACADE_HOST=host).facade_url == url


@pytest.mark.skipif(os.name == "nt", reason="modes are Unix's; the Windows side is in tests/windows")
def test_a_token_is_read_only_from_a_file_that_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    settings = load(tmp_path, IBKR_FACADE_TOKEN_FILE=str(path))
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.token()
    path.write_text("s3cret\n")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        settings.token()
    path.chmod(0o600)
    assert settings.token() == b"s3cret"
    path.write_text("\n")
    with pytest.raises(SettingsError, match="not empty"):
        settings.token()
