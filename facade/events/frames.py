"""Server-Sent Events as bytes: pages of a snapshot, deltas, resets; pure.

Rows go in as the bytes that the daemon encoded. What is written at once is a piece: whole events, at most `PIECE`
bytes, unless a single row is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from shared.replica import Entry, Replica

PIECE = 47 * 1024
"""bytes. With 16 KiB that may be pending before it, a piece stays below the 64 KiB at which asyncio pauses a writer."""

PAGE = PIECE - 1024
"""bytes of one event's rows. Go's Scanner and asyncio's readline refuse lines of 64 KiB, other parsers less."""

RETRY = b"retry: 1000\n\n"
"""How long a client waits before it connects again, ms."""

HEARTBEAT = b":\n"
"""A comment. Without an empty line after it, since lenient parsers take that for the end of an event."""

_encode = msgspec.json.Encoder().encode


def frame(event: bytes, data: bytes, id: bytes = b"") -> bytes:  # noqa: A002 - the protocol's word
    """One event. `id` stands where a reader may resume."""
    return b"event: " + event + b"\n" + (b"id: " + id + b"\n" if id else b"") + b"data: " + data + b"\n\n"


def position(epoch: str, seq: int) -> bytes:
    """`EPOCH-SEQ`."""
    return b"%s-%d" % (epoch.encode(), seq)


def reset(reason: str) -> bytes:
    """The reader must drop its state; a snapshot follows."""
    return frame(b"reset", _encode({"reason": reason}))


def deltas(changes: Mapping[str, Mapping[str, Entry]], id: bytes = b"") -> list[bytes]:  # noqa: A002
    """The changes topic by topic, as pieces; `id` on the last event of all."""
    pages = [
        b'{"topic":%b,"rows":{%b}}' % (_encode(topic), rows)
        for topic, entries in changes.items()
        for rows in _paged(entries)
    ]
    if not pages:
        return []
    last = frame(b"delta", pages.pop(), id)
    return list(pieces([*(frame(b"delta", page) for page in pages), last])) if pages else [last]


def snapshot_page(topic: str, rows: bytes, complete: bool, id: bytes = b"") -> bytes:  # noqa: A002
    done = b"true" if complete else b"false"
    return frame(b"snapshot", b'{"topic":%s,"rows":{%s},"complete":%s}' % (_encode(topic), rows, done), id)


def snapshot(
    current: Callable[[], Replica], parts: Sequence[tuple[str, Sequence[str]]], position: Callable[[], bytes]
) -> Iterator[bytes]:
    """The pages of a snapshot of `parts`, topics with their keys, each row as it is when its page is read.

    `position()` is the id of the last page, unless it has changed meanwhile; then the delta after it has the next id.
    """
    begun = position()
    for number, (topic, keys) in enumerate(parts):
        start = 0
        while True:
            rows, start = _page(current(), topic, keys, start)
            complete = start == len(keys) and number == len(parts) - 1
            yield snapshot_page(topic, rows, complete, begun if complete and begun == position() else b"")
            if start == len(keys):
                break


def pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Events joined into pieces; each is read just before its piece is written."""
    begun = b""
    for frame in frames:
        if begun and len(begun) + len(frame) > PIECE:
            yield begun
            begun = b""
        begun += frame
    if begun:
        yield begun


def _page(replica: Replica, topic: str, keys: Sequence[str], start: int) -> tuple[bytes, int]:
    """A page of `topic`'s rows from `keys[start:]` as they are now, and where the next one starts."""
    lines: list[bytes] = []
    size = 0
    for number in range(start, len(keys)):
        row = replica.row(topic, keys[number])
        if row is None:  # removed since; the delta after the snapshot has it
            continue
        line = _encode(keys[number]) + b":" + row
        if lines and size + len(line) > PAGE:
            return b",".join(lines), number
        lines.append(line)
        size += len(line) + 1
    return b",".join(lines), len(keys)


def _paged(entries: Mapping[str, Entry]) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    for key, (_, row) in entries.items():
        line = _encode(key) + b":" + (b"null" if row is None else row)
        if lines and size + len(line) > PAGE:
            yield b",".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    yield b",".join(lines)
