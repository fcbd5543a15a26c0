import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jsonrpc.codec import (
    MAX_LINE,
    InvalidRequest,
    LineSplitter,
    Request,
    decode,
    failure,
    notification,
    request,
    response,
)

text_without_ends = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b" "))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ids = st.none() | st.integers() | st.text(max_size=20)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(text_without_ends), st.lists(st.integers(0, 800)))
def test_any_pieces_give_the_same_lines(wanted, cuts):
    splitter = LineSplitter()

    got = [
        line for piece in in_pieces(b"".join(line + b"\n" for line in wanted), cuts) for line in splitter.feed(piece)
    ]

    assert got == wanted
    assert not splitter.has_partial


@given(st.lists(text_without_ends), st.lists(st.integers(0, 800)))
def test_any_pieces_find_the_same_overlong_line(sent, cuts):
    data = b"".join(line + b"\n" for line in sent)
    whole, pieces = LineSplitter(limit=20), LineSplitter(limit=20)

    wanted = whole.feed(data)
    got = [line for piece in in_pieces(data, cuts) for line in pieces.feed(piece)]

    assert got == wanted
    assert pieces.overlong == whole.overlong == any(len(line) > 20 for line in sent)


def test_a_line_of_exactly_the_limit_is_not_too_long():
    exactly = LineSplitter()
    assert exactly.feed(b"x" * MAX_LINE + b"\n") == [b"x" * MAX_LINE]

    more = LineSplitter()
    assert more.feed(b"x" * (MAX_LINE + 1)) == []
    assert more.overlong
    assert more.feed(b"\nping\n") == []


def test_a_line_that_trickles_in_costs_its_length_once():
    """Nothing that was looked at is looked at again: what is held is one flat buffer."""
    splitter = LineSplitter()

    for _ in range(200_000):
        splitter.feed(b"x")

    assert splitter.has_partial
    assert splitter.feed(b"\n") == [b"x" * 200_000]


@given(ids, st.text(max_size=20), st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_a_request_is_read_as_it_was_written(number, method, params):
    line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()

    call = decode(line)

    assert isinstance(call, Request)
    assert call.method == method
    assert json.loads(bytes(call.params)) == params
    assert json.loads(call.id) == number
    assert call.id in line


def test_a_message_without_id_is_a_notification():
    assert decode(b'{"jsonrpc":"2.0","method":"m"}') == Request(
        "m", decode(b'{"jsonrpc":"2.0","method":"m"}').params, None
    )
    assert decode(b'{"jsonrpc":"2.0","method":"m","id":null}').id == b"null"


@pytest.mark.parametrize(
    ("line", "code", "fatal"),
    [
        (b"", -32700, False),
        (b"hello", -32700, False),
        (b'{"jsonrpc":"2.0"', -32700, False),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":NaN}}', -32700, False),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":-Infinity}}', -32700, False),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":1e999}}', -32700, False),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\\ud800"}}', -32700, False),
        (b"[" * 100_000, -32700, False),
        (b'{"jsonrpc":"2.0","method":"m","params":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, -32700, False),
        (b'{"jsonrpc":"2.0","method":"\xff"}', -32700, True),
        (b'\xff\xfe{}', -32700, True),
        (b"[]", -32600, False),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600, False),
        (b"1", -32600, False),
        (b"{}", -32600, False),
        (b'{"jsonrpc":"1.0","id":1,"method":"m"}', -32600, False),
        (b'{"jsonrpc":2.0,"id":1,"method":"m"}', -32600, False),
        (b'{"jsonrpc":"2.0","id":1}', -32600, False),
        (b'{"jsonrpc":"2.0","id":1,"method":1}', -32600, False),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', -32600, False),
        (b'{"jsonrpc":"2.0","id":{},"method":"m"}', -32600, False),
        (b'{"jsonrpc":"2.0","id":[1],"method":"m"}', -32600, False),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', -32600, False),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600, False),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}', -32602, False),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}', -32602, False),
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_gets_its_own_code(line, code, fatal):
    bad = decode(line)

    assert isinstance(bad, InvalidRequest)
    assert (bad.code, bad.fatal) == (code, fatal)


def test_an_error_carries_the_id_where_one_can_be_read():
    assert decode(b'{"jsonrpc":"1.0","id":"a","method":"m"}').id == b'"a"'
    assert decode(b'{"id":7,"jsonrpc":"2.0","method":"m","params":[]}').id == b"7"
    assert decode(b"{").id == b"null"


good = b'{"jsonrpc":"2.0","id":17,"method":"watch","params":{"topics":["link","quotes:265598"],"since":12}}'


@given(st.lists(st.tuples(st.integers(0, len(good)), st.integers(0, 2), st.binary(max_size=4)), max_size=6))
def test_no_mutation_of_a_line_raises(edits):
    line = bytearray(good)
    for place, dropped, put in edits:
        line[place : place + dropped] = put

    said = decode(bytes(line).replace(b"\n", b" "))

    assert isinstance(said, Request) or said.code in {-32700, -32600, -32602}


@given(st.binary(max_size=200))
def test_no_bytes_raise(data):
    assert isinstance(decode(data), Request | InvalidRequest)


@given(json_values, st.text(max_size=30))
def test_what_is_written_is_one_line_of_json(value, text):
    written = [
        request(1, text, {"v": value}),
        notification(text, {"v": value}),
        response(b'"x"', value),
        failure(b"null", -32000, text, value),
    ]

    read = [json.loads(line) for line in written]

    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in written)
    assert read[0] == {"jsonrpc": "2.0", "id": 1, "method": text, "params": {"v": value}}
    assert read[1] == {"jsonrpc": "2.0", "method": text, "params": {"v": value}}
    assert read[2] == {"jsonrpc": "2.0", "id": "x", "result": value}
    assert read[3]["error"]["message"] == text


def test_what_is_encoded_already_is_not_encoded_again():
    assert response(b"1", b'{"a":1}') == b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}\n'


def test_the_request_behind_a_call_is_taken_if_it_is_well_formed():
    for given_id, taken in (("a-1.B_", "a-1.B_"), ("", ""), ("a b", ""), ("x" * 65, ""), (7, ""), ("a\n", "")):
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "m", "requestId": given_id}).encode()
        assert decode(line).request_id == taken
