import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest
from structlog.testing import capture_logs

from shared.jsonrpc import server as module
from shared.jsonrpc.codec import CALL_TIMEOUT
from shared.jsonrpc.server import (
    HELLO_TIMEOUT,
    LINE_TIMEOUT,
    MAX_CALLS,
    MAX_CONNECTIONS,
    SLOW_READER_TIMEOUT,
    RpcError,
    RpcService,
    ServerConnection,
)
from shared.messages import ConnectParams

HELLO = b'{"jsonrpc":"2.0","id":0,"method":"hello","params":{"protocol":1,"client":"test/1"}}\n'
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


class Wire(asyncio.Transport):
    """What the peer does to its transport, kept for the test; the kernel's part is played by `unread`."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.unread = 0
        self.reading = True
        self.ended = ""

    def set_write_buffer_limits(self, high=None, low=None):
        self.high = high

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return self.unread

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_closing(self):
        return bool(self.ended)

    def close(self):
        self.ended = self.ended or "closed"

    def abort(self):
        self.ended = "aborted"

    def said(self):
        """The messages written since the last look."""
        lines, self.written = self.written.splitlines(), b""
        return [json.loads(line) for line in lines]


class Time:
    """`call_later` in which time passes when the test says so."""

    def __init__(self):
        self.now = 0.0
        self.due = []

    def call_later(self, delay, callback):
        entry = SimpleNamespace(at=self.now + delay, callback=callback)
        entry.cancel = lambda: entry in self.due and self.due.remove(entry)
        self.due.append(entry)
        return entry

    def passes(self, seconds):
        self.now += seconds
        for entry in [entry for entry in self.due if entry.at <= self.now]:
            if entry in self.due:
                self.due.remove(entry)
                entry.callback()


class Params(msgspec.Struct, forbid_unknown_fields=True):
    n: int


async def double(_peer, params):
    return {"n": msgspec.json.decode(params, type=Params).n * 2}


def conversation(methods=None, greet=True, cls=ServerConnection, **service):
    """A peer on a wire, its time and its service; past the hello unless `greet` is false."""
    time, wire = Time(), Wire()
    shared = RpcService("ibkr/1.0", "E1", methods or {}, **service)
    peer = cls(shared, time.call_later)
    peer.connection_made(wire)
    if greet:
        peer.data_received(HELLO)
        wire.said()
    return SimpleNamespace(peer=peer, wire=wire, time=time, service=shared)


async def settled(it):
    """Until no call is under way."""
    async with asyncio.timeout(60):
        while it.peer._calls:
            await asyncio.wait(it.peer._calls)


# --- hello ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_before_the_hello():
    it = conversation(greet=False)
    assert it.wire.written == b""

    it.peer.data_received(HELLO)

    assert it.wire.said() == [
        {"jsonrpc": "2.0", "id": 0, "result": {"protocol": 1, "daemon": "ibkr/1.0", "epoch": "E1"}}
    ]
    assert it.peer.client == "test/1"


async def test_a_silent_peer_gets_an_error_and_is_closed_after_five_seconds():
    it = conversation(greet=False)

    it.time.passes(HELLO_TIMEOUT - 0.01)
    assert not it.wire.ended
    it.time.passes(0.02)

    assert [message["error"]["code"] for message in it.wire.said()] == [-32001]
    assert it.wire.ended == "closed"


@pytest.mark.parametrize(
    "first",
    [
        PING,
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"[]\n",
        b'{"jsonrpc":"2.0","id":1,"method":"link.disconnect"}\n',
        b'{"jsonrpc":"2.0","id":1,"method":"hello","params":{"protocol":"1","client":"x"}}\n',
        b'{"jsonrpc":"2.0","id":1,"method":"hello","params":{"protocol":1}}\n',
        b'{"jsonrpc":"2.0","id":1,"method":"hello"}\n',
        b"\xff\n",
        b"x" * (module.MAX_LINE + 1),
    ],
)
async def test_anything_else_first_ends_the_conversation(first):
    it = conversation(greet=False)

    it.peer.data_received(first + HELLO)

    assert [message["error"]["code"] for message in it.wire.said()] == [-32001]
    assert it.wire.ended == "closed"


async def test_another_protocol_is_named_and_the_end():
    it = conversation(greet=False)

    it.peer.data_received(b'{"jsonrpc":"2.0","id":1,"method":"hello","params":{"protocol":2}}\n')

    (answer,) = it.wire.said()
    assert answer["error"]["code"] == -32000
    assert answer["error"]["data"]["reason"] == "protocolUnsupported"
    assert it.wire.ended == "closed"


async def test_a_hello_in_time_is_never_punished_later():
    it = conversation()

    it.time.passes(3600)

    assert not it.wire.ended


def full_house(greeted):
    """A service with every place taken, by peers that have said who they are or not."""
    service = RpcService("d", "E", {})
    peers = [ServerConnection(service, Time().call_later) for _ in range(MAX_CONNECTIONS)]
    for peer in peers:
        peer.connection_made(Wire())
        if greeted:
            peer.data_received(HELLO)
    return service, peers


def come(service):
    """The wire of one more peer."""
    wire = Wire()
    ServerConnection(service, Time().call_later).connection_made(wire)
    return wire


async def test_the_peer_after_the_last_place_is_closed_without_a_byte():
    service, peers = full_house(greeted=True)

    last = come(service)
    assert (last.written, last.ended) == (b"", "aborted")
    assert service.rejected == 1

    peers[0].connection_lost(None)
    assert not come(service).ended


async def test_connections_without_hello_keep_no_client_out():
    service, peers = full_house(greeted=False)
    peers[0].data_received(HELLO)

    assert not come(service).ended

    assert [peer._transport.ended for peer in peers[:3]] == ["", "aborted", ""]
    assert len(service.connections) == MAX_CONNECTIONS
    assert service.rejected == 1


# --- calls ----------------------------------------------------------------------------------------------------------


async def test_a_call_is_answered_under_its_own_id():
    it = conversation({"double": double})

    for number in ("1", '"a"', "null", "-12345678901234567890"):
        it.peer.data_received(b'{"jsonrpc":"2.0","id":%s,"method":"double","params":{"n":4}}\n' % number.encode())
    it.peer.data_received(b'{"jsonrpc":"2.0","method":"double","params":{"n":4}}\n')
    it.peer.data_received(b'{"jsonrpc":"2.0","method":"nothing"}\n')
    await settled(it)

    said = it.wire.said()
    assert [message["id"] for message in said] == [1, "a", None, -12345678901234567890]
    assert all(message["result"] == {"n": 8} for message in said)


async def test_each_refusal_has_its_code():
    async def refuse(_peer, _params):
        raise RpcError(-32000, "No.", {"reason": "notConnected"})

    async def hang(_peer, _params):
        await asyncio.Event().wait()

    async def late(_peer, _params):
        raise TimeoutError

    async def broken(_peer, _params):
        raise KeyError("secret")

    async def long(_peer, _params):
        return "x" * module.MAX_LINE

    table = {"double": double, "refuse": refuse, "late": late, "broken": broken, "long": long}
    it = conversation(table)
    hung = conversation({"hang": hang}, call_limit=0.001)
    with capture_logs() as logs:
        for method in ("unknown", "double", "refuse", "late", "broken", "long"):
            it.peer.data_received(b'{"jsonrpc":"2.0","id":"%s","method":"%s"}\n' % ((method.encode(),) * 2))
        hung.peer.data_received(b'{"jsonrpc":"2.0","id":1,"method":"hang"}\n')
        await settled(it)
        await settled(hung)

    answers = {message["id"]: message["error"] for message in it.wire.said()}
    assert answers["unknown"]["code"] == -32601
    assert answers["double"]["code"] == -32602
    assert answers["refuse"] == {"code": -32000, "message": "No.", "data": {"reason": "notConnected"}}
    assert answers["late"]["data"]["reason"] == "brokerTimeout"
    assert answers["long"]["data"]["reason"] == "tooLarge"
    assert answers["broken"]["code"] == -32603
    assert "secret" not in answers["broken"]["message"]
    assert it.service.faults == 1
    assert [line["event"] for line in logs] == ["rpc.fault"]
    assert [message["error"]["data"]["reason"] for message in hung.wire.said()] == ["brokerTimeout"]


def test_no_call_ends_before_the_longest_that_its_client_may_want():
    """A connect takes the time that it is given; a history request may wait its ten minutes."""
    longest = msgspec.json.schema(ConnectParams)["$defs"]["ConnectParams"]["properties"]["timeout"]["maximum"]
    assert max(longest, 600) < CALL_TIMEOUT


async def test_a_line_begun_must_end_in_ten_seconds():
    """Each line has its own ten seconds, however its bytes trickle."""
    it = conversation()
    it.peer.data_received(PING + PING[:5])
    it.time.passes(LINE_TIMEOUT - 1)
    it.peer.data_received(PING[5:] + PING[:5])
    it.time.passes(LINE_TIMEOUT - 1)
    it.peer.data_received(PING[5:8])
    assert not it.wire.ended
    it.wire.said()

    it.time.passes(2)

    assert [message["error"]["code"] for message in it.wire.said()] == [-32600]
    assert it.wire.ended == "closed"


async def test_calls_under_way_are_bounded_and_ping_still_answers():
    gate = asyncio.Event()

    async def wait(_peer, _params):
        await gate.wait()

    it = conversation({"wait": wait})
    it.peer.data_received(b'{"jsonrpc":"2.0","id":7,"method":"wait"}\n' * (MAX_CALLS + 1) + PING)
    while it.peer._received:
        it.time.passes(0)

    refused, pong = it.wire.said()
    assert refused["error"]["data"]["reason"] == "pacingBudget"
    assert pong["result"] == {}
    gate.set()
    await settled(it)
    assert len(it.wire.said()) == MAX_CALLS


async def test_a_flood_leaves_the_loop_to_others():
    it = conversation()

    it.peer.data_received(PING * 1000)
    first = len(it.wire.said())
    it.time.passes(0)
    second, reading_meanwhile = len(it.wire.said()), it.wire.reading
    while it.peer._received:
        it.time.passes(0)

    it.time.passes(0)

    assert (first, second) == (module.LINES_PER_ITERATION, module.LINES_PER_ITERATION)
    assert not reading_meanwhile
    assert len(it.wire.said()) == 1000 - first - second
    assert it.wire.reading


async def test_deltas_of_a_watch_follow_its_answer():
    """What a method leaves for the loop's next turn is written after its answer."""

    class Watcher(ServerConnection):
        def push(self):
            self.notify("delta", {"seq": 1})

    async def watch(peer, _params):
        asyncio.get_running_loop().call_soon(peer.push)
        return {"epoch": "E1"}

    it = conversation({"watch": watch}, cls=Watcher)
    it.peer.data_received(b'{"jsonrpc":"2.0","id":1,"method":"watch"}\n')
    await settled(it)
    await asyncio.sleep(0)

    assert [message.get("method", "answer") for message in it.wire.said()] == ["answer", "delta"]


# --- a peer that does not read --------------------------------------------------------------------------------------


class Reader(ServerConnection):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.events = []

    def drained(self):
        self.events.append("drained")

    def greeted(self):
        self.events.append("greeted")

    def lost(self, reason):
        self.events.append(f"lost: {reason}")


async def test_a_peer_that_does_not_read_is_not_listened_to():
    it = conversation(cls=Reader)
    it.peer.pause_writing()
    it.time.passes(0)
    assert not it.peer.writable
    assert not it.wire.reading
    it.peer.data_received(PING * 3 + PING[:4])
    assert it.wire.said() == []

    it.time.passes(LINE_TIMEOUT + 1)  # a line that we do not read cannot be late
    it.peer.resume_writing()
    it.time.passes(0)

    assert len(it.wire.said()) == 3
    assert it.wire.reading
    assert not it.wire.ended
    assert it.peer.events == ["greeted", "drained"]


async def test_a_peer_that_never_reads_is_dropped():
    it = conversation(cls=Reader)
    it.peer.pause_writing()
    it.time.passes(SLOW_READER_TIMEOUT - 1)
    assert not it.wire.ended

    it.time.passes(2)
    it.peer.connection_lost(None)

    assert it.wire.ended == "aborted"
    assert it.service.dropped == 1
    assert it.peer.events[-1] == "lost: the client does not read"


async def test_a_peer_that_reads_in_time_may_stop_again():
    it = conversation()
    for _ in range(10):
        it.peer.pause_writing()
        it.time.passes(SLOW_READER_TIMEOUT - 1)
        it.peer.resume_writing()

    assert not it.wire.ended


async def test_unread_bytes_have_an_end():
    it = conversation()
    it.peer.pause_writing()
    it.wire.unread = module.MAX_WRITE_BUFFER + 1

    it.peer.write(b"{}\n")

    assert it.wire.ended == "aborted"
    assert it.service.dropped == 1


# --- ends -----------------------------------------------------------------------------------------------------------


async def test_a_lost_connection_takes_its_tasks_along():
    ended = []

    async def wait(_peer, _params):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("call")

    async def stream():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stream")

    it = conversation({"wait": wait})
    it.peer.data_received(b'{"jsonrpc":"2.0","id":1,"method":"wait"}\n')
    task = it.peer.start(stream(), "stream")
    await asyncio.sleep(0)

    it.peer.connection_lost(None)
    async with asyncio.timeout(60):
        await it.peer.wait_closed()

    assert sorted(ended) == ["call", "stream"]
    assert task.get_name() == "stream"
    assert it.time.due == []
    assert not it.service.connections


async def test_a_peer_may_close_its_sending_side_and_receive_its_answers():
    gate = asyncio.Event()

    async def wait(_peer, _params):
        await gate.wait()
        return "done"

    it = conversation({"wait": wait})
    it.peer.data_received(b'{"jsonrpc":"2.0","id":1,"method":"wait"}\n' + PING[:9])
    assert it.peer.eof_received() is True
    it.time.passes(LINE_TIMEOUT + 1)
    assert not it.wire.ended

    gate.set()
    await settled(it)
    await asyncio.sleep(0)

    assert [message["result"] for message in it.wire.said()] == ["done"]
    assert it.wire.ended == "closed"


async def test_a_peer_without_open_requests_that_leaves_is_gone_at_once():
    it = conversation()

    assert it.peer.eof_received() is False
    assert it.wire.ended == "closed"


async def test_closing_waits_for_the_last_word_for_a_bounded_time():
    it = conversation()

    it.peer.close("the daemon ends")
    assert it.wire.ended == "closed"
    it.time.passes(module.CLOSE_TIMEOUT)

    assert it.wire.ended == "aborted"


# --- whatever it says -----------------------------------------------------------------------------------------------

session = (
    HELLO + PING + b'{"jsonrpc":"2.0","id":"x","method":"double","params":{"n":21}}\n{"jsonrpc":"2.0","method":"no"}\n'
)
