"""Good sessions with some bytes wrong, thousands of them, at both doors. `LINK_TEST_MUTATIONS`: how many at each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.abuse.chain import HEADERS, HELLO, LIMIT, Chain, chain, unix

CASES = int(os.environ.get("LINK_TEST_MUTATIONS", "2000"))
SEED = int(os.environ.get("LINK_TEST_SEED", "8"))
AT_ONCE = 100
PATIENCE = 0.3
"""s for the answer to a case; then it waits for bytes that never come, as one in ten does, and we close."""

TOKEN = "mutations-0123456789-abcdefghijklmnop"

pytestmark = pytest.mark.timeout(120 + CASES // 20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """With a token, so that it can be looked for in the log."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with chain(up=False, IBKR_FACADE_TOKEN_FILE=str(file)) as built:
        built.token = TOKEN
        yield built.up()


def mutated(chance: random.Random, good: bytes, others: tuple[bytes, ...]) -> bytes:
    """`good` with one to five things wrong: bytes changed, gone, new, doubled, swapped, or another session's."""
    said = bytearray(good)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(said)) if said else 0
        length = chance.randrange(1, 9)
        match chance.randrange(8):
            case 0 if said:
                said[at] = chance.randrange(256)
            case 1 if said:
                said[at] ^= 1 << chance.randrange(8)
            case 2:
                del said[at : at + length]
            case 3:
                said[at:at] = chance.randbytes(length)
            case 4:
                said[at:at] = said[at : at + length] * chance.randrange(1, 50)
            case 5:
                said[at:at] = chance.choice(STINGS)
            case 6:
                other = chance.choice(others)
                begin = chance.randrange(len(other))
                said[at:at] = other[begin : begin + chance.randrange(1, 200)]
            case _:
                del said[chance.randrange(len(said) + 1) :]
    return bytes(said)


STINGS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"%00",
    b"%2e%2e/",
    b'"',
    b"\\u0000",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 400,
    b"[" * 400,
    b'{"a":' * 200,
    b"\x1b[31m",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: evil.example\r\n",
)


def at_once(cases: list[bytes], play: Callable[[bytes], object]) -> list[bytes]:
    """What each case was answered, in order, some of them at a time."""

    async def all_of_them() -> list[bytes]:
        said: list[bytes] = []
        for first in range(0, len(cases), AT_ONCE):
            said += await asyncio.gather(*map(play, cases[first : first + AT_ONCE]))  # type: ignore[call-overload]
        return said

    return asyncio.run(all_of_them(), debug=False)


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: bytes, ends: bool) -> bytes:
    """`ends`: we say that nothing else comes, and wait for the last word; else we hang up when it takes long."""
    said = bytearray()
    with contextlib.suppress(ConnectionError):
        writer.write(case)
        if ends:
            writer.write_eof()
        try:
            async with asyncio.timeout(LIMIT if ends else PATIENCE):
                while chunk := await reader.read(1 << 16):
                    said += chunk
        except TimeoutError:
            assert not ends, case
    writer.transport.abort()
    return bytes(said)


def good_requests(whole: Chain) -> tuple[bytes, ...]:
    def get(path: str, *lines: str) -> bytes:
        return whole.request("GET", path, *lines, close=False)

    def post(path: str, body: bytes) -> bytes:
        return whole.request("POST", path, body=body, close=False)

    chunked = whole.request("POST", "/api/ibkr/reconnect", "Content-Type: application/json", close=False)
    return (
        get("/api/ibkr/status"),
        get("/api/ibkr/link", "Accept: application/json", "Sec-Fetch-Site: same-origin"),
        get("/api/ibkr/positions?account=DU1234567", 'If-None-Match: "e1-1"'),
        get("/api/ibkr/orders?scope=open"),
        get("/api/ibkr/executions?since=2020-01-01T00:00:00Z"),
        get("/api/ibkr/link/events?since=2020-01-01T00:00:00%2B02:00"),
        get("/api/ibkr/contracts/265598?allowStale=true"),
        get("/api/ibkr/events?topics=link,sync", "Last-Event-ID: e-1"),
        get("/ui/docs.js", f"Origin: http://{whole.authority}"),
        get("/", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"),
        whole.request("HEAD", "/metrics", close=False),
        whole.request("OPTIONS", "/api/ibkr/connect", "Origin: http://evil.example", close=False),
        # what changes nothing however it is read: nothing waits, and the host is never allowed
        post("/api/ibkr/reconnect", b"{}"),
        post("/api/ibkr/connect", b'{"host": "evil.example"}'),
        chunked.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
    )


STATUSES = {
    b"200",
    b"202",
    b"304",
    b"400",
    b"401",
    b"403",
    b"404",
    b"405",
    b"408",
    b"409",
    b"413",
    b"415",
    b"421",
    b"422",
}
"""What a wrong byte may come to while daemon and gateway are well."""

STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] (?=[0-9]{3} )")
BY_THE_PARSER = b"400 Bad Request\r\nContent-Type: text/plain"


def test_no_wrong_byte_in_a_request_does_more_than_cost_its_answer(attacked: Chain) -> None:
    chance = random.Random(SEED)
    good = good_requests(attacked)
    cases = [mutated(chance, chance.choice(good), good) for _ in range(CASES)]
    finished = attacked.request("GET", "/livez")  # ends what the case has left open

    async def play(case: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
        return await answered(reader, writer, case + b"\r\n\r\n" + finished, ends=False)

    found: Counter[bytes] = Counter()
    for case, said in zip(cases, at_once(cases, play), strict=True):
        first, *heads = STATUS_LINE.split(said)
        assert not first, (case, first[:100])
        for head in heads:
            status = head[:3]
            found[status] += 1
            assert status in STATUSES, (case, head[:300])
            if head.startswith(BY_THE_PARSER):
                continue
            for name, value in HEADERS.items():
                assert f"{name}: {value}".lower().encode() in head.lower(), (case, head[:300])
            assert b"Access-Control" not in head, case
            assert b"\r\nServer:" not in head, case
        assert b"Traceback" not in said, case
    assert {b"200", b"400", b"401", b"421"} <= set(found)
    attacked.served()


GOOD_LINES = tuple(
    json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
    for number, (method, params) in enumerate(
        (
            ("ping", {}),
            ("link.get", {}),
            ("link.events", {"since": "2020-01-01T00:00:00Z"}),
            ("link.reconnect", {}),
            ("link.connect", {"host": "evil.example"}),
            ("watch", {"topics": ["link", "sync", "positions"], "epoch": "e", "since": 1}),
            ("watch", {"topics": ["orders", "fills", "gaps"]}),
            ("unwatch", {"topics": ["positions"]}),
            ("account.positions", {"account": "DU1234567"}),
            ("account.orders", {"scope": "open"}),
            ("account.summary", {}),
            ("executions.list", {"since": "2020-01-01T00:00:00+02:00", "after": "x"}),
            ("daemon.info", {}),
        )
    )
)
CODES = {-32700, -32600, -32601, -32602, -32001, -32000}


def test_no_wrong_byte_on_the_socket_does_more_than_cost_an_error(attacked: Chain) -> None:
    chance = random.Random(SEED)

    def session() -> bytes:
        lines = [HELLO, *chance.sample(GOOD_LINES, chance.randrange(1, 4))]
        wrong = chance.randrange(len(lines)) if chance.random() < 0.2 else chance.randrange(1, len(lines))
        lines[wrong] = mutated(chance, lines[wrong], GOOD_LINES)
        return b"".join(lines)

    cases = [session() for _ in range(CASES)]

    async def play(case: bytes) -> bytes:
        # asyncio takes a full queue (EAGAIN) for a connection that will come; a blocking socket waits its turn
        reader, writer = await asyncio.open_unix_connection(sock=unix(attacked.socket), limit=1 << 22)
        return await answered(reader, writer, case, ends=True)

    found: Counter[int] = Counter()
    for case, said in zip(cases, at_once(cases, play), strict=True):
        assert not said or said.endswith(b"\n"), (case, said[-100:])
        for line in said.splitlines():
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0", (case, line)
            if "error" in message:
                found[message["error"]["code"]] += 1
                assert message["error"]["code"] in CODES, (case, line)
                assert len(line) < 4096, (case, line)
    assert {-32700, -32600, -32001} <= set(found)
    assert attacked.ask("daemon.info")["faults"] == 0
    attacked.served()


def test_the_token_is_written_nowhere(whole: Chain) -> None:
    """Not where it was right, not where it was nearly right, not in a line about a request that had it."""
    for given in (f"Bearer {TOKEN}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Bearer  {TOKEN}\t"):
        raw = f"GET /api/ibkr/status?token={TOKEN} HTTP/1.1\r\nHost: {whole.authority}\r\nAuthorization: {given}\r\n"
        answer = whole.send((raw + "Connection: close\r\n\r\n").encode())
        assert TOKEN.encode() not in answer.body
    whole.logs_no_secret()
    written = [path for path in Path(whole.directory).rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
