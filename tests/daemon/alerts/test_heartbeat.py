"""The dead man's switch."""

from __future__ import annotations

from typing import Any

from daemon.alerts.heartbeat import Heartbeat
from daemon.state.store import Store
from shared.alerts.delivery import Outcome, Sender
from shared.alerts.sinks import Sink, read_sinks
from shared.messages import Link
from tests.clock import HandClock, settled
from tests.daemon.alerts.receiver import receiving
from tests.daemon.market.fakes import Tasks

OK, BAD = Outcome(True, 200), Outcome(False, 500, "HTTP status 500")


class FakePing:
    def __init__(self) -> None:
        self.outcome = OK
        self.count = 0

    async def ping(self, sink: Sink) -> Outcome:
        self.count += 1
        return self.outcome


async def test_it_beats_each_minute_while_the_link_is_ready_and_only_then() -> None:
    clock, ping, tasks = HandClock(), FakePing(), Tasks()
    store = Store("e1", clock)
    heartbeat = Heartbeat(read_sinks("https://example.com/secret")[0], store, ping, clock)
    tasks(heartbeat.run(), "heartbeat")

    async def be(phase: Any, minutes: int) -> int:
        store.put({"link": {"link": Link(phase=phase, reason=None, sentence="", connected=phase == "ready")}})
        before = ping.count
        for _ in range(minutes):
            await clock.pass_(60.0)
        await settled()
        return ping.count - before

    assert await be("connecting", 3) == 0
    assert await be("ready", 5) == 5
    assert await be("waiting", 5) == 0
    ping.outcome = BAD
    assert await be("ready", 2) == 2
    health = heartbeat.health()
    assert (health["sent"], health["failed"], health["lastError"]) == (5, 2, "HTTP status 500")
    assert "secret" not in str(health)
    ping.outcome = OK
    assert await be("ready", 1) == 1
    assert heartbeat.health()["lastError"] == ""
    await tasks.end()


async def test_a_beat_is_one_get_and_a_redirect_is_not_followed() -> None:
    async with receiving() as receiver:
        sink = read_sinks(receiver.url)[0]
        assert (await Sender(b"").ping(sink)).delivered
        receiver.status = 302
        assert (await Sender(b"").ping(sink)).detail == "HTTP status 302"

    assert [body for *_, body in receiver.received] == [b"", b""]
