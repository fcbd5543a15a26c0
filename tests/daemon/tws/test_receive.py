from __future__ import annotations

import asyncio
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.tws.receive import BACKLOG, SLICE, Frames, UnreadableError, Wire

field = st.binary(max_size=40).map(lambda text: text.replace(b"\0", b""))
message = st.lists(field, min_size=1, max_size=8).map(lambda fields: b"".join(text + b"\0" for text in fields))
streams = st.lists(message, max_size=20).map(
    lambda bodies: b"".join(struct.pack(">I", len(body)) + body for body in bodies)
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(places)]


def split(stream: bytes) -> list[list[str]]:
    """The messages of a stream, as ib_async's decoder takes them."""
    fields = []
    while stream:
        (length,) = struct.unpack(">I", stream[:4])
        fields.append(stream[4 : 4 + length].decode(errors="backslashreplace").split("\0")[:-1])
        stream = stream[4 + length :]
    return fields


@given(streams, st.lists(st.integers(0, 10_000), max_size=30))
def test_a_stream_is_split_into_its_messages(stream: bytes, cuts: list[int]):
    parts = pieces(stream, cuts)
    frames, received = Frames(1 << 16, 1 << 16), []
    for part in parts:
        frames.feed(part)
        received += list(frames)

    assert received == split(stream)
    assert len(frames) == 0


@given(streams, st.integers(1, 5))
def test_messages_may_be_taken_a_few_at_a_time(stream: bytes, few: int):
    frames, received = Frames(1 << 16, 1 << 16), []
    frames.feed(stream)
    while True:
        taken = [fields for _, fields in zip(range(few), frames, strict=False)]
        if not taken:
            break
        received += taken

    assert received == split(stream)


def test_a_length_beyond_the_cap_is_refused_before_it_is_held():
    frames = Frames(100, 1000)
    frames.feed(struct.pack(">I", 101))
    with pytest.raises(UnreadableError):
        list(frames)


def test_the_cap_rises_once_the_peer_is_known():
    frames = Frames(4, 1000)
    frames.feed(struct.pack(">I", 2) + b"9\0" + struct.pack(">I", 6) + b"a\0b\0c\0")
    taken = []
    for fields in frames:
        taken.append(fields)
        frames.settled()

    assert taken == [["9"], ["a", "b", "c"]]


class Link:
    """A transport that remembers whether it is being read."""

    def __init__(self) -> None:
        self.reading = True
        self.aborted = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


def wired(**listeners: Any) -> tuple[Wire, Link]:
    quiet: dict[str, Any] = dict.fromkeys(("message", "packet", "ended", "broken", "writable"), lambda *_: None)
    wire, link = Wire(Frames(1 << 20, 1 << 20), **{**quiet, **listeners}), Link()
    wire.connection_made(link)  # type: ignore[arg-type]
    return wire, link


def packet(messages: int, size: int = 2) -> bytes:
    return (struct.pack(">I", size) + b"5" * (size - 1) + b"\0") * messages


async def test_a_flood_is_worked_off_in_turns():
    received: list[list[str]] = []
    ends: list[int] = []
    wire, link = wired(message=received.append, packet=lambda: ends.append(len(received)))
    wire.data_received(packet(3 * SLICE, 1100))
    assert len(received) == SLICE
    assert not link.reading
    while not link.reading:
        await asyncio.sleep(0)
        wire.data_received(b"")

    assert ends == [SLICE, 2 * SLICE, 3 * SLICE]
    assert len(wire.frames) < BACKLOG
    assert wire.messages_in == 3 * SLICE


async def test_messages_before_the_end_are_delivered_before_it():
    order: list[str] = []
    wire, _ = wired(message=lambda fields: order.append(fields[0]), ended=lambda error: order.append("end"))
    wire.data_received(packet(2 * SLICE))
    wire.connection_lost(None)
    await asyncio.sleep(0)

    assert order == ["5"] * 2 * SLICE + ["end"]


async def test_a_stopped_wire_drops_what_it_receives():
    received: list[list[str]] = []
    wire, _ = wired(message=received.append)
    wire.message = lambda fields: (received.append(fields), wire.stop())
    wire.data_received(packet(5))
    wire.data_received(packet(5))

    assert len(received) == 1
