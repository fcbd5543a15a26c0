"""The link row: what is known of the link, in the words and shape the outside sees. Pure; decides nothing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from daemon.link.states import Facts, Link, Live
from shared import reasons
from shared.messages import DaemonFacts, Endpoint, Expected, Farm, GatewayFacts, Pacing, Proof, Streams
from shared.messages import Link as LinkRow

PRODUCTS: dict[int, Literal["TWS", "Gateway"]] = {7496: "TWS", 7497: "TWS", 4001: "Gateway", 4002: "Gateway"}

SENTENCES = {
    "ready": "Connected to IBKR.",
    "unproven": "TWS has sent nothing for too long to be sure of the connection; it is being probed.",
    "connecting": "Connecting to {host}:{port}.",
    "syncing": "Connected to {host}:{port}; accounts, positions and orders are being read.",
}
"""The sentence of a phase where there is no reason to name; `unproven` is a `ready` whose proof is too old."""


class Around(Struct, frozen=True, kw_only=True):
    """What the row holds beside the machine's link. `last_message`: monotonic; `rtt`: s of the last probe."""

    epoch: str
    daemon: DaemonFacts
    expected: Expected
    last_message: float | None
    rtt: float | None
    proofLimit: float
    streams: Streams
    pacing: Pacing
    hints: tuple[str, ...] = ()


def row(link: Link, around: Around, monotonic: float, wall: datetime) -> LinkRow:
    """The row of topic `link` at this moment."""
    facts = link.state.facts if isinstance(link.state, Live) else Facts()
    connection = link.connection
    sentence, advice = words(link)
    age = None if around.last_message is None else max(0.0, monotonic - around.last_message)
    proven = age is not None and age < around.proofLimit
    if link.phase == "ready" and not proven:
        sentence = SENTENCES["unproven"]
    until = link.next_attempt
    return LinkRow(
        phase=link.phase,
        reason=link.reason,
        sentence=sentence,
        advice=(*around.hints, *advice),
        since=link.since,
        epoch=around.epoch,
        session=link.opened,
        connected=link.phase == "ready" and proven,
        proof=Proof(
            at=None if age is None else milliseconds(wall - timedelta(seconds=age)),
            ageMs=None if age is None else round(age * 1000),
            rttMs=None if around.rtt is None else round(around.rtt * 1000, 3),
        ),
        gateway=gateway(link),
        accounts=connection.accounts if connection is not None else (),
        readOnly=facts.readOnly,
        upstream=link.upstream,
        farms=link.farms,
        attempts=connection.attempts if connection is not None else 0,
        nextAttemptAt=None if until is None else milliseconds(wall + timedelta(seconds=until - monotonic)),
        expected=around.expected,
        lastError=link.lastError,
        streams=around.streams,
        pacing=around.pacing,
        daemon=around.daemon,
    )


def words(link: Link) -> tuple[str, tuple[str, ...]]:
    """Sentence and advice: those of the reason, or the phase's own."""
    target = link.target
    if link.reason is None or link.phase == "ready":
        return SENTENCES[link.phase].format(host=target.host, port=target.port), ()
    connection = link.connection
    wanted = target.account or ", ".join(connection.accounts if connection is not None else ())
    found = ", ".join(connection.found if connection is not None else ())
    facts = {"host": target.host, "port": target.port, "clientId": target.clientId}
    known = {name: text for name, text in {"wanted": wanted, "found": found}.items() if text}
    return reasons.describe(link.reason, **facts, **known)


def gateway(link: Link) -> GatewayFacts:
    target, configured = link.target, link.policy.configured
    version = link.state.facts.serverVersion if isinstance(link.state, Live) else None
    return GatewayFacts(
        host=target.host,
        port=target.port,
        clientId=target.clientId,
        serverVersion=version,
        product=PRODUCTS.get(target.port),
        configured=Endpoint(host=configured.host, port=configured.port),
    )


def farms(link: Link, before: dict[str, Struct], wall: datetime) -> dict[str, Farm | None]:
    """The rows of topic `farms` that change: `since` is that of the state, and no farm outlives its session."""
    known = link.farms
    changes: dict[str, Farm | None] = dict.fromkeys(before.keys() - known.keys())
    for name, farm in known.items():
        old = before.get(name)
        if not (isinstance(old, Farm) and (old.state, old.type) == (farm.state, farm.type)):
            changes[name] = Farm(farm=name, type=farm.type, state=farm.state, since=wall)
    return changes


def milliseconds(moment: datetime) -> datetime:
    """More digits than anybody reads are noise in a row."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
