"""The alert that a daemon is away, which only the facade can send."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from facade.alerts import DaemonAlerts, SavedFile, run_alone, sender
from shared.alerts.delivery import Outcome
from shared.alerts.sinks import Sink, read_sinks
from shared.settings import Settings, SettingsError
from tests.clock import HandClock, settled
from tests.daemon.alerts.receiver import receiving
from tests.daemon.market.fakes import START, Tasks
from tests.facade.fake_daemon import FakeDaemon
from tests.facade.keeper.test_parent import kept
from tests.waiting import until


class MemoryFile:
    def __init__(self) -> None:
        self.content = b""
        self.failure: OSError | None = None

    async def load(self) -> bytes:
        return self.content

    async def save(self, content: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.content = content


class Desk:
    """One facade after the other that watches a daemon. `delivers`: whether the receiver accepts."""

    def __init__(self) -> None:
        self.clock = HandClock(START)
        self.reachable = True
        self.delivers = True
        self.sent: list[dict[str, Any]] = []
        self.file = MemoryFile()
        self.begun = 0
        self.tasks = Tasks()

    def start(self) -> DaemonAlerts:
        def name() -> str:
            self.begun += 1
            return f"n{self.begun}"

        settings = Settings(alerts=read_sinks("https://example.com/x"), alerts_on=("daemon",))
        alerts = DaemonAlerts("paper", settings, self, lambda: self.reachable, self.clock, self.file, name)
        self.tasks(alerts.run(), "alerts")
        return alerts

    async def restart(self, *, away: int = 0) -> None:
        """As after a kill: what is only in memory is lost."""
        await self.tasks.end()
        self.tasks = Tasks()
        await self.clock.pass_(away)
        self.start()

    async def send(self, sink: Sink, message_id: str, body: bytes, now: datetime) -> Outcome:
        self.sent.append({"id": message_id, "now": now, "body": body, **msgspec.json.decode(body)})
        return Outcome(True, 200) if self.delivers else Outcome(False, 500, "HTTP status 500")

    async def be(self, *, reachable: bool, seconds: int) -> None:
        self.reachable = reachable
        for _ in range(seconds):
            await self.clock.pass_(1.0)
            await settled()

    def states(self) -> list[str]:
        return [alert["data"]["state"] for alert in self.sent]


async def test_a_daemon_that_stays_away_is_reported_once_and_its_return_once() -> None:
    """After a minute, with the catalogue's words; short returns are part of it."""
    desk = Desk()
    desk.start()
    await desk.be(reachable=True, seconds=10)
    await desk.be(reachable=False, seconds=50)
    await desk.be(reachable=True, seconds=120)
    assert desk.sent == []

    await desk.be(reachable=False, seconds=70)
    await desk.be(reachable=True, seconds=20)
    await desk.be(reachable=False, seconds=100)
    await desk.be(reachable=True, seconds=70)
    assert [alert["type"] for alert in desk.sent] == ["ibkr.link.daemon"] * 2
    assert desk.states() == ["firing", "resolved"]
    firing, resolved = (alert["data"] for alert in desk.sent)
    assert firing["incident"] == resolved["incident"]
    assert (firing["reason"], firing["session"], bool(firing["advice"])) == ("daemonUnreachable", "paper", True)
    assert 185 <= resolved["durationS"] <= 192
    await desk.tasks.end()


@pytest.mark.parametrize("at", [10, 59, 65, 130, 155])
async def test_a_facade_restarted_in_the_middle_neither_loses_nor_repeats_the_incident(at: int) -> None:
    """Before it is reported, after, and while it ends: one alert, one end, one id; the time between belongs to it."""
    desk = Desk()
    desk.start()
    away = 5
    for second in range(300):
        if second == at:
            await desk.restart(away=away)
        await desk.be(reachable=second >= 140, seconds=1)
    assert desk.states() == ["firing", "resolved"]
    firing, resolved = (alert["data"] for alert in desk.sent)
    assert firing["incident"] == resolved["incident"] == "n1"
    assert 138 <= resolved["durationS"] <= 146
    await desk.tasks.end()


async def test_an_alert_that_was_not_delivered_is_sent_by_the_next_facade_with_its_id() -> None:
    desk = Desk()
    desk.start()
    desk.delivers = False
    await desk.be(reachable=False, seconds=70)
    await desk.restart()
    desk.delivers = True
    await desk.be(reachable=False, seconds=20)
    assert len(desk.sent) >= 2
    assert len({(alert["id"], alert["body"]) for alert in desk.sent}) == 1

    delivered = len(desk.sent)
    await desk.restart()
    await desk.be(reachable=False, seconds=70)
    assert len(desk.sent) == delivered
    await desk.tasks.end()


async def test_time_without_a_facade_does_not_make_an_absence_long_enough() -> None:
    """At a restart of the machine the facade may start before the daemon."""
    desk = Desk()
    desk.start()
    await desk.be(reachable=False, seconds=5)
    await desk.restart(away=600)
    await desk.be(reachable=False, seconds=30)
    await desk.be(reachable=True, seconds=70)
    assert desk.sent == []
    await desk.tasks.end()


async def test_a_full_disk_delays_no_alert_and_is_one_log_line() -> None:
    desk = Desk()
    desk.file.failure = OSError(errno.ENOSPC, "No space left on device")
    with capture_logs() as lines:
        desk.start()
        await desk.be(reachable=False, seconds=70)
    assert desk.states() == ["firing"]
    assert [line["event"] for line in lines] == ["alerts.unsaved"]

    desk.file.failure = None
    await desk.be(reachable=False, seconds=2)
    await desk.restart()
    await desk.be(reachable=False, seconds=70)
    assert desk.states() == ["firing"]
    await desk.tasks.end()


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 512,
        b'{"at": "2026-01-01T00:00:00Z", "absence": null, "waiting": [["\xff", "a", "", 1]]}',
        b'{"at": "2026-01-01T00:00:00", "absence": null, "waiting": []}',
        b'{"at": "2026-01-01T00:00:00Z", "absence": {"id": "n0", "since": "2026-01-01T00:00:00"}, "waiting": []}',
        b'{"version": 2}',
    ],
)
async def test_a_damaged_file_costs_what_was_in_it_and_no_later_alert(content: bytes) -> None:
    """As after a power cut, or of another version: one log line, and the absence is observed from now on."""
    desk = Desk()
    desk.file.content = content
    with capture_logs() as lines:
        desk.start()
        await desk.be(reachable=False, seconds=70)
    assert desk.states() == ["firing"]
    assert [line["event"] for line in lines] == ["alerts.unread"]
    await desk.tasks.end()


async def test_of_two_facades_of_a_state_directory_one_sends(tmp_path: Path) -> None:
    """The replaced one holds the lock until it ends; then its successor goes on."""
    clock, sent = HandClock(START), list[str]()

    class Watch(DaemonAlerts):
        async def run(self) -> None:
            sent.append(self.session)
            await asyncio.Event().wait()

    def watches(name: str) -> list[DaemonAlerts]:
        return [Watch(name, Settings(), Desk(), lambda: True, clock, MemoryFile())]

    first, second = Tasks(), Tasks()
    first(run_alone(watches("old"), tmp_path, clock), "old")
    await settled()
    second(run_alone(watches("new"), tmp_path, clock), "new")
    await clock.pass_(10.0)
    assert sent == ["old"]
    await first.end()
    await clock.pass_(2.0)
    assert sent == ["old", "new"]
    await second.end()


async def test_what_is_saved_is_replaced_as_a_whole(tmp_path: Path) -> None:
    file = SavedFile(tmp_path / "alerts.json")
    assert await file.load() == b""
    await file.save(b"first")
    await file.save(b"second")
    assert await file.load() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.json"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
async def test_a_facade_that_is_killed_while_it_sends_sends_the_same_alert_again(
    tmp_path: Path, socket_path: str
) -> None:
    """Real processes: the same id and body, and one end of the incident once the daemon answers."""
    daemon = FakeDaemon(socket_path)
    wanted = {"IBKR_ALERTS_ON": "daemon", "IBKR_ALERTS_AFTER": "0.5"}
    async with receiving(0) as receiver, kept(tmp_path, daemon, IBKR_ALERTS=receiver.url, **wanted) as facade:
        await until(lambda: receiver.received)
        os.kill(facade.state["child"], signal.SIGKILL)
        receiver.status = 200
        await until(lambda: len(receiver.received) == 2)
        async with daemon:
            daemon.set_all()
            await until(lambda: len(receiver.received) == 3)
    first, second, end = receiver.received
    assert (first[0], first[2]) == (second[0], second[2])
    firing, resolved = receiver.alerts[0]["data"], receiver.alerts[2]["data"]
    assert (firing["state"], resolved["state"]) == ("firing", "resolved")
    assert firing["incident"] == resolved["incident"]
    assert end[0] != first[0]


def test_it_is_sent_only_where_it_is_wanted_and_with_the_daemons_secret(tmp_path: Path) -> None:
    alerts = read_sinks("https://example.com/x")
    assert sender(Settings(alerts=alerts, state_dir=tmp_path)) is None
    assert sender(Settings(alerts_on=("daemon",), state_dir=tmp_path)) is None
    assert not list(tmp_path.iterdir())

    assert sender(Settings(alerts=alerts, alerts_on=("daemon",), state_dir=tmp_path)) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.secret"]
    (tmp_path / "alerts.secret").write_text("nonsense")
    with pytest.raises(SettingsError, match="holds no secret"):
        sender(Settings(alerts=alerts, alerts_on=("daemon",), state_dir=tmp_path))
