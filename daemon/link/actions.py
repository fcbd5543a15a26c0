"""The actions that the link machine returns for an event, as values. The shell performs them in order."""

from __future__ import annotations

from msgspec import Struct

from daemon.link.events import Target


class Action(Struct, frozen=True, kw_only=True):
    pass


class Dial(Action, frozen=True, kw_only=True):
    session: int
    target: Target


class Abort(Action, frozen=True, kw_only=True):
    """Reset the connection: a peer that does not answer is not waited for."""

    session: int


class Close(Action, frozen=True, kw_only=True):
    """Close it gracefully, so that its client id is free at once."""

    session: int


class Read(Action, frozen=True, kw_only=True):
    """Read the first snapshots, then post `Synced`."""

    session: int


class StopReading(Action, frozen=True, kw_only=True):
    """Cancel the snapshots under way: their responses can no longer be trusted."""

    session: int


class Recover(Action, frozen=True, kw_only=True):
    """Read orders, executions, positions and values again and compare."""

    session: int
    cause: str


class Replay(Action, frozen=True, kw_only=True):
    """Request every wanted stream, each once."""

    session: int


class Probe(Action, frozen=True, kw_only=True):
    session: int


class Keep(Action, frozen=True, kw_only=True):
    """What must be remembered across a restart of the daemon."""

    held: bool


class Answer(Action, frozen=True, kw_only=True):
    """To the request to connect of this step: `None` is connected, else the reason why not.

    `text`: what `lastError` does not hold about it.
    """

    reason: str | None
    text: str = ""


class Await(Action, frozen=True, kw_only=True):
    """The request to connect of this step is answered when `session` is settled."""

    session: int


class Settled(Action, frozen=True, kw_only=True):
    """What became of an attempt: `None` is ready, else the reason why not."""

    session: int
    reason: str | None


Actions = tuple[Action, ...]
