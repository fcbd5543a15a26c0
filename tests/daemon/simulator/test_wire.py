"""Frames and fields: what goes in as bytes comes out as the same messages, however it was cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulator.requests import NAMES, Request, UnknownRequestError, UnreadableRequestError, decode
from daemon.simulator.wire import LARGEST_REQUEST, BadFrameError, Inbox, Offer, escaped, frame, text

FIELDS = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), min_size=1, max_size=8)


@given(messages=st.lists(FIELDS, max_size=5), cut=st.integers(1, 40))
def test_messages_survive_any_cutting_of_the_bytes(messages: list[list[str]], cut: int) -> None:
    stream = b"".join(frame(*fields) for fields in messages)
    inbox, found = Inbox(), []
    for start in range(0, len(stream), cut):
        inbox.feed(stream[start : start + cut])
        found += list(inbox.messages())

    assert found == messages


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), (True, "1"), (False, "0"), (5, "5"), (100.0, "100"), (1.05, "1.05"), (-0.00005, "-5e-05"), ("x", "x")],
)
def test_a_field_is_written_as_tws_writes_it(value: object, expected: str) -> None:
    assert text(value) == expected


def test_letters_outside_ascii_become_escapes() -> None:
    """The official client reads text with `unicode-escape`."""
    assert escaped("für").encode().decode("unicode-escape") == "für"
    assert escaped("für").isascii()


@pytest.mark.parametrize(
    ("said", "offer"),
    [
        (b"v157..178", Offer(157, 178)),
        (b"v100..157 +PACEAPI", Offer(100, 157, "+PACEAPI")),
        (b"v151", Offer(151, 151)),
    ],
)
def test_the_greeting_offers_versions_and_options(said: bytes, offer: Offer) -> None:
    inbox = Inbox()
    whole = b"API\0" + struct.pack(">I", len(said)) + said
    for byte in whole[:-1]:
        inbox.feed(bytes((byte,)))
        assert inbox.greeting() is None
    inbox.feed(whole[-1:] + frame(71, 2, 1, ""))

    assert inbox.greeting() == offer
    assert list(inbox.messages()) == [["71", "2", "1", ""]]


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"API\0\xff\xff\xff\xff", b"API\0\0\0\0\x03abc"]
)
def test_what_is_no_api_client_is_known_at_once(data: bytes) -> None:
    inbox = Inbox()
    inbox.feed(data)
    with pytest.raises(BadFrameError):
        inbox.greeting()


def test_a_message_too_large_to_be_one_is_refused_before_it_is_there() -> None:
    inbox = Inbox()
    inbox.feed(struct.pack(">I", LARGEST_REQUEST + 1))
    with pytest.raises(BadFrameError):
        list(inbox.messages())


def test_requests_are_decoded_to_names_and_fields() -> None:
    contract = ["265598", "AAPL", "STK", "", "0.0", "", "", "SMART", "NASDAQ", "USD", "AAPL", "NMS"]
    request = decode(["9", "8", "5", *contract, "0", "", "", "issuer"], 178)

    assert (request.name, request.reqId) == ("reqContractDetails", 5)
    assert (request.fields["symbol"], request.fields["primaryExchange"]) == ("AAPL", "NASDAQ")
    assert request.fields["issuerId"] == "issuer"
    assert "issuerId" not in decode(["9", "8", "5", *contract, "0", "", ""], 175).fields


def test_a_bag_has_its_legs() -> None:
    bag = ["0", "X", "BAG", "", "0.0", "", "", "SMART", "", "USD", "", ""]
    request = decode(
        ["1", "11", "5", *bag, "2", "1", "1", "BUY", "SMART", "2", "1", "SELL", "SMART", "0", "233", "1", "0", ""], 178
    )

    assert request.fields["comboLegs"] == "1,1,BUY,SMART;2,1,SELL,SMART"
    assert (request.fields["genericTickList"], request.fields["snapshot"]) == ("233", "1")


@pytest.mark.parametrize("fields", [["9999"], ["x"], [""], []])
def test_an_unknown_message_is_distinguished_from_a_broken_one(fields: list[str]) -> None:
    with pytest.raises(UnknownRequestError):
        decode(fields, 178)


@given(
    number=st.sampled_from(sorted(NAMES)), rest=st.lists(st.sampled_from(["", "0", "1", "x", "-1", "1e9"]), max_size=80)
)
def test_no_message_whatever_breaks_the_decoder(number: int, rest: list[str]) -> None:
    try:
        assert isinstance(decode([str(number), *rest], 178), Request)
    except UnreadableRequestError:
        pass
