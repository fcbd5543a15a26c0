"""The alert that a daemon is away, which only the facade can send."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from facade.alerts import DaemonAlerts, sender
from shared.alerts.delivery import Outcome
from shared.alerts.sinks import Sink, read_sinks
from shared.settings import Settings, SettingsError
from tests.clock import HandClock, settled
from tests.daemon.market.fakes import START, Tasks


class Desk:
    def __init__(self) -> None:
        self.clock = HandClock(START)
        self.reachable = True
        self.sent: list[dict[str, Any]] = []
        self.settings = Settings(alerts=read_sinks("https://example.com/x"), alerts_on=("daemon",))
        self.alerts = DaemonAlerts(
            "paper", self.settings, self, lambda: self.reachable, self.clock, lambda: f"n{len(self.sent)}"
        )

    async def send(self, sink: Sink, message_id: str, body: bytes, now: datetime) -> Outcome:
        self.sent.append({"id": message_id, "now": now, **msgspec.json.decode(body)})
        return Outcome(True, 200)

    async def be(self, *, reachable: bool, seconds: int) -> None:
        self.reachable = reachable
        for _ in range(seconds):
            await self.clock.pass_(1.0)
            await settled()


async def test_a_daemon_that_stays_away_is_reported_once_and_its_return_once() -> None:
    """After a minute, with the catalogue's words; short returns are part of it."""
    desk, tasks = Desk(), Tasks()
    tasks(desk.alerts.run(), "alerts")
    await desk.be(reachable=True, seconds=10)
    await desk.be(reachable=False, seconds=50)
    await desk.be(reachable=True, seconds=120)
    assert desk.sent == []

    await desk.be(reachable=False, seconds=70)
    await desk.be(reachable=True, seconds=20)
    await desk.be(reachable=False, seconds=100)
    await desk.be(reachable=True, seconds=70)
    assert [(alert["type"], alert["data"]["state"]) for alert in desk.sent] == [
        ("ibkr.link.daemon", "firing"),
        ("ibkr.link.daemon", "resolved"),
    ]
    firing, resolved = (alert["data"] for alert in desk.sent)
    assert firing["incident"] == resolved["incident"]
    assert (firing["reason"], firing["session"], bool(firing["advice"])) == ("daemonUnreachable", "paper", True)
    assert 185 <= resolved["durationS"] <= 192
    await tasks.end()


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
