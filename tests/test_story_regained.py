"""Losing a session and getting it back, or saying why not (FAULTS 13–30)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from daemon.link.windows import Calendar, calendar
from daemon.simulator import Gateway, World
from shared.messages import ConnectParams
from shared.reasons import FINISH_LOGIN
from tests.ports import free_port, full_backlog
from tests.stories import story
from tests.waiting import refused, until

AAPL = 265598
SATURDAY_NIGHT = datetime(2025, 11, 23, 4, 30, tzinfo=UTC)  # Saturday 23:30 in New York
WEDNESDAY = datetime(2025, 11, 19, 15, 0, tzinfo=UTC)  # 10:00 in New York


# --- 13 to 16: restarts and logins ----------------------------------------------------------------------------------


async def test_13_a_daily_restart_is_survived_without_a_hand_on_it() -> None:
    """Closed, refused for 80 s, dialled twice a second, ready as soon as it listens: one warning, one count."""
    async with story(calendar=Calendar(())) as scene:
        await scene.clock.pass_(60)
        scene.gateway.refuse()
        scene.gateway.drop()
        row = await scene.becomes("waiting", "portClosed")
        assert not row.connected
        assert row.nextAttemptAt is not None
        assert (row.nextAttemptAt - scene.clock.now()).total_seconds() <= 0.5
        dialled = scene.link.counters.attempts
        await scene.clock.pass_(80)
        assert 40 <= scene.link.counters.attempts - dialled <= 170
        assert scene.link.counters.losses == {"socketLost": 1}
        await scene.gateway.listen()
        await scene.clock.pass_(0.6)
        await scene.becomes("ready")

        assert scene.gaps[0].cause == "socketLost"
        assert scene.logged("Connection lost, dialling again") == 1
        assert scene.warned("portClosed") == 1
        assert scene.row.attempts > 40


async def test_13_a_restart_resets_too_and_the_first_dial_is_at_once() -> None:
    async with story() as scene:
        scene.gateway.reset()
        await until(lambda: scene.dials == 2)
        await scene.becomes("ready")

        assert ("waiting", "socketLost") not in scene.phases


async def test_13_a_gateway_that_flaps_is_not_hammered() -> None:
    """Lost again within moments: the next dial waits, and waits longer each time."""
    async with story() as scene:
        waits = []
        for _ in range(4):
            scene.gateway.drop()
            await until(lambda before=scene.row.session: scene.row.session != before or scene.row.phase == "waiting")
            if scene.row.nextAttemptAt is not None:
                waits.append(round(scene.patience))
                await scene.clock.pass_(waits[-1] + 0.2)
            await scene.becomes("ready")

        assert waits == [1, 2, 4]


async def test_13_a_configured_restart_is_expected_and_changes_nothing() -> None:
    at = WEDNESDAY.astimezone().time()
    async with story(wall=WEDNESDAY, calendar=calendar(restart_at=at)) as scene:
        assert (scene.row.expected.active, scene.row.expected.kind) == (True, "restart")
        scene.gateway.drop()
        await until(lambda: scene.gaps)

        assert scene.gaps[0].expected
        assert [event.expected for event in scene.memory.events if event.phase == "ready"] == [True, True]


async def test_14_refused_since_sunday_one_o_clock_probably_needs_the_weekly_login() -> None:
    """Before the restart's allowance is over it is a closed port; then a login, and attempts go on as before."""
    async with story(wall=SATURDAY_NIGHT, calendar=Calendar(())) as scene:
        scene.gateway.refuse()
        scene.gateway.drop()
        await scene.becomes("waiting", "portClosed")
        scene.clock.asleep(2 * 3600)
        await scene.clock.pass_(280)
        assert scene.row.reason == "portClosed"
        await scene.clock.pass_(20)
        row = await scene.becomes("waiting", "loginRequired")
        assert scene.explains("loginRequired")
        assert "probably" in row.sentence
        assert row.nextAttemptAt is not None
        dialled = scene.link.counters.attempts
        await scene.clock.pass_(10)
        assert scene.link.counters.attempts - dialled >= 5, "a guess changes nothing of what is done"
        assert scene.warned("loginRequired") == 1

        await scene.gateway.listen()
        await scene.clock.pass_(0.6)
        await scene.becomes("ready")


async def test_15_a_missed_second_factor_looks_like_an_open_port_that_does_not_greet() -> None:
    async with story(timeout=1.5) as scene:
        scene.gateway.accept_silently()
        scene.gateway.drop()
        await scene.becomes("waiting", "handshakeTimeout")

        assert scene.explains("handshakeTimeout")
        assert FINISH_LOGIN in scene.row.advice
        assert scene.patience == pytest.approx(118.5, abs=0.1)
        assert scene.warned("handshakeTimeout") == 1


async def test_16_a_restart_that_does_not_come_back_probably_needs_a_login() -> None:
    """Mid-week: the token was refused, and the gateway stands at its login screen."""
    at = WEDNESDAY.astimezone().time()
    async with story(wall=WEDNESDAY, calendar=calendar(restart_at=at)) as scene:
        scene.gateway.refuse()
        scene.gateway.drop()
        await scene.becomes("waiting", "portClosed")
        await scene.clock.pass_(301)

        row = await scene.becomes("waiting", "loginRequired")
        assert scene.explains("loginRequired")
        assert "probably" in row.sentence
        assert scene.warned("loginRequired") == 1
        await scene.gateway.listen()
        await scene.clock.pass_(0.6)
        await scene.becomes("ready")


# --- 17 and 18: client ids ------------------------------------------------------------------------------------------


async def test_17_our_own_ghost_is_waited_out_under_the_same_client_id() -> None:
    """326 ends the attempt at once, not after its timeout; 1, 2, 3 and 5 s later the id is tried again."""
    async with story(before=Gateway.client_id_in_use, connected=False) as scene:
        row = await scene.becomes("waiting", "clientIdInUse")
        assert row.lastError is not None
        assert row.lastError.code == 326
        assert scene.explains("clientIdInUse")
        waits = []
        for _ in range(4):
            waits.append(round(scene.patience))
            before = scene.dials
            await scene.clock.pass_(waits[-1] + 0.1)
            await until(lambda before=before: scene.dials == before + 1)
            await scene.becomes("waiting", "clientIdInUse")
        assert waits == [1, 2, 3, 5]
        scene.gateway.client_id_free()
        await scene.clock.pass_(31)
        await scene.becomes("ready")

        assert set(scene.gateway.client_ids) == {1}
        assert {seen.clientId for seen in scene.gateway.requests} <= {1, -1}, "-1 is startApi itself"


async def test_17_after_two_minutes_a_person_must_act_and_the_id_stays() -> None:
    async with story(before=Gateway.client_id_in_use, connected=False) as scene:
        await scene.becomes("waiting", "clientIdInUse")
        await scene.clock.pass_(156)
        row = await scene.becomes("blocked", "clientIdInUse")
        assert row.nextAttemptAt is not None
        assert 0 < (row.nextAttemptAt - scene.clock.now()).total_seconds() <= 60
        caught = await refused(scene.link.connect(ConnectParams()))
        assert (caught.reason, caught.ibCode) == ("clientIdInUse", 326)
        assert scene.gateway.connections.refused_ids == scene.dials


async def test_17_a_clean_end_frees_the_client_id_at_once() -> None:
    async with story() as scene:
        gateway = scene.gateway
        await scene.link.disconnect()
        assert gateway.connections.clean == 1
        assert gateway.client_ids == {}
        await scene.link.connect(ConnectParams())

        assert gateway.connections.refused_ids == 0


# --- 19 and 20: other logins ----------------------------------------------------------------------------------------


async def test_19_upstream_lost_for_minutes_is_probably_another_login_and_never_fought() -> None:
    async with story(wall=WEDNESDAY, calendar=calendar()) as scene:
        scene.gateway.lose_upstream(1100)
        await scene.becomes("upstreamLost", "upstreamLost")
        await scene.clock.pass_(280)
        assert scene.row.reason == "upstreamLost"
        await scene.clock.pass_(20)
        row = await scene.becomes("upstreamLost", "competingSession")
        assert scene.explains("competingSession")
        assert "probably" in row.sentence
        await scene.clock.pass_(60)

        assert scene.dials == 1, "nothing is stolen back"
        assert scene.warned("competingSession") == 1


async def test_20_10197_ends_streams_and_not_the_session() -> None:
    async with story() as scene:
        scene.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: scene.market.streams().live == 1)
        scene.gateway.compete()
        await until(lambda: scene.store.row(f"quotes:{AAPL}", str(AAPL)))

        await scene.stays("ready", None, 30)
        row = scene.store.row(f"quotes:{AAPL}", str(AAPL))
        assert row is not None
        assert row.ibCode == 10197  # type: ignore[attr-defined]
        assert scene.requested("reqMktData") <= 2, "no storm of requests"
        assert scene.dials == 1


# --- 21 to 24, 27: what an attempt can come to ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "phase", "reason", "wait", "says"),
    [
        (Gateway.close_in_handshake, "waiting", "closedDuringHandshake", 1, "closed"),
        (lambda it: it.close_in_handshake(reset=True), "waiting", "closedDuringHandshake", 1, "reset"),
        (lambda it: it.close_in_handshake(after_version=True), "waiting", "closedDuringHandshake", 1, "before account"),
        (Gateway.speak_http, "blocked", "notTws", 300, "not the stream of a TWS"),
        (Gateway.speak_tls, "blocked", "notTws", 300, "not the stream of a TWS"),
        (lambda it: it.handshake("garbage"), "blocked", "notTws", 300, ""),
        (lambda it: it.handshake("hugeFrame"), "blocked", "notTws", 300, "not the stream of a TWS"),
        (lambda it: it.old_version(100), "blocked", "versionUnsupported", 300, "100 is not between"),
        (Gateway.no_accounts, "waiting", "sessionIncomplete", 120, "no account list came"),
        (Gateway.empty_accounts, "waiting", "sessionIncomplete", 120, "the account list was empty"),
        (Gateway.no_next_id, "waiting", "sessionIncomplete", 120, "no next valid id came"),
        (Gateway.silence_after_handshake, "waiting", "sessionIncomplete", 120, "no account list came"),
        (Gateway.refuse, "waiting", "portClosed", 0.5, "Connect call failed"),
    ],
)
async def test_21_to_27_each_end_of_an_attempt_has_its_own_name(
    before: Callable[[Gateway], None], phase: str, reason: str, wait: float, says: str
) -> None:
    """Named as soon as it can be known, with the evidence in `lastError`, and retried by its own patience."""
    timeout = 1.0 if reason == "sessionIncomplete" else 3600.0  # the others are known without it
    async with story(before=before, connected=False, timeout=timeout) as scene:
        row = await scene.becomes(phase, reason)
        assert row.nextAttemptAt is not None
        assert (row.nextAttemptAt - scene.clock.now()).total_seconds() <= wait
        assert scene.explains(reason)
        assert row.lastError is not None
        assert says.lower() in row.lastError.text.lower()
        assert scene.logged("✗ Auto-connect to IBKR failed: ") == 1
        scene.gateway.behave()
        await scene.gateway.listen()
        await scene.clock.pass_(wait + 1.2)

        await scene.becomes("ready")


async def test_22_the_standard_ports_are_named_where_something_else_answers() -> None:
    async with story(before=Gateway.speak_http, connected=False) as scene:
        row = await scene.becomes("blocked", "notTws")

        assert all(port in row.advice[0] for port in ("7497", "7496", "4002", "4001"))


async def test_23_the_configured_account_must_be_behind_the_port() -> None:
    async with story(connected=False) as scene:
        await scene.becomes("ready")
        assert (await refused(scene.link.connect(ConnectParams(account="U7654321")))).reason == "accountMismatch"
        assert (scene.row.phase, scene.dials) == ("ready", 1), "a healthy session is not dropped to find that out"


async def test_23_another_login_after_a_restart_is_not_taken_for_the_same() -> None:
    """Paper yesterday, live today: blocked until a person connects, and no row of it is shown."""
    async with story() as scene:
        scene.gateway.world.accounts = ("U7654321", "Joint.Margin")
        scene.gateway.drop()
        row = await scene.becomes("blocked", "accountMismatch")
        assert all(account in row.sentence for account in ("U7654321", "Joint.Margin", "DU1234567"))
        assert not any(key.partition(":")[0] == "U7654321" for key in scene.store.rows("positions"))
        assert scene.warned("accountMismatch") == 1
        whole = [scene.logged(account) for account in ("U7654321", "Joint.Margin", "DU1234567")]
        assert whole == [0, 0, 0], "account ids are masked in the log, whatever their form"


async def test_25_a_moved_port_is_followed_and_named() -> None:
    async with story() as scene, Gateway(World(), tick_rate=0.0) as elsewhere:
        scene.gateway.move_port(elsewhere.port)
        scene.gateway.refuse()
        await until(lambda: scene.row.session == 2 and scene.is_in("ready"))
        row = scene.row
        assert row.gateway is not None
        assert (row.gateway.port, row.gateway.configured.port) == (elsewhere.port, scene.gateway.port)
        assert scene.logged(f"IBKR_PORT={elsewhere.port}") == 1

        elsewhere.drop()
        await until(lambda: scene.row.session == 3 and scene.is_in("ready"))
        assert elsewhere.connections.total == 2, "it stays the target"


async def test_25_a_moved_port_that_fails_gives_way_to_the_configured_one() -> None:
    async with story() as scene:
        scene.gateway.move_port(free_port())
        await until(lambda: scene.row.session == 2 and scene.is_in("ready"))

        assert scene.row.gateway is not None
        assert scene.row.gateway.port == scene.gateway.port


async def test_25_another_login_on_the_moved_port_is_not_followed() -> None:
    async with story() as scene, Gateway(World(accounts=("U7654321",)), tick_rate=0.0) as elsewhere:
        scene.gateway.move_port(elsewhere.port)
        await until(lambda: scene.row.session == 3 and scene.is_in("ready"))

        assert scene.row.accounts == ("DU1234567",)
        assert elsewhere.connections.total == 1


async def test_26_the_address_that_answered_is_known() -> None:
    async with story() as scene:
        assert scene.link.link.connection is not None
        assert scene.link.link.connection.peer == "127.0.0.1"
        assert scene.target.host == "127.0.0.1", "the default is an address: a name may lead to ::1"


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a full backlog swallows dials only where it is counted")


@ON_LINUX
async def test_27_a_swallowed_dial_is_no_refusal() -> None:
    """A host that drops the dial, as firewalls do: named, and not confused with a port that is closed."""
    async with story() as scene:
        with full_backlog() as full:
            caught = await refused(scene.link.connect(ConnectParams(port=full.getsockname()[1], timeout=0.5)))

        assert caught.reason == "dialTimeout"
        await scene.becomes("ready")


@ON_LINUX
async def test_27_a_dial_stuck_in_syn_ends_at_its_deadline_and_the_next_one_connects() -> None:
    """FIELD B24, of the link that is kept up: not connected meanwhile, and no attempt waits for the one before it."""
    async with story(timeout=0.3) as scene:
        port = scene.gateway.port
        scene.gateway.refuse()
        scene.gateway.drop()
        await scene.becomes("waiting", "portClosed")
        with full_backlog(port):
            for _ in range(2):
                attempts = scene.link.figures().attempts
                await scene.clock.pass_(20)
                await until(lambda before=attempts: scene.link.figures().attempts > before)
                await scene.becomes("waiting", "dialTimeout")
                assert scene.row.lastError is not None
                assert scene.row.lastError.text == f"no answer from 127.0.0.1:{port} within 0.3 s"
                assert not scene.row.connected
        await scene.gateway.listen()
        await scene.clock.pass_(20)
        await scene.becomes("ready")


# --- 28 to 30: load -------------------------------------------------------------------------------------------------


async def test_28_a_reconnect_with_many_accounts_and_streams_stays_below_ibkrs_rate() -> None:
    async with story(world=World(accounts=30, positions=60), gateway={"message_rate": 50}, rate=40) as scene:
        scene.gateway.drop()
        await until(lambda: scene.row.session == 2)
        await scene.becomes("ready")
        await until(lambda: scene.session is not None and not scene.session.queue.waiting)

        assert scene.gateway.connections.over_rate == 0
        assert len(scene.store.rows("accounts")) == 30


async def test_28_code_100_is_noted_and_keeps_the_session() -> None:
    async with story() as scene:
        scene.gateway.send_error(100, "Max rate of messages per second has been exceeded.")
        await until(lambda: scene.row.lastError is not None)

        await scene.stays("ready", None, 20)
        assert scene.row.lastError is not None
        assert scene.row.lastError.code == 100
        assert scene.session is not None
        assert scene.session.queue.rate == 500, "half of what it was"


async def test_29_a_stall_of_our_own_loop_under_load_loses_nothing() -> None:
    """Ticks flood in while the loop stands still; the link stays proven."""
    async with story() as scene:
        scene.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: scene.market.streams().live == 1)
        scene.gateway.flood(2000, 1.0)
        await asyncio.sleep(0)
        scene.clock.absent(12)
        await scene.clock.pass_(2)

        assert scene.phases[-1] == ("ready", None)
        assert scene.dials == 1


async def test_30_the_round_trip_of_a_probe_is_shown() -> None:
    async with story() as scene:
        scene.gateway.quiet()
        await scene.clock.pass_(6)
        await until(lambda: scene.row.proof.rttMs is not None)

        assert scene.row.proof.rttMs is not None
        assert 0 < scene.row.proof.rttMs < 5000


async def test_a_night_without_a_gateway_is_one_warning() -> None:
    async with story(before=Gateway.refuse, connected=False) as scene:
        await scene.becomes("waiting", "portClosed")
        await scene.clock.pass_(120)
        assert len(scene.lines) == 3
        assert scene.memory.events[0].phase == "connecting"
        row = await scene.becomes("waiting", "portClosed")
        assert row.since is not None
        assert scene.clock.now() - row.since > timedelta(seconds=110), "one wait, not hundreds"


async def test_a_gateway_that_comes_up_on_another_port_is_pointed_to_while_it_is_there() -> None:
    """Started after the link, as people do: a hint that was right once is looked at again."""
    async with story(before=Gateway.refuse, connected=False) as scene:
        await scene.becomes("waiting", "portClosed")
        scene.listening = frozenset({4002})
        await scene.clock.pass_(35)
        await until(lambda: "4002 (Gateway paper)" in scene.row.advice[0])

        scene.listening = frozenset()
        await scene.clock.pass_(35)
        await until(lambda: scene.explains("portClosed"))
