"""Faults in which the link looks alive and is not, or looks dead and is not (FAULTS 1–12)."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from daemon.simulator import Gateway
from shared.messages import ConnectParams, ContractQuery, Order
from shared.reasons import FINISH_LOGIN, LOOK_AT_TWS
from tests.stories import Story, story
from tests.waiting import refused, until

AAPL, MSFT, SPY = 265598, 272093, 756733


async def streaming(scene: Story, *topics: str) -> None:
    """Clients watch these, and each has been requested."""
    for topic in topics:
        scene.market.watch(topic, "a reader")
    await until(lambda: scene.market.streams().live == len(topics))


# --- 1 --------------------------------------------------------------------------------------------------------------


async def test_01_the_nightly_reset_keeps_the_socket() -> None:
    """1100 repeated for minutes, farm codes around it, then 1102: one transition, no dial, one gap, all read again."""
    async with story() as scene:
        session = scene.row.session
        scene.gateway.lose_upstream(1100)
        row = await scene.becomes("upstreamLost", "upstreamLost")
        assert (row.upstream, row.connected, row.nextAttemptAt) == ("lost", False, None)
        assert scene.explains("upstreamLost")
        assert scene.sync("positions").stale
        for _ in range(30):
            scene.gateway.send_error(1100)
            scene.gateway.farm(2103)
            scene.gateway.farm(2105)
            await scene.clock.pass_(5)
        scene.gateway.restore_upstream()
        await scene.becomes("ready")
        await until(lambda: scene.gaps)

        assert (scene.row.session, scene.dials, scene.row.upstream) == (session, 1, "ok")
        assert scene.phases[-2:] == [("upstreamLost", "upstreamLost"), ("ready", None)]
        assert scene.gaps[0].cause == "upstreamLost"
        assert scene.gaps[0].to - scene.gaps[0].from_ >= timedelta(seconds=149)
        assert not scene.sync("positions").stale
        assert scene.warned("upstreamLost") == 1
        assert scene.logged("✓ Connected to IBKR on port") == 2


# --- 2 --------------------------------------------------------------------------------------------------------------


async def test_02_after_1101_every_stream_is_requested_again_exactly_once() -> None:
    async with story() as scene:
        await streaming(scene, f"quotes:{AAPL}", f"quotes:{MSFT}")
        assert scene.requested("reqMktData") == 2
        scene.gateway.lose_upstream(1100)
        await scene.becomes("upstreamLost", "upstreamLost")
        scene.gateway.restore_upstream(data_lost=True)
        await scene.becomes("ready")
        await until(lambda: scene.gaps)
        await scene.clock.pass_(60)

        assert scene.requested("reqMktData") == 4
        assert scene.gateway.quotes.by_contract() == {AAPL: 1, MSFT: 1}
        assert scene.gaps[0].recovered.streams == 2
        assert scene.dials == 1


async def test_02_after_1102_streams_are_left_alone_and_what_the_text_says_is_broken_is_broken() -> None:
    """The farms that a 1102 lists as not connected are; orders, executions and positions are read again."""
    async with story() as scene:
        await streaming(scene, f"quotes:{AAPL}")
        scene.gateway.tick(AAPL, bid=100.0, ask=101.0, last=100.5)
        await until(lambda: scene.store.row(f"quotes:{AAPL}", str(AAPL)))
        requested = {name: scene.requested(name) for name in ("reqPositions", "reqExecutions", "reqAllOpenOrders")}
        scene.gateway.lose_upstream(1100)
        await scene.becomes("upstreamLost", "upstreamLost")
        scene.gateway.faults.upstream = None
        scene.gateway.send_error(
            1102,
            "Connectivity between IB and Trader Workstation has been restored - data maintained. "
            "The following farms are not connected: usfarm.nj; ushmds",
        )
        await scene.becomes("ready")
        await until(lambda: scene.gaps)

        assert scene.requested("reqMktData") == 1
        assert {name: scene.requested(name) - before for name, before in requested.items()} == dict.fromkeys(
            requested, 1
        )
        assert scene.row.farms["usfarm.nj"].state == "broken"
        assert (scene.row.farms["ushmds"].state, scene.row.farms["ushmds"].type) == ("broken", "hmds")
        assert scene.gaps[0].recovered.streams == 0


# --- 3 --------------------------------------------------------------------------------------------------------------


async def test_03_a_bar_stream_killed_by_a_farm_blip_is_requested_again_and_the_link_is_not() -> None:
    """2105, 10182 for the stream, 2106: the stream lives again, the session never noticed."""
    async with story() as scene:
        await streaming(scene, f"bars:{AAPL}:1min")
        assert scene.requested("reqHistoricalData") == 1
        scene.gateway.farm_blip(kills_streams=True)
        await until(lambda: scene.row.farms.get("ushmds") is not None)
        await scene.clock.pass_(60)

        assert scene.requested("reqHistoricalData") == 2
        assert scene.market.streams().live == 1
        assert scene.phases[-1] == ("ready", None)
        assert scene.dials == 1


async def test_03_sixty_farm_blips_in_five_minutes_leave_one_session_with_its_streams() -> None:
    """nautilus_trader#4412: farms flap and 10182 ends the stream, over and over."""
    async with story() as scene:
        await streaming(scene, f"bars:{AAPL}:1min")
        for _ in range(60):
            scene.gateway.farm_blip(kills_streams=True)
            await scene.clock.pass_(5)
        await scene.clock.pass_(60)

        assert scene.market.streams().live == 1
        assert scene.phases == [("connecting", None), ("syncing", None), ("ready", None)]
        assert scene.dials == 1


# --- 4 --------------------------------------------------------------------------------------------------------------


async def test_04_a_frozen_gateway_is_unproven_then_aborted_and_dialled_at_once() -> None:
    """Two probes without an answer; the kernel's acknowledgements are no proof."""
    async with story() as scene:
        scene.gateway.freeze()
        await scene.clock.pass_(10.1)
        row = scene.row
        assert (row.phase, row.reason, row.connected) == ("unproven", "probeTimeout", False)
        assert scene.explains("probeTimeout")
        await scene.clock.pass_(5.1)

        await until(lambda: scene.dials == 2)
        assert scene.row.reason == "probeTimeout"
        scene.gateway.thaw()
        await scene.becomes("ready")
        assert scene.gaps[0].cause == "probeTimeout"
        assert scene.logged("phase=unproven reason=probeTimeout") == 1
        assert scene.logged("Connection lost, dialling again. ") == 1


async def test_04_a_gateway_frozen_for_a_minute_answers_the_connection_that_waits_for_it() -> None:
    """No new dial has to come: the one that was accepted while it was frozen becomes the session."""
    async with story(timeout=0.3) as scene:
        scene.gateway.freeze()
        await scene.clock.pass_(15.2)
        await scene.becomes("waiting", "handshakeTimeout")
        await scene.clock.pass_(60)
        assert scene.dials == 2
        scene.gateway.thaw()
        await scene.becomes("ready")

        assert scene.dials == 2
        assert scene.gaps[0].cause == "probeTimeout"
        assert scene.warned("handshakeTimeout") == 1


async def test_04_a_gateway_that_thaws_before_the_second_probe_is_overdue_keeps_its_session() -> None:
    async with story() as scene:
        scene.gateway.freeze()
        await scene.clock.pass_(12)
        assert scene.row.phase == "unproven"
        scene.gateway.thaw()
        await until(lambda: scene.session is not None and scene.session.last_received > scene.clock.monotonic() - 1)
        await scene.becomes("ready")

        assert scene.dials == 1
        assert scene.gaps[0].recovered.fills == ()


async def test_04_probes_that_take_four_seconds_are_no_fault() -> None:
    """Ten minutes of a quiet gateway that answers late: no change of phase, no reconnect."""
    async with story() as scene:
        scene.gateway.quiet()
        for _ in range(67):
            scene.gateway.freeze()
            await scene.clock.pass_(9)
            scene.gateway.thaw()
            received = scene.session.last_received if scene.session else 0.0
            await until(lambda before=received: scene.session is not None and scene.session.last_received > before)

        assert scene.phases == [("connecting", None), ("syncing", None), ("ready", None)]
        assert scene.dials == 1


# --- 5 --------------------------------------------------------------------------------------------------------------


async def test_05_a_half_open_connection_is_noticed_like_a_frozen_one_and_the_kernel_looks_too() -> None:
    async with story() as scene:
        assert scene.session is not None
        sock = scene.session.wire.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
        scene.gateway.freeze()
        await scene.clock.pass_(15.2)

        await until(lambda: scene.dials == 2)


async def test_05_after_a_sleep_of_the_machine_the_session_is_probed_at_once() -> None:
    """The wall clock has gone on, the monotonic one has not: the hour does not count as silence."""
    async with story() as scene:
        scene.gateway.quiet()
        probes = scene.requested("reqCurrentTime")
        scene.clock.asleep(3600)
        await scene.clock.pass_(0.6)

        assert scene.requested("reqCurrentTime") == probes + 1
        await scene.becomes("ready")
        assert scene.dials == 1
        assert scene.logged("Resumed after suspend") == 1


async def test_05_stopped_for_a_minute_with_a_probe_open_nothing_is_lost() -> None:
    """SIGSTOP of the daemon: what has arrived is read first, then the probe's time limit starts again."""
    async with story() as scene:
        scene.gateway.quiet()
        scene.gateway.freeze()
        await scene.clock.pass_(7)
        scene.clock.absent(60)
        scene.gateway.thaw()
        await scene.clock.pass_(4)

        assert scene.phases[-1] == ("ready", None)
        assert scene.dials == 1


# --- 6 --------------------------------------------------------------------------------------------------------------


async def test_06_an_accepted_dial_without_a_greeting_is_probably_a_dialog() -> None:
    """One connection in two minutes, and advice in the order in which it helps."""
    async with story(before=Gateway.accept_silently, connected=False, timeout=0.2) as scene:
        row = await scene.becomes("waiting", "handshakeTimeout")
        assert scene.explains("handshakeTimeout")
        assert row.advice[:2] == (LOOK_AT_TWS, FINISH_LOGIN)
        assert scene.patience == pytest.approx(119.8, abs=0.1)
        assert "no server version came within 0.2 s" in (row.lastError.text if row.lastError else "")
        await scene.clock.pass_(119)
        assert (scene.dials, scene.gateway.connections.now) == (1, 1)
        await scene.clock.pass_(1)
        assert (scene.row.phase, scene.row.reason) == ("waiting", "handshakeTimeout")
        await scene.clock.pass_(1)
        await until(lambda: scene.dials == 2)
        assert scene.gateway.connections.now == 1
        await scene.becomes("waiting", "handshakeTimeout")

        assert scene.logged("✗ Auto-connect to IBKR failed: ") == 1
        assert scene.logged("You can manually connect via the UI or /api/ibkr/connect endpoint") == 1
        assert len(scene.lines) == 3, "repeats are counted, not printed"


# --- 7 --------------------------------------------------------------------------------------------------------------


async def test_07_2110_at_connect_is_not_ready_and_requests_nothing() -> None:
    """The handshake succeeds; IBKR is not behind it, and what TWS would answer cannot be trusted."""
    async with story(before=lambda gateway: gateway.lose_upstream(2110, answers="empty"), connected=False) as scene:
        await scene.becomes("upstreamLost", "upstreamLost")
        await scene.clock.pass_(5)
        assert scene.requested("reqPositions") == 0
        assert not scene.sync("positions").known
        caught = await refused(scene.link.connect(ConnectParams()))
        assert (caught.reason, caught.ibCode) == ("upstreamLost", 2110)
        scene.gateway.restore_upstream()

        await scene.becomes("ready")
        assert len(scene.store.rows("positions")) == 25
        assert scene.dials == 1


async def test_07_2110_that_is_never_taken_back_ends_with_an_answer_from_ibkr() -> None:
    async with story(before=lambda gateway: gateway.lose_upstream(2110, answers="empty"), connected=False) as scene:
        await scene.becomes("upstreamLost", "upstreamLost")
        await scene.clock.pass_(25)
        assert scene.is_in("upstreamLost", "upstreamLost"), "an empty answer proves nothing"
        scene.gateway.faults.upstream = None
        await scene.clock.pass_(10.5)

        await scene.becomes("ready")
        assert scene.sync("positions").known


# --- 8 and 9 --------------------------------------------------------------------------------------------------------


async def test_08_no_farm_clears_a_lost_upstream() -> None:
    async with story() as scene:
        scene.gateway.lose_upstream(1100)
        await scene.becomes("upstreamLost", "upstreamLost")
        for code in (2104, 2106, 2158, 2107, 2108, 2119):
            scene.gateway.farm(code)
        await until(lambda: len(scene.row.farms) >= 3)

        await scene.stays("upstreamLost", "upstreamLost", 30)


async def test_09_no_farm_that_breaks_touches_the_session() -> None:
    """2103 to 2104 within 3 s, ten times; 2107 and 2108 are normal."""
    async with story() as scene:
        for _ in range(10):
            scene.gateway.farm(2103, "usfarm")
            await until(lambda: scene.row.farms["usfarm"].state == "broken")
            await scene.clock.pass_(3)
            scene.gateway.farm(2104, "usfarm")
            await until(lambda: scene.row.farms["usfarm"].state == "ok")
        scene.gateway.farm(2108, "usfarm")
        await until(lambda: scene.row.farms["usfarm"].state == "inactive")

        assert scene.phases == [("connecting", None), ("syncing", None), ("ready", None)]
        assert (scene.dials, scene.gaps, scene.row.connected) == (1, [], True)
        farm = scene.store.row("farms", "usfarm")
        assert farm is not None


# --- 10 and 11 ------------------------------------------------------------------------------------------------------


async def test_10_no_such_contract_during_an_outage_is_not_final() -> None:
    """200 while upstream is lost is upstreamLost, and afterwards the contract is found at once."""
    async with story() as scene:
        scene.gateway.lose_upstream(1100, answers="empty")
        await scene.becomes("upstreamLost", "upstreamLost")
        assert (
            await refused(scene.market.contracts.qualify(ContractQuery(symbol="AAPL", secType="STK", currency="USD")))
        ).reason == "upstreamLost"
        scene.gateway.restore_upstream()
        await scene.becomes("ready")

        found = await scene.market.contracts.qualify(
            ContractQuery(symbol="AAPL", secType="STK", exchange="SMART", currency="USD")
        )
        assert [row.conId for row in found.rows] == [AAPL]


async def test_11_a_request_answered_with_1100_is_interrupted_and_no_order_changes() -> None:
    """1100 with a request id is a link event; with an order's id it says nothing about the order."""
    async with story() as scene:
        before = dict(scene.store.rows("orders"))
        own = next(order for order in before.values() if isinstance(order, Order) and order.clientId == 1)
        assert not own.done
        scene.gateway.send_error(1100, req_id=own.orderId)
        await scene.becomes("upstreamLost", "upstreamLost")
        assert scene.store.rows("orders") == before
        scene.gateway.restore_upstream()
        await scene.becomes("ready")

        assert scene.store.rows("orders") == before


async def test_11_lists_cut_off_by_1100_are_not_taken_for_whole() -> None:
    """The gateway answers what is open with 1100: unknown, never an empty list."""
    async with story(before=lambda gateway: gateway.mute("positions"), connected=False) as scene:
        await scene.becomes("syncing")
        scene.gateway.lose_upstream(1100, per_request=True)
        await scene.becomes("upstreamLost", "upstreamLost")
        assert not scene.sync("positions").known
        scene.gateway.unmute("positions")
        scene.gateway.restore_upstream()
        await scene.becomes("ready")

        assert len(scene.store.rows("positions")) == 25


# --- 12 -------------------------------------------------------------------------------------------------------------


async def test_12_a_quiet_market_is_probed_and_never_lost() -> None:
    """Ten minutes without a tick."""
    async with story() as scene:
        scene.gateway.quiet()
        await streaming(scene, f"quotes:{SPY}")
        for _ in range(10):
            probes = scene.requested("reqCurrentTime")
            await scene.clock.pass_(60)
            await until(lambda before=probes: scene.requested("reqCurrentTime") > before)

        assert scene.phases == [("connecting", None), ("syncing", None), ("ready", None)]
        assert scene.dials == 1
        assert scene.row.connected
        assert scene.requested("reqMktData") == 1
