"""The alerts of one daemon: steps the rules as time passes, stores what is due, and delivers it to each sink by itself.

A sink that does not answer delays only its own alerts. Alerts are kept in memory and in the ledger at once: a disk in
trouble does not stop them, a kill does not lose them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import asdict, replace

from daemon.alerts import rules
from daemon.state.outbox import Outbox
from shared.alerts.messages import AlertData, Kind, body
from shared.alerts.queue import TICK, Queue, Send, Stored
from shared.alerts.sinks import Sink
from shared.clock import Clock
from shared.messages import Fill, Gap, Link

log = structlog.get_logger("daemon.alerts")

WORTH_SAVING: Final = 60.0
"""s between saved states of an incident under way."""


class Rows(Protocol):
    """The store, as far as it is used here."""

    def row(self, topic: str, key: str) -> Struct | None: ...

    def rows(self, topic: str) -> Mapping[str, Struct]: ...


class Saved(Struct, frozen=True, kw_only=True):
    """The state of the rules in the ledger. `enabled`: when alerts were first on; fills before that are no news."""

    state: rules.State
    at: datetime
    enabled: datetime


class Alerts:
    """`on`: the kinds of alerts that are sent. `after`: s that a state must last. `name`: a new id."""

    def __init__(
        self,
        *,
        sinks: Sequence[Sink],
        on: Iterable[str],
        after: float,
        session: str,
        store: Rows,
        outbox: Outbox,
        send: Send,
        clock: Clock,
        name: Callable[[], str],
    ) -> None:
        self._on = frozenset(on)
        self._after = after
        self._session = session
        self._store = store
        self._outbox = outbox
        self._send = send
        self._clock = clock
        self._name = name
        self._queues = [Queue(sink, outbox.settle, send, clock) for sink in sinks]
        self._state = rules.State()
        self._enabled = clock.now()
        self._stepped = clock.monotonic()
        self._saved = self._stepped
        self._gaps: set[str] = set()
        self._fills: set[str] = set()  # execIds that were looked at

    def health(self) -> list[dict[str, Any]]:
        return [asdict(queue.health()) for queue in self._queues]

    def incidents(self) -> list[dict[str, Any]]:
        """The reported incident under way, if there is one. `reported`: the alerts about it so far."""
        incident, condition = self._state.incident, self._state.condition
        if incident is None or condition is None or not incident.reported:
            return []
        return [
            {
                "id": incident.id,
                "since": incident.since,
                "reported": list(incident.reported),
                "reason": condition.reason,
                "sentence": condition.sentence,
            }
        ]

    async def run(self) -> None:
        """Runs until cancelled."""
        if not self._queues:
            return
        await self._load()
        async with asyncio.TaskGroup() as tasks:
            for queue in self._queues:
                tasks.create_task(queue.run(), name=f"alerts to {queue.sink.label}")
            while True:
                await self.step()
                await self._clock.sleep(TICK)

    async def test(self) -> list[dict[str, Any]]:
        """One alert to each sink, tried once; what became of it."""
        now = self._clock.now()
        data = AlertData(incident=self._name(), state="resolved", session=self._session, sentence="This is a test.")
        encoded, message = body("test", now, data), f"msg_{data.incident}"
        sinks = [queue.sink for queue in self._queues]
        outcomes = await asyncio.gather(*(self._send.send(sink, message, encoded, now) for sink in sinks))
        return [
            {"sink": sink.label, "delivered": each.delivered, "status": each.status, "detail": each.detail}
            for sink, each in zip(sinks, outcomes, strict=True)
        ]

    async def _load(self) -> None:
        try:
            stored, text = await self._outbox.load()
        except (sqlite3.Error, OSError) as error:
            log.warning("alerts.unread", message="Alerts of before the start are not known.", error=str(error))
            return
        queues = {queue.sink.key: queue for queue in self._queues}
        for alert in stored:
            if alert.sink in queues:
                queues[alert.sink].add(alert)
            else:  # the settings no longer name it
                self._outbox.settle(alert)
        if text is None:
            return
        try:
            saved = msgspec.json.decode(text, type=Saved)
        except msgspec.DecodeError:
            return
        away = max(0.0, (self._clock.now() - saved.at).total_seconds())
        incident = saved.state.incident
        if incident is not None:  # how the link was meanwhile is not known: it only lasted longer
            longer = replace(incident, lasted=incident.lasted + away)
            saved = replace(saved, state=replace(saved.state, incident=longer))
        self._state, self._enabled = saved.state, saved.enabled

    async def step(self) -> None:
        """One step of the rules: what is due is stored, then queued."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        row = self._store.row("link", "link")
        elapsed, self._stepped = monotonic - self._stepped, monotonic
        alerts: list[Stored] = []
        before = self._state
        if isinstance(row, Link):
            seen = rules.condition(row)
            self._state, reported = rules.step(
                before, seen, now, elapsed, self._after, self._name(), actions="action" in self._on
            )
            if reported is not None and self._wanted(reported):
                alerts += self._of_incident(reported, row, now)
        alerts += self._of_gaps(now)
        alerts += await self._of_fills(now)
        running = self._state.incident is not None and monotonic - self._saved >= WORTH_SAVING
        changed = (before.incident is None) != (self._state.incident is None)
        if alerts or changed or running:
            self._saved = monotonic
            state = msgspec.json.encode(Saved(state=self._state, at=now, enabled=self._enabled)).decode()
            await self._outbox.put(alerts, state, now.timestamp())
        queues = {queue.sink.key: queue for queue in self._queues}
        for alert in alerts:
            queues[alert.sink].add(alert)

    def _wanted(self, reported: rules.Reported) -> bool:
        """The end of an incident is reported where its beginning was."""
        begun = reported.kind != "recovered" or bool(self._on.intersection(reported.incident.reported))
        return begun and reported.kind in self._on

    # --- what is reported -------------------------------------------------------------------------------------------

    def _of_incident(self, reported: rules.Reported, row: Link, now: datetime) -> list[Stored]:
        incident, condition = reported.incident, reported.condition
        over = reported.kind == "recovered"
        data = AlertData(
            incident=incident.id,
            state="resolved" if over else "firing",
            session=self._session,
            phase=condition.phase,
            reason=condition.reason,
            sentence="Connected again." if over and condition.phase == "ready" else condition.sentence,
            advice=condition.advice,
            since=incident.since,
            durationS=round(incident.overAfter or 0.0, 1) if over else None,
            account=", ".join(row.accounts) or None,
            details=self._recovered_since(incident.since) if over else {},
        )
        return self._stored(reported.kind, f"msg_{incident.id}-{reported.kind}", data, now)

    def _recovered_since(self, since: datetime) -> dict[str, Any]:
        """The fills that gaps name, and how many there were: of very many a gap names only the first."""
        gaps = [gap for gap in self._store.rows("gaps").values() if isinstance(gap, Gap) and gap.to >= since]
        return {
            "recovered": [fill for gap in gaps for fill in gap.recovered.fills],
            "fillCount": sum(gap.recovered.fillCount for gap in gaps),
        }

    def _of_gaps(self, now: datetime) -> list[Stored]:
        rows = self._store.rows("gaps")
        new = {key: row for key, row in rows.items() if key not in self._gaps and isinstance(row, Gap)}
        self._gaps = set(rows)
        if "gap" not in self._on:
            return []
        alerts: list[Stored] = []
        for key, gap in new.items():
            data = AlertData(
                incident=key,
                state="resolved",
                session=self._session,
                reason=gap.cause,
                sentence="The link was interrupted.",
                since=gap.from_,
                durationS=round((gap.to - gap.from_).total_seconds(), 1),
                details={
                    "expected": gap.expected,
                    "recovered": list(gap.recovered.fills),
                    "fillCount": gap.recovered.fillCount,
                    "unrecovered": list(gap.unrecovered),
                },
            )
            alerts += self._stored("gap", f"msg_gap-{key}", data, now)
        return alerts

    async def _of_fills(self, now: datetime) -> list[Stored]:
        if "fill" not in self._on:
            return []
        rows = self._store.rows("fills")
        if len(rows) == len(self._fills) and rows.keys() <= self._fills:
            return []
        new = {f"msg_fill-{name}": row for name, row in rows.items() if name not in self._fills}
        found = {
            name: row
            for name, row in new.items()
            if isinstance(row, Fill) and row.recovered and row.time >= self._enabled
        }
        if found:
            try:
                known = await self._outbox.known(list(found))
            except (sqlite3.Error, OSError):
                return []  # tried again at the next step
            found = {name: row for name, row in found.items() if name not in known}
        self._fills = set(rows)
        alerts: list[Stored] = []
        for name, fill in found.items():
            data = AlertData(
                incident=name.removeprefix("msg_"),
                state="resolved",
                session=self._session,
                sentence=f"Learnt after a gap: {fill.side} {fill.shares:.12g} {fill.symbol} at {fill.price:.12g}.",
                since=fill.time,
                account=fill.account,
                details={
                    name: getattr(fill, name)
                    for name in ("execId", "time", "symbol", "localSymbol", "side", "shares", "price", "permId")
                },
            )
            alerts += self._stored("fill", name, data, now)
        return alerts

    def _stored(self, kind: Kind, message: str, data: AlertData, now: datetime) -> list[Stored]:
        encoded = body(kind, now, data)
        return [Stored(message, queue.sink.key, encoded, now.timestamp()) for queue in self._queues]
