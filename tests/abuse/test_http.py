"""Bytes to the facade that no client of ours sends: framing, and what must not be dialled. No other client is harmed.

The rules for well-framed requests are tested in `tests/facade/http/test_guard.py`.
"""

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
CONNECT = "/api/ibkr/connect"


def raw(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *headers, "Connection: close", "", ""]).encode("latin-1") + body


def test_what_is_badly_framed_is_refused(attacked: Chain) -> None:
    """Missing, doubled and folded `Host`, other targets than a path, two lengths, no HTTP at all: 400, closed.

    By the parser in its own words, where it sees that; else as a problem.
    """
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
        raw("POST /api/ibkr/connect HTTP/1.1", ours, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
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
        assert answer.status == 400, case[:200]
        assert len(answer.body) < 1000
        if answer.headers["content-type"] == "application/problem+json":
            answer.refuses(400, "badRequest")
        attacked.served()


def test_a_chunked_body_has_the_same_limits(attacked: Chain) -> None:
    head = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    ours = f"Host: {attacked.authority}"
    large = b"%x\r\n%s\r\n" % (20_000, b" " * 20_000)
    for body, status in (
        (large + b"0\r\n\r\n", 413),
        (b"1\r\n \r\n" * 17_000 + b"0\r\n\r\n", 413),
        (b"zz\r\n{}\r\n0\r\n\r\n", 400),
        (b"-2\r\n{}\r\n0\r\n\r\n", 400),
        (b"2\r\n{}XX0\r\n\r\n", 400),
    ):
        answer = attacked.send(raw("POST /api/ibkr/disconnect HTTP/1.1", ours, *head, body=body))
        assert answer.status == status, (body[:40], answer)
        if status == 413:
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
    targets = attacked.outgoing()
    with trap() as (port, ears):
        with socket.create_connection(("127.0.0.2", port)):
            ears[1].accept()[0].close()  # the listener works
        for host in HOSTS:
            answer = attacked.post(CONNECT, json.dumps({"host": host, "port": port}).encode())
            answer.refuses(answer.status, "hostNotAllowed", "invalidParameters")
            assert answer.status in (403, 422), (host, answer)
        for params, status, reason in WRONG:
            answer = attacked.post(CONNECT, json.dumps(params).encode())
            assert answer.status == status, (params, answer)
            answer.refuses(status, reason)
        for query in ("?wait=perhaps", "?wait=false&wait=false", "?host=evil.example", "?Wait=false"):
            attacked.post(CONNECT + query).refuses(422, "invalidParameters")
        for ear in ears:
            with pytest.raises(BlockingIOError):
                ear.accept()
    assert attacked.outgoing() == targets
    attacked.served()


def test_each_pipelined_request_passes_the_guard_for_itself(attacked: Chain) -> None:
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


def test_a_request_is_found_in_both_logs_by_its_id(attacked: Chain) -> None:
    answer = attacked.send(attacked.request("POST", "/api/ibkr/reconnect", "X-Request-Id: mine-1", body=b"{}"))
    assert answer.headers["x-request-id"] == "mine-1"
    answer = attacked.send(attacked.request("POST", "/api/ibkr/reconnect", "X-Request-Id: no good", body=b"{}"))
    made = answer.headers["x-request-id"]
    for process, event in (("facade", "facade.request"), ("daemon", "link.command")):
        lines = [json.loads(line) for line in (attacked.directory / f"{process}.out").read_text().splitlines()]
        assert {"mine-1", made} <= {line.get("requestId") for line in lines if line["event"] == event}
        assert not [line for line in lines if line.get("requestId") == "no good"]
