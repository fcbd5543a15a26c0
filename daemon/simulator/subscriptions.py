"""What one client has subscribed to: market-data lines, bar streams, account and position updates.

Data only; `lines` and `bars` send what a subscription is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from daemon.simulator.contracts import Contract
from daemon.simulator.history import Query

DELAYED_TICKS: dict[int, int] = {
    1: 66, 2: 67, 4: 68, 0: 69, 3: 70, 5: 71, 6: 72, 7: 73, 8: 74, 9: 75, 14: 76, 45: 88, 49: 90, 13: 83,
}  # fmt: skip
"""A live tick type and the one that delayed data comes in."""


class Client(Protocol):
    """The connection that a subscription's messages go to."""

    version: int

    @property
    def subscriptions(self) -> Subscriptions: ...

    def write(self, data: bytes) -> None: ...

    def error(self, req_id: int, code: int, **parts: object) -> None: ...


@dataclass(slots=True, eq=False)
class Line:
    """One market-data or tick-by-tick subscription of one client. `kind` is its market data type, 1 to 4; `bid`, `ask`
    and, for `day` (UTC), `high` and `low` are those the client has, in steps of the contract's tick (0: none yet)."""

    session: Client
    reqId: int
    contract: Contract
    kind: int = 1
    generic: frozenset[int] = frozenset()
    by_tick: Literal["", "Last", "AllLast", "BidAsk", "MidPoint"] = ""
    left: float = 0.0
    turn: int = 0
    day: int = 0
    high: int = 0
    low: int = 0
    bid: int = 0
    ask: int = 0

    def tick(self, kind: int) -> int:
        """The tick type this line gets in place of the live one."""
        return DELAYED_TICKS.get(kind, kind) if self.kind >= 3 else kind


@dataclass(slots=True, eq=False)
class BarStream:
    """Bars that go on: real-time bars, or a history that is kept up to date. `begin` is the start of the open bar."""

    reqId: int
    query: Query
    format_date: int
    real_time: bool
    begin: float
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Depth:
    """A book that a client follows: so many `rows` on each side; `smart` names each row's exchange."""

    reqId: int
    contract: Contract
    rows: int
    smart: bool


@dataclass(slots=True)
class Subscriptions:
    """The subscriptions of one client, by request id where there is one."""

    positions: bool = False
    account: str = ""
    positions_multi: dict[int, tuple[str, str]] = field(default_factory=dict)
    account_multi: dict[int, tuple[str, str]] = field(default_factory=dict)
    summaries: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    pnl: dict[int, str] = field(default_factory=dict)
    pnl_single: dict[int, tuple[str, int]] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)
    bars: dict[int, BarStream] = field(default_factory=dict)
    depths: dict[int, Depth] = field(default_factory=dict)
    histories: set[int] = field(default_factory=set)
    market_data_type: int = 1
