"""The doctor, tried against injected causes: each is named, nothing else is, unknown is reported as unknown."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon.simulator import Gateway, World
from facade.doctor import checks as doctor
from facade.doctor.checks import Check
from facade.serving import served
from shared.settings import Settings
from shared.zones import ZoneData
from tests.daemon.running import Mirror, environment, place, running, settings
from tests.waiting import answered

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="modes and SIGSTOP are POSIX"),
    pytest.mark.usefixtures("patient_doctor"),
]

Named = dict[str, Check]
NOT_OURS = {"facade", "daemon", "link"}
"""Checks that fail in most of these tests because nothing of ours runs; a test that means them looks at them itself."""


async def examined(environ: dict[str, str], ports: dict[int, str] | None = None) -> Named:
    """Every check by its name."""
    return {check.name: check for check in await asyncio.to_thread(lambda: list(doctor.examine(environ, ports=ports)))}


def failed(found: Named) -> set[str]:
    return {name for name, check in found.items() if check.result == "failed"} - NOT_OURS


@asynccontextmanager
async def surroundings() -> AsyncIterator[tuple[dict[str, str], Gateway]]:
    """A gateway and an environment that points at it; no daemon."""
    async with AsyncExitStack() as stack:
        directory = await stack.enter_async_context(place())
        gateway = await stack.enter_async_context(Gateway(World(seed=7, accounts=("DU1234567",), positions=1)))
        none = directory / "none.env"
        none.touch()
        yield environment(directory, IBKR_PORT=str(gateway.port), IBKR_ENV_FILE=str(none)), gateway


async def test_without_a_daemon_a_healthy_gateway_passes_every_check_of_its_own() -> None:
    async with surroundings() as (environ, _gateway):
        found = await examined(environ)
    assert failed(found) == set()
    assert [found[name].result for name in ("settings", "gateway port", "handshake", "client id", "clock")] == [
        "ok"
    ] * 5
    assert found["daemon"].reason == "daemonUnreachable"
    # what only a session shows is unknown, not fine
    assert [found[name].result for name in ("read-only API", "upstream", "data farms")] == ["unknown"] * 3


@pytest.mark.parametrize(
    ("fault", "check", "reason"),
    [
        (lambda gateway: gateway.refuse(), "gateway port", "portClosed"),
        (lambda gateway: gateway.accept_silently(), "handshake", "handshakeTimeout"),
        (lambda gateway: gateway.silence_after_handshake(), "handshake", "sessionIncomplete"),
        (lambda gateway: gateway.close_in_handshake(), "handshake", "closedDuringHandshake"),
        (lambda gateway: gateway.speak_http(), "handshake", "notTws"),
        (lambda gateway: gateway.speak_tls(), "handshake", "notTws"),
        (lambda gateway: gateway.old_version(100), "handshake", "versionUnsupported"),
        (lambda gateway: gateway.client_id_in_use(), "client id", "clientIdInUse"),
        (lambda gateway: gateway.empty_accounts(), "handshake", "sessionIncomplete"),
        (lambda gateway: gateway.lose_upstream(2110), "upstream", "upstreamLost"),
    ],
)
async def test_what_is_wrong_with_the_gateway_is_named(
    fault: Callable[[Gateway], None], check: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason in ("handshakeTimeout", "sessionIncomplete"):
        monkeypatch.setattr(doctor, "MAX_DIAL_TIMEOUT", 1.5)  # silence takes the whole of it
    async with surroundings() as (environ, gateway):
        fault(gateway)
        found = await examined(environ)
    assert failed(found) == {check}
    assert found[check].reason == reason
    assert found[check].remedy


async def test_another_standard_port_that_is_open_is_named_first() -> None:
    async with surroundings() as (environ, gateway):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            gateway.refuse()
            found = await examined(environ, {port: "TWS live"})
    assert failed(found) == {"gateway port"}
    assert f"{port} (TWS live) is open" in found["gateway port"].evidence
    assert f"IBKR_PORT={port}" in found["gateway port"].remedy[0]


async def test_another_account_than_the_expected_is_named_and_ids_are_masked() -> None:
    async with surroundings() as (environ, _gateway):
        found = await examined(environ | {"IBKR_ACCOUNT": "DU7654321"})
    assert failed(found) == {"accounts"}
    assert found["accounts"].reason == "accountMismatch"
    assert not [check for check in found.values() if "1234567" in repr(check) or "7654321" in repr(check)]


async def test_a_facade_that_is_bound_to_every_address_is_checked_on_loopback() -> None:
    """It answers 421 to whoever calls it 0.0.0.0, which is no fault of its."""
    async with surroundings() as (environ, _gateway):
        token = Path(environ["IBKR_STATE_DIR"]).parent / "token"
        token.touch(mode=0o600)
        token.write_text("s3cret")
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            port = sock.getsockname()[1]
            environ |= {
                "IBKR_FACADE_HOST": "0.0.0.0",
                "IBKR_FACADE_PORT": str(port),
                "IBKR_FACADE_TOKEN_FILE": str(token),
            }
            async with served(Settings.load(environ), [sock], drain=0):
                found = await examined(environ)
    assert found["facade"].result == "ok"


async def test_the_facade_is_not_looked_for_through_a_proxy() -> None:
    """As `http_proxy` without `no_proxy` would have it."""
    async with surroundings() as (environ, _gateway):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            sock.setblocking(False)
            environ |= {"IBKR_FACADE_PORT": str(sock.getsockname()[1])}
            proxies = urllib.request.ProxyHandler({"http": "http://127.0.0.1:9"})
            urllib.request.install_opener(urllib.request.build_opener(proxies))
            try:
                async with served(Settings.load(environ), [sock], drain=0):
                    found = await examined(environ)
            finally:
                urllib.request.install_opener(None)  # type: ignore[arg-type]
    assert found["facade"].result == "ok"


async def test_bad_settings_are_reported_alone() -> None:
    async with surroundings() as (environ, _gateway):
        found = await examined(environ | {"IBKR_PORT": "seven"})
    assert list(found) == ["settings"]
    assert "IBKR_PORT is 'seven'" in found["settings"].evidence


async def test_a_state_directory_open_to_others_comes_with_the_command_that_mends_it() -> None:
    async with surroundings() as (environ, _gateway):
        state = Path(environ["IBKR_STATE_DIR"])
        state.chmod(0o755)
        found = await examined(environ)
        assert failed(found) == {"state directory"}
        assert found["state directory"].remedy == (f"chmod 700 {state}",)


async def test_a_settings_file_that_others_can_write_is_named() -> None:
    async with surroundings() as (environ, _gateway):
        Path(environ["IBKR_ENV_FILE"]).chmod(0o666)
        found = await examined(environ)
    assert failed(found) == {"settings"}


def test_the_client_id_that_is_in_use_is_the_one_that_is_dialled_with() -> None:
    context = doctor.DiagnosticContext({}, Settings(client_id=1))
    gateway = {"host": "127.0.0.1", "port": 7497, "clientId": 9}
    context.link = {"connected": False, "reason": "clientIdInUse", "gateway": gateway}

    assert "client id 9" in doctor.CHECKS["client id"](context).evidence


async def test_a_clock_that_is_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with surroundings() as (environ, _gateway):
        monkeypatch.setattr(doctor.DiagnosticContext, "wall", staticmethod(lambda: 0.0), raising=False)
        context = doctor.DiagnosticContext(environ)
        context.greeting = doctor.Greeting(server_time=1_000_000, answered_at=1_000_090.0)
    assert (doctor._clock(context).result, "90 s" in doctor._clock(context).evidence) == ("failed", True)


async def test_a_daemon_that_is_stopped_is_distinguished_from_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DAEMON_TIMEOUT", 0.3)
    async with surroundings() as (environ, _gateway):
        path = Path(environ["IBKR_SOCKET"])
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path))
            silent.listen()
            found = await examined(environ)
    assert "does not answer" in found["daemon"].evidence
    assert found["daemon"].reason == "daemonUnreachable"


@asynccontextmanager
async def connected(gateway: Gateway, **more: object) -> AsyncIterator[dict[str, str]]:
    """A daemon with a session, and the environment that finds it."""
    async with place() as directory:
        config = settings(directory, port=gateway.port, auto_connect=True, **more)
        async with running(config):
            mirror = await Mirror.join(config.socket, ("link", "farms"))
            try:
                await mirror.until(lambda: mirror.link["connected"])
                none = directory / "none.env"
                none.touch()
                yield environment(directory, IBKR_PORT=str(gateway.port), IBKR_ENV_FILE=str(none))
            finally:
                await mirror.leave()


async def test_beside_a_live_session_nothing_is_dialled() -> None:
    async with Gateway(World(seed=7)) as gateway, connected(gateway) as environ:
        found = await examined(environ)
        assert gateway.connections.total == 1
    assert failed(found) == set()
    assert [found[name].result for name in ("daemon", "link", "gateway port", "handshake", "accounts", "upstream")] == [
        "ok"
    ] * 6


async def test_a_broken_farm_is_named_and_the_session_is_not_blamed() -> None:
    async with Gateway(World(seed=7)) as gateway, connected(gateway) as environ:
        gateway.farm(2103, "usfarm")
        found = await answered(lambda: examined(environ), lambda found: failed(found) == {"data farms"})
    assert "usfarm" in found["data farms"].evidence
    assert found["link"].result == "ok"


async def test_a_read_only_api_is_named() -> None:
    async with Gateway(World(seed=7)) as gateway:
        gateway.read_only()
        async with connected(gateway) as environ:
            found = await examined(environ)
    assert failed(found) == {"read-only API"}


async def test_a_slow_gateway_is_measured_and_named_with_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SLOW_HANDSHAKE", 0.0)
    async with surroundings() as (environ, _gateway):
        found = await examined(environ)
    assert failed(found) == {"handshake"}
    assert "handshake complete after" in found["handshake"].evidence
    assert "IBKR_CONNECT_TIMEOUT=20" in found["handshake"].remedy[0]


def test_a_slow_answer_to_a_probe_is_named_with_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SLOW_PROBE", 1.0)
    context = doctor.DiagnosticContext({}, Settings(probe_timeout=5))
    context.link = {"connected": True, "proof": {"rttMs": 4200.0}}
    check = doctor.CHECKS["handshake"](context)
    assert (check.result, "4.2 s" in check.evidence) == ("failed", True)
    assert "IBKR_PROBE_TIMEOUT=13" in check.remedy[0]


async def test_the_holder_of_the_facades_port_is_named() -> None:
    async with surroundings() as (environ, _gateway):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            answering = threading.Thread(target=lambda: other.accept()[0].close(), name="another program")
            answering.start()
            check = (await examined(environ | {"IBKR_FACADE_PORT": str(port)}))["facade"]
            answering.join()
    assert check.result == "failed"
    assert f"(process {os.getpid()})" in check.evidence
    assert f"IBKR_FACADE_PORT={port + 1}" in check.remedy[0]


async def test_a_setting_that_stands_twice_is_named() -> None:
    async with surroundings() as (environ, gateway):
        file = Path(environ["IBKR_STATE_DIR"]).parent / "twice.env"
        file.write_text(f"IBKR_PORT={gateway.port}\nIBKR_PORT={gateway.port}\n")
        found = await examined(environ | {"IBKR_ENV_FILE": str(file)})
    assert failed(found) == {"settings"}
    assert "line 2" in found["settings"].evidence


@pytest.mark.parametrize(("year", "result"), [(2025, "ok"), (2026, "ok"), (2028, "failed")])
def test_zone_data_older_than_a_year_is_named(monkeypatch: pytest.MonkeyPatch, year: int, result: str) -> None:
    monkeypatch.setattr(doctor, "newest", lambda _places, _package: ZoneData("system", "2025b", "/usr/share/zoneinfo"))
    now = datetime(year, 12, 1, tzinfo=UTC).timestamp()
    check = doctor.CHECKS["zone data"](doctor.DiagnosticContext({}, wall=lambda: now))
    assert (check.result, "2025b" in check.evidence) == (result, True)


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_services_that_end_at_logout_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linger = tmp_path / "systemd" / "linger"
    linger.parent.mkdir()
    monkeypatch.setattr(doctor, "LINGER", linger)
    context = doctor.DiagnosticContext({"HOME": str(tmp_path)})
    assert doctor.CHECKS["logout"](context).result == "skipped"
    unit = tmp_path / ".config" / "systemd" / "user" / "ibkr-daemon.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    check = doctor.CHECKS["logout"](context)
    assert (check.result, check.remedy) == ("failed", ("Run: loginctl enable-linger",))
    linger.mkdir()
    (linger / getpass.getuser()).touch()
    assert doctor.CHECKS["logout"](context).result == "ok"


async def test_a_remedy_is_given_once() -> None:
    async with surroundings() as (environ, gateway):
        gateway.refuse()
        found = await examined(environ)
    given = [line for check in found.values() for line in check.remedy if "listed above" not in line]
    assert len(given) == len(set(given))


def test_the_summary_names_what_failed_or_that_nothing_did() -> None:
    good = Check("settings", "ok", "read")
    assert doctor.summary([good, Check("clock", "unknown", "")]).startswith("Nothing wrong was found; 1 of 2 checks")
    text = doctor.summary([good, Check("daemon", "failed", ""), Check("link", "failed", "")])
    assert text.startswith("2 found: daemon, link. Begin with: daemon.")


def test_the_command_prints_what_it_found_and_ends_with_1(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    (tmp_path / "none.env").touch()
    done = subprocess.run(
        [sys.executable, "-m", "facade.cli", "doctor"],
        env=environment(tmp_path, IBKR_PORT=str(port), IBKR_ENV_FILE=str(tmp_path / "none.env")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    wanted = ("Start TWS", f"IBKR_PORT ({port})", "Enable the API", "firewall")
    places = [done.stdout.find(word) for word in wanted]
    assert -1 not in places
    assert places == sorted(places)
