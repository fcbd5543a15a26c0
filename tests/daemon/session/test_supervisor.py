"""The link's shell: what it dials, reads, probes, publishes, remembers and says, and when."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from daemon.link import events as ev
from shared import log
from shared.messages import BROKER_TOPICS, ConnectParams, Expected, Sync
from shared.reasons import CATALOGUE, Problem
from tests.clock import WEDNESDAY, settled
from tests.daemon.scripted import HOME, Story, supervised
from tests.waiting import refused

BARE = ConnectParams()


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    log.set_up("INFO", "console", stream=None)
    logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    return caplog


def logged(lines: pytest.LogCaptureFixture) -> list[str]:
    """The console lines, without the fields."""
    form = log.ConsoleLine("utf-8")
    return [form.format(record) for record in lines.records if record.name.startswith("daemon")]


# --- up, and what is published of it --------------------------------------------------------------------------------


async def test_an_automatic_start_becomes_connected_and_logs_it(lines: pytest.LogCaptureFixture) -> None:
    async with supervised() as story:
        row = story.row

        assert (row.phase, row.reason, row.connected, row.upstream) == ("ready", None, True, "ok")
        assert (row.accounts, row.session, row.attempts) == (("DU1234567",), 1, 1)
        assert row.gateway is not None
        assert (row.gateway.port, row.gateway.product, row.gateway.serverVersion) == (7497, "TWS", 178)
        assert logged(lines) == [
            "INFO:     Attempting to auto-connect to IBKR at 127.0.0.1:7497...",
            "INFO:     ✓ Connected to IBKR on port 7497",
            "INFO:     ✓ Auto-connected to IBKR successfully on port 7497",
        ]


async def test_without_auto_connect_nothing_is_dialled_and_the_log_has_the_reason(
    lines: pytest.LogCaptureFixture,
) -> None:
    async with supervised(automatic=False) as story:
        await story.pass_(120)

        assert (story.row.phase, story.row.reason, story.gateway.sessions) == ("disabled", "autoConnectOff", [])
        assert logged(lines) == ["INFO:     IBKR auto-connect disabled (set IBKR_AUTO_CONNECT=true in .env to enable)"]


async def test_a_night_of_refusals_is_one_warning_and_a_count(lines: pytest.LogCaptureFixture) -> None:
    async with supervised(gateway={"outcome": "portClosed"}) as story:
        await story.pass_(30.2)
        assert 60 <= len(story.gateway.sessions) <= 62
        story.gateway.outcome = "handshakeTimeout"
        await story.pass_(300)
        story.gateway.outcome = None
        await story.pass_(120)

        assert logged(lines)[:3] == [
            "INFO:     Attempting to auto-connect to IBKR at 127.0.0.1:7497...",
            "WARNING:  ✗ Auto-connect to IBKR failed: theirs",
            "INFO:     You can manually connect via the UI or /api/ibkr/connect endpoint",
        ]
        handshake, connected, auto = logged(lines)[3:6]
        assert handshake.startswith("WARNING:  ")
        assert "reason=handshakeTimeout" in handshake
        assert "repeats=60" in handshake
        assert connected == "INFO:     ✓ Connected to IBKR on port 7497"
        assert auto == "INFO:     ✓ Auto-connected to IBKR successfully on port 7497"


async def test_the_history_holds_every_change_of_phase() -> None:
    async with supervised() as story:
        story.session.emits(ev.UpstreamLost, code=1100, text="gone")
        await settled()

        assert [(event.phase, event.reason) for event in story.memory.events] == [
            ("connecting", None),
            ("syncing", None),
            ("ready", None),
            ("upstreamLost", "upstreamLost"),
        ]


async def test_a_refused_dial_is_tried_again_at_the_time_in_the_row() -> None:
    async with supervised(gateway={"outcome": "hostUnreachable"}) as story:
        row = story.row
        assert (row.phase, row.reason, row.connected) == ("waiting", "hostUnreachable", False)
        assert row.nextAttemptAt == WEDNESDAY + timedelta(seconds=1)
        assert row.advice == tuple(
            line.format(host="127.0.0.1", port=7497) for line in CATALOGUE["hostUnreachable"].advice
        )

        await story.pass_(0.99)
        assert len(story.gateway.sessions) == 1
        await story.pass_(0.01)
        assert len(story.gateway.sessions) == 2


# --- proof ----------------------------------------------------------------------------------------------------------


async def test_while_messages_come_nothing_is_probed_and_the_proof_stays_young() -> None:
    async with supervised() as story:
        seen = set()
        steps = story.store.seq
        for _ in range(200):
            story.session.receives()
            await story.pass_(0.05)
            seen.add(story.row.proof.at)
            assert story.row.proof.at is not None
            assert (story.clock.now() - story.row.proof.at).total_seconds() <= 1.3

        assert story.requests()["probe"] == 0
        assert 8 <= len(seen) <= 14
        assert story.store.seq - steps <= 15


async def test_a_frozen_gateway_is_not_connected_after_interval_and_timeout() -> None:
    async with supervised() as story:
        story.gateway.frozen = True
        await story.pass_(9.9)
        assert story.row.connected
        await story.pass_(0.15)

        assert (story.row.phase, story.row.reason, story.row.connected) == ("unproven", "probeTimeout", False)
        assert story.requests()["probe"] == 2


async def test_a_probe_that_is_overdue_is_one_change_of_the_row() -> None:
    """The proof is too old in the same moment: no reader sees a ready link that is not connected in between."""
    async with supervised() as story:
        story.gateway.frozen = True
        rows = {(story.row.phase, story.row.connected)}
        for _ in range(60):
            story.clock.jump(0.25)
            for _ in range(10):
                await asyncio.sleep(0)
                rows.add((story.row.phase, story.row.connected))
            if story.row.phase == "unproven":
                break

        assert rows == {("ready", True), ("unproven", False)}


async def test_an_answer_to_the_second_probe_is_enough() -> None:
    async with supervised() as story:
        story.gateway.frozen = True
        await story.pass_(12)
        assert story.row.phase == "unproven"
        story.session.receives()
        await story.pass_(0.3)

        assert (story.row.phase, story.row.connected) == ("ready", True)
        assert [gap.cause for gap in story.gaps] == ["probeTimeout"]
        assert len(story.gateway.sessions) == 1


async def test_a_proof_that_has_grown_too_old_proves_nothing_whoever_was_slow() -> None:
    """Late turns of our own loop put off the probe's verdict, but not the age at which a proof ends."""
    async with supervised() as story:
        story.gateway.frozen = True
        await story.pass_(4.5)
        story.clock.jump(4)
        await settled()
        assert story.row.connected
        await story.pass_(2)

        assert (story.row.phase, story.row.connected) == ("ready", False)
        story.session.receives()
        await story.pass_(1)
        assert story.row.connected


async def test_our_own_absence_is_not_the_gateways_silence(lines: pytest.LogCaptureFixture) -> None:
    """Stopped for a minute with a probe open: what has arrived is read first, the probe's time limit starts again."""
    async with supervised() as story:
        story.gateway.frozen = True
        await story.pass_(8)
        story.clock.jump(60)
        await settled()
        assert story.row.phase == "ready"

        await story.pass_(4.8)
        assert story.row.phase == "ready"
        assert story.requests()["probe"] == 2, "the gateway was probed again at once"
        story.session.receives()
        await story.pass_(4)
        assert [event.phase for event in story.memory.events][-1] == "ready"
        assert any("Resumed after suspend" in line for line in logged(lines))


async def test_a_sleep_ends_a_wait_at_once() -> None:
    async with supervised(gateway={"outcome": "notTws"}) as story:
        story.clock.jump(30)
        await settled()

        assert len(story.gateway.sessions) == 2


async def test_a_handshake_that_timed_out_while_we_were_away_is_tried_again_at_once() -> None:
    async with supervised(gateway={"outcome": "hang"}) as story:
        story.clock.jump(60)
        await settled()
        story.session.emits(ev.AttemptOverdue, reason="handshakeTimeout")
        story.gateway.outcome = None
        await settled()

        assert len(story.gateway.sessions) == 2
        assert story.row.phase == "ready"


# --- what is requested ----------------------------------------------------------------------------------------------


async def test_connect_is_answered_when_the_rows_show_it() -> None:
    async with supervised(automatic=False) as story:
        seq = await story.link.connect(BARE)

        assert story.row.connected
        assert seq == story.store.seq


async def test_connect_that_fails_raises_the_problem_and_leaves_things_as_they_were(
    lines: pytest.LogCaptureFixture,
) -> None:
    async with supervised(automatic=False) as story:
        story.gateway.outcome = "portClosed"
        caught = await refused(story.link.connect(BARE))
        assert (caught.reason, caught.detail) == ("portClosed", "theirs")
        assert story.row.phase == "disabled"
        assert logged(lines)[-1] == "WARNING:  ✗ Connect to 127.0.0.1:7497 failed: theirs"


async def test_connect_elsewhere_that_fails_is_one_line_and_back_to_the_old_target(
    lines: pytest.LogCaptureFixture,
) -> None:
    async with supervised() as story:
        story.gateway.outcome = "portClosed"
        connecting = asyncio.create_task(story.link.connect(ConnectParams(port=7498)))
        await settled()
        with pytest.raises(Problem):
            await connecting
        assert logged(lines)[3] == "WARNING:  ✗ Connect to 127.0.0.1:7498 failed: theirs"
        story.gateway.outcome = None
        await story.pass_(2)

        assert story.row.connected
        assert story.row.gateway is not None
        assert story.row.gateway.port == 7497


async def test_connect_elsewhere_dials_when_the_session_before_has_ended_and_not_sooner() -> None:
    """A gateway that still counts the old session would refuse the client id, or hold two of ours."""
    async with supervised() as story:
        old = story.session
        story.gateway.may_close.clear()
        connecting = asyncio.create_task(story.link.connect(replace(BARE, timeout=7.0, port=7498)))
        await settled()
        assert story.session is not old
        assert (old.ended, story.session.requested) == (None, [])

        story.gateway.may_close.set()
        await connecting
        assert (old.ended, story.row.phase) == ("closed", "ready")


async def test_a_requested_connection_is_not_called_automatic(lines: pytest.LogCaptureFixture) -> None:
    async with supervised(gateway={"outcome": "portClosed"}) as story:
        story.gateway.outcome = None
        await story.link.connect(ConnectParams(port=7498))
        assert logged(lines)[-1] == "INFO:     ✓ Connected to IBKR on port 7498"
        await story.pass_(31)

        story.session.emits(ev.Lost)
        await settled()
        assert logged(lines)[-1] == "INFO:     ✓ Auto-connected to IBKR successfully on port 7498"


async def test_an_attempt_that_outlives_its_time_limit_is_answered_then_and_becomes_the_session_later(
    lines: pytest.LogCaptureFixture,
) -> None:
    async with supervised(gateway={"outcome": "handshakeTimeout"}) as story:
        connecting = asyncio.create_task(story.link.connect(BARE))
        await story.pass_(10)
        caught = await refused(connecting)
        assert (caught.reason, caught.retryAfter) == ("handshakeTimeout", 110.0)
        assert (story.row.phase, story.row.nextAttemptAt) == ("waiting", WEDNESDAY + timedelta(seconds=120))

        await story.pass_(100)
        story.session.emits(ev.Opened, serverVersion=178, accounts=("DU1234567",))
        await settled()
        assert story.row.connected
        assert len(story.gateway.sessions) == 1
        assert logged(lines)[-2:] == [
            "INFO:     ✓ Connected to IBKR on port 7497",
            "INFO:     ✓ Auto-connected to IBKR successfully on port 7497",
        ]
        await story.pass_(20)
        assert story.row.connected, "the end of the wait is no end of the session"


async def test_an_attempt_that_neither_opens_nor_fails_is_given_up_after_two_minutes() -> None:
    async with supervised(gateway={"outcome": "hang"}) as story:
        await story.pass_(124)
        assert [session.ended for session in story.gateway.sessions] == [None]
        await story.pass_(3)

        assert [session.ended for session in story.gateway.sessions] == ["aborted", None]
        assert story.memory.events[1].reason == "handshakeTimeout"


async def test_a_request_that_never_settles_is_answered_when_its_time_is_over() -> None:
    """The attempt (10 s), its first snapshots (10), three probes (30), the old session's end (2), and some grace."""
    async with supervised(automatic=False) as story:
        story.gateway.outcome = "hang"
        connecting = asyncio.create_task(story.link.connect(BARE))
        await story.pass_(56)
        assert not connecting.done()
        await story.pass_(2)
        assert (await refused(connecting)).reason == "brokerTimeout"


async def test_connect_dials_again_while_an_attempt_is_open() -> None:
    async with supervised(gateway={"outcome": "handshakeTimeout"}) as story:
        await story.pass_(10)
        story.gateway.outcome = None
        await story.link.connect(BARE)

        assert [session.ended for session in story.gateway.sessions] == ["aborted", None]


async def test_an_account_that_the_session_does_not_have_is_refused_with_both_names() -> None:
    async with supervised() as story:
        caught = await refused(story.link.connect(ConnectParams(account="U7654321")))
        assert (caught.reason, len(story.gateway.sessions)) == ("accountMismatch", 1)
        assert "DU1234567" in caught.detail
        assert "U7654321" in caught.detail
        assert story.row.lastError is None, "nothing is wrong with the session"


async def test_connect_that_is_not_waited_for_is_answered_at_once() -> None:
    async with supervised(automatic=False) as story:
        story.gateway.outcome = "hang"

        await story.link.connect(BARE, wait=False)

        assert story.row.phase == "connecting"


async def test_two_equal_connects_share_one_attempt_and_a_different_one_is_refused() -> None:
    async with supervised(automatic=False) as story:
        story.gateway.outcome = "hang"
        first = asyncio.create_task(story.link.connect(BARE))
        second = asyncio.create_task(story.link.connect(BARE))
        await settled()
        assert (await refused(story.link.connect(ConnectParams(clientId=9)))).reason == "connectInProgress"

        story.session.emits(ev.Opened, serverVersion=178, accounts=("DU1234567",))
        await first
        await second
        assert len(story.gateway.sessions) == 1


async def test_connect_with_other_parameters_is_completed_from_the_settings() -> None:
    async with supervised() as story:
        await story.link.connect(ConnectParams(clientId=9, timeout=3.0, host=UNSET))

        assert story.session.target == replace(HOME, clientId=9, timeout=3.0)
        assert [session.ended for session in story.gateway.sessions] == ["closed", None]


async def test_disconnect_closes_holds_and_is_remembered() -> None:
    async with supervised() as story:
        await story.link.disconnect()

        assert (story.row.phase, story.row.connected, story.memory.held) == ("held", False, True)
        assert story.session.ended == "closed"
        await story.pass_(120)
        assert len(story.gateway.sessions) == 1


async def test_a_hold_survives_the_daemon_and_ends_with_a_connect_that_succeeds() -> None:
    async with supervised(held=True) as story:
        assert story.row.phase == "held"

        await story.link.connect(BARE)

        assert story.memory.held is False


async def test_disconnect_ends_an_attempt_and_answers_its_waiters() -> None:
    async with supervised(automatic=False) as story:
        story.gateway.outcome = "hang"
        waiting = asyncio.create_task(story.link.connect(BARE))
        await settled()
        await story.link.disconnect()

        assert (await refused(waiting)).reason == "manual"
        assert story.session.ended == "aborted"


async def test_reconnect_ends_a_wait_and_otherwise_changes_nothing() -> None:
    async with supervised(gateway={"outcome": "notTws"}) as story:
        await story.link.reconnect()
        await settled()
        assert len(story.gateway.sessions) == 2
        story.gateway.outcome = None
        await story.link.reconnect()
        await settled()
        await story.link.reconnect()
        await settled()

        assert len(story.gateway.sessions) == 3


async def test_a_request_while_the_daemon_stops_is_refused_with_that_reason() -> None:
    async with supervised() as story:
        story.link.stop()
        assert (await refused(story.link.connect(BARE))).reason == "shuttingDown"


async def test_a_request_to_a_link_that_does_not_step_is_answered_too() -> None:
    story = Story()  # whose link does not run
    reconnecting = asyncio.create_task(story.link.reconnect())
    await story.pass_(6)

    assert (await refused(reconnecting)).reason == "brokerTimeout"


async def test_an_answer_about_ourselves_does_not_quote_the_gateway() -> None:
    async with supervised() as story:
        story.session.emits(ev.Lost, text="connection reset")
        await settled()
        story.link.stop()
        caught = await refused(story.link.connect(BARE))
        assert (caught.reason, caught.detail) == ("shuttingDown", "")


async def test_a_session_that_was_only_tried_is_lost_for_its_own_reason() -> None:
    async with supervised(automatic=False) as story:
        story.gateway.slow_reads = True
        connecting = asyncio.create_task(story.link.connect(BARE))
        await settled()
        assert story.row.phase == "syncing"
        story.session.emits(ev.Lost)
        await settled()

        assert story.row.phase == "disabled"
        assert story.link.figures().losses == {"socketLost": 1}
        with pytest.raises(Problem):
            await connecting


async def test_the_time_to_ready_does_not_count_a_requested_disconnect() -> None:
    async with supervised() as story:
        await story.link.disconnect()
        await story.pass_(600)
        await story.link.connect(BARE)
        assert story.link.figures().timeToReady == 0

        story.gateway.outcome = "portClosed"
        story.session.emits(ev.Lost)
        await story.pass_(20)
        story.gateway.outcome = None
        await story.pass_(1)
        assert story.link.figures().timeToReady == pytest.approx(20, abs=1)


async def test_stop_closes_the_session_cleanly() -> None:
    async with supervised() as story:
        pass

    assert story.session.ended == "closed"
    assert story.row.phase == "stopping"


async def test_questions_to_the_gateway_need_a_ready_session() -> None:
    async with supervised() as story:
        assert story.link.tws is story.session
        story.session.emits(ev.UpstreamLost, code=1100, text="Connectivity has been lost.")
        await settled()

        with pytest.raises(Problem) as caught:
            _ = story.link.tws
        assert (caught.value.reason, caught.value.ibCode) == ("upstreamLost", 1100)


# --- what is read, and when -----------------------------------------------------------------------------------------


async def test_a_list_whose_end_never_comes_is_requested_again_every_ten_seconds() -> None:
    """FIELD F3: the time for which it was waited is part of the ten seconds. Others' orders are read all the same."""
    async with supervised() as story:
        story.gateway.slow_reads = True
        story.store.forget("positions")
        await story.pass_(92)

        assert reads(story, "positions") == 9
        assert reads(story, "orders") == 3


def reads(story: Story, topic: str) -> int:
    """How often `topic` was read again."""
    return sum(count for name, count in story.requests().items() if topic in name.split())


async def test_a_snapshot_that_never_ends_does_not_keep_the_link_from_ready() -> None:
    async with supervised(gateway={"incomplete": frozenset({"positions"})}) as story:
        assert story.row.connected
        known = story.store.row("sync", "positions")
        assert isinstance(known, Sync)
        assert not known.known


async def test_the_market_receives_each_change_of_upstream_and_farms_also_where_several_come_at_once() -> None:
    """The published row holds only the last of them; a quote of before the loss must still become stale."""
    async with supervised() as story:
        story.market.conditions.clear()
        story.session.emits(ev.UpstreamLost, code=1100, text="gone")
        story.session.emits(ev.UpstreamRestored, code=1102, text="back", dataLost=False)
        story.session.emits(ev.FarmChanged, farm="usfarm", type="market", state="broken")
        story.session.emits(ev.ProbeAnswered, rtt=0.1)
        story.session.emits(ev.Lost)
        await settled()

        assert story.market.conditions == [
            ("lost", set()),
            ("ok", set()),
            ("ok", {"usfarm"}),
            ("unknown", set()),
            ("ok", set()),
        ]


async def test_an_outage_of_the_socket_continues_the_gap_of_upstream() -> None:
    async with supervised() as story:
        story.session.emits(ev.UpstreamLost, code=1100, text="gone")
        await story.pass_(60)
        story.session.emits(ev.Lost)
        await settled()

        assert [(gap.cause, gap.from_) for gap in story.gaps] == [("upstreamLost", WEDNESDAY)]


async def test_a_gap_whose_reading_is_cut_off_by_a_loss_ends_with_the_next_session() -> None:
    async with supervised() as story:
        story.session.emits(ev.UpstreamLost, code=1100, text="gone")
        await settled()
        story.gateway.slow_reads = True
        story.session.emits(ev.UpstreamRestored, code=1102, text="back", dataLost=False)
        await settled()
        assert story.gaps == []

        story.gateway.slow_reads = False
        story.session.emits(ev.Lost, text="reset")
        await settled()
        assert story.row.phase == "ready"
        assert [gap.cause for gap in story.gaps] == ["upstreamLost"]


async def test_a_gap_in_a_planned_window_is_expected() -> None:
    """05:20 UTC is 00:20 in New York: the nightly reset."""
    night = datetime(2025, 11, 19, 5, 20, tzinfo=UTC)
    async with supervised(wall=night) as story:
        assert story.row.expected == Expected(
            active=True, kind="nightlyReset", nextAt=datetime(2025, 11, 19, 6, 45, tzinfo=UTC)
        )
        story.session.emits(ev.UpstreamLost, code=1100, text="gone")
        await story.pass_(15)
        story.session.emits(ev.UpstreamRestored, code=1102, text="back", dataLost=False)
        await settled()

        assert story.gaps[0].expected
        assert [event.expected for event in story.memory.events] == [True] * 5
        story.clock.jump(5400)
        await settled()
        assert not story.row.expected.active


async def test_a_window_is_published_when_it_begins_whatever_the_link_is() -> None:
    async with supervised(automatic=False, wall=datetime(2025, 11, 19, 5, 14, tzinfo=UTC)) as story:
        assert not story.row.expected.active
        await story.pass_(61)

        assert (story.row.expected.active, story.row.expected.kind) == (True, "nightlyReset")


async def test_the_end_of_a_window_ends_a_wait() -> None:
    async with supervised(wall=datetime(2025, 11, 19, 6, 44, tzinfo=UTC), gateway={"outcome": "notTws"}) as story:
        await story.pass_(59)
        assert len(story.gateway.sessions) == 1
        await story.pass_(2)

        assert len(story.gateway.sessions) == 2


async def test_2110_is_undone_when_ibkrs_servers_prove_to_answer() -> None:
    async with supervised() as story:
        story.session.emits(ev.UpstreamLost, code=2110, text="broken")
        await story.pass_(25)
        assert story.row.phase == "upstreamLost"
        assert 2 <= story.requests()["prove"] <= 3
        story.gateway.upstream_answers = True
        await story.pass_(11)

        assert story.row.phase == "ready"
        assert story.requests()["recover 2110"] == 1


# --- farms, accounts, floods ----------------------------------------------------------------------------------------


async def test_rows_of_another_login_do_not_outlive_it() -> None:
    async with supervised() as story:
        story.gateway.accounts = ("U7654321",)
        story.gateway.incomplete = frozenset(BROKER_TOPICS)
        await story.link.connect(ConnectParams(clientId=2))

        assert not any(isinstance(row, Sync) and row.known for row in story.store.rows("sync").values())


async def test_a_flood_of_link_messages_ends_the_session_and_nothing_else() -> None:
    async with supervised() as story:
        first = story.session
        await story.pass_(40)
        for number in range(40_000):
            first.emits(ev.FarmChanged, farm=f"farm{number % 5}", type="market", state="ok")
        await settled()

        assert first.ended == "aborted"
        assert story.row.lastError is not None
        assert "more messages about the link" in story.row.lastError.text
        assert story.row.connected
