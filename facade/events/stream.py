"""Server-Sent Events: the readers of one facade, and how far each has come.

A reader holds the number of a step; what it lacks is in the replica. A reader that keeps up is written to by one
publisher, from bytes encoded once for all readers at the same step. Backpressure: one that does not keep up, or that
needs more than a change, is served by its own request's task, which waits for its socket: it gets merged deltas.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web

from facade.account_rows import belongs
from facade.events import frames
from facade.http.responses import EVENTS
from facade.replica.mirror import Mirror
from facade.replica.state import unreachable_link
from shared.reasons import Problem
from shared.replica import Entry, Replica

STREAMS = 256
"""Readers of one facade: a hundred pages and programs, twice over."""

HEARTBEAT = 15.0
"""s between comments, by which a reader notices a dead connection."""

FIRST_ROWS_TIMEOUT = 2.0
"""s that a new reader waits for topics that were not watched before; then it begins without them."""

STALLED_TIMEOUT = 600.0
"""s for a piece to fit into a reader's write buffer: by then its program is stopped for good."""

MAX_PENDING = 16 * 1024
"""Bytes in a reader's write buffer above which the publisher leaves it to its own task."""

ABSENCE_TOPICS = ("link", "sync")
"""What changes while the daemon is unreachable: the link is stale, and so is every list."""

HEADERS = {"Content-Type": EVENTS, "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}

LAST_EVENT = re.compile(r"([^-\s]{1,64})-([0-9]{1,18})")


class Choice:
    """A choice of topics and account, one object for all readers that made it."""

    __slots__ = ("__weakref__", "account", "dynamic", "names", "topics")

    def __init__(self, topics: tuple[str, ...], account: str) -> None:
        self.topics = topics
        self.account = account
        self.names = frozenset(topics)
        self.dynamic = tuple(topic for topic in topics if ":" in topic)

    def of(self, topic: str, rows: Mapping[str, Entry]) -> Mapping[str, Entry]:
        """Those of `rows` that are chosen."""
        if not self.account:
            return rows
        return {key: entry for key, entry in rows.items() if belongs(topic, key, entry[1], self.account)}


class Reader:
    """One reader. `since`: the step it has come to; `resync_count`: that of the replica when it lacked nothing else."""

    __slots__ = (
        "away",
        "choice",
        "epoch",
        "generations",
        "keeps_up",
        "response",
        "resume",
        "resync_count",
        "since",
        "transport",
        "wake",
    )

    def __init__(self, response: web.StreamResponse, transport: asyncio.Transport, choice: Choice) -> None:
        self.response = response
        self.transport = transport
        self.choice = choice
        self.keeps_up = False  # then the publisher writes to it, else its own task
        self.wake = asyncio.get_running_loop().create_future()  # an Event would hold 0.8 KB more
        self.resume: str | None = None
        self.epoch = ""  # empty while the reader has nothing
        self.since = 0
        self.resync_count = -1
        self.generations: dict[str, int] = {}  # of its dynamic topics
        self.away: bool | None = False  # it has the rows of the daemon's absence; None: perhaps, before it resumed

    def fall_behind(self) -> None:
        """Leave the reader to its own task."""
        self.keeps_up = False
        if not self.wake.done():
            self.wake.set_result(None)


Shared = dict[tuple[Choice, int], list[bytes]]
"""Deltas as pieces, by choice and the step they start from; empty where nothing chosen has changed."""


class StreamSlots:
    """The event streams of one facade: `used` of at most `limit`, whichever sessions they belong to."""

    def __init__(self, limit: int = STREAMS) -> None:
        self.limit = limit
        self.used = 0
        """Streams that are served or about to be."""


class Streams:
    """All readers of one session. `merged`: how often a reader that was behind had a delta merged into its next."""

    def __init__(self, mirror: Mirror, slots: StreamSlots, *, heartbeat: float = HEARTBEAT) -> None:
        self.merged = 0
        self.slots = slots
        self.readers: set[Reader] = set()
        self._mirror = mirror
        self._state = mirror.state
        self.heartbeat = heartbeat
        self._closed = False
        self._changed = asyncio.Event()
        self._absence: tuple[int, dict[str, dict[str, Entry]]] = (-1, {})  # of which resync
        self._choices: WeakValueDictionary[tuple[tuple[str, ...], str], Choice] = WeakValueDictionary()
        mirror.state.add_listener(self._changed.set)

    def __len__(self) -> int:
        return len(self.readers)

    async def run(self) -> None:
        """Publish and keep streams alive until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish_changes(), name="streams.publish")
            tasks.create_task(self._beat(), name="streams.heartbeat")

    def close(self) -> None:
        """End every stream; readers reconnect with their last id."""
        self._closed = True
        for reader in self.readers:
            reader.fall_behind()

    async def serve(self, request: web.Request, topics: tuple[str, ...], account: str) -> web.StreamResponse:
        """Stream `topics` until either side ends. Raises `Problem` before the first byte."""
        if self.slots.used >= self.slots.limit:
            raise Problem("tooManyStreams")
        self.slots.used += 1
        self._mirror.subscribe(topics)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ROWS_TIMEOUT):
                    await self._mirror.wait_for_topics(topics)
            return await self._stream(request, topics, account)
        finally:
            self._mirror.unsubscribe(topics)
            self.slots.used -= 1

    async def _stream(self, request: web.Request, topics: tuple[str, ...], account: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()
        with contextlib.suppress(ConnectionError):  # the client has left, and this task is about to be cancelled
            await response.prepare(request)
            await response.write(frames.RETRY)
            await self._read_by(request, response, topics, account)
        return response

    async def _read_by(
        self, request: web.Request, response: web.StreamResponse, topics: tuple[str, ...], account: str
    ) -> None:
        transport = request.transport
        if self._closed or transport is None:
            return  # the reader reconnects; after an error, a browser's EventSource would not
        choice = self._choices.get((topics, account))
        if choice is None:
            choice = self._choices[topics, account] = Choice(topics, account)
        reader = Reader(response, transport, choice)
        reader.resume = request.headers.get("Last-Event-ID")
        self.readers.add(reader)
        try:
            while not self._closed:  # write what the reader lacks each time the publisher leaves it to this task
                reader.wake = asyncio.get_running_loop().create_future()
                await self._catch_up(reader)
                reader.keeps_up = True
                await reader.wake
                reader.keeps_up = False
        finally:
            self.readers.discard(reader)

    async def _catch_up(self, reader: Reader) -> None:
        for piece in self._lacking(reader):
            try:
                async with asyncio.timeout(STALLED_TIMEOUT):
                    await reader.response.write(piece)
            except TimeoutError:
                reader.transport.abort()  # which cancels this task
            await asyncio.sleep(0)  # a large snapshot must not keep the loop from the others

    # --- publishing -------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.heartbeat)
            for reader in tuple(self.readers):
                if reader.keeps_up and reader.transport.get_write_buffer_size() <= MAX_PENDING:
                    await _write(reader, frames.HEARTBEAT)

    async def _publish_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._publish()

    async def _publish(self) -> None:
        """However many steps have arrived together, they are one write to each reader that keeps up.

        No write waits: a piece fits into what `MAX_PENDING` leaves of the write buffer.
        """
        shared: Shared = {}
        choice, since, piece = None, -1, None
        for reader in tuple(self.readers):
            if not reader.keeps_up:
                self.merged += 1
                continue
            if reader.since != since or reader.choice is not choice:
                choice, since = reader.choice, reader.since
                piece = _single(self._changes(choice, since, shared))
            if (
                piece is None
                or reader.resync_count != self._state.resync_count
                or reader.transport.get_write_buffer_size() > MAX_PENDING
            ):
                reader.fall_behind()
                continue
            reader.since = self._state.replica.seq if self._state.replica is not None else 0
            if piece:
                await _write(reader, piece)

    def _changes(self, choice: Choice, since: int, shared: Shared) -> list[bytes] | None:
        """What has changed in `choice` after the step `since`, as pieces; `None` where that is not known."""
        pieces = shared.get((choice, since))
        replica = self._state.replica
        if pieces is None and replica is not None:
            lacking = replica.since(choice.names, since)
            if lacking is not None:
                newest = max((delta.state.seq for delta in lacking.values()), default=0)
                changes = {topic: rows for topic, delta in lacking.items() if (rows := choice.of(topic, delta.rows))}
                pieces = shared[choice, since] = frames.deltas(changes, frames.position(replica.epoch, newest))
        return pieces

    # --- catching up ------------------------------------------------------------------------------------------------

    def _lacking(self, reader: Reader) -> Iterator[bytes]:
        """All that `reader` lacks, each piece as the replica is when it is written."""
        while pieces := self._next(reader):
            yield from pieces
        reader.resync_count = self._state.resync_count

    def _next(self, reader: Reader) -> Iterable[bytes]:
        """The next pieces for `reader`, which is then that much further; empty where it lacks nothing."""
        replica = self._state.replica
        if replica is None:
            return self._without_replica(reader)
        if reader.epoch != replica.epoch:
            begun = self._begin(reader, replica)
            if begun is not None:
                return begun
        late = self._late(reader, replica)
        if late:
            return late
        pieces = self._changes(reader.choice, reader.since, {})
        if pieces is None:
            return self._reset(reader, replica, "tooOld")
        reader.since = replica.seq
        return pieces or self._presence(reader, replica)

    def _begin(self, reader: Reader, replica: Replica) -> Iterable[bytes] | None:
        """A snapshot for a new reader or one of another epoch; `None` for one that resumes."""
        resume, reader.resume = reader.resume, None
        if reader.epoch:
            return self._reset(reader, replica, "epoch")
        if resume is None:
            return self._snapshot(reader, replica)
        given = LAST_EVENT.fullmatch(resume)
        if given is None:
            return self._reset(reader, replica, "invalid")
        if given[1] != replica.epoch:
            return self._reset(reader, replica, "epoch")
        since = int(given[2])
        if since > replica.seq:
            return self._reset(reader, replica, "invalid")
        if since < replica.floor:
            return self._reset(reader, replica, "tooOld")
        reader.epoch, reader.since = replica.epoch, since
        reader.generations = self._generations(reader)
        reader.away = None
        return None

    def _reset(self, reader: Reader, replica: Replica, reason: str) -> Iterator[bytes]:
        return self._snapshot(reader, replica, frames.reset(reason))

    def _snapshot(self, reader: Reader, replica: Replica, *before: bytes) -> Iterator[bytes]:
        """`before` is in the first piece: the snapshot's id must be of the step that `reader.since` is."""
        choice = reader.choice
        reader.epoch, reader.since, reader.away = replica.epoch, replica.seq, False
        reader.generations = self._generations(reader)
        parts = [
            (
                topic,
                [key for key, row in rows.items() if not choice.account or belongs(topic, key, row, choice.account)],
            )
            for topic in choice.topics
            for rows in (replica.rows(topic),)
        ]
        pages = frames.snapshot(lambda: self._state.replica or replica, parts, lambda: self._id(choice))
        return frames.pieces(itertools.chain(before, pages))

    def _late(self, reader: Reader, replica: Replica) -> list[bytes]:
        """Dynamic topics whose rows arrived after the reader had passed their steps, as a whole."""
        generations = self._generations(reader)
        if generations == reader.generations:
            return []
        arrived = {
            topic: rows
            for topic, generation in generations.items()
            if generation and generation != reader.generations.get(topic)
            if (rows := {key: (0, row) for key, row in replica.rows(topic).items()})
        }
        reader.generations = generations
        return frames.deltas(arrived)

    def _generations(self, reader: Reader) -> dict[str, int]:
        return {topic: self._state.topic_generation(topic) for topic in reader.choice.dynamic}

    def _id(self, choice: Choice) -> bytes:
        """The step of the last change of the choice's topics.

        Not the replica's own step, which another process, watching other lines, may never come to.
        """
        replica = self._state.replica
        assert replica is not None  # noqa: S101 - it is never given up
        return frames.position(replica.epoch, max(replica.state(topic).seq for topic in choice.topics))

    # --- the daemon's absence ---------------------------------------------------------------------------------------

    def _presence(self, reader: Reader, replica: Replica) -> list[bytes]:
        """The rows of the daemon's absence, and those that replace them when it is reachable again."""
        if reader.away == (not self._state.reachable):
            return []
        reader.away = not self._state.reachable
        rows = self._absent() if reader.away else _as_entries(replica, ABSENCE_TOPICS)
        return frames.deltas(
            {topic: rows[topic] for topic in ABSENCE_TOPICS if topic in reader.choice.names and rows[topic]}
        )

    def _absent(self) -> dict[str, dict[str, Entry]]:
        if self._absence[0] != self._state.resync_count:
            link = msgspec.json.encode(unreachable_link(self._state.link))
            stale: dict[str, Entry] = {
                topic: (0, msgspec.json.encode(msgspec.structs.replace(sync, stale=True)))
                for topic, sync in self._state.syncs()
                if sync.known
            }
            self._absence = (self._state.resync_count, {"link": {"link": (0, link)}, "sync": stale})
        return self._absence[1]

    def _without_replica(self, reader: Reader) -> list[bytes]:
        """Before the first replica: only that the daemon is unreachable. A reader that resumes keeps its state."""
        if reader.away or self._state.reachable or "link" not in reader.choice.names:
            return []
        reader.away = True
        link = msgspec.json.encode(unreachable_link(None))
        if reader.resume is not None:
            return frames.deltas({"link": {"link": (0, link)}})
        return [frames.snapshot_page("link", b'"link":' + link, complete=False)]


async def _write(reader: Reader, data: bytes) -> None:
    try:  # not contextlib.suppress: this is done once for each event of each reader
        await reader.response.write(data)
    except ConnectionError:
        pass  # the client has left, and its task is being cancelled


def _single(pieces: list[bytes] | None) -> bytes | None:
    """The one piece that the publisher may write, empty where nothing has changed; `None` where it is more than that.

    A single row may be larger than a piece, such as a gap with all its fills.
    """
    if not pieces:
        return None if pieces is None else b""
    return pieces[0] if len(pieces) == 1 and len(pieces[0]) <= frames.PIECE else None


def _as_entries(replica: Replica, topics: Iterable[str]) -> dict[str, dict[str, Entry]]:
    return {topic: {key: (0, row) for key, row in replica.rows(topic).items()} for topic in topics}
