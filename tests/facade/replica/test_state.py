"""The facade's replica: whole steps only, and no rows of a daemon that is gone."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from facade.http.problems import refusal
from facade.replica.state import Delta, Page, ReplicaState
from shared.clock import SystemClock
from shared.messages import STATE_TOPICS
from shared.reasons import Problem
from tests.clock import HandClock
from tests.facade.fake_daemon import ready_link


def snapshot(epoch: str, account: str) -> Delta:
    """The snapshot of a daemon with one account, in one page."""
    topics = {topic: Page(asOf=None, seq=1, rows={}, seqs=[]) for topic in STATE_TOPICS}
    topics["accounts"] = Page(asOf=None, seq=1, rows={account: Raw(b"{}")}, seqs=[1])
    return Delta(epoch=epoch, topics=topics, seq=1)


def test_an_incomplete_snapshot_is_dropped_when_the_epoch_changes() -> None:
    state = ReplicaState(10.0, SystemClock())
    state.expect_snapshot("e1", set(STATE_TOPICS))
    assert not state.apply(replace(snapshot("e1", "DU1"), seq=None))
    state.discard_partial()

    state.expect_snapshot("e2", set(STATE_TOPICS))
    assert state.apply(snapshot("e2", "DU2"))

    assert state.replica is not None
    assert (state.replica.epoch, set(state.replica.rows("accounts"))) == ("e2", {"DU2"})


def test_the_complete_replica_stays_readable_until_the_next_one_is_complete() -> None:
    state = ReplicaState(10.0, SystemClock())
    state.expect_snapshot("e1", set(STATE_TOPICS))
    state.apply(snapshot("e1", "DU1"))
    state.discard_partial()

    state.expect_snapshot("e2", set(STATE_TOPICS))
    state.apply(replace(snapshot("e2", "DU2"), seq=None))

    assert state.replica is not None
    assert (state.replica.epoch, set(state.replica.rows("accounts"))) == ("e1", {"DU1"})


def test_a_wall_clock_that_was_set_back_does_not_make_the_next_attempt_later() -> None:
    """`Retry-After` is the time that is left, whatever the time of day."""
    clock = HandClock()
    state = ReplicaState(10.0, clock)
    state.expect_snapshot("e1", set(STATE_TOPICS))
    delta = snapshot("e1", "DU1")
    link = ready_link(phase="waiting", connected=False, nextAttemptAt=clock.now() + timedelta(seconds=90))
    delta.topics["link"] = Page(asOf=None, seq=1, rows={"link": Raw(msgspec.json.encode(link))}, seqs=[1])
    state.apply(delta)
    state.reachable = True

    clock.jump(30.0, wall=-86_400.0)

    assert refusal(Problem("notConnected"), "/", "default", state).headers["Retry-After"] == "60"
