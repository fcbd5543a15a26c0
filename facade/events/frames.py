"""Server-Sent Events as bytes: pages of a snapshot, deltas, resets; pure.

Rows go in as the bytes the daemon encoded; nothing here looks inside one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from shared.replica import Entry, Replica

PAGE = 128 * 1024
"""bytes of an event: what a browser parses in a millisecond or two, and about what a socket takes at once."""

HEARTBEAT = b":\n\n"

_encode = msgspec.json.Encoder().encode


def frame(event: bytes, data: bytes, id: bytes = b"") -> bytes:  # noqa: A002 - the protocol's word
    """One event. `id` stands where a reader may go on from."""
    return b"event: " + event + b"\n" + (b"id: " + id + b"\n" if id else b"") + b"data: " + data + b"\n\n"


def position(epoch: str, seq: int) -> bytes:
    """`EPOCH-SEQ`."""
    return b"%s-%d" % (epoch.encode(), seq)


def reset(reason: str) -> bytes:
    """The reader must forget what it has; a snapshot follows."""
    return frame(b"reset", _encode({"reason": reason}))


def deltas(changes: Mapping[str, Mapping[str, Entry]], id: bytes = b"") -> bytes:  # noqa: A002
    """What changed, topic by topic, in pages; `id` on the last of all."""
    if not changes:
        return b""
    *pages, last = [
        b'{"topic":%s,"rows":{%s}}' % (_encode(topic), rows)
        for topic, entries in changes.items()
        for rows in _paged(entries)
    ]
    return b"".join([frame(b"delta", page) for page in pages]) + frame(b"delta", last, id)


def snapshot_page(topic: str, rows: bytes, complete: bool, id: bytes = b"") -> bytes:  # noqa: A002
    done = b"true" if complete else b"false"
    return frame(b"snapshot", b'{"topic":%s,"rows":{%s},"complete":%s}' % (_encode(topic), rows, done), id)


def snapshot_rows(replica: Replica, topics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What a snapshot must speak of: keys alone, so that a reader that does not read keeps no rows alive."""
    return [(topic, list(replica.rows(topic))) for topic in topics]


def written(replica: Replica, topic: str, keys: Sequence[str], start: int) -> tuple[bytes, int]:
    """A page of `topic`'s rows from `keys[start:]` as they are now, and where the next one starts."""
    lines: list[bytes] = []
    size = 0
    for number in range(start, len(keys)):
        row = replica.row(topic, keys[number])
        if row is None:  # gone since; the delta after the snapshot says so
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
