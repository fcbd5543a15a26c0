"""Which requests are refused: each rule, in its order, on every path."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from facade.http import peers
from facade.http.guard import names, spelled
from tests.facade.conftest import LIMIT, Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

STATUS = "/api/ibkr/status"
EVERYWHERE = (
    STATUS,
    "/",
    "/ui/complete_platform.html",
    "/nothing",
    "/api/ibkr/events",
    "/livez",
    "/api/ibkr/positions",
)
COMMANDS = ("/api/ibkr/connect", "/api/ibkr/disconnect", "/api/ibkr/reconnect")
JSON = {"Content-Type": "application/json"}


def headers_of(raw: bytes) -> tuple[int, dict[str, str]]:
    head = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    return int(head[0].split()[1]), {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])
    }


async def sent(served: Served, line: str, *headers: str, body: bytes = b"") -> tuple[int, str | None, dict[str, str]]:
    """Status, reason and headers of the response to a request of exactly these lines; all its headers are checked."""
    text = "\r\n".join([line, *headers, "Connection: close", "", ""])
    raw = await served.raw(text.encode() + body)
    status, found = headers_of(raw)
    guarded(found)
    reason = None
    if found.get("content-type") == "application/problem+json" and not line.startswith("HEAD"):
        problem = json.loads(raw.partition(b"\r\n\r\n")[2])
        assert problem["status"] == status
        reason = problem["reason"]
    return status, reason, found


def guarded(headers: Mapping[str, str]) -> None:
    """The headers that every response has, and those that none has."""
    known = {name.lower(): value for name, value in headers.items()}
    assert known["x-frame-options"] == "DENY"
    assert known["x-content-type-options"] == "nosniff"
    assert known["content-security-policy"].startswith("default-src 'self'")
    assert known["cross-origin-resource-policy"] == "same-origin"
    assert known["cross-origin-opener-policy"] == "same-origin"
    assert known["referrer-policy"] == "no-referrer"
    assert known["cache-control"] in ("no-store", "no-cache", "no-store, no-transform")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", known["x-request-id"])
    assert not [name for name in known if name == "server" or name.startswith("access-control-")]


def post(path: str) -> tuple[str, ...]:
    return f"POST {path} HTTP/1.1", "Content-Type: application/json", "Content-Length: 2"


FOREIGN_HOSTS = (
    "evil.example",
    "evil.example:PORT",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:0PORT",
    "127.0.0.1.evil.example:PORT",
    "evil.example#127.0.0.1:PORT",
    "evil.example:PORT@127.0.0.1:PORT",
    "user@127.0.0.1:PORT",
    "127.0.0.1:PORT:PORT",
    "127.0.0.1:PORT, 127.0.0.1:PORT",
    "127.0.0.1:PORT/",
    "localhost.:PORT",
    "localhost.localdomain:PORT",
    "0.0.0.0:PORT",
    "127.1:PORT",
    "127.0.0.2:PORT",
    "2130706433:PORT",
    "0x7f000001:PORT",
    "0177.0.0.1:PORT",
    "[::ffff:127.0.0.1]:PORT",
    "[::1%25lo]:PORT",
    "[::1]",
    "::1:PORT",
    "[0:0:0:0:0:0:0:1]:PORT",
    "\u00b9\u00b27.0.0.1:PORT",
    "",
)


async def test_a_request_for_another_host_is_misdirected(served: Served) -> None:
    for host in FOREIGN_HOSTS:
        named = f"Host: {host.replace('PORT', str(served.port))}"
        for path in EVERYWHERE:
            assert (await sent(served, f"GET {path} HTTP/1.1", named))[:2] == (421, "hostRejected"), named
        for path in COMMANDS:
            line, *headers = post(path)
            assert (await sent(served, line, named, *headers, body=b"{}"))[:2] == (421, "hostRejected"), named
    assert served.daemon.requests == []


async def test_no_route_is_exempt_from_the_rules(tmp_path: Path, daemon: FakeDaemon) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    async with running(tmp_path, daemon, facade_token_file=token) as served:
        knows = {"Authorization": "Bearer s3cret"}
        refusals: list[tuple[dict[str, str], int, str]] = [
            ({**knows, "Host": "evil.example"}, 421, "hostRejected"),
            ({**knows, "Origin": "http://evil.example"}, 403, "originRejected"),
            ({}, 401, "tokenMissing"),
        ]
        for route in served.facade.routes:
            path = route.template.replace("{conId}", "265598")
            for headers, status, reason in refusals[:2] if route.open else refusals:
                answered, body, _ = await served.request(route.method, path, headers=headers)
                assert (path, answered, body["reason"]) == (path, status, reason)
                assert (body["session"], body["phase"], body["nextAttemptAt"]) == (None, None, None)


async def test_another_version_of_http_is_refused(served: Served) -> None:
    answer = await sent(served, "GET / HTTP/2.0", f"Host: 127.0.0.1:{served.port}")
    assert answer[:2] == (400, "badRequest")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost", "[::1]"])
async def test_our_own_names_are_served(served: Served, host: str) -> None:
    status, _, _ = await served.get(STATUS, headers={"Host": f"{host}:{served.port}"})
    assert status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_every_response_carries_the_headers(served: Served, method: str) -> None:
    for path in EVERYWHERE:
        async with served.http.request(method, path) as response:
            guarded(response.headers)


async def test_a_requests_own_id_is_on_its_response(served: Served) -> None:
    for given in ("abc", "a.B_c-9", "x" * 64):
        assert (await served.get(STATUS, headers={"X-Request-Id": given}))[2]["X-Request-Id"] == given
    for given in ("", "a b", "x" * 65, "ä"):
        assert (await served.get("/nothing", headers={"X-Request-Id": given}))[2]["X-Request-Id"] != given
    first, second = [(await served.get(STATUS))[2]["X-Request-Id"] for _ in range(2)]
    assert first != second


FOREIGN = (
    ["Origin: http://evil.example"],
    ["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"],
    ["Origin: null"],
    ["Origin: "],
    ["Origin: http://127.0.0.1"],
    ["Origin: http://127.0.0.1:1"],
    ["Origin: https://AUTHORITY"],
    ["Origin: http://AUTHORITY.evil.example"],
    ["Origin: http://AUTHORITY", "Origin: http://evil.example"],
    ["Origin: http://AUTHORITY/"],
    ["Origin: file://"],
    ["Origin: chrome-extension://abcdefghijklmnop"],
    ["Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: same-site"],
    ["Sec-Fetch-Site: Same-Origin, cross-site"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: nonsense"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: document"],
)


async def test_a_request_of_a_foreign_page_is_refused(served: Served) -> None:
    authority = f"127.0.0.1:{served.port}"
    for headers in FOREIGN:
        named = [f"Host: {authority}", *(header.replace("AUTHORITY", authority) for header in headers)]
        for path in EVERYWHERE:
            for method in ("GET", "OPTIONS"):
                assert (await sent(served, f"{method} {path} HTTP/1.1", *named))[:2] == (403, "originRejected"), named
        for path in COMMANDS:
            line, *more = post(path)
            assert (await sent(served, line, *named, *more, body=b"{}"))[:2] == (403, "originRejected"), named
    assert served.daemon.requests == []


async def test_a_link_on_a_foreign_page_may_open_the_page_and_nothing_else(served: Served) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await served.get("/", headers=headers))[0] == 200
    assert (await served.get("/ui/complete_platform.html", headers=headers))[0] == 200
    assert (await served.get(STATUS, headers=headers))[0] == 403
    assert (await served.post("/", headers=headers))[0] == 403


async def test_what_only_a_proxy_takes_is_refused(served: Served) -> None:
    for line in ("CONNECT /", "CONNECT /livez", "CONNECT a.example:443", "OPTIONS *", "GET http://a.example/livez"):
        answer = await sent(served, f"{line} HTTP/1.1", f"Host: 127.0.0.1:{served.port}")
        assert answer[:2] == (400, "badRequest"), line


async def test_our_own_page_is_served(served: Served) -> None:
    headers = {"Origin": f"http://localhost:{served.port}", "Sec-Fetch-Site": "same-origin"}
    assert (await served.get(STATUS, headers=headers))[0] == 200


async def test_a_path_names_the_methods_it_takes(served: Served) -> None:
    authority = f"127.0.0.1:{served.port}"
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
    for path, allowed in (
        *((path, "GET, HEAD") for path in EVERYWHERE if path != "/nothing"),
        *((path, "POST") for path in (*COMMANDS, "/api/ibkr/contracts/qualify")),
        ("/api/ibkr/contracts/265598", "GET, HEAD"),
    ):
        for method in known:
            if method not in allowed:
                for origin in ([], [f"Origin: http://{authority}"]):
                    answer = await sent(served, f"{method} {path} HTTP/1.1", f"Host: {authority}", *origin)
                    assert answer[0] == 405, (method, path)
                    assert answer[2]["allow"] == allowed


TYPES = (
    None,
    "",
    "text/plain",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json-patch+json",
    "application/problem+json",
    "application/jsonp",
    "application/json; charset=utf-16",
    "application/json, text/plain",
    "application /json",
    "*/*",
)


async def test_only_json_changes_anything(served: Served) -> None:
    host = f"Host: 127.0.0.1:{served.port}"
    for path in COMMANDS:
        for kind in TYPES:
            typed = [] if kind is None else [f"Content-Type: {kind}"]
            line, _, length = post(path)
            assert (await sent(served, line, host, *typed, length, body=b"{}"))[0] == 415, kind
        twice = ("Content-Type: application/json", "Content-Type: text/plain", "Content-Length: 2")
        raw = await served.raw("\r\n".join([post(path)[0], host, *twice, "Connection: close", "", "{}"]).encode())
        assert headers_of(raw)[0] in (400, 415)
    for coding in ("gzip", "br", "identity, gzip"):
        line, *headers = post(COMMANDS[0])
        assert (await sent(served, line, host, *headers, f"Content-Encoding: {coding}", body=b"{}"))[0] == 415
    assert served.daemon.requests == []


DEEP = 16_000 // 2
BODIES: tuple[tuple[str, bytes, int], ...] = (
    ("not JSON", b"{", 400),
    ("not JSON", b"hello", 400),
    ("blanks", b" \r\n", 400),
    ("two values", b"{}{}", 400),
    ("a comment", b"{/**/}", 400),
    ("single quotes", b"{'wait': 1}", 400),
    ("a mark of order", b"\xef\xbb\xbf{}", 400),
    ("UTF-16", "{}".encode("utf-16"), 400),
    ("Latin-1", '{"host": "é"}'.encode("latin-1"), 400),
    ("an overlong zero", b'{"host": "\xc0\x80"}', 400),
    ("half a pair", b'{"host": "\\ud800"}', 400),
    ("half a pair in bytes", b'{"host": "\xed\xa0\x80"}', 400),
    ("NaN", b'{"timeout": NaN}', 400),
    ("Infinity", b'{"timeout": Infinity}', 400),
    ("-Infinity", b'{"timeout": -Infinity}', 400),
    ("a key twice", b'{"host": "127.0.0.1", "host": "evil.example"}', 400),
    ("a key twice, escaped", b'{"host": "127.0.0.1", "h\\u006fst": "evil.example"}', 400),
    ("a key twice, deep", b'{"x": [{"a": 1, "a": 2}]}', 400),
    ("arrays without end", b"[" * DEEP, 400),
    ("arrays, deep", b"[" * DEEP + b"]" * DEEP, 400),
    ("objects, deep", b'{"a":' * 2500 + b"1" + b"}" * 2500, 400),
    ("a deep key that is known", b'{"host": ' + b"[" * 7000 + b"]" * 7000 + b"}", 400),
    ("null", b"null", 422),
    ("an array", b"[]", 422),
    ("a string", b'"x"', 422),
    ("an unknown key", b'{"hots": "127.0.0.1"}', 422),
    ("a key in another case", b'{"Host": "127.0.0.1"}', 422),
    ("a prototype", b'{"__proto__": {}}', 422),
    ("a number without end", b'{"port": ' + b"9" * 4000 + b"}", 422),
    ("a number of digits", b'{"port": ' + b"9" * 16000 + b"}", 400),
    ("a port of the system", b'{"port": 22}', 422),
    ("a port as text", b'{"port": "7497"}', 422),
    ("a negative client id", b'{"clientId": -1}', 422),
    ("an infinite number", b'{"timeout": 1e999}', 422),
    ("arrays, 65 deep", b"[" * 65 + b"]" * 65, 400),
    ("arrays, 64 deep", b"[" * 64 + b"]" * 64, 422),
    ("too large", b'{"host": "' + b"a" * 16384 + b'"}', 413),
    ("much too large", b" " * 900_000, 413),
)


async def test_a_body_that_is_no_acceptable_object_is_refused(served: Served) -> None:
    for what, body, status in BODIES:
        for path in (*COMMANDS, "/api/ibkr/contracts/qualify"):
            got, problem, _ = await served.request("POST", path, data=body, headers=JSON)
            if what == "a number without end" and got == 400:
                continue  # where Python itself draws the line for digits
            assert got == status, (what, path)
            assert problem["reason"] in ("badRequest", "invalidParameters", "tooLarge")
    assert served.daemon.requests == []


async def test_half_a_body_times_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.http.request_data.BODY_TIMEOUT", 0.05)
    raw = await served.raw(
        f"POST /api/ibkr/connect HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
    )
    status, headers = headers_of(raw)
    assert (status, headers["connection"]) == (408, "close")
    assert b"bodyTimeout" in raw


ELSEWHERE = (
    "/ui/../pyproject.toml",
    "/ui/..%2fguard.py",
    "/ui/%2e%2e/guard.py",
    "/ui/%2e%2e%2f%2e%2e%2fpyproject.toml",
    "/ui/..\\guard.py",
    "/ui/..%5cguard.py",
    "/ui/%252e%252e/guard.py",
    "/ui/....//guard.py",
    "/ui//etc/passwd",
    "//etc/passwd",
    "/ui/%00",
    "/ui/complete_platform.html%00.js",
    "/ui/complete_platform.html/",
    "/ui/complete_platform.html/..",
    "/ui/%c0%ae%c0%ae/guard.py",
    "/ui/.",
    "/ui/",
    "/ui",
    "/ui/vendor",
    "/ui/vendor/",
    "/ui/vendor/../../guard.py",
    "/ui/C:/windows/win.ini",
    "/ui/~root",
    "/ui/COMPLETE_PLATFORM.HTML",
    "/api/ibkr/../../etc/passwd",
    "/api/ibkr/contracts/../status",
    "/api/ibkr/contracts/..%2fstatus",
    "/.env",
    "/.git/config",
    "/;/livez",
)


async def test_no_path_leads_out_of_the_page(served: Served) -> None:
    for path in ELSEWHERE:
        status, reason, _ = await sent(served, f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}")
        assert (status, reason) in ((404, "notFound"), (422, "invalidParameters")), path


async def test_a_query_that_cannot_be_read_is_refused(served: Served) -> None:
    many = "&".join(f"a{number}=1" for number in range(100))
    for query in ("x=1", "account=a&account=b", "account=%ff", "account", "=", "&&", many):
        line = f"GET /api/ibkr/positions?{query} HTTP/1.1"
        assert (await sent(served, line, f"Host: 127.0.0.1:{served.port}"))[:2] == (422, "invalidParameters"), query


TOKEN = "abcdefghijklmnopqrstuvwxyz012345"


async def test_with_a_token_file_only_the_page_the_help_and_livez_are_open(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on loopback; never from the query. The token identifies the client, whichever user's process it is."""
    monkeypatch.setattr(peers, "owner", lambda _peer, _ours: 4242)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    async with running(tmp_path, daemon, facade_token_file=file) as served:
        for path in ("/", "/livez", "/ui/complete_platform.html", "/docs", "/docs/reasons"):
            assert (await served.get(path))[0] == 200
        for path in (STATUS, "/readyz", "/nothing", f"{STATUS}?token={TOKEN}"):
            status, body, headers = await served.get(path)
            assert (status, body["reason"]) == (401, "tokenMissing")
            assert headers["WWW-Authenticate"].startswith("Bearer")
        for wrong in (f"Bearer {TOKEN}x", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, "Bearer \u00e4"):
            assert (await served.get(STATUS, headers={"Authorization": wrong}))[0] == 401
        for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
            assert (await served.get(STATUS, headers={"Authorization": right}))[0] == 200


async def test_the_user_of_a_connection_is_found(tmp_path: Path) -> None:
    """Our own sockets are ours, by either way of looking; one that its process has closed has no user."""
    if not peers.SUPPORTED:
        pytest.skip("this system does not show a connection's user")
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
    peers.close()


async def test_the_user_of_a_connection_is_found_without_a_free_descriptor(served: Served) -> None:
    """Or the last client to be accepted would be refused as another user's."""
    if not peers.SUPPORTED:
        pytest.skip("this system does not show a connection's user")
    import resource

    assert (await served.get(STATUS))[0] == 200
    server = served.facade.server
    assert server is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    await until(lambda: len(server.connections) == 2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        writer.write(f"GET {STATUS} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(LIMIT):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        writer.close()


@pytest.mark.parametrize(
    ("owner", "check", "status"), [(4242, True, 403), (None, True, 403), (4242, False, 200), (0, True, 200)]
)
async def test_another_users_connection_is_refused(
    tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, owner: Any, check: bool, status: int
) -> None:
    """Also one whose owner cannot be found, unless the check is off; the system's administrator may come in."""
    monkeypatch.setattr(peers, "owner", lambda _peer, _ours: owner)
    async with running(tmp_path, daemon, peer_check=check) as served:
        for path in EVERYWHERE[:3]:
            assert (await served.get(path))[0] == status


def test_the_names_of_a_facade() -> None:
    assert "127.0.0.1:9101" in names("0.0.0.0", 9101)
    assert "0.0.0.0:9101" not in names("0.0.0.0", 9101)
    assert "192.168.1.5:9101" in names("192.168.1.5", 9101)
    assert "[fd00::1]:9101" in names("fd00::1", 9101)
    assert "127.0.0.1" in names("127.0.0.1", 80)
    assert "127.0.0.1" not in names("127.0.0.1", 9101)
    assert spelled(["Trade.Example:443"]) == {"trade.example:443", "trade.example"}
    assert spelled(["trade.example:8443"]) == {"trade.example:8443"}


async def test_a_proxys_name_is_one_of_ours_also_by_tls(tmp_path: Path, daemon: FakeDaemon) -> None:
    async with running(tmp_path, daemon, facade_names=("trade.example:443",)) as served:
        for origin in ("https://trade.example", "http://trade.example"):
            assert (await served.get(STATUS, headers={"Host": "trade.example", "Origin": origin}))[0] == 200
        own = f"https://127.0.0.1:{served.port}"  # no TLS is served there
        assert (await served.get(STATUS, headers={"Origin": own}))[0] == 403


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"/api/ibkr/\xc3\xa4", b"/%00", b"/api/ibkr/contracts/\xed\xa0\x80", b"/" + b"a" * 5000]
)
async def test_a_path_of_any_bytes_is_not_found(served: Served, path: bytes) -> None:
    raw = await served.raw(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % (path, served.port))
    status, headers = headers_of(raw)
    if status != 400:  # the parser's
        assert status in (404, 422)
        assert headers["content-type"] == "application/problem+json"
        json.loads(raw.partition(b"\r\n\r\n")[2])
