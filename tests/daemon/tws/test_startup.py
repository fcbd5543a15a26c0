from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from daemon.link.events import ReadOnlyApi, UpstreamLost, UpstreamRestored
from daemon.simulator import Gateway, World
from daemon.tws import Limits, LinkLost
from daemon.tws.startup import REQUESTED, own_account
from shared.messages import BROKER_TOPICS, ContractQuery
from tests.daemon.tws.recorded import AAPL, REQUEST_AT, send
from tests.daemon.tws.scripted import Peer
from tests.daemon.tws.sessions import joined, session, synced
from tests.waiting import until


def requested(gateway: Gateway, name: str) -> int:
    """How many requests of that name the gateway has received."""
    return sum(seen.name == name for seen in gateway.requests)


@pytest.mark.parametrize("version", [157, 163, 164, 170, 177, 178])
async def test_every_server_version_we_offer_is_understood(version: int):
    query = ContractQuery(conId=265598, exchange="SMART")
    async with Gateway(World(positions=5), server_version=version, tick_rate=50) as gateway, synced(gateway) as made:
        quotes: list[object] = []
        made.tws.on_quotes = quotes.append
        assert made.tws.server_version == version
        assert all(made.is_current(topic) for topic in BROKER_TOPICS)
        assert len(made.rows("fills")) == 4
        assert await made.tws.contract_details(query, 10)
        assert await made.tws.matching_symbols("AAPL", 10)
        made.tws.subscribe_quote(query, 1)
        await until(lambda: quotes)
        assert made.tws.decode_errors == {}


async def test_no_positions_is_known_to_be_empty():
    async with Gateway(World(positions=0, fills=0)) as gateway, synced(gateway) as made:
        assert made.is_current("positions")
        assert made.rows("positions") == {}


ENDLESS = [
    ("mute", "positions", "positions"),
    ("mute", "accountUpdates", "summary"),
    ("mute", "allOpenOrders", "orders"),
    ("mute", "completedOrders", "orders"),
    ("mute", "executions", "fills"),
    ("mute", "pnL", "pnl"),  # which has no end marker to withhold
    ("withhold_end", "positions", "positions"),
    ("withhold_end", "accountUpdates", "summary"),
    ("withhold_end", "allOpenOrders", "orders"),
    ("withhold_end", "completedOrders", "orders"),
    ("withhold_end", "executions", "fills"),
]


@pytest.mark.parametrize(("how", "kind", "topic"), ENDLESS)
async def test_a_list_without_its_end_is_unknown_and_can_be_read_again_alone(how: str, kind: str, topic: str):
    async with Gateway(World(positions=3)) as gateway:
        getattr(gateway, how)(kind)
        async with joined(gateway.port, timeout=60) as made:
            sync = asyncio.create_task(made.tws.sync())
            await until(lambda: all(made.is_current(other) for other in REQUESTED if other != topic))
            await made.tws.probe(10)  # by now the answers to earlier requests have come
            assert not made.is_current(topic)
            assert topic == "fills" or made.rows(topic) == {}
            sync.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sync

            gateway.behave()
            assert await made.tws.sync({topic}) == frozenset()
            assert made.is_current(topic)
            assert made.rows(topic)
            assert made.tws.unknown == frozenset()


async def test_values_and_pnl_of_a_refused_account_are_unknown_and_the_others_are_not():
    async def gateway(peer: Peer) -> None:
        await peer.shake("DU1,DU2,DU3")
        while True:
            fields = await peer.next()
            if fields[0] == "6":
                peer.send(6, 2, "NetLiquidation", "1000.00", "USD", "DU1")
                peer.send(54, 1, "DU1")
            elif fields[0] == "76" and fields[3] == "DU2":
                peer.error(321, "Error validating request.-'bW' : cause - Invalid account code", int(fields[2]))
            elif fields[0] == "76":
                peer.send(73, 1, fields[2], "DU3", "", "NetLiquidation", "3000.00", "USD")
                peer.send(74, 1, fields[2])
            elif fields[0] == "92" and fields[2] == "DU3":
                peer.error(2150, "Invalid position trade derived value", int(fields[1]))
                peer.error(321, "Error validating request.-'bW' : cause - Invalid account code", int(fields[1]))
                peer.error(321, "Error validating request.-'bW' : cause - Invalid account code", int(fields[1]))
            elif fields[0] == "49":
                peer.send(49, 1, 1700000000)
            elif fields[0] == "92":
                peer.send(94, fields[1], "1", "2", "3")

    async with session(gateway, timeout=60) as made:
        assert await made.tws.sync({"summary", "pnl"}) == frozenset()
        await made.tws.probe(10)  # by now the second refusal has come, of what was over
        assert made.is_current("pnl")
        assert made.is_current("summary")
        values = {row.account: row.value for row in made.rows("summary").values()}
        assert values == {"DU1": "1000.00", "DU2": None, "DU3": "3000.00"}
        assert made.rows("pnl")["DU1"].dailyPnL == 1
        assert made.rows("pnl")["DU3"].dailyPnL is None


@pytest.mark.parametrize(
    ("topic", "number", "accounts"),
    [("summary", "76", 2), ("summary", "62", 51), ("pnl", "92", 2), ("positions", "74", 51)],
)
async def test_a_subscription_that_is_refused_later_leaves_no_row_current(topic: str, number: str, accounts: int):
    """What it brought before is not kept up to date any more, which readers see, and it is read again."""
    names = [f"DU{1_000_001 + n}" for n in range(accounts)]

    async def gateway(peer: Peer) -> None:
        await peer.shake(",".join(names))
        refused = ""
        while True:
            kind, *fields = await peer.next()
            request = fields[REQUEST_AT[kind] - 1] if kind in REQUEST_AT else ""
            refused = refused or (request if kind == number else "")
            if kind == "6":
                peer.send(54, 1, names[0])
            elif kind == "76":
                peer.send(73, 1, request, names[1], "", "NetLiquidation", "3000.00", "USD")
                peer.send(74, 1, request)
            elif kind == "62":
                peer.send(63, 1, request, names[0], "NetLiquidation", "3000.00", "USD")
                peer.send(64, 1, request)
            elif kind == "92":
                peer.send(94, request, "1", "2", "3")
            elif kind == "74":
                peer.send(72, 1, request)
            elif kind == "49":
                peer.error(321, "Error validating request.-'bW' : cause - Invalid account code", int(refused))
                peer.send(49, 1, 1700000000)

    async with session(gateway, timeout=60, limits=Limits(rate=1000)) as made:
        assert await made.tws.sync({topic}) == frozenset()
        assert made.is_current(topic)
        before = made.rows(topic)
        await made.tws.probe(10)
        assert not made.is_current(topic)
        assert made.rows(topic) == before

        assert await made.tws.sync({topic}) == frozenset()
        assert made.is_current(topic)


async def test_a_list_in_which_an_answered_account_is_refused_before_its_end_is_not_current():
    """Its rows would not be kept up to date; the next reading requests that account again."""

    async def gateway(peer: Peer) -> None:
        await peer.shake("DU1,DU2")
        requests: list[int] = []
        while True:
            kind, *fields = await peer.next()
            if kind == "92":
                requests.append(int(fields[0]))
                if len(requests) == 2:
                    cause = "Error validating request.-'bW' : cause - Invalid account code"
                    peer.error(321, cause, requests[0])
                peer.send(94, fields[0], "1", "2", "3")

    async with session(gateway, timeout=60) as made:
        assert await made.tws.sync({"pnl"}) == {"pnl"}
        assert not made.is_current("pnl")

        assert await made.tws.sync({"pnl"}) == frozenset()
        assert made.is_current("pnl")


@pytest.mark.parametrize("topic", ["summary", "positions"])
async def test_a_refusal_without_a_request_id_while_nothing_is_read_is_of_what_is_subscribed(topic: str):
    async with Gateway(World(positions=3)) as gateway, synced(gateway) as made:
        gateway.send_error(321, "Error validating request.-'bW' : cause - Invalid account code", req_id=-1)
        await until(lambda: not made.is_current(topic))

        assert await made.tws.sync({topic}) == frozenset()
        assert made.is_current(topic)


async def test_a_refusal_without_a_request_id_before_anything_was_read_ends_no_subscription():
    async with Gateway(World(positions=3)) as gateway, joined(gateway.port) as made:
        with capture_logs() as logs:
            gateway.send_error(321, "Error validating request.-'bW' : cause - Invalid account code", req_id=-1)
            await until(lambda: any(row.code == 321 for row in made.rows("notices").values()))
        assert "tws.subscription_ended" not in [line["event"] for line in logs]


async def test_the_figures_of_a_position_whose_subscription_is_refused_are_unknown():
    """The price that came of them was also that of the other accounts."""
    names = ("DU1111111", "DU2222222")

    async def gateway(peer: Peer) -> None:
        await peer.shake(",".join(names))
        request = ""
        while True:
            kind, *fields = await peer.next()
            if kind == "61":
                for name in names:
                    send(peer, f"61|3|{name}|{AAPL}|5|100")
                peer.send(62, 1)
            elif kind == "94":
                request = fields[0]
                peer.send(95, request, 5, 1, 2, 3, "1100")
            elif kind == "49":
                peer.error(321, "Error validating request.-'bW' : cause - Invalid account code", int(request))
                peer.send(49, 1, 1700000000)

    async with session(gateway, timeout=60) as made:
        await made.tws.sync({"positions"})
        await until(lambda: all(row.marketPrice == 220.0 for row in made.rows("positions").values()))
        await made.tws.probe(10)

        figures = {(row.marketPrice, row.marketValue, row.unrealizedPNL) for row in made.rows("positions").values()}
        assert figures == {(None, None, None)}


async def test_the_deadline_reports_what_stayed_unknown():
    async with Gateway(World(positions=3)) as gateway:
        gateway.mute("positions")
        async with joined(gateway.port, timeout=2) as made:
            assert await made.tws.sync() == {"positions"}
            assert made.tws.unknown == {"positions"}


@pytest.mark.parametrize(
    ("topic", "kind", "name"),
    [("positions", "positions", "reqPositions"), ("orders", "allOpenOrders", "reqAllOpenOrders")],
)
async def test_a_refusal_without_a_request_id_fails_the_one_list_that_is_read(topic: str, kind: str, name: str):
    async with Gateway(World(positions=3)) as gateway, joined(gateway.port, timeout=60) as made:
        gateway.mute(kind)
        reading = asyncio.create_task(made.tws.sync({topic}))
        await until(lambda: requested(gateway, name))
        gateway.send_error(322, "Error processing request.-'bP' : cause - Invalid account code", req_id=-1)

        assert await asyncio.wait_for(reading, 30) == {topic}


async def test_an_end_that_comes_late_still_counts():
    async with Gateway(World(positions=3, fills=0)) as gateway:
        gateway.delay(0.3, "positions")
        async with joined(gateway.port) as made:
            sync = asyncio.create_task(made.tws.sync())
            await until(lambda: requested(gateway, "reqPositions"))
            sync.cancel()
            await until(lambda: made.is_current("positions"))
            assert len(made.rows("positions")) == 3
            assert requested(gateway, "reqPositions") == 1


async def test_a_read_only_api_gets_one_request_for_orders():
    """321 ends the requests for orders of the session: each raises a dialog on TWS's screen."""
    async with Gateway(World(positions=1)) as gateway:
        gateway.read_only()
        async with joined(gateway.port, timeout=60) as made:
            assert await made.tws.sync() == {"orders"}
            assert len(made.of(ReadOnlyApi)) == 1
            assert not made.is_current("orders")

            before = requested(gateway, "reqAllOpenOrders"), requested(gateway, "reqCompletedOrders")
            assert await made.tws.sync({"orders"}) == {"orders"}
            await made.tws.recover("1102")
            assert (requested(gateway, "reqAllOpenOrders"), requested(gateway, "reqCompletedOrders")) == before
            assert len(made.of(ReadOnlyApi)) == 1


async def test_two_accounts_have_values_pnl_positions_and_figures():
    world = World(accounts=("DU1111111", "DU2222222"), positions=10)
    async with Gateway(world) as gateway, synced(gateway, account="DU2222222") as made:
        assert {row.account for row in made.rows("summary").values()} == {"DU1111111", "DU2222222"}
        assert set(made.rows("pnl")) == {"DU1111111", "DU2222222"}
        positions = made.rows("positions").values()
        assert {row.account for row in positions} == {"DU1111111", "DU2222222"}
        await until(lambda: all(row.marketValue is not None for row in made.rows("positions").values()))
        others = [row for row in made.rows("positions").values() if row.account == "DU1111111"]
        for row in others:
            price = row.marketValue / row.position / float(row.multiplier or 1)
            assert row.marketPrice == pytest.approx(price)


async def test_accounts_that_take_longer_than_one_reading_are_read_in_turns():
    """Each reading goes on where the one before it was cut off; what had been answered is not requested again."""
    names = tuple(f"DU{number}" for number in range(1000001, 1000061))
    async with (
        Gateway(World(accounts=names, positions=60, fills=0), message_rate=0) as gateway,
        joined(gateway.port, timeout=60, limits=Limits(rate=100)) as made,
    ):
        unknown = frozenset({"pnl", "positions"})
        readings = 0
        while unknown:
            unknown = await made.tws.startup.read(unknown, 0.4)
            readings += 1
            assert readings < 30
        assert readings > 1
        assert set(made.rows("pnl")) == set(names)
        assert len(made.rows("positions")) == 60
        assert requested(gateway, "reqPnL") < 60 + readings
        assert requested(gateway, "reqPositionsMulti") < 60 + readings


async def test_accounts_that_did_not_answer_are_requested_again_after_the_others():
    async with Gateway(World(accounts=("DU1000001", "DU1000002"))) as gateway:
        gateway.mute("pnL")
        async with joined(gateway.port, timeout=60) as made:
            assert await made.tws.startup.read({"pnl"}, 0.1) == {"pnl"}
            gateway.behave()
            assert await made.tws.startup.read({"pnl"}, 10) == frozenset()
            assert (requested(gateway, "reqPnL"), requested(gateway, "cancelPnL")) == (4, 2)


async def test_sixty_accounts_stay_within_the_rate():
    """Beyond fifty accounts reqPositions is refused: one summary, positions by account, 40 messages a second."""
    names = tuple(f"DU{number}" for number in range(1000001, 1000061))
    async with (
        Gateway(World(accounts=names, positions=60, fills=0)) as gateway,
        joined(gateway.port, timeout=60) as made,
    ):
        assert await made.tws.sync() == frozenset()
        assert {row.account for row in made.rows("summary").values()} == set(names)
        assert set(made.rows("pnl")) == set(names)
        assert len(made.rows("positions")) == 60
        assert requested(gateway, "reqAccountSummary") == 1
        assert requested(gateway, "reqPositions") == 0
        assert gateway.connections.over_rate == 0


def test_the_own_account_is_not_the_advisors():
    assert own_account(["F1234567", "U1", "U2"]) == "U1"
    assert own_account(["DF1234567", "DU1"]) == "DU1"
    assert own_account(["DF1234567"]) == "DF1234567"


async def test_orders_of_all_clients_show_where_they_were_placed():
    async with Gateway(World(positions=1)) as gateway, synced(gateway, client_id=1) as made:
        orders = made.rows("orders")
        assert {row.placedBy for row in orders.values() if not row.done} == {"thisClient", "otherClient", "manual"}
        assert all(key == str(row.permId) for key, row in orders.items())
        done = [row for row in orders.values() if row.done]
        assert {row.status for row in done} == {"Cancelled", "Filled"}
        filled = [row for row in done if row.status == "Filled"]
        assert all(row.placedBy == "otherClient" and row.avgFillPrice and row.remaining == 0 for row in filled)


async def test_nothing_is_requested_or_trusted_while_ibkr_is_away():
    """During 1100 a gateway ends empty lists as if they were whole."""
    async with Gateway(World(positions=3, fills=0)) as gateway, synced(gateway) as made:
        gateway.lose_upstream(answers="empty")
        await until(lambda: made.of(UpstreamLost))

        assert await made.tws.sync({"positions", "fills"}) == {"positions", "fills"}
        assert len(made.rows("positions")) == 3

        gateway.restore_upstream()
        await until(lambda: made.of(UpstreamRestored))
        assert await made.tws.sync({"positions", "fills"}) == frozenset()


async def test_a_session_that_ends_meanwhile_has_recovered_nothing():
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        gateway.mute("positions")
        recovery = asyncio.create_task(made.tws.recover("1102"))
        await until(lambda: requested(gateway, "reqPositions") == 2)
        gateway.drop()
        with pytest.raises(LinkLost):
            await recovery
        with pytest.raises(LinkLost):
            await made.tws.sync()


async def test_the_account_subscription_that_tws_ended_is_renewed_once():
    """2100: values are stale until the feed is back; a second 2100 is left to be seen (FAULTS 52)."""
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        gateway.unsubscribe_accounts()
        await until(lambda: requested(gateway, "reqAccountUpdates") == 2)
        await until(lambda: made.is_current("summary"))

        gateway.unsubscribe_accounts()
        await until(lambda: not made.is_current("summary"))
        assert requested(gateway, "reqAccountUpdates") == 2


async def test_other_accounts_values_stand_when_tws_ends_the_own_ones_feed():
    async with Gateway(World(accounts=("DU1000001", "DU1000002"))) as gateway, synced(gateway) as made:
        before = set(made.rows("summary"))
        gateway.unsubscribe_accounts()
        await until(lambda: requested(gateway, "reqAccountUpdates") == 2)
        await until(lambda: made.is_current("summary"))
        assert set(made.rows("summary")) == before


async def test_a_subscription_whose_end_was_cut_off_is_ended_by_the_next_request():
    """Of those that are never ended TWS takes two more, and then none (FAULTS 49)."""
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        (first,) = made.tws.startup.pnl.accounts
        made.tws.queue.pause(paused=True)
        assert await made.tws.startup.read({"pnl"}, 0.05) == {"pnl"}
        made.tws.queue.pause(paused=False)
        assert await made.tws.startup.read({"pnl"}, 10) == frozenset()
        await made.tws.probe(10)
        ended = [seen.fields for seen in gateway.requests if seen.name == "cancelPnL"]
        assert [str(first) in fields.values() for fields in ended] == [True]


@pytest.mark.parametrize(("topic", "kind"), [("orders", "completedOrders"), ("positions", "positions")])
async def test_rows_that_could_not_be_read_again_are_stale(topic: str, kind: str):
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        gateway.mute(kind)
        assert await made.tws.startup.read({topic}, 0.1) == {topic}
        assert made.rows(topic)
        assert not made.is_current(topic)


async def test_nothing_is_renewed_at_1102_behind_our_back():
    """ib_async's own hook requests the account summary at each 1102 and never ends it (FAULTS 49)."""
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        before = len(gateway.requests)
        for _ in range(3):
            gateway.send_error(1102)
        await made.tws.probe(10)
        assert [seen.name for seen in list(gateway.requests)[before:]] == ["reqCurrentTime"]


async def test_account_values_are_read_again_by_ending_the_standing_subscription():
    """TWS sends a standing one only changes: the list would not come to its end again."""
    requests: list[list[str]] = []

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        requests.append((await peer.until(6))[2:4])
        peer.send(54, 1, "DU1234567")
        requests.extend([(await peer.until(6))[2:4], (await peer.until(6))[2:4]])
        peer.send(54, 1, "DU1234567")
        await peer.finish()

    async with session(gateway) as made:
        await made.tws.sync({"accounts", "summary"})
        await made.tws.sync({"accounts", "summary"})

    assert requests == [["1", "DU1234567"], ["0", "DU1234567"], ["1", "DU1234567"]]


async def test_a_recovery_that_ibkr_goes_away_from_is_none():
    async with Gateway(World(positions=1)) as gateway, synced(gateway) as made:
        recovering = asyncio.create_task(made.tws.recover("1102"), name="recovering")
        gateway.send_error(1100)
        with pytest.raises(LinkLost):
            await recovering
