import asyncio
import json

import msgspec
import pytest

from shared.jsonrpc import client as module
from shared.jsonrpc.client import Client, ConnectionLost
from shared.jsonrpc.codec import RpcError
from shared.log import REQUEST_ID
from tests.talking import listening
from tests.waiting import until


async def echo(_peer, params):
    return params


@pytest.fixture
async def client(path, served):
    opened = await Client.open(path, "test/1")
    yield opened
    await opened.close()


async def test_a_call_comes_back(served, client):
    served.methods = {"echo": echo}

    assert (client.welcome.daemon, client.welcome.epoch) == ("ibkr/1.0", "E1")
    assert bytes(await client.call("echo", {"a": [1, None]}, 5)) == b'{"a":[1,null]}'
    assert [peer.client for peer in served.connections] == ["test/1"]


async def test_a_call_carries_the_request_behind_it(served, client):
    """The log lines of both processes name the same HTTP request; a call without one names none."""

    async def name(_peer, _params):
        return REQUEST_ID.get()

    served.methods = {"name": name}
    assert bytes(await client.call("name", {}, 5)) == b'""'
    token = REQUEST_ID.set("abc.1")
    assert bytes(await client.call("name", {}, 5)) == b'"abc.1"'
    REQUEST_ID.reset(token)
    assert bytes(await client.call("name", {}, 5)) == b'""'


async def test_many_calls_cross_without_mixing(served, client):
    gates = {n: asyncio.Event() for n in range(50)}

    async def wait(_peer, params):
        n = json.loads(bytes(params))["n"]
        await gates[n].wait()
        return n

    served.methods = {"wait": wait}
    calls = [asyncio.create_task(client.call("wait", {"n": n}, 30)) for n in range(50)]
    await asyncio.sleep(0)
    for n in reversed(range(50)):
        gates[n].set()

    assert [int(bytes(answer)) for answer in await asyncio.gather(*calls)] == list(range(50))


async def test_notifications_come_in_their_order(path, served):
    received = []

    async def watch(peer, _params):
        for n in range(1000):
            peer.notify("delta", {"n": n})

    served.methods = {"watch": watch}
    client = await Client.open(
        path, "test/1", lambda method, params: received.append((method, json.loads(bytes(params))))
    )
    await client.call("watch", {}, 5)

    assert received == [("delta", {"n": n}) for n in range(1000)]
    await client.close()
    without = await Client.open(path, "test/1")  # without a callback they are dropped
    assert bytes(await without.call("watch", {}, 5)) == b"null"
    await without.close()


async def test_a_refusal_is_raised_with_its_data(served, client):
    async def refuse(_peer, _params):
        raise RpcError(-32000, "No.", {"reason": "notConnected"})

    served.methods = {"refuse": refuse}

    with pytest.raises(RpcError) as refused:
        await client.call("refuse", {}, 5)

    assert (refused.value.code, refused.value.message) == (-32000, "No.")
    assert refused.value.data == {"reason": "notConnected"}


async def test_a_late_answer_is_dropped(served, client):
    gate = asyncio.Event()

    async def wait(_peer, _params):
        await gate.wait()

    served.methods = {"wait": wait, "echo": echo}

    with pytest.raises(TimeoutError):
        await client.call("wait", {}, 0.01)
    gate.set()

    assert bytes(await client.call("echo", {}, 5)) == b"{}"
    assert client._pending == {}


async def test_the_end_of_the_daemon_ends_every_call(path, served):
    ends = []

    async def hang(_peer, _params):
        await asyncio.Event().wait()

    served.methods = {"hang": hang}
    client = await Client.open(path, "test/1", on_close=ends.append)
    calls = [asyncio.create_task(client.call("hang", {}, 30)) for _ in range(3)]
    await until(lambda: any(len(peer._calls) == 3 for peer in served.connections))

    await served.close()
    results = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(result) for result in results] == [ConnectionLost] * 3
    await until(lambda: ends)
    assert len(ends) == 1
    with pytest.raises(ConnectionLost):
        await client.call("ping", {}, 1)


async def test_a_client_that_closes_is_not_notified_of_its_own_close(path, served):
    ends = []
    client = await Client.open(path, "test/1", on_close=ends.append)

    await client.close()
    await until(lambda: not served.connections)

    assert ends == []


async def test_calls_under_way_are_bounded(served, client):
    gate = asyncio.Event()

    async def wait(_peer, _params):
        await gate.wait()

    served.methods = {"wait": wait}
    calls = [asyncio.create_task(client.call("wait", {}, 60)) for _ in range(module.MAX_CALLS)]
    await until(lambda: len(client._pending) == module.MAX_CALLS)

    with pytest.raises(RpcError) as refused:
        await client.call("wait", {}, 60)
    gate.set()
    await asyncio.gather(*calls)

    assert refused.value.data["reason"] == "pacingBudget"


async def test_a_socket_without_a_listener_is_an_oserror(path):
    with pytest.raises(FileNotFoundError):
        await Client.open(path, "test/1")


class Imposter(asyncio.Protocol):
    """Says `words` to everything."""

    def __init__(self, words):
        self.words = words

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, _data):
        self.transport.write(self.words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectionLost),
        (b'{"jsonrpc":"2.0","id":1,"result":{"hello":"there"}}\n', ConnectionLost),
        (b"x" * (module.MAX_LINE + 2), ConnectionLost),
        (b"", TimeoutError),
        (b'{"jsonrpc":"2.0","id":1,"result":{"protocol":2,"daemon":"d","epoch":"E"}}\n', RpcError),
        (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Go."}}\n', ConnectionLost),
    ],
)
async def test_what_is_no_daemon_of_ours_is_left(path, words, error):
    peers = []

    def imposter():
        peers.append(Imposter(words))
        return peers[-1]

    async with listening(path, imposter):
        with pytest.raises(error):
            await Client.open(path, "test/1", timeout=0.2 if error is TimeoutError else 60)
        await until(lambda: peers)
        for peer in peers:
            peer.transport.abort()
    await asyncio.sleep(0)


async def test_a_daemon_that_loses_its_mind_is_left(path, served):
    ends = []

    async def babble(peer, _params):
        peer.write(b'{"jsonrpc"\n')
        await asyncio.Event().wait()

    served.methods = {"babble": babble}
    client = await Client.open(path, "test/1", on_close=ends.append)

    with pytest.raises(ConnectionLost, match="cannot be decoded"):
        await client.call("babble", {}, 10)
    await until(lambda: ends)

    assert "cannot be decoded" in ends[0]


async def test_a_peer_that_stops_reading_does_not_affect_others(path, served):
    page = msgspec.Raw(b'"' + b"x" * 200_000 + b'"')

    async def pour(peer, _params):
        while peer.writable and not peer.closing:
            peer.notify("delta", page)

    served.methods = {"pour": pour, "echo": echo}
    stalled = await Client.open(path, "stalled/1")
    stalled._transport.pause_reading()
    stalled.notify("pour", {})
    await until(lambda: any(not peer.writable for peer in served.connections))
    other = await Client.open(path, "other/1")

    assert bytes(await other.call("echo", {}, 5)) == b"{}"
    (poured,) = [peer for peer in served.connections if peer.client == "stalled/1"]
    assert poured._transport.get_write_buffer_size() < 2 * len(bytes(page))
    stalled.abort()
    await other.close()
