"""Who reads events, and how far each has come: a reader holds the number of a step, what it lacks is in the replica.

Encoded once for all readers that stand at the same step, written once for all that the daemon told in one piece, and
only while a reader takes it: a slow one gets fewer and merged deltas, one that vanishes leaves nothing behind. Never
waits for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated
from weakref import WeakValueDictionary

import msgspec
from aiohttp.helpers import rfc822_formatted_time
from msgspec import Meta, Struct

from facade.events import frames
from facade.http.answer import EVENTS, Answer, head
from facade.http.table import Asked
from facade.replica.mirror import Mirror
from facade.replica.state import unreachable_link
from shared.messages import STATE_TOPICS
from shared.reasons import Problem
from shared.replica import Entry

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

    from facade.app import Facade
    from facade.http.connection import Connection

STREAMS = 256
"""Readers of one facade: a hundred pages and programs, twice over."""

LINES = 128
"""Topics of one reader beside the standing ones: the market-data lines an ordinary login has, and some bars."""

HEARTBEAT = 15.0
"""s between comments, so that a reader knows that it would hear."""

DEAF_BEATS = 40
"""Heartbeats that a reader may leave unread, ten minutes: by then it is stopped for good."""

TOLD_LIMIT = 2.0
"""s that a new reader waits for topics that nobody watched before; then it begins without them and gets them later."""

BURST = 1 << 20
"""bytes written to one reader before the others have their turn."""

AWAY_TOPICS = ("link", "sync")
"""What the facade itself says of the daemon's absence: the link is stale, and so is every list."""

TOPIC = re.compile(
    r"quotes:([1-9][0-9]{0,9})|bars:([1-9][0-9]{0,9}):([0-9]{1,2} ?(?:secs?|mins?|hours?|day|week|month))"
)
LAST_EVENT = re.compile(r"([^-\s]{1,64})-([0-9]{1,18})")


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`topics`: names separated by commas; all but quotes and bars by default."""

    topics: Annotated[str, Meta(max_length=8000)] = ",".join(STATE_TOPICS)


class Ended(Answer):
    """A stream that was served already: nothing is left to send."""

    async def prepare(self, request: BaseRequest) -> None:  # noqa: ARG002 - aiohttp's signature
        self.keep_alive = False


class Watched:
    """A choice of topics, one object for all readers who made it."""

    __slots__ = ("__weakref__", "dynamic", "names", "topics")

    def __init__(self, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self.names = frozenset(topics)
        self.dynamic = tuple(topic for topic in topics if ":" in topic)


class Stream:
    """One reader. `since`: the step it has come to; `pages`: the rest of its snapshot.

    `level`: the mirror's upheaval since when it lacks nothing but the changes after `since`.
    """

    __slots__ = (
        "away",
        "beats",
        "births",
        "connection",
        "ended",
        "epoch",
        "level",
        "pages",
        "resume",
        "since",
        "transport",
        "watched",
    )

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, watched: Watched, last_event: str | None
    ) -> None:
        self.connection = connection
        self.transport = transport
        self.watched = watched
        self.births: dict[str, int] = {}  # of its quotes and bars: which coming of theirs it knows
        self.resume = last_event
        self.epoch = ""  # none yet: the reader has nothing
        self.since = 0
        self.level = -1
        self.pages: Iterator[bytes] | None = None
        self.away: bool | None = False  # told that the daemon is away; None: who resumes may have been
        self.beats = 0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


Shared = dict[tuple[Watched, int], bytes]
"""This turn's deltas, by who watches what from which step; empty where nothing of it has changed."""


class Streams:
    """All readers of one facade. `merged`: how often a reader that was not reading had a delta merged into its next."""

    def __init__(self, mirror: Mirror, *, limit: int = STREAMS, heartbeat: float = HEARTBEAT) -> None:
        self.merged = 0
        self.places = 0
        """Readers being served or about to be."""
        self._mirror = mirror
        self._limit = limit
        self._heartbeat = heartbeat
        self._readers: set[Stream] = set()
        self._closed = False
        self._absence: dict[str, dict[str, Entry]] = {}
        self._choices: WeakValueDictionary[tuple[str, ...], Watched] = WeakValueDictionary()
        mirror.state.add_listener(self._send_all)

    def __len__(self) -> int:
        return len(self._readers)

    async def run(self) -> None:
        """The heartbeat, for ever."""
        while True:
            await asyncio.sleep(self._heartbeat)
            for stream in tuple(self._readers):
                if not stream.connection.writing_paused:
                    stream.transport.write(frames.HEARTBEAT)
                    continue
                stream.beats += 1
                if stream.beats > DEAF_BEATS:
                    stream.transport.abort()

    def close(self) -> None:
        """End every stream; readers come back by their last id."""
        self._closed = True
        for stream in self._readers:
            if not stream.ended.done():
                stream.ended.set_result(None)

    async def serve(self, request: BaseRequest, topics: tuple[str, ...]) -> Answer:
        """Tell the client of `topics` until either side ends. Raises `Problem` before the first byte."""
        if self.places >= self._limit:
            raise Problem("tooManyStreams")
        self.places += 1
        self._mirror.subscribe(topics)
        try:
            await self._told(topics)
            await self._tell(request, topics)
        finally:
            self._mirror.unsubscribe(topics)
            self.places -= 1
        return Ended(200, b"", EVENTS, close=True)

    async def _told(self, topics: tuple[str, ...]) -> None:
        """Until the replica has heard of every topic, a while at most. Raises the `Problem` of a refused one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOLD_LIMIT):
                await self._mirror.wait_for_topics(topics)

    async def _tell(self, request: BaseRequest, topics: tuple[str, ...]) -> None:
        connection: Connection = request.protocol  # type: ignore[assignment]
        transport = request.transport
        if transport is None or transport.is_closing():
            return
        watched = self._choices.get(topics)
        if watched is None:
            watched = self._choices[topics] = Watched(topics)
        stream = Stream(connection, transport, watched, request.headers.get("Last-Event-ID"))
        transport.write(
            head(200, EVENTS)
            + b"X-Accel-Buffering: no\r\nConnection: close\r\nDate: "
            + rfc822_formatted_time().encode("ascii")
            + b"\r\n\r\n"
        )
        if self._closed:  # it comes back to who serves next; told of an error, a browser's EventSource would not
            return
        connection.resumed = lambda: self._resumed(stream)
        self._readers.add(stream)
        try:
            self._send(stream, {})
            await stream.ended
        finally:
            connection.resumed = None
            self._readers.discard(stream)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        """What the mirror has heard in one piece, be it many steps, is one write to each reader."""
        mirror = self._mirror
        if mirror.state.reachable:
            self._absence = {}
        step = mirror.state.replica.seq if mirror.state.replica is not None else 0
        upheavals = mirror.state.resync_count
        shared: Shared = {}
        watched, since, data = None, -1, None
        for stream in tuple(self._readers):
            if stream.connection.writing_paused:
                self.merged += 1
            elif stream.level != upheavals:
                self._send(stream, shared)
            else:  # the common case, and all that a tick costs a reader
                if stream.since != since or stream.watched is not watched:
                    watched, since = stream.watched, stream.since
                    data = self._changes(watched, since, shared)
                if data is None:
                    self._send(stream, shared)
                    continue
                stream.since = step
                if data and stream.connection.transport is not None:
                    stream.transport.write(data)

    def _resumed(self, stream: Stream) -> None:
        stream.beats = 0
        self._send(stream, {})

    def _send(self, stream: Stream, shared: Shared) -> None:
        """What `stream` lacks, as much of it as it takes."""
        if stream.transport.is_closing():
            return  # its handler is being cancelled
        sent = 0
        while not stream.connection.writing_paused:
            if sent > BURST:
                asyncio.get_running_loop().call_soon(self._resumed, stream)
                return
            data = self._next(stream, shared)
            if not data:
                stream.level = self._mirror.state.resync_count
                return
            sent += len(data)
            stream.transport.write(data)

    def _next(self, stream: Stream, shared: Shared) -> bytes:
        """The next bytes for `stream`, which is then that much further; empty where there is nothing to tell."""
        replica = self._mirror.state.replica
        if replica is None:
            return self._nothing_known(stream)
        if stream.epoch != replica.epoch:
            begun = self._begin(stream)
            if begun:
                return begun
        if stream.pages is not None:
            page = next(stream.pages, None)
            if page is not None:
                return page
            stream.pages = None
        late = self._late(stream)
        if late:
            return late
        data = self._changes(stream.watched, stream.since, shared)
        if data is None:
            return self._reset(stream, "tooOld")
        stream.since = replica.seq
        return data or self._presence(stream)

    def _changes(self, watched: Watched, since: int, shared: Shared) -> bytes | None:
        """What has changed in `watched` after the step `since`; `None` where that cannot be told."""
        data = shared.get((watched, since))
        replica = self._mirror.state.replica
        if data is None and replica is not None:
            lacking = replica.since(watched.names, since)
            if lacking is not None:
                newest = max((delta.state.seq for delta in lacking.values()), default=0)
                changes = {topic: delta.rows for topic, delta in lacking.items()}
                data = shared[watched, since] = frames.deltas(changes, frames.position(replica.epoch, newest))
        return data

    def _begin(self, stream: Stream) -> bytes:
        """Where a new reader, or one of another epoch, starts: where it left off, or with a snapshot."""
        replica = self._mirror.state.replica
        assert replica is not None  # noqa: S101 - the caller looked
        resume, stream.resume = stream.resume, None
        if stream.epoch:
            return self._reset(stream, "epoch")
        if resume is None:
            return self._snapshot(stream)
        known = LAST_EVENT.fullmatch(resume)
        if known is None:
            return self._reset(stream, "invalid")
        if known[1] != replica.epoch:
            return self._reset(stream, "epoch")
        since = int(known[2])
        if since > replica.seq:
            return self._reset(stream, "invalid")
        if since < replica.floor:
            return self._reset(stream, "tooOld")
        stream.epoch, stream.since = replica.epoch, since
        stream.births = self._births(stream)
        stream.away = None
        return b""

    def _reset(self, stream: Stream, reason: str) -> bytes:
        return frames.reset(reason) + self._snapshot(stream)

    def _snapshot(self, stream: Stream) -> bytes:
        replica = self._mirror.state.replica
        assert replica is not None  # noqa: S101 - the caller looked
        stream.epoch, stream.since = replica.epoch, replica.seq
        stream.away = False
        stream.births = self._births(stream)
        stream.pages = self._pages(stream)
        return next(stream.pages)

    def _pages(self, stream: Stream) -> Iterator[bytes]:
        """The snapshot by pages, each as the rows are when it is written; what changes meanwhile follows it."""
        begun = self._mirror.state.replica
        assert begun is not None  # noqa: S101 - the caller looked
        parts = frames.snapshot_rows(begun, stream.watched.topics)
        position = self._position(stream.watched.topics)
        data = b""
        for number, (topic, keys) in enumerate(parts):
            start = 0
            while True:
                now = self._mirror.state.replica or begun
                rows, start = frames.written(now, topic, keys, start)
                complete = start == len(keys) and number == len(parts) - 1
                unchanged = complete and position == self._position(stream.watched.topics)
                data += frames.snapshot_page(topic, rows, complete, position if unchanged else b"")
                if len(data) >= frames.PAGE:
                    yield data
                    data = b""
                if start == len(keys):
                    break
        if data:
            yield data

    def _late(self, stream: Stream) -> bytes:
        """Topics that came into the replica after their reader had passed their steps, as a whole."""
        replica = self._mirror.state.replica
        assert replica is not None  # noqa: S101 - the caller looked
        births = self._births(stream)
        if births == stream.births:
            return b""
        come = {
            topic: {key: (0, row) for key, row in replica.rows(topic).items()}
            for topic, birth in births.items()
            if birth and birth != stream.births.get(topic)
        }
        stream.births = births
        come = {topic: rows for topic, rows in come.items() if rows}
        return frames.deltas(come)

    def _births(self, stream: Stream) -> dict[str, int]:
        return {topic: self._mirror.state.topic_generation(topic) for topic in stream.watched.dynamic}

    def _position(self, topics: Iterable[str]) -> bytes:
        """The step of these topics' last change: whoever has come to it lacks nothing of them.

        Not the replica's own step, which another process, watching other lines, may never come to.
        """
        replica = self._mirror.state.replica
        assert replica is not None  # noqa: S101 - the caller looked
        return frames.position(replica.epoch, max(replica.state(topic).seq for topic in topics))

    # --- the daemon's absence ---------------------------------------------------------------------------------------

    def _presence(self, stream: Stream) -> bytes:
        """What the facade says while the daemon is away, and takes back when it is there again."""
        if stream.away == (not self._mirror.state.reachable):
            return b""
        stream.away = not self._mirror.state.reachable
        told = self._absent() if stream.away else self._present()
        told = {topic: rows for topic, rows in told.items() if topic in stream.watched.names and rows}
        return frames.deltas(told)

    def _absent(self) -> dict[str, dict[str, Entry]]:
        if not self._absence:
            link = msgspec.json.encode(unreachable_link(self._mirror.state.link))
            stale = {
                topic: (0, msgspec.json.encode(msgspec.structs.replace(sync, stale=True)))
                for topic, sync in self._mirror.state.syncs()
                if sync.known
            }
            self._absence = {"link": {"link": (0, link)}, "sync": dict(stale)}
        return self._absence

    def _present(self) -> dict[str, dict[str, Entry]]:
        replica = self._mirror.state.replica
        assert replica is not None  # noqa: S101 - the caller looked
        return {topic: {key: (0, row) for key, row in replica.rows(topic).items()} for topic in AWAY_TOPICS}

    def _nothing_known(self, stream: Stream) -> bytes:
        """No replica yet: the link alone can be told of, and that the daemon is not there."""
        if stream.away or self._mirror.state.reachable or "link" not in stream.watched.names:
            return b""
        stream.away = True
        link = b'"link":' + msgspec.json.encode(unreachable_link(None))
        return frames.snapshot_page("link", link, complete=False)


# --- the route ------------------------------------------------------------------------------------------------------


async def events(facade: Facade, asked: Asked) -> Answer:
    """Server-Sent Events of the topics asked for."""
    topics = topics_of(asked.query.topics)
    if asked.request.method == "HEAD":
        return Answer(200, b"", EVENTS, close=True)
    return await facade.streams.serve(asked.request, topics)


def topics_of(text: str) -> tuple[str, ...]:
    """The topics named, each once, in their own spelling. Raises `Problem` for one that there cannot be."""
    topics = tuple(dict.fromkeys(_topic(name.strip()) for name in text.split(",")))
    if sum(":" in topic for topic in topics) > LINES:
        raise Problem("invalidParameters", f"At most {LINES} quotes and bars on one stream.")
    return topics


def _topic(name: str) -> str:
    if name in STATE_TOPICS:
        return name
    found = TOPIC.fullmatch(name)
    if found is None or int(found[1] or found[2]) >= 2**31:
        raise Problem(
            "invalidParameters",
            f"There is no such topic. Known are {', '.join(STATE_TOPICS)}, quotes:CONID and bars:CONID:SIZE.",
        )
    return name.replace(" ", "")
