"""Outbox and deliveries of one daemon: a real ledger, a clock in the test's hands, sinks that behave as wanted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.alerts.watch import Alerts
from daemon.state.ledger import Ledger
from daemon.state.outbox import Outbox
from daemon.state.store import Store
from shared.alerts.delivery import Outcome
from shared.alerts.queue import EXPIRES, PENDING
from shared.alerts.sinks import Sink, read_sinks
from shared.messages import Fill, Gap, Link, Recovered
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import START
from tests.waiting import until

OK, BAD, GONE = Outcome(True, 200), Outcome(False, 500, "HTTP status 500"), Outcome(False, 410, "HTTP status 410")
GOOD_SINK, OTHER_SINK = read_sinks("https://good.example.com/x, https://other.example.com/y")


class FakeSend:
    """Answers with each sink's `outcomes`; `None` never answers."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome | None] = {}
        self.sent: list[tuple[str, str, bytes, datetime]] = []

    async def send(self, sink: Sink, message_id: str, body: bytes, now: datetime) -> Outcome:
        self.sent.append((sink.key, message_id, body, now))
        outcome = self.outcomes.get(sink.key, OK)
        if outcome is None:
            await asyncio.Event().wait()
        assert outcome is not None
        return outcome

    def ids(self, sink: Sink = GOOD_SINK) -> list[str]:
        return [message for key, message, *_ in self.sent if key == sink.key]


class Desk:
    """`begin` starts what a daemon's start does, `kill` ends it as a kill does."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.clock = HandClock(START)
        self.store = Store("e1", self.clock)
        self.send = FakeSend()
        self.options: dict[str, Any] = {"sinks": (GOOD_SINK,), "on": ("down", "action", "recovered"), **options}
        self.names = (f"n{number}" for number in itertools.count())
        self.alerts: Alerts
        self.ledger: Ledger
        self.task: asyncio.Task[None]

    async def begin(self) -> None:
        self.ledger = await Ledger.open(self.directory, self.clock)
        self.alerts = Alerts(
            **self.options,
            after=60.0,
            session="default",
            store=self.store,
            outbox=Outbox(self.ledger),
            send=self.send,
            clock=self.clock,
            name=lambda: next(self.names),
        )
        self.task = asyncio.create_task(self.alerts.run(), name="alerts")
        await self.flush()

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.ledger.close()

    async def flush(self) -> None:
        """Until the ledger has written and read all that was requested, and no task is ready."""
        for _ in range(4):
            await self.ledger.read(lambda _db: None)
            await settled()

    def link(self, phase: Any, reason: str | None = None) -> None:
        row = Link(phase=phase, reason=reason, sentence=f"It is {phase}.", accounts=("DU1234567",))
        self.store.put({"link": {"link": row}})

    async def pass_(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            await self.clock.pass_(1.0)
            await self.flush()

    async def outage(self) -> None:
        """One that is due for an alert."""
        self.link("waiting", "portClosed")
        await self.pass_(62)

    @property
    def health(self) -> dict[str, Any]:
        return self.alerts.health()[0]

    def data(self, index: int = -1) -> dict[str, Any]:
        return dict(msgspec.json.decode(self.send.sent[index][2])["data"])


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.begin()
    yield made
    await made.kill()


async def test_an_outage_and_its_end_are_sent_once(desk: Desk) -> None:
    await desk.outage()
    assert desk.data() | {"advice": []} == {
        "incident": "n0",
        "state": "firing",
        "session": "default",
        "phase": "waiting",
        "reason": "portClosed",
        "sentence": "It is waiting.",
        "advice": [],
        "since": (START + timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
        "durationS": None,
        "account": "DU…67",
        "details": {},
    }
    desk.link("ready")
    for name, count in (("a.01", 1), ("b.01", 700)):  # of many fills a gap names the first
        recovered = Recovered(fills=(name,), fillCount=count)
        desk.store.gap(Gap(cause="portClosed", from_=START, to=desk.clock.now(), recovered=recovered))
    await desk.pass_(100)

    assert desk.send.ids() == ["msg_n0-down", "msg_n0-recovered"]
    assert desk.data()["state"] == "resolved"
    assert desk.data()["details"] == {"recovered": ["a.01", "b.01"], "fillCount": 701}
    assert 60 <= desk.data()["durationS"] <= 64
    assert (desk.health["delivered"], desk.health["pending"]) == (2, 0)


async def test_a_sink_that_fails_is_tried_again_with_growing_waits_and_the_same_message(desk: Desk) -> None:
    desk.send.outcomes[GOOD_SINK.key] = BAD
    await desk.outage()
    await desk.pass_(5 + 10 + 20 + 40 + 5)
    times = [(now - START).total_seconds() for *_, now in desk.send.sent]
    waits = [round(later - earlier) for earlier, later in itertools.pairwise(times)]

    assert waits == [5, 10, 20, 40]
    assert len({(message, body) for _, message, body, _ in desk.send.sent}) == 1
    assert (desk.health["failed"], desk.health["pending"], desk.health["lastError"]) == (5, 1, "HTTP status 500")
    desk.send.outcomes.clear()
    await desk.pass_(80)
    assert (desk.health["delivered"], desk.health["pending"], desk.health["lastError"]) == (1, 0, "")


async def test_a_sink_that_comes_back_gets_what_waits_at_once_in_order(desk: Desk) -> None:
    desk.send.outcomes[GOOD_SINK.key] = BAD
    await desk.outage()
    await desk.pass_(100)
    desk.link("ready")
    await desk.pass_(59)
    desk.send.outcomes.clear()
    desk.send.sent.clear()
    await desk.pass_(10)

    assert desk.send.ids() == ["msg_n0-down", "msg_n0-recovered"]


async def test_an_end_never_arrives_before_its_beginning(desk: Desk) -> None:
    desk.send.outcomes[GOOD_SINK.key] = BAD
    await desk.outage()
    await desk.pass_(400)
    desk.link("ready")
    await desk.pass_(70)
    desk.send.outcomes.clear()
    desk.send.sent.clear()
    await desk.pass_(30)

    assert desk.send.ids() == ["msg_n0-down", "msg_n0-recovered"]


async def test_a_sink_that_hangs_delays_no_other(tmp_path: Path) -> None:
    desk = Desk(tmp_path, sinks=(OTHER_SINK, GOOD_SINK))
    desk.send.outcomes[OTHER_SINK.key] = None
    await desk.begin()
    await desk.outage()

    assert (desk.send.ids(OTHER_SINK), desk.send.ids()) == (["msg_n0-down"], ["msg_n0-down"])
    assert [each["delivered"] for each in desk.alerts.health()] == [0, 1]
    await desk.kill()


async def test_410_ends_a_sink_and_drops_what_waits_for_it(desk: Desk) -> None:
    desk.send.outcomes[GOOD_SINK.key] = GONE
    await desk.outage()
    desk.link("ready")
    await desk.pass_(80)

    assert desk.send.ids() == ["msg_n0-down"]
    assert (desk.health["ended"], desk.health["pending"]) == (True, 0)


async def test_a_kill_between_commit_and_delivery_loses_nothing(desk: Desk) -> None:
    """Sent again by the next daemon, under the same id with the same body; the incident goes on."""
    desk.send.outcomes[GOOD_SINK.key] = None
    await desk.outage()
    first = desk.send.sent[0]
    await desk.kill()
    desk.send.outcomes.clear()
    await desk.begin()
    await desk.pass_(2)
    assert desk.send.sent[1][:3] == first[:3]

    await desk.pass_(100)
    desk.link("ready")
    await desk.pass_(70)
    assert desk.send.ids() == ["msg_n0-down", "msg_n0-down", "msg_n0-recovered"]
    await desk.kill()
    await desk.begin()
    await desk.pass_(5)
    assert len(desk.send.sent) == 3


async def test_what_no_attempt_delivers_in_a_day_is_given_up(desk: Desk) -> None:
    desk.send.outcomes[GOOD_SINK.key] = BAD
    await desk.outage()
    desk.clock.jump(EXPIRES)
    await desk.pass_(2)
    assert (desk.health["pending"], desk.health["givenUp"], len(desk.send.sent)) == (0, 1, 1)

    await desk.kill()
    await desk.begin()
    await desk.pass_(2)
    assert len(desk.send.sent) == 1


async def test_the_alerts_that_wait_are_bounded(tmp_path: Path) -> None:
    desk = Desk(tmp_path, on=("gap",))
    desk.send.outcomes[GOOD_SINK.key] = BAD
    await desk.begin()
    desk.link("ready")
    for burst in range(PENDING // 100 + 1):
        for second in range(100):
            moment = START + timedelta(seconds=burst * 100 + second)
            desk.store.gap(Gap(cause="socketLost", from_=moment, to=moment))
        await desk.pass_(1)

    assert (desk.health["pending"], desk.health["givenUp"]) == (PENDING, 100)
    await desk.kill()


async def test_gaps_and_recovered_fills_are_sent_where_wanted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, on=("gap", "fill"))
    await desk.begin()
    desk.link("ready")
    await desk.pass_(1)
    facts = {
        "account": "DU1234567",
        "side": "BOT",
        "shares": 1.0,
        "price": 2.0,
        "permId": 1,
        "orderId": 1,
        "clientId": 1,
    }
    now = desk.clock.now()
    fills = [
        Fill(execId="new.01", time=now, recovered=True, symbol="BTC", **{**facts, "shares": 1e6, "price": 123456.75}),
        Fill(execId="live.01", time=now, **facts),
        Fill(execId="old.01", time=START - timedelta(hours=1), recovered=True, **facts),
    ]
    desk.store.put({"fills": {fill.execId: fill for fill in fills}})
    recovered = Recovered(fills=("new.01",), fillCount=501)
    desk.store.gap(Gap(cause="socketLost", from_=START, to=now, recovered=recovered))
    await desk.pass_(2)
    assert [message.partition("-")[0] for message in desk.send.ids()] == ["msg_gap", "msg_fill"]
    assert (desk.data(0)["details"]["recovered"], desk.data(0)["details"]["fillCount"]) == (["new.01"], 501)
    assert desk.data()["details"]["execId"] == "new.01"
    assert desk.data()["sentence"].endswith("BOT 1000000 BTC at 123456.75.")
    assert (desk.data()["account"], desk.data(0)["durationS"]) == ("DU…67", 1.0)

    await desk.kill()
    await desk.begin()
    await desk.pass_(2)
    assert [message for message in desk.send.ids() if "fill" in message] == ["msg_fill-new.01"]
    await desk.kill()


@pytest.mark.parametrize("phase", ["blocked", "waiting"])
async def test_who_wants_only_outages_gets_those_that_need_a_person_too(tmp_path: Path, phase: str) -> None:
    desk = Desk(tmp_path, on=("down", "recovered"))
    await desk.begin()
    desk.link(phase, "competingSession")
    await desk.pass_(70)
    desk.link("ready")
    await desk.pass_(70)

    assert desk.send.ids() == ["msg_n0-down", "msg_n0-recovered"]
    await desk.kill()


async def test_a_ledger_in_trouble_stops_no_alert(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "missing")
    desk.ledger = await Ledger.open(tmp_path, desk.clock)

    async def flush() -> None:
        await settled()

    await desk.ledger.close()
    desk.flush = flush  # type: ignore[method-assign]
    await desk.begin()
    desk.link("waiting", "portClosed")
    for _ in range(65):
        await desk.clock.pass_(1.0)

    await until(lambda: desk.send.ids() == ["msg_n0-down"])  # the disk's error comes from its thread
    await desk.kill()


async def test_a_test_goes_to_each_sink_once_with_its_outcome(tmp_path: Path) -> None:
    desk = Desk(tmp_path, sinks=(GOOD_SINK, OTHER_SINK))
    desk.send.outcomes[OTHER_SINK.key] = BAD
    await desk.begin()

    assert await desk.alerts.test() == [
        {"sink": "https://good.example.com", "delivered": True, "status": 200, "detail": ""},
        {"sink": "https://other.example.com", "delivered": False, "status": 500, "detail": "HTTP status 500"},
    ]
    assert {msgspec.json.decode(body)["type"] for _, _, body, _ in desk.send.sent} == {"ibkr.link.test"}
    await desk.kill()
