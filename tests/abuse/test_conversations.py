"""Any course that a conversation on the daemon's socket can take: what it says is what CONTRACT 7 lets it say."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from shared.jsonrpc.codec import MAX_LINE
from shared.messages import STATE_TOPICS
from tests.abuse.chain import Chain, Talk

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS, NO_HELLO, OURS = -32700, -32600, -32601, -32602, -32001, -32000

ids = st.one_of(st.integers(-(2**31), 2**31), st.text(max_size=40))
topics = st.lists(st.sampled_from(STATE_TOPICS), min_size=1, max_size=4, unique=True)
answered = st.sampled_from(
    [
        ("link.get", {}),
        ("daemon.info", {}),
        ("link.events", {}),
        ("link.reconnect", {}),
        ("account.positions", {}),
        ("account.summary", {}),
        ("account.orders", {"scope": "open"}),
        ("executions.list", {}),
    ]
)
REFUSED: tuple[tuple[str, Any], ...] = (
    ("link.connect", {"host": "evil.example"}),
    ("link.connect", {"port": 4001}),
    ("account.positions", {"account": "DU0000000"}),
    ("watch", {"topics": ["nothing"]}),
)
MISREAD: tuple[tuple[str, Any], ...] = (
    ("link.connect", {"port": "7497"}),
    ("link.disconnect", {"now": True}),
    ("watch", {}),
    ("watch", {"topics": "link"}),
    ("watch", {"topics": ["link"], "since": -1.5}),
    ("executions.list", {"since": "yesterday"}),
    ("account.orders", {"scope": "all"}),
    ("contracts.get", {"conId": True}),
    ("link.get", [1, 2]),
)
UNREADABLE = (b"{", b"hello", b'{"jsonrpc":"2.0",', b"NaN", b'"\\ud800', b"[" * 5000, b"\x00", b"'")
NO_REQUEST = (
    b"[]",
    b"1",
    b"null",
    b'"x"',
    b"{}",
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":7}',
    b'{"jsonrpc":"2.0","id":1}',
    b'{"id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"result":{}}',
)


def request(number: Any, method: str, params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


class Conversation(RuleBasedStateMachine):
    """One peer that may do anything; beside it, others are served as ever."""

    chain: ClassVar[Chain]

    def __init__(self) -> None:
        super().__init__()
        self.talk: Talk
        self.greeted = False
        self.over = False
        self.watching = False

    @initialize()
    def begin(self) -> None:
        self.talk = self.chain.talk()

    def teardown(self) -> None:
        if hasattr(self, "talk"):
            self.talk.close()
        self.chain.served()

    # what comes back

    def next(self) -> dict[str, Any] | None:
        """The next answer; deltas come between only where something is watched."""
        while (said := self.talk.receive()) is not None:
            assert said["jsonrpc"] == "2.0"
            if "method" not in said:
                return said
            assert said["method"] == "delta"
            assert self.watching
        return None

    def answer(self, number: Any) -> dict[str, Any]:
        said = self.next()
        assert said is not None, "the conversation ended instead"
        assert said["id"] == number
        assert ("result" in said) != ("error" in said)
        return said

    def error(self, number: Any, code: int) -> dict[str, Any]:
        error = self.answer(number)["error"]
        assert error["code"] == code, error
        assert error["message"]
        return dict(error)

    def ends(self) -> None:
        assert self.next() is None
        self.over = True

    def goes_on(self) -> None:
        self.talk.say(request("on", "ping", {}))
        assert self.answer("on")["result"] == {}

    # what may be said

    new = precondition(lambda self: not self.over and not self.greeted)
    talking = precondition(lambda self: not self.over and self.greeted)
    either = precondition(lambda self: not self.over)
    closed = precondition(lambda self: self.over)

    @either
    @rule(number=ids)
    def hello(self, number: Any) -> None:
        self.talk.say(request(number, "hello", {"protocol": 1, "client": "machine/1"}))
        assert self.answer(number)["result"]["protocol"] == 1
        self.greeted = True

    @either
    @rule(protocol=st.integers(2, 99))
    def another_protocol(self, protocol: int) -> None:
        self.talk.say(request(1, "hello", {"protocol": protocol, "client": "machine/1"}))
        assert self.error(1, OURS)["data"]["reason"] == "protocolUnsupported"
        self.ends()

    @new
    @rule(line=st.sampled_from([*UNREADABLE, *NO_REQUEST, request(1, "ping", {}).strip(), b"GET / HTTP/1.1"]))
    def something_else_first(self, line: bytes) -> None:
        self.talk.say(line + b"\n")
        said = self.next()
        assert said is not None
        assert said["error"]["code"] == NO_HELLO
        self.ends()

    @talking
    @rule(number=ids, call=answered)
    def a_question(self, number: Any, call: tuple[str, Any]) -> None:
        self.talk.say(request(number, *call))
        assert "result" in self.answer(number)

    @talking
    @rule(calls=st.lists(answered, min_size=2, max_size=8))
    def questions_in_one_breath(self, calls: list[tuple[str, Any]]) -> None:
        """Each is answered once, under its own id, in whatever order."""
        self.talk.say(b"".join(request(number, *call) for number, call in enumerate(calls)))
        found = [self.next() for _ in calls]
        assert sorted(said["id"] for said in found if said) == list(range(len(calls)))

    @talking
    @rule(call=st.sampled_from(REFUSED))
    def a_question_that_is_refused(self, call: tuple[str, Any]) -> None:
        self.talk.say(request(1, *call))
        error = self.next()
        assert error is not None
        assert error["error"]["code"] in (OURS, INVALID_PARAMS)
        assert error["error"]["data"]["reason"]

    @talking
    @rule(call=st.sampled_from(MISREAD))
    def a_question_that_cannot_be_read(self, call: tuple[str, Any]) -> None:
        self.talk.say(request(1, *call))
        self.error(1, INVALID_PARAMS)

    @talking
    @rule(method=st.text(min_size=1, max_size=200).filter(lambda name: "." not in name and name.strip()))
    def a_method_there_is_not(self, method: str) -> None:
        self.talk.say(request(1, f"x.{method}", {}))
        self.error(1, NO_METHOD)

    @talking
    @rule(line=st.sampled_from(UNREADABLE))
    def no_json(self, line: bytes) -> None:
        self.talk.say(line + b"\n")
        self.error(None, PARSE_ERROR)
        self.goes_on()

    @talking
    @rule(line=st.sampled_from(NO_REQUEST))
    def json_that_is_no_request(self, line: bytes) -> None:
        self.talk.say(line + b"\n")
        said = self.next()
        assert said is not None
        assert said["error"]["code"] == INVALID_REQUEST
        self.goes_on()

    @talking
    @rule(method=st.sampled_from(["ping", "link.get", "nothing", "link.connect"]))
    def a_notification(self, method: str) -> None:
        """It gets no answer."""
        self.talk.say(b'{"jsonrpc":"2.0","method":"%s","params":{"host":"evil.example"}}\n' % method.encode())
        self.goes_on()

    @talking
    @rule(cuts=st.lists(st.integers(1, 60), max_size=8))
    def in_pieces(self, cuts: list[int]) -> None:
        line = request("pieces", "ping", {})
        for cut in cuts:
            self.talk.say(line[:cut])
            line = line[cut:]
        self.talk.say(line)
        assert self.answer("pieces")["result"] == {}

    @talking
    @rule(topics=topics)
    def watch(self, topics: list[str]) -> None:
        """The answer, then every topic that was named, up to a consistent point."""
        self.watching = True
        self.talk.say(request("watch", "watch", {"topics": topics}))
        assert self.answer("watch")["result"]["reset"] is True
        left = set(topics)
        while True:
            said = self.talk.receive()
            assert said is not None
            left -= set(said["params"]["topics"])
            if said["params"]["seq"] is not None and not left:
                break

    @talking
    @rule(topics=topics)
    def unwatch(self, topics: list[str]) -> None:
        self.talk.say(request("unwatch", "unwatch", {"topics": topics}))
        assert "result" in self.answer("unwatch")

    @talking
    @rule()
    def no_text(self) -> None:
        self.talk.say(b'{"jsonrpc":"2.0","id":1,"method":"\xc3\x28"}\n')
        self.error(None, PARSE_ERROR)
        self.ends()

    @talking
    @rule()
    def a_line_without_end(self) -> None:
        try:
            self.talk.say(b"x" * (MAX_LINE + 2))
        except BrokenPipeError:
            pass  # the daemon closed at its limit
        self.error(None, INVALID_REQUEST)
        self.ends()

    @talking
    @rule(calls=st.lists(answered, max_size=4))
    def last_words(self, calls: list[tuple[str, Any]]) -> None:
        """A client that has closed its sending side still receives every answer."""
        self.talk.say(b"".join(request(number, *call) for number, call in enumerate(calls)) + b'{"half a line')
        self.talk.sock.shutdown(socket.SHUT_WR)
        found = [self.next() for _ in calls]
        assert sorted(said["id"] for said in found if said) == list(range(len(calls)))
        self.ends()

    @either
    @rule(left=st.sampled_from([b"", b"{", request(1, "link.events", {}), request(1, "watch", {"topics": ["fills"]})]))
    def vanish(self, left: bytes) -> None:
        self.talk.say(left)
        self.talk.close()
        self.over = True

    @closed
    @rule()
    def again(self) -> None:
        self.talk.close()
        self.talk = self.chain.talk()
        self.greeted = self.over = self.watching = False


@pytest.fixture
def conversed(attacked: Chain) -> Iterator[Chain]:
    Conversation.chain = attacked
    yield attacked
    assert attacked.ask("daemon.info")["faults"] == 0


def test_any_conversation_keeps_to_the_contract(conversed: Chain) -> None:
    run_state_machine_as_test(
        seed(8)(Conversation),
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
