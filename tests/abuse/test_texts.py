"""Texts from outside with markup, control characters and secrets in them: whole in the data, harmless in the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.abuse.chain import Chain, answer_of, chain

ACCOUNT = "DU7654321"
TOKEN = "texts-0123456789-abcdefghijklmnopqr"
TEXTS = (
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "first\nINFO:     ✓ Connected to IBKR on port 1\nlast",
    '{"level":"INFO","event":"link.connected"}\r\n{"a":1}',
    "\x1b[2J\x1b[31mred\x1b]0;title\x07 \x9b31m",
    "a\u2028b\u2029c\u202ereversed\u2066x\u200f",
    "\x01\x08\x7f",
    f"Account {ACCOUNT} is not U1234567, DF1234567 or i{ACCOUNT}",
    f"Authorization: Bearer {TOKEN}",
    "%s %d %(name)s {0} {name} \\u0000 \\x1b",
    "é 日本 " + "x" * 3000,
)
CODES = (399, 2100, 2103, 2110, 162, 321, 10197, 99999)
"""A remark, account updates, a farm, a lost upstream, refusals, an unknown code."""

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def letters(text: str) -> str:
    """What is left of a text whose control characters have become spaces."""
    return re.sub(r"\W", "", CONTROLS.sub(" ", text))


@pytest.fixture(params=["json", "console"])
def talkative(request: pytest.FixtureRequest) -> Iterator[Chain]:
    """At DEBUG, where ib_async writes down every position and value that it receives."""
    with chain(IBKR_LOG_LEVEL="DEBUG", IBKR_LOG_FORMAT=request.param) as built:
        built.token = ""
        yield built


def test_ibkrs_texts_are_whole_in_the_data_and_one_clean_line_in_the_log(talkative: Chain) -> None:
    """Markup arrives letter by letter, control characters as spaces; a log line stays one line, has no full account
    id and no token, and nothing in it reaches a terminal."""
    gateway = talkative.simulated
    with talkative.dial() as reader:
        reader.sendall(talkative.request("GET", "/api/ibkr/events?topics=notices,link"))
        assert answer_of(reader).status == 200
        for text in TEXTS:
            for code in CODES:
                gateway.do(lambda it, code=code, text=text: it.send_error(code, text))
                gateway.do(lambda it, code=code, text=text: it.send_error(code, text, req_id=77))
            gateway.do(lambda it: it.restore_upstream())
        last = "the last of all"
        gateway.do(lambda it: it.send_error(399, last))
        said = b""
        while last.encode() not in said:
            chunk = reader.recv(1 << 20)
            assert chunk
            said += chunk
    talkative.is_connected()
    texts: set[str] = set()
    for line in said.decode().split("\n"):
        assert not CONTROLS.search(line.removesuffix("\r")), line
        if line.startswith("data: "):
            data = json.loads(line[6:])
            if data["topic"] == "notices":
                texts |= {row["text"] for row in data["rows"].values() if row}
    beginnings = {letters(notice)[:12] for notice in texts}
    for text in TEXTS:
        assert not letters(text) or letters(text)[:12] in beginnings, text
    assert TEXTS[0] in texts

    # what others say of themselves, and what they ask for
    for text in TEXTS:
        with talkative.talk() as talk:
            hello = {"jsonrpc": "2.0", "id": 0, "method": "hello", "params": {"protocol": 1, "client": text}}
            talk.say(json.dumps(hello).encode() + b"\n")
            assert "result" in (talk.receive() or {})
            talk.say(json.dumps({"jsonrpc": "2.0", "id": 1, "method": text, "params": {}}).encode() + b"\n")
            assert (talk.receive() or {})["error"]["code"] == -32601
        talkative.post("/api/ibkr/connect", json.dumps({"host": text[:200]}).encode()).refuses(403, "hostNotAllowed")
        talkative.get("/api/ibkr/positions?account=" + "".join(f"%{byte:02x}" for byte in text[:99].encode()))

    for file in (*talkative.directory.glob("*.out"), *talkative.state.glob("logs/*")):
        written = file.read_bytes().decode()
        assert not CONTROLS.search(written), (file, CONTROLS.search(written))
        for secret in (ACCOUNT, "U1234567", "DF1234567", TOKEN):
            assert secret not in written, (file, secret)
        for line in written.splitlines():
            if file.suffix == ".log" or "json" in talkative.environ["IBKR_LOG_FORMAT"]:
                assert json.loads(line)["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
            else:
                assert re.match(r"(DEBUG:    |INFO:     |WARNING:  |ERROR:    )\S", line), line
    assert not [line for line in talkative.trouble() if "alert(1)" not in line]
