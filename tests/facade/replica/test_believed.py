"""What the facade believes of the daemon: steps folded whole, and nothing of a daemon that is gone."""

from __future__ import annotations

from msgspec import Raw
from msgspec.structs import replace

from facade.replica.believed import Believed, Delta, Page
from shared.clock import SystemClock
from shared.messages import STATE_TOPICS


def snapshot(epoch: str, account: str) -> Delta:
    """All that a daemon with one account tells a new reader, in one page."""
    topics = {topic: Page(asOf=None, seq=1, rows={}, seqs=[]) for topic in STATE_TOPICS}
    topics["accounts"] = Page(asOf=None, seq=1, rows={account: Raw(b"{}")}, seqs=[1])
    return Delta(epoch=epoch, topics=topics, seq=1)


def test_half_a_snapshot_of_a_daemon_that_is_gone_is_forgotten() -> None:
    """Its rows would else stand among those of its successor, which never had them."""
    believed = Believed(10.0, SystemClock())
    believed.begin("e1", set(STATE_TOPICS))
    assert not believed.take(replace(snapshot("e1", "DU1"), seq=None))
    believed.interrupt()

    believed.begin("e2", set(STATE_TOPICS))
    assert believed.take(snapshot("e2", "DU2"))

    assert believed.replica is not None
    assert (believed.replica.epoch, set(believed.replica.rows("accounts"))) == ("e2", {"DU2"})


def test_what_was_complete_stays_until_its_successor_is() -> None:
    believed = Believed(10.0, SystemClock())
    believed.begin("e1", set(STATE_TOPICS))
    believed.take(snapshot("e1", "DU1"))
    believed.interrupt()

    believed.begin("e2", set(STATE_TOPICS))
    believed.take(replace(snapshot("e2", "DU2"), seq=None))

    assert believed.replica is not None
    assert (believed.replica.epoch, set(believed.replica.rows("accounts"))) == ("e1", {"DU1"})
