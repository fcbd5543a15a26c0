import asyncio
import json
import subprocess
import sys

import pytest

from shared import messages
from shared.jsonrpc import blocking_client, codec
from shared.jsonrpc.blocking_client import CallError, call_once, call_while_alive
from shared.jsonrpc.codec import RpcError
from tests.talking import listening


async def ask(*arguments, **named):
    """`call_once` beside the loop that answers it."""
    return await asyncio.to_thread(call_once, *arguments, **named)


async def test_one_question_one_answer(path, served):
    async def link(peer, params):
        peer.notify("delta", {"noise": True})
        return {"phase": "ready", "params": json.loads(bytes(params))}

    served.methods = {"link.get": link}

    assert await ask(path, "link.get", {"a": 1}) == {"phase": "ready", "params": {"a": 1}}
    assert await ask(path, "ping") == {}


async def test_a_refusal_keeps_code_message_and_data(path, served):
    async def refuse(_peer, _params):
        raise RpcError(-32000, "Not connected.", {"reason": "notConnected"})

    served.methods = {"refuse": refuse}

    with pytest.raises(CallError, match="Not connected") as refused:
        await ask(path, "refuse")
    assert (refused.value.code, refused.value.data) == (-32000, {"reason": "notConnected"})
    with pytest.raises(CallError) as unknown:
        await ask(path, "nothing")
    assert unknown.value.code == -32601


async def test_an_answer_of_a_megabyte_arrives(path, served):
    async def much(_peer, _params):
        return "x" * 1_000_000

    served.methods = {"much": much}

    assert len(await ask(path, "much", timeout=60)) == 1_000_000


async def test_a_daemon_that_does_not_answer_is_a_timeout(path, served):
    async def hang(peer, _params):
        while not peer.closing:
            peer.notify("delta", {})
            await asyncio.sleep(0.01)

    served.methods = {"hang": hang}

    with pytest.raises(TimeoutError):
        await ask(path, "hang", timeout=0.3)


async def test_a_socket_without_a_listener_is_an_oserror(path):
    with pytest.raises(FileNotFoundError):
        await ask(path, "ping")


class Imposter(asyncio.Protocol):
    """Sends `words` after the first bytes that it receives, and closes."""

    words = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, _data):
        self.transport.write(self.words)
        self.transport.close()


@pytest.mark.parametrize(
    "words",
    [b"", b"HTTP/1.1 400\r\n\r\n", b"[]\n", b"[" * 100_000 + b"\n", b"\xff\n", b"x" * (codec.MAX_LINE + 2)],
)
async def test_what_is_no_daemon_of_ours_is_an_oserror(path, words):
    made = type("Made", (Imposter,), {"words": words})
    async with listening(path, made):
        with pytest.raises(OSError, match=r"."):
            await ask(path, "ping", timeout=60)


class Slow(asyncio.Protocol):
    """Answers hello and up to `pings` pings; after the last one the call, if `in_the_end`."""

    def __init__(self, pings, in_the_end):
        self.pings, self.in_the_end, self.pinged, self.called = pings, in_the_end, 0, None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        for line in data.splitlines():
            message = json.loads(line)
            if message["method"] == "slow":
                self.called = message["id"]
                continue
            if message["method"] == "ping":
                self.pinged += 1
                if self.pinged > self.pings:
                    continue
            self.answer(message["id"])
            if self.pinged == self.pings and self.in_the_end:
                self.answer(self.called)

    def answer(self, number):
        self.transport.write(b'{"jsonrpc":"2.0","id":%d,"result":{"pings":%d}}\n' % (number, self.pinged))


async def test_a_call_takes_as_long_as_the_daemon_needs_while_it_answers_pings(path):
    async with listening(path, lambda: Slow(3, in_the_end=True)):
        assert await asyncio.to_thread(call_while_alive, path, "slow", {}, 0.1) == {"pings": 3}


async def test_a_call_ends_when_the_daemon_answers_no_ping_any_more(path):
    async with listening(path, lambda: Slow(3, in_the_end=False)):
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(call_while_alive, path, "slow", {}, 0.1)


def test_the_numbers_are_the_ones_of_the_long_conversations():
    assert blocking_client.PROTOCOL == messages.PROTOCOL
    assert blocking_client.MAX_LINE == codec.MAX_LINE


def test_it_brings_nothing_heavy_along():
    program = "import sys; import shared.jsonrpc.blocking_client; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)

    assert not {"asyncio", "msgspec", "structlog", "platformdirs", "logging"} & set(found.stdout.split())
