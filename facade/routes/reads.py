"""What is answered from the replica: status, link, and the rows of a topic, joined from bytes the daemon encoded once.

Never waits, never asks the daemon, never looks inside a row further than `link`, `sync` and an order's `done`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from facade.http.answer import Answer
from facade.http.table import Asked
from facade.replica.state import unreachable_link
from shared.reasons import CATALOGUE, Problem
from shared.replica import NEVER

if TYPE_CHECKING:
    from facade.app import Facade

STATUS = {
    (connected, available): b'{"connected": %s, "available": %s}'
    % (b"true" if connected else b"false", b"true" if available else b"false")
    for connected in (False, True)
    for available in (False, True)
}
"""The two keys, in this order."""

JOINED = 256
"""Joined answers kept: accounts (60 at most) times topics with an account; each is dropped when its topic changes."""

Accounts = Annotated[str, Meta(max_length=32, description="Account id; needed where the login has several.")]


class StaleQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`allowStale`: answer what was last known, marked stale, where the link is not proven."""

    allowStale: bool = False


class AccountQuery(StaleQuery, frozen=True, forbid_unknown_fields=True):
    account: Accounts = ""


class OrdersQuery(StaleQuery, frozen=True, forbid_unknown_fields=True):
    """`scope`: `open` or `completed`; both by default."""

    scope: Literal["open", "completed", ""] = ""


class Done(Struct):
    done: bool


_done = msgspec.json.Decoder(Done)
_encode = msgspec.json.Encoder().encode


# --- the link -------------------------------------------------------------------------------------------------------


def status(facade: Facade, _asked: Asked) -> Answer:
    """Two truths: a proven session, and a daemon that answers."""
    mirror = facade.mirror
    return Answer(200, STATUS[mirror.state.connected, mirror.state.reachable])


def link(facade: Facade, _asked: Asked) -> Answer:
    """The link row as the daemon wrote it; while it is away, what was last known, marked stale."""
    mirror = facade.mirror
    if not mirror.state.reachable:
        return Answer(200, _encode(unreachable_link(mirror.state.link)))
    row = mirror.state.row("link", "link")
    if row is None or mirror.state.link is None:
        return Answer(200, _encode(unreachable_link(None)))
    if mirror.state.link.connected and not mirror.state.connected:  # its proof has grown too old on the way
        sentence = CATALOGUE["notConnected"].sentence
        row = _encode(msgspec.structs.replace(mirror.state.link, sentence=sentence, connected=False, stale=True))
    return Answer(200, row)


def livez(_facade: Facade, _asked: Asked) -> Answer:
    return Answer(200, b'{"alive": true}')


def readyz(facade: Facade, _asked: Asked) -> Answer:
    require_connected(facade)
    return Answer(200, b'{"ready": true}')


# --- topics ---------------------------------------------------------------------------------------------------------


def accounts(facade: Facade, asked: Asked) -> Answer:
    return topic_answer(facade, asked, "accounts")


def summary(facade: Facade, asked: Asked) -> Answer:
    return topic_answer(facade, asked, "summary", account=asked.query.account, one_account=True)


def pnl(facade: Facade, asked: Asked) -> Answer:
    return topic_answer(facade, asked, "pnl", account=asked.query.account, one_account=True)


def positions(facade: Facade, asked: Asked) -> Answer:
    return topic_answer(facade, asked, "positions", account=asked.query.account, one_account=True)


def orders(facade: Facade, asked: Asked) -> Answer:
    return topic_answer(facade, asked, "orders", scope=asked.query.scope)


def topic_answer(
    facade: Facade, asked: Asked, topic: str, *, account: str = "", one_account: bool = False, scope: str = ""
) -> Answer:
    """The rows of `topic`, of one account or scope where asked for, with what they are worth.

    Raises `Problem`: not connected (unless stale rows are welcome), never told to its end, several accounts, none such.
    """
    mirror = facade.mirror
    replica = mirror.state.replica
    stale = not mirror.state.connected
    if stale and not asked.query.allowStale:
        require_connected(facade)
    known = mirror.state.sync(topic)
    if replica is None or known is None or not known.known:
        raise not_told(facade, topic)
    if one_account:
        account = _account(facade, account)
    stale = stale or known.stale
    state = replica.state(topic)
    tag = b'"%s-%d%s"' % (replica.epoch.encode("ascii"), state.seq, b"-stale" if stale else b"")
    more = b"ETag: " + tag + b"\r\n"
    if matches(asked.request.headers.getall("If-None-Match", ()), tag):
        return Answer(HTTPStatus.NOT_MODIFIED, b"", "", more)
    body = facade.joined.get((topic, account, scope))
    if body is None or body[0] != tag:
        rows = replica.rows(topic)
        chosen = _chosen(rows, account, scope) if account or scope else rows.values()
        if len(facade.joined) >= JOINED:
            facade.joined.clear()
        written = data(b"[" + b",".join(chosen) + b"]", state.asOf, stale, replica.epoch, state.seq, "live")
        body = facade.joined[topic, account, scope] = (tag, written)
    return Answer(200, body[1], more=more)


def data(rows: bytes, as_of: str | None, stale: bool, epoch: str, seq: int, source: str) -> bytes:
    """`{"data": …, "meta": …}` around rows that are already encoded."""
    meta = {"asOf": as_of or None, "stale": stale, "epoch": epoch, "seq": seq, "source": source}
    return b'{"data":' + rows + b',"meta":' + _encode(meta) + b"}"


def _chosen(rows: Mapping[str, bytes], account: str, scope: str) -> list[bytes]:
    if account:  # the rows' keys begin with it
        below = account + ":"
        return [row for key, row in rows.items() if key == account or key.startswith(below)]
    done = scope == "completed"
    return [row for row in rows.values() if _done.decode(row).done is done]


def _account(facade: Facade, named: str) -> str:
    """The account asked for, else the one of the settings, else the only one. Raises `Problem`."""
    mirror = facade.mirror
    known = sorted(mirror.state.replica.rows("accounts")) if mirror.state.replica is not None else []
    if not known and mirror.state.link is not None:
        known = list(mirror.state.link.accounts)
    account = named or facade.settings.account
    if account:
        if named and known and account not in known:
            raise Problem("notFound", "This login has no such account.")
        return account
    if len(known) > 1:
        raise Problem("accountAmbiguous", extra={"accounts": known})
    return known[0] if known else ""


# --- what may be said -----------------------------------------------------------------------------------------------


def require_connected(facade: Facade) -> None:
    """Raises the `Problem` that keeps the link from being proven, where it is not."""
    mirror = facade.mirror
    if mirror.state.connected:
        return
    if not mirror.state.reachable:
        raise Problem("daemonUnreachable")
    link = mirror.state.link
    if link is None or link.connected:  # the row's proof has grown too old, whatever else it says
        raise Problem("notConnected")
    entry = CATALOGUE.get(link.reason or "")
    if link.reason is not None and entry is not None and entry.status == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Problem(link.reason)
    # a reason of another status belongs to the attempt; for who reads, the link is not there
    raise Problem("notConnected", link.sentence)


def not_told(facade: Facade, topic: str) -> Problem:
    """Why `topic` is unknown, which is not empty."""
    if facade.mirror.state.replica is None:
        return Problem("daemonUnreachable")
    return Problem(
        "snapshotIncomplete", f"The gateway has not told the {topic} to their end yet; unknown is not empty."
    )


def matches(given: Iterable[str], tag: bytes) -> bool:
    """Whether `If-None-Match` names `tag`, by the weak comparison it is meant for."""
    want = tag.decode("ascii")
    return any(
        name in ("*", want) for line in given for name in (part.strip().removeprefix("W/") for part in line.split(","))
    )


def newest(facade: Facade, topics: Iterable[str]) -> tuple[int, str]:
    """The step and time of the last change of several topics."""
    return max((facade.mirror.state.topic_state(topic) for topic in topics), default=NEVER)
