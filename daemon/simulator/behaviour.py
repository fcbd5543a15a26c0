"""How the gateway misbehaves just now: plain data that `Verbs` sets and the rest of the package reads.

Decides nothing and sends nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Final, Literal

from daemon.simulator.alterations import Alteration
from daemon.simulator.requests import NAMES

Handshake = Literal[
    "normal",
    "silent",
    "silentAfterVersion",
    "close",
    "closeInVersion",
    "closeAfterVersion",
    "reset",
    "http",
    "tls",
    "garbage",
    "hugeFrame",
]
Answers = Literal["hang", "empty", "cached"]
OddBars = Literal["", "unknown", "noYear", "emptyUpdate"]
"""Bars as some gateways send them: the last one with `?` for its prices, dates without a year, empty
updates."""

LOCAL: Final = frozenset(
    [
        "startApi",
        "reqCurrentTime",
        "reqIds",
        "reqManagedAccts",
        "reqMarketDataType",
        "setServerLogLevel",
        "reqAutoOpenOrders",
        "reqNewsBulletins",
        "cancelNewsBulletins",
        "cancelMktData",
        "cancelMktDepth",
        "cancelHistoricalData",
        "cancelRealTimeBars",
        "cancelAccountSummary",
        "cancelPositions",
        "cancelPositionsMulti",
        "cancelAccountUpdatesMulti",
        "cancelPnL",
        "cancelPnLSingle",
        "cancelTickByTickData",
        "cancelHeadTimeStamp",
        "cancelHistogramData",
    ]
)
"""What the gateway answers by itself, with or without IBKR."""

CACHED: Final = frozenset(
    [
        "reqPositions",
        "reqPositionsMulti",
        "reqOpenOrders",
        "reqAllOpenOrders",
        "reqAccountUpdates",
        "reqAccountUpdatesMulti",
        "reqAccountSummary",
        "reqPnL",
        "reqPnLSingle",
        "reqExecutions",
        "reqCompletedOrders",
    ]
)
"""What the gateway can answer from its cache while IBKR is out of reach."""

HISTORICAL: Final = frozenset(("reqHistoricalData", "reqHeadTimeStamp", "reqHistoricalTicks"))
"""What the historical data service answers, with 162 where it cannot."""

ORDERS: Final = frozenset(
    [
        "placeOrder",
        "cancelOrder",
        "reqGlobalCancel",
        "reqOpenOrders",
        "reqCompletedOrders",
        "reqAutoOpenOrders",
        "exerciseOptions",
    ]
)
"""What a read-only API turns down with 321 (the two reading ones too: the real one does)."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What a request gets while IBKR is out of reach: an error code with its cause, or with code 0 nothing at all."""

    code: int = 0
    cause: str = ""


@dataclass(slots=True)
class Upstream:
    """The gateway's lost link to IBKR: its code, and what requests get meanwhile."""

    code: int = 1100
    answers: Answers = "hang"
    per_request: bool = False

    def answer(self, name: str, req_id: int) -> Outage | None:
        """What becomes of a request of this name and id; None: it is answered as usual."""
        if name in LOCAL:
            return None
        if self.per_request and req_id >= 0:
            return Outage(self.code)
        if name in CACHED:
            return Outage() if self.answers == "hang" else None
        if self.answers != "empty" or req_id < 0:
            return Outage()
        if name in HISTORICAL:
            return Outage(162, "HMDS server disconnect occurred.  Attempting reconnection...")
        return Outage(200)


@dataclass(slots=True)
class Cut:
    """A connection that ends in the middle of an answer."""

    after: int
    reset: bool
    times: int


@dataclass(slots=True)
class Behaviour:
    """Everything that is not as it should be. A fresh one is a healthy gateway."""

    handshake: Handshake = "normal"
    version: int | None = None
    version_after: float = 0.0
    accounts: Literal["normal", "missing", "empty"] = "normal"
    next_id: bool = True
    id_taken_until: float = 0.0
    ghost_s: float = 0.0
    frozen: bool = False
    drip: float = 0.0
    delays: dict[str, float] = field(default_factory=dict)
    muted: set[str] = field(default_factory=set)
    endless: set[str] = field(default_factory=set)
    cuts: dict[str, Cut] = field(default_factory=dict)
    read_only: bool = False
    upstream: Upstream | None = None
    competing: bool = False
    quiet: bool = False
    entitlements: dict[int, int] = field(default_factory=dict)
    any_entitlement: int = 0
    invalid_bars: dict[int, str] = field(default_factory=dict)
    no_history: set[int] = field(default_factory=set)
    no_prices: set[int] = field(default_factory=set)
    odd_bars: OddBars = ""
    alterations: list[Alteration] = field(default_factory=list)
    refused_accounts: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    ledger_prefix: bool = False
    pending_commissions: bool = False
    silent_orders: bool = False
    execution_zone: tuple[str, float] | None = None

    def clear(self) -> None:
        """Take every fault back."""
        healthy = Behaviour()
        for each in fields(self):
            setattr(self, each.name, getattr(healthy, each.name))

    def delay(self, kind: str) -> float:
        return self.delays.get(kind, self.delays.get("", 0.0))

    def entitlement(self, con_id: int) -> int:
        """The market-data code this contract meets; 0 where the user may see it live."""
        return self.entitlements.get(con_id, self.any_entitlement)


def _short(name: str) -> str:
    short = name.removeprefix("req")
    return short[:1].lower() + short[1:]


_KINDS: Final = {name: _short(name) for name in NAMES.values()}
_MEANT: Final = {spelled.lower(): kind for name, kind in _KINDS.items() for spelled in (name, kind)} | {"": ""}


def kind_of(name: str) -> str:
    """A request's short name: `reqPositions` and `POSITIONS` are both `positions`. ValueError: none is meant."""
    kind = _KINDS.get(name) or _MEANT.get(name.lower())
    if kind is None:
        raise ValueError(f"there is no request {name!r}; there are: {' '.join(sorted(set(_KINDS.values())))}")
    return kind


def without_end(frames: Iterable[bytes]) -> Iterator[bytes]:
    """An answer less its last frame, which is its end marker."""
    before: bytes | None = None
    for frame in frames:
        if before is not None:
            yield before
        before = frame


def only_end(frames: Iterable[bytes]) -> Iterator[bytes]:
    """An answer's last frame alone: the list came out empty."""
    yield from deque(frames, maxlen=1)
