"""Peers of every bad kind on a real socket; a good one beside them is served as ever."""

import asyncio
import json

import pytest

from shared.jsonrpc.client import Client
from shared.jsonrpc.codec import MAX_LINE
from shared.jsonrpc.server import MAX_WRITE_BUFFER
from shared.transport import local_socket
from tests.waiting import until

HELLO = b'{"jsonrpc":"2.0","id":0,"method":"hello","params":{"protocol":1,"client":"bad/1"}}\n'
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


class Bad(asyncio.Protocol):
    """A peer that sends bytes and keeps what it receives."""

    def __init__(self):
        self.received = b""
        self.lost = asyncio.Event()
        self.writable = True

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data

    def connection_lost(self, _error):
        self.lost.set()

    def pause_writing(self):
        self.writable = False

    def resume_writing(self):
        self.writable = True


@pytest.fixture
def service(served):
    """A daemon's service that can answer, and can fail to."""

    async def echo(_peer, params):
        return params

    async def hang(_peer, _params):
        await asyncio.Event().wait()

    served.methods = {"echo": echo, "hang": hang}
    return served


@pytest.fixture
async def bad(path):
    """Makes bad peers, and ends them."""
    made = []

    async def make():
        _, protocol = await local_socket.connect(Bad, path, 10)
        made.append(protocol)
        return protocol

    yield make
    for one in made:
        one.transport.abort()
        await one.lost.wait()


async def good_is_served(path):
    """A well-behaved client connects, sends a request and leaves."""
    client = await Client.open(path, "good/1", timeout=60)
    assert bytes(await client.call("echo", {"still": "here"}, 10)) == b'{"still":"here"}'
    await client.close()


LAST_WORDS = {
    "a browser": (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n{}", [-32001]),
    "noise": (bytes(range(256)) * 4 + b"\n", [-32001]),
    "a bomb before hello": (b"[" * 500_000 + b"\n", [-32001]),
    "an endless line": (HELLO + b"x" * (MAX_LINE + 1), [None, -32600]),
    "no text": (HELLO + b'{"jsonrpc":"2.0","id":1,"method":"\xc3\x28"}\n', [None, -32700]),
    "a surrogate in bytes": (HELLO + b'"\xed\xa0\x80"\n', [None, -32700]),
    "another protocol": (HELLO.replace(b":1,", b":99,"), [-32000]),
}


@pytest.mark.parametrize("what", LAST_WORDS)
async def test_what_ends_a_conversation_ends_that_one_alone(path, service, bad, what):
    said, codes = LAST_WORDS[what]
    peer = await bad()

    peer.transport.write(said)
    await asyncio.wait_for(peer.lost.wait(), 30)

    answers = [json.loads(line) for line in peer.received.splitlines()]
    assert [answer.get("error", {}).get("code") for answer in answers] == codes
    await good_is_served(path)
    assert service.faults == 0


SURVIVED = {
    "a bomb": b"[" * 500_000 + b"\n",
    "a bomb of objects": b'{"a":' * 200_000 + b"\n",
    "a batch": b"[" + PING.strip() + b"," + PING.strip() + b"]\n",
    "a huge id": b'{"jsonrpc":"2.0","id":"' + b"x" * 100_000 + b'","method":"ping"}\n',
    "a huge number": b'{"jsonrpc":"2.0","id":' + b"9" * 100_000 + b',"method":"ping"}\n',
    "a huge method": b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 100_000 + b'"}\n',
    "not a number": b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}\n',
    "a key twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","method":"nothing"}\n',
    "control characters": b'{"jsonrpc":"2.0","id":1,"method":"\\u001b[31m\\r\\nroot"}\n',
    "an answer to no request": b'{"jsonrpc":"2.0","id":1,"result":{}}\n',
}


@pytest.mark.parametrize("what", SURVIVED)
async def test_what_is_bad_but_framed_costs_one_error(path, service, bad, what):
    peer = await bad()

    peer.transport.write(HELLO + SURVIVED[what] + PING)
    await until(lambda: peer.received.count(b"\n") == 3)

    hello, answer, pong = [json.loads(line) for line in peer.received.splitlines()]
    assert "result" in hello
    assert answer["error"]["code"] in (-32700, -32600, -32601)
    assert len(json.dumps(answer)) < 2000
    assert pong == {"jsonrpc": "2.0", "id": 1, "result": {}}
    await good_is_served(path)
    assert service.faults == 0


async def test_a_peer_that_sends_requests_and_never_reads_is_bounded(path, service, bad):
    peer = await bad()
    peer.transport.write(HELLO)
    await until(lambda: service.connections and next(iter(service.connections)).client)
    peer.transport.pause_reading()
    held = next(iter(service.connections))

    def flood():
        if peer.writable:
            peer.transport.write(PING * 1000)
        return not peer.writable and not held.writable

    await until(flood)
    await good_is_served(path)

    assert held._transport.get_write_buffer_size() < MAX_WRITE_BUFFER
    assert len(held._received) * len(PING) <= 1 << 20


async def test_peers_that_vanish_in_the_middle_leave_nothing(path, service, bad):
    for said in (b"", HELLO[:20], HELLO, HELLO + PING[:10], HELLO + b'{"jsonrpc":"2.0","id":1,"method":"hang"}\n'):
        peer = await bad()
        peer.transport.write(said)
        await asyncio.sleep(0)
        peer.transport.abort()
    await good_is_served(path)

    await until(lambda: not service.connections)
