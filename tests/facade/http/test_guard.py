"""Who may ask what: each rule, in its order, on every path."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from facade.http import peers
from facade.http.guard import BODY_LIMIT, names, spelled
from tests.facade.conftest import House, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

STATUS = "/api/ibkr/status"
EVERYWHERE = [STATUS, "/", "/ui/complete_platform.html", "/nothing", "/livez", "/api/ibkr/positions"]


def headers_of(raw: bytes) -> tuple[int, dict[str, str]]:
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return int(head[0].split()[1]), {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }


@pytest.mark.parametrize("path", EVERYWHERE)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "localhost.:{port}",
        "0.0.0.0:{port}",
        "[::1]",
        "2130706433:{port}",
        "user@127.0.0.1:{port}",
        "127.0.0.1:{port}:{port}",
        "",
    ],
)
async def test_a_request_for_another_host_is_misdirected(house: House, path: str, host: str) -> None:
    """DNS rebinding brings the foreign name along in `Host`."""
    raw = await house.raw(
        f"GET {path} HTTP/1.1\r\nHost: {host.format(port=house.port)}\r\nConnection: close\r\n\r\n".encode()
    )
    status, headers = headers_of(raw)
    assert status == 421
    assert headers["content-type"] == "application/problem+json"
    assert b"hostRejected" in raw


async def test_no_route_is_exempt_from_the_rules(tmp_path: Path, daemon: FakeDaemon) -> None:
    """Whatever there is to ask, a foreign host, a foreign page and who has no token get nothing of it."""
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    async with running(tmp_path, daemon, facade_token_file=token) as house:
        knows = {"Authorization": "Bearer s3cret"}
        refusals: list[tuple[dict[str, str], int, str]] = [
            ({**knows, "Host": "evil.example"}, 421, "hostRejected"),
            ({**knows, "Origin": "http://evil.example"}, 403, "originRejected"),
            ({}, 401, "tokenMissing"),
        ]
        for route in house.facade.table.routes:
            path = route.template.replace("{conId}", "265598")
            for headers, status, reason in refusals[:2] if route.open else refusals:
                answered, body, _ = await house.ask(route.method, path, headers=headers)
                assert (path, answered, body["reason"]) == (path, status, reason)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
async def test_our_own_names_are_served(house: House, host: str) -> None:
    status, _, _ = await house.get(STATUS, headers={"Host": f"{host}:{house.port}"})
    assert status == 200


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET http://evil.example/api/ibkr/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        b"GET api/ibkr/status HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: {host}\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(300)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    ],
)
async def test_what_is_no_request_of_ours_is_refused_with_our_headers(house: House, request_text: bytes) -> None:
    """Also what the HTTP parser itself refuses."""
    raw = await house.raw(request_text.replace(b"{host}", f"127.0.0.1:{house.port}".encode()))
    status, headers = headers_of(raw)
    assert status == 400
    assert headers["content-type"] == "application/problem+json"
    guarded(headers)
    status, _, _ = await house.get(STATUS)
    assert status == 200


def guarded(headers: Mapping[str, str]) -> None:
    known = {name.lower(): value for name, value in headers.items()}
    assert "server" not in known
    assert "access-control-allow-origin" not in known
    assert known["x-frame-options"] == "DENY"
    assert known["x-content-type-options"] == "nosniff"
    assert known["content-security-policy"].startswith("default-src 'self'")
    assert known["cross-origin-resource-policy"] == "same-origin"
    assert known["cross-origin-opener-policy"] == "same-origin"
    assert known["referrer-policy"] == "no-referrer"
    assert known["cache-control"] in ("no-store", "no-cache")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", EVERYWHERE)
async def test_every_answer_carries_the_headers(house: House, method: str, path: str) -> None:
    _, _, headers = await house.ask(method, path)
    guarded(headers)


@pytest.mark.parametrize("path", EVERYWHERE)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
async def test_a_foreign_page_gets_nothing(house: House, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        status, body, _ = await house.ask(method, path, headers=headers)
        assert (status, body["reason"]) == (403, "originRejected")


@pytest.mark.parametrize(
    "lines",
    ["Origin: http://{own}\r\nOrigin: http://evil.example", "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site"],
)
async def test_a_foreign_page_does_not_hide_behind_our_own_name(house: House, lines: str) -> None:
    """Every line of such a header counts, not just the first."""
    own = f"127.0.0.1:{house.port}"
    raw = await house.raw(
        f"GET {STATUS} HTTP/1.1\r\nHost: {own}\r\n{lines.format(own=own)}\r\nConnection: close\r\n\r\n".encode()
    )
    assert headers_of(raw)[0] == 403
    assert b"originRejected" in raw


async def test_a_link_on_a_foreign_page_may_open_the_page_and_nothing_else(house: House) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await house.get("/", headers=headers))[0] == 200
    assert (await house.get("/ui/complete_platform.html", headers=headers))[0] == 200
    assert (await house.get(STATUS, headers=headers))[0] == 403
    assert (await house.post("/", headers=headers))[0] == 403


async def test_our_own_page_is_served(house: House) -> None:
    headers = {"Origin": f"http://localhost:{house.port}", "Sec-Fetch-Site": "same-origin"}
    assert (await house.get(STATUS, headers=headers))[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_a_path_says_which_methods_it_takes(house: House, method: str) -> None:
    status, body, headers = await house.ask(method, STATUS)
    assert (status, body["reason"], headers["Allow"]) == (405, "methodNotAllowed", "GET, HEAD")


async def test_what_only_posts_says_so(house: House) -> None:
    status, _, headers = await house.get("/api/ibkr/connect")
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json-patch+json",
        "application/json; charset=utf-16",
        "text/plain; application/json",
    ],
)
async def test_only_json_changes_anything(house: House, content_type: str | None) -> None:
    """What a form on a foreign page can send is not enough."""
    line = f"Content-Type: {content_type}\r\n" if content_type else ""
    raw = await house.raw(
        f"POST /api/ibkr/disconnect HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\n{line}"
        "Content-Length: 2\r\nConnection: close\r\n\r\n{}".encode()
    )
    assert headers_of(raw)[0] == 415
    assert house.daemon.asked == []


async def test_a_body_has_a_limit(house: House) -> None:
    large = b'{"host": "' + b"a" * BODY_LIMIT + b'"}'
    json_type = {"Content-Type": "application/json"}
    assert (await house.ask("POST", "/api/ibkr/connect", data=large, headers=json_type))[0] == 413
    chunked = (
        f"POST /api/ibkr/connect HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    ).encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    assert headers_of(await house.raw(chunked))[0] == 413
    assert house.daemon.asked == []


async def test_half_a_body_is_not_waited_for_for_ever(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.http.asking.BODY_SECONDS", 0.05)
    raw = await house.raw(
        f"POST /api/ibkr/connect HTTP/1.1\r\nHost: 127.0.0.1:{house.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
    )
    status, headers = headers_of(raw)
    assert (status, headers["connection"]) == (408, "close")
    assert b"bodyTimeout" in raw


TOKEN = "abcdefghijklmnopqrstuvwxyz012345"


async def test_with_a_token_file_nothing_but_the_page_and_livez_is_open(tmp_path: Path, daemon: FakeDaemon) -> None:
    """Also on loopback; never from the query."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    async with running(tmp_path, daemon, facade_token_file=file) as house:
        for path in ("/", "/livez", "/ui/complete_platform.html"):
            assert (await house.get(path))[0] == 200
        for path in (STATUS, "/readyz", "/nothing", f"{STATUS}?token={TOKEN}"):
            status, body, headers = await house.get(path)
            assert (status, body["reason"]) == (401, "tokenMissing")
            assert headers["WWW-Authenticate"].startswith("Bearer")
        for wrong in (f"Bearer {TOKEN}x", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer \u00e4"):
            assert (await house.get(STATUS, headers={"Authorization": wrong}))[0] == 401
        for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
            assert (await house.get(STATUS, headers={"Authorization": right}))[0] == 200


async def test_who_holds_a_connection_is_known(tmp_path: Path) -> None:
    """Our own sockets are ours, by either way of asking; one that its process has closed is nobody's."""
    if not peers.CAN_TELL:
        pytest.skip("this system cannot tell")
    import ipaddress
    import os

    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as server:
            server.bind((host, 0))
            server.listen()
            client = socket.create_connection(server.getsockname()[:2])
            with server.accept()[0] as accepted:
                peer, ours = accepted.getpeername()[:2], accepted.getsockname()[:2]
                assert peers.owner(peer, ours) == os.getuid()
                ends = (ipaddress.ip_address(peer[0]), peer[1], ipaddress.ip_address(ours[0]), ours[1])
                assert peers._by_proc(*ends) == os.getuid()
                client.close()
                assert peers.owner(peer, ours) is None
                assert peers._by_proc(*ends) is None


@pytest.mark.parametrize(
    ("owner", "check", "status"), [(4242, True, 403), (None, True, 403), (4242, False, 200), (0, True, 200)]
)
async def test_another_users_connection_is_refused(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, owner: Any, check: bool, status: int
) -> None:
    """Also one whose owner cannot be found, unless the check is off; the system's administrator may come in."""
    monkeypatch.setattr(peers, "owner", lambda _peer, _ours: owner)
    async with running(tmp_path, daemon, peer_check=check) as house:
        for path in EVERYWHERE[:3]:
            assert (await house.get(path))[0] == status


def test_the_names_of_a_facade() -> None:
    """Loopback always, the bound address unless it is a wildcard, and what the settings add."""
    assert "127.0.0.1:9101" in names("0.0.0.0", 9101)
    assert "0.0.0.0:9101" not in names("0.0.0.0", 9101)
    assert "192.168.1.5:9101" in names("192.168.1.5", 9101)
    assert "[fd00::1]:9101" in names("fd00::1", 9101)
    assert "127.0.0.1" in names("127.0.0.1", 80)
    assert "127.0.0.1" not in names("127.0.0.1", 9101)
    assert spelled(["Trade.Example:443"]) == {"trade.example:443", "trade.example"}
    assert spelled(["trade.example:8443"]) == {"trade.example:8443"}


async def test_a_proxys_name_is_one_of_ours_also_by_tls(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with running(tmp_path, daemon, facade_names=("trade.example:443",)) as house:
        for origin in ("https://trade.example", "http://trade.example"):
            assert (await house.get(STATUS, headers={"Host": "trade.example", "Origin": origin}))[0] == 200
        own = f"https://127.0.0.1:{house.port}"  # nobody speaks TLS there
        assert (await house.get(STATUS, headers={"Origin": own}))[0] == 403


@pytest.mark.parametrize("seed", range(6))
async def test_no_bytes_make_it_fail(
    tmp_path: Path, daemon: FakeDaemon, seed: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded mutations of good requests: each is answered or closed, none with a 500, none with a traceback."""
    for name in ("connection.KEEP_ALIVE", "connection.LINGER", "asking.BODY_SECONDS"):
        monkeypatch.setattr(f"facade.http.{name}", 0.1)
    chance = random.Random(seed)
    async with running(tmp_path, daemon) as house:
        await until(lambda: house.facade.mirror.state.connected)
        good = [text.replace(b"HOST", f"127.0.0.1:{house.port}".encode()) for text in GOOD]
        for _ in range(6):
            requests = [mutated(chance, chance.choice(good)) for _ in range(40)]
            for request, raw in zip(requests, await asyncio.gather(*map(house.raw_or_reset, requests)), strict=True):
                assert not raw or raw.startswith(b"HTTP/1.1 "), request
                assert b"HTTP/1.1 500" not in raw, request
        assert (await house.get(STATUS))[0] == 200
        assert len(house.facade.http._connections) <= 2  # type: ignore[union-attr]
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


GOOD = (
    b'GET /api/ibkr/contracts/265598?allowStale=true HTTP/1.1\r\nHost: HOST\r\nIf-None-Match: "e1-1"\r\n\r\n',
    b"GET /ui/docs.js HTTP/1.1\r\nHost: HOST\r\nSec-Fetch-Site: none\r\nConnection: close\r\n\r\n",
    b"POST /api/ibkr/reconnect HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
    b"POST /api/ibkr/connect HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
)


def mutated(chance: random.Random, good: bytes) -> bytes:
    request = bytearray(good)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(request))
        match chance.randrange(4):
            case 0:
                request[at] = chance.randrange(256)
            case 1:
                del request[at : at + chance.randrange(1, 8)]
            case 2:
                request[at:at] = chance.randbytes(chance.randrange(1, 6))
            case _:
                request[at:at] = request[: chance.randrange(len(request))]
    return bytes(request)


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"/api/ibkr/\xc3\xa4", b"/%00", b"/api/ibkr/contracts/\xed\xa0\x80", b"/" + b"a" * 5000]
)
async def test_a_path_of_any_bytes_is_just_not_found(house: House, path: bytes) -> None:
    raw = await house.raw(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % (path, house.port))
    status, headers = headers_of(raw)
    assert status in (400, 404, 422)
    assert headers["content-type"] == "application/problem+json"
    json.loads(raw.partition(b"\r\n\r\n")[2])
