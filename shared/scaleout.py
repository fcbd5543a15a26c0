"""What daemon and facade agree on when they communicate over NATS: subjects, headers, the connection's options.

`nats` is imported when a connection is opened: it is an optional dependency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from nats.aio.client import Client

ALIVE_INTERVAL = 1.0
"""s between the daemon's signs of life."""

LEASE = 30.0
"""s that a facade's quotes and bars are kept without a renewal."""

CLOSE_TIMEOUT = 2.0
"""s for closing a connection."""

CONNECT_TIMEOUT = 2
"""s for the TCP connection and the handshake with a NATS server."""

EPOCH = "Ibkr-Epoch"
"""Header of a call: the daemon's run that it is for, so that no other daemon of the name carries it out."""

SINCE, FRESH, NEXT = "Ibkr-Since", "Ibkr-Fresh", "Ibkr-Next"
"""Headers. Of a delta: the step it starts from, and the topics that it contains as a whole. Of a snapshot's page: the
token of the next page."""

SNAPSHOT, LEASE_METHOD, RELEASE, RENEW = "snapshot", "lease", "release", "renew"
"""Methods that only remote facades call; in place of `watch` and `unwatch` of the local socket."""

TIME = "time"
"""Method: the daemon's wall clock. The clocks of two machines may differ by any amount; ages need the difference."""


class Alive(Struct, frozen=True, kw_only=True):
    """The daemon's sign of life, sent at `now`. `seq`: a step that is in the stream, or about to be.

    `proof`: when the gateway's last message of the row `link` was.
    """

    epoch: str
    seq: int
    daemon: str
    now: datetime
    proof: datetime | None = None


class DaemonTime(Struct, frozen=True):
    """The result of `time`: the daemon's wall clock, UTC."""

    now: datetime


class LeaseParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`lease`: a name that the facade has chosen at random, one for each conversation."""

    lease: str
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one session."""

    prefix: str
    session: str

    @property
    def delta(self) -> str:
        return f"{self.prefix}.{self.session}.delta"

    @property
    def alive(self) -> str:
        return f"{self.prefix}.{self.session}.alive"

    def call(self, method: str) -> str:
        return f"{self.prefix}.{self.session}.rpc.{method}"

    @property
    def stream(self) -> str:
        """The name of the JetStream stream that holds the deltas."""
        return f"{self.prefix}_{self.session}".upper()


@dataclass(frozen=True, slots=True)
class Server:
    """Where NATS is. `credentials`: a file of JWT credentials, of an NKey's seed, or of one line `user:password`."""

    urls: tuple[str, ...]
    credentials: Path | None = None


async def connect(
    server: Server,
    name: str,
    on_error: Callable[[Exception], None],
    on_close: Callable[[], None],
) -> Client:
    """A connection that is not re-established: its end is `on_close`, and the caller opens a new one.

    Raises `OSError` or an error of `nats.errors`. A server that does not answer is noticed after three seconds.
    """
    from nats.aio.client import Client
    from nats.errors import NoServersError

    last_error: Exception | None = None

    async def error_cb(error: Exception) -> None:
        nonlocal last_error
        last_error = error
        on_error(error)

    async def closed_cb() -> None:
        on_close()

    client = Client()
    try:
        await client.connect(
            servers=list(server.urls),
            name=name,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # each server twice, at once: by default it waits two minutes for the first
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=1,
            max_outstanding_pings=2,
            error_cb=error_cb,
            closed_cb=closed_cb,
            **_login(server.credentials),
        )
        pass_cancellation()
    except NoServersError as error:
        await close(client)
        raise (last_error or error) from error
    except BaseException:
        await close(client)
        raise
    return client


def pass_cancellation() -> None:
    """Raise a cancellation that a wait inside nats-py has swallowed: `wait_for` may, before Python 3.12."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def close(client: Client) -> None:
    """Close the connection, waiting `CLOSE_TIMEOUT` at most: a server that is stopped does not answer."""
    closing = asyncio.create_task(client.close(), name="nats.close")
    await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)


def _login(credentials: Path | None) -> dict[str, Any]:
    if credentials is None:
        return {}
    text = credentials.read_text(encoding="utf-8")
    if "-----BEGIN NATS" in text:
        return {"user_credentials": str(credentials)}
    if ":" not in text:
        return {"nkeys_seed": str(credentials)}
    user, _, password = text.strip().partition(":")
    return {"user": user, "password": password}
