"""Bytes at the facade's door that no client of ours sends: each is refused in its own words, and harms nobody."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.abuse.chain import Chain, answer_of
from tests.ports import free_port

STATUS = "/api/ibkr/status"
PATHS = (STATUS, "/", "/ui/complete_platform.html", "/nothing", "/api/ibkr/events", "/livez", "/api/ibkr/positions")
"""What the guards stand before: data, the page, files, what is not there, a stream."""

COMMANDS = ("/api/ibkr/connect", "/api/ibkr/disconnect", "/api/ibkr/reconnect")


def raw(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *headers, "Connection: close", "", ""]).encode("latin-1") + body


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


def test_a_foreign_or_look_alike_host_is_misdirected(attacked: Chain) -> None:
    """421 on every path, whatever stands in `Host` that is not exactly one of our names."""
    for host in FOREIGN_HOSTS:
        named = host.replace("PORT", str(attacked.port))
        for path in PATHS:
            attacked.send(raw(f"GET {path} HTTP/1.1", f"Host: {named}")).refuses(421, "hostRejected")
        for path in COMMANDS:
            request = raw(
                f"POST {path} HTTP/1.1",
                f"Host: {named}",
                "Content-Type: application/json",
                "Content-Length: 2",
                body=b"{}",
            )
            attacked.send(request).refuses(421, "hostRejected")
        attacked.served()


def test_what_is_badly_framed_is_refused(attacked: Chain) -> None:
    """Missing, doubled and folded `Host`, other targets than a path, two lengths, no HTTP at all: 400, closed."""
    ours = f"Host: {attacked.authority}"
    cases = (
        raw("GET / HTTP/1.1"),
        raw("GET / HTTP/1.1", ours, ours),
        raw("GET / HTTP/1.1", ours, "Host: evil.example"),
        raw("GET / HTTP/1.1", "Host: evil.example", ours),
        raw("GET / HTTP/1.1", f"Host : {attacked.authority}"),
        raw("GET / HTTP/1.1", "Host:", f" {attacked.authority}"),
        raw(f"GET http://evil.example{STATUS} HTTP/1.1", ours),
        raw(f"GET http://{attacked.authority}{STATUS} HTTP/1.1", ours),
        raw(f"GET HTTP://{attacked.authority}/ HTTP/1.1", ours),
        raw("GET file:///etc/passwd HTTP/1.1", ours),
        raw(f"GET {STATUS[1:]} HTTP/1.1", ours),
        raw("GET \\ HTTP/1.1", ours),
        raw("OPTIONS * HTTP/1.1", ours),
        raw("CONNECT 127.0.0.1:22 HTTP/1.1", ours),
        raw("POST /api/ibkr/connect HTTP/1.1", ours, "Content-Length: 2", "Content-Length: 3", body=b"{}"),
        raw("POST /api/ibkr/connect HTTP/1.1", ours, "Content-Length: +2", body=b"{}"),
        raw("POST /api/ibkr/connect HTTP/1.1", ours, "Content-Length: -1", body=b"{}"),
        raw(
            "POST /api/ibkr/connect HTTP/1.1",
            ours,
            "Content-Length: 2",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n",
        ),
        raw("GET / HTTP/1.1", ours, "X: a\x00b"),
        raw("GET / HTTP/1.1", ours, "X: " + "a" * 9000),
        raw("GET / HTTP/1.1", ours, *(f"X-{number}: 1" for number in range(300))),
        raw("GET /" + "a" * 9000 + " HTTP/1.1", ours),
        raw("GET / HTTP/9.9", ours),
        raw("GET / HTCPCP/1.0", ours),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    )
    for case in cases:
        answer = attacked.send(case)
        assert 400 <= answer.status < 500, case[:200]
        answer.refuses(400, "badRequest")
        attacked.served()


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


def test_a_foreign_origin_gets_nothing(attacked: Chain) -> None:
    """403 on every path and method, and no header that would let a browser hand anything on."""
    ours = f"Host: {attacked.authority}"
    for headers in FOREIGN:
        named = [header.replace("AUTHORITY", attacked.authority) for header in headers]
        for path in PATHS:
            attacked.send(raw(f"GET {path} HTTP/1.1", ours, *named)).refuses(403, "originRejected")
        for path in COMMANDS:
            typed = ("Content-Type: application/json", "Content-Length: 2")
            attacked.send(raw(f"POST {path} HTTP/1.1", ours, *named, *typed, body=b"{}")).refuses(403, "originRejected")
        attacked.served()


def test_a_preflight_is_told_nothing(attacked: Chain) -> None:
    """OPTIONS as a browser asks for another origin: 403; of our own origin or of nobody: 405. Never an allowance."""
    asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type, authorization")
    private = "Access-Control-Request-Private-Network: true"
    ours = f"Host: {attacked.authority}"
    for path in (*PATHS, *COMMANDS):
        foreign = raw(f"OPTIONS {path} HTTP/1.1", ours, "Origin: http://evil.example", *asks, private)
        attacked.send(foreign).refuses(403, "originRejected")
        for origin in ([], [f"Origin: http://{attacked.authority}"]):
            answer = attacked.send(raw(f"OPTIONS {path} HTTP/1.1", ours, *origin, *asks, private))
            answer.refuses(404 if path == "/nothing" else 405, "methodNotAllowed", "notFound")
        attacked.served()


KNOWN = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")


def test_another_method_is_told_which_there_are(attacked: Chain) -> None:
    """405 with `Allow`, and a word that is none of HTTP's is 405 or no HTTP at all."""
    for path, allowed in (
        *((path, "GET, HEAD") for path in PATHS if path != "/nothing"),
        *((path, "POST") for path in COMMANDS),
        ("/api/ibkr/contracts/265598", "GET, HEAD"),
    ):
        for method in (*KNOWN, "get", "QUERY", "X" * 20):
            if method in allowed:
                continue
            answer = attacked.send(raw(f"{method} {path} HTTP/1.1", f"Host: {attacked.authority}"), method)
            if method not in KNOWN and answer.status == 400:
                continue  # the parser knows only the words of HTTP
            answer.refuses(405, "methodNotAllowed")
            assert answer.headers["allow"] == allowed
        attacked.served()


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


def test_only_json_changes_anything(attacked: Chain) -> None:
    """415 for whatever a form, a beacon or a careless script sends."""
    for path in COMMANDS:
        for kind in TYPES:
            typed = [] if kind is None else [f"Content-Type: {kind}"]
            request = raw(
                f"POST {path} HTTP/1.1", f"Host: {attacked.authority}", *typed, "Content-Length: 2", body=b"{}"
            )
            attacked.send(request).refuses(415, "unsupportedMediaType")
        twice = ("Content-Type: application/json", "Content-Type: text/plain", "Content-Length: 2")
        answer = attacked.send(raw(f"POST {path} HTTP/1.1", f"Host: {attacked.authority}", *twice, body=b"{}"))
        assert answer.status in (400, 415)
        attacked.served()
    for coding in ("gzip", "br", "identity, gzip"):
        request = attacked.request("POST", COMMANDS[0], f"Content-Encoding: {coding}", body=b"{}")
        attacked.send(request).refuses(415, "unsupportedMediaType")
    attacked.served()


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
    ("too large", b'{"host": "' + b"a" * 16384 + b'"}', 413),
    ("much too large", b" " * 4_000_000, 413),
)


def test_a_body_that_is_no_acceptable_object_is_refused(attacked: Chain) -> None:
    """400 where it cannot be read, 422 where it can and is not acceptable, 413 where it is too large."""
    reasons = ("badRequest", "invalidParameters", "tooLarge", "hostNotAllowed")
    for what, body, status in BODIES:
        for path in (*COMMANDS, "/api/ibkr/contracts/qualify"):
            answer = attacked.post(path, body)
            if what in ("a number without end",) and answer.status == 400:
                continue  # where Python itself draws the line for digits
            assert answer.status == status, (what, path, answer)
            answer.refuses(status, *reasons)
        attacked.served()


def test_a_chunked_body_has_the_same_limits(attacked: Chain) -> None:
    """Its length is not known before; nor does a chunk that lies, or one by one, get anywhere."""
    head = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    ours = f"Host: {attacked.authority}"
    large = b"%x\r\n%s\r\n" % (20_000, b" " * 20_000)
    for body, statuses in (
        (large + b"0\r\n\r\n", (413,)),
        (b"1\r\n \r\n" * 17_000 + b"0\r\n\r\n", (413,)),
        (b"zz\r\n{}\r\n0\r\n\r\n", (400,)),
        (b"-2\r\n{}\r\n0\r\n\r\n", (400,)),
        (b"2\r\n{}XX0\r\n\r\n", (400,)),
    ):
        answer = attacked.send(raw("POST /api/ibkr/disconnect HTTP/1.1", ours, *head, body=body))
        assert answer.status in statuses, (body[:40], answer)
        answer.is_guarded()
        attacked.served()


@contextmanager
def trap() -> Iterator[tuple[int, list[socket.socket]]]:
    """A port on which every address of this machine listens that a `/connect` must not reach."""
    port = free_port()
    ears = []
    try:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")):
            ear = socket.socket(family)
            ears.append(ear)
            ear.bind((host, port))
            ear.listen()
            ear.setblocking(False)
        yield port, ears
    finally:
        for ear in ears:
            ear.close()


HOSTS = (
    "evil.example",
    "localhost.",
    "LOCALHOST",
    "localhost.localdomain",
    "127.0.0.2",
    "127.1",
    "127.0.0.1.",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1\u0000",
    "127.0.0.1\r\nx",
    "127.0.0.1:22",
    "2130706433",
    "0x7f.1",
    "0",
    "0.0.0.0",
    "::",
    "[::1]",
    "::ffff:127.0.0.1",
    "0:0:0:0:0:0:0:1",
    "169.254.169.254",
    "192.168.0.1",
    "１２７.0.0.1",
    "user@127.0.0.1",
    "/etc/passwd",
    "",
)
WRONG: tuple[tuple[dict[str, Any], int, str], ...] = (
    *(({"port": port}, 422, "invalidParameters") for port in (0, -1, 1, 22, 80, 1023, 65536, 2**31, 2**70)),
    *(({"port": port}, 422, "invalidParameters") for port in ("7497", 7497.0, True, None, [7497], {})),
    *(({"port": port}, 403, "liveLocked") for port in (7496, 4001)),
    *(({"host": host}, 422, "invalidParameters") for host in (1, None, True, ["127.0.0.1"], {})),
    *(({"clientId": number}, 422, "invalidParameters") for number in (-1, 2**31, 1.5, "1", True)),
    *(({"timeout": seconds}, 422, "invalidParameters") for seconds in (0, -1, 3601, 1e308, "10", True)),
    *(({"account": account}, 422, "invalidParameters") for account in (1, ["DU1"], {})),
    ({"wait": False}, 422, "invalidParameters"),
    ({"url": "http://evil.example"}, 422, "invalidParameters"),
)


def test_nothing_is_dialled_that_connect_must_not_reach(attacked: Chain) -> None:
    """Refused before any packet: whoever listens hears nothing, and the session is not closed for it."""
    targets = attacked.outgoing()
    with trap() as (port, ears):
        with socket.create_connection(("127.0.0.2", port)):
            ears[1].accept()[0].close()  # it would be heard
        for host in HOSTS:
            answer = attacked.post(COMMANDS[0], json.dumps({"host": host, "port": port}).encode())
            answer.refuses(answer.status, "hostNotAllowed", "invalidParameters")
            assert answer.status in (403, 422), (host, answer)
        for params, status, reason in WRONG:
            answer = attacked.post(COMMANDS[0], json.dumps(params).encode())
            assert answer.status == status, (params, answer)
            answer.refuses(status, reason)
        for query in ("?wait=perhaps", "?wait=false&wait=false", "?host=evil.example", "?Wait=false"):
            attacked.post(COMMANDS[0] + query).refuses(422, "invalidParameters")
        for ear in ears:
            with pytest.raises(BlockingIOError):
                ear.accept()
    assert attacked.outgoing() == targets
    attacked.served()


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


def test_no_path_leads_out_of_the_page(attacked: Chain) -> None:
    """Files are those of a table, not of a directory: whatever a path looks like, there is none elsewhere."""
    for path in ELSEWHERE:
        answer = attacked.get(path)
        assert answer.status in (400, 404, 422), (path, answer)
        answer.refuses(answer.status, "notFound", "badRequest", "invalidParameters")
    attacked.served()


def test_a_query_that_is_not_understood_is_refused(attacked: Chain) -> None:
    """Unknown, doubled, unreadable, too many: 422, and never a guess at what was meant."""
    many = "&".join(f"a{number}=1" for number in range(100))
    for query in (
        "x=1",
        "account=a&account=b",
        "account=%ff",
        "account=%zz%",
        "account",
        "=",
        "&&",
        many,
        "account=%00",
    ):
        answer = attacked.get(f"/api/ibkr/positions?{query}")
        assert answer.status in (400, 404, 422), (query, answer)
        answer.refuses(answer.status, "invalidParameters", "notFound", "badRequest")
    for topics in (
        "nothing",
        "quotes:",
        "quotes:0",
        "quotes:-1",
        "quotes:99999999999",
        "bars:1:1%20year",
        ",",
        "link%00",
    ):
        attacked.get(f"/api/ibkr/events?topics={topics}").refuses(422, "invalidParameters")
    attacked.served()


def test_requests_in_one_breath_are_answered_each_for_itself(attacked: Chain) -> None:
    """A smuggled request gets its own guards: what is hidden behind a good one is refused as if it had come alone."""
    good = attacked.request("GET", STATUS, close=False)
    hidden = raw(
        "POST /api/ibkr/disconnect HTTP/1.1",
        "Host: evil.example",
        "Content-Type: application/json",
        "Content-Length: 2",
        body=b"{}",
    )
    with attacked.dial() as sock:
        sock.sendall(good + hidden)
        assert answer_of(sock).status == 200
    # each answer read from a stream of its own, since a parser may have read ahead
    with attacked.dial() as sock:
        sock.sendall(good * 3 + hidden)
        said = b""
        while chunk := sock.recv(65536):
            said += chunk
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.count(b"HTTP/1.1 421 ") == 1
    attacked.served()
