"""What a message costs that cannot be decoded: exactly what it carried. Counted, and one log line a kind a minute.

An answer to a request fails that request. A row of a list, whether the list is being read or is current, makes the list
stale until it is read again. A tick is lost. The session goes on: only a stream out of step ends it (`receive.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import structlog

from daemon.state.sink import Sink
from daemon.tws.bars import Bars
from daemon.tws.book import OUR_NOTICE
from daemon.tws.errors import TwsUnreadable
from daemon.tws.pending import PendingRequests
from daemon.tws.snapshot import Snapshots
from shared.clock import Clock
from shared.messages import Notice

log = structlog.get_logger("daemon.tws")

REPEATS: Final = 60.0
"""s in which a kind that was logged is only counted."""

NOTICES: Final = 20
"""Unknown time zones of which there is a notice in one session."""

LISTS: Final = {
    "updateAccountValue": "summary", "accountUpdateMulti": "summary", "accountSummary": "summary", "pnl": "pnl",
    "position": "positions", "positionMulti": "positions",
    "openOrder": "orders", "orderStatus": "orders", "completedOrder": "orders",
    "execDetails": "fills", "commissionReport": "fills",
}  # fmt: skip
"""Message → the topic of which it carries a row."""

ANSWERS: Final = {
    "contractDetails": 1, "bondContractDetails": 1, "contractDetailsEnd": 2, "symbolSamples": 1, "historicalData": 1,
    "securityDefinitionOptionParameter": 1, "securityDefinitionOptionParameterEnd": 1,
}  # fmt: skip
"""Message → where its request id stands."""

VERSIONED: Final = frozenset({"contractDetails", "bondContractDetails"})
"""Until server version 163 their request id stands one place further on."""


class DecodeErrors:
    """One session's. `counts`: how many of each kind."""

    def __init__(
        self,
        store: Sink,
        clock: Clock,
        snapshots: Snapshots,
        pending: PendingRequests,
        bars: Bars,
        accounts_lost: Callable[[], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.server_version = 0
        self._store = store
        self._clock = clock
        self._snapshots = snapshots
        self._pending = pending
        self._bars = bars
        self._accounts_lost = accounts_lost
        self._logged: dict[str, float] = {}
        self._noticed: set[str] = set()

    def __call__(self, kind: str, fields: list[str], field: str, what: str) -> None:
        """`kind`: the message's name, or the field's where nothing else was lost. `what` is wrong with `field`."""
        self.counts[kind] += 1
        now = self._clock.monotonic()
        if now - self._logged.get(kind, -REPEATS) >= REPEATS:
            self._logged[kind] = now
            log.warning(
                "tws.undecodable",
                message="Part of a message from the gateway could not be read; what it carried is unknown.",
                kind=kind,
                field=field,
                text=what[:200],
                count=self.counts[kind],
            )
        if kind == "timezone" and what not in self._noticed and len(self._noticed) < NOTICES:
            self._noticed.add(what)
            text = f"{what}: times in it are read as local ones"
            self._store.notice(Notice(at=self._clock.now(), code=OUR_NOTICE, text=text))
        if (topic := LISTS.get(kind)) is not None:
            self._snapshots.drop(topic, TwsUnreadable(kind, field))
            self._store.stale([topic])
        elif (at := ANSWERS.get(kind)) is not None:
            self._fail(fields, at + (kind in VERSIONED and self.server_version < 164), TwsUnreadable(kind, field))
        elif kind == "managedAccounts":
            self._accounts_lost()

    def _fail(self, fields: list[str], at: int, error: TwsUnreadable) -> None:
        try:
            request = int(fields[at])
        except (IndexError, ValueError):
            return  # it names no request
        self._pending.fail(request, error)
        self._bars.fail(request, error)
