from __future__ import annotations

import pytest

from daemon.simulator import Gateway, World
from daemon.state.store import Store
from shared.clock import SystemClock
from tests.daemon.tws.scripted import Peer, frame
from tests.daemon.tws.sessions import joined, session, synced
from tests.waiting import until


async def test_fills_first_learnt_from_an_answer_are_recovered():
    """The fills of the day before the daemon's first session: IBKR lists them because we request them."""
    async with Gateway(World(fills=4)) as gateway, synced(gateway) as made:
        fills = made.rows("fills").values()
        assert len(fills) == 4
        assert all(row.recovered and row.commission is not None for row in fills)


async def test_fills_of_a_gap_are_recovered_once():
    store = Store("e1", SystemClock())
    async with Gateway(World(fills=0)) as gateway:
        async with synced(gateway, store=store) as made:
            seen = gateway.fill("AAPL", 10, client_id=7)
            await until(lambda: made.rows("fills").get(seen.execId))
        missed = [gateway.fill("AAPL", 10, client_id=7), gateway.fill("MSFT", -5, client_id=7)]
        async with synced(gateway, store=store) as made:
            assert not made.rows("fills")[seen.execId].recovered
            assert all(made.rows("fills")[fill.execId].recovered for fill in missed)
            during = gateway.fill("MSFT", 1, client_id=9)  # of another client: not reported to us
            recovered = await made.tws.recover("1102")
            assert recovered.fills == (during.execId,)
            assert (await made.tws.recover("1102")).fills == ()
        assert len(made.rows("fills")) == 4


def execution(exec_id: str) -> tuple[object, ...]:
    """An execDetails message that was not requested."""
    contract = (265598, "AAPL", "STK", "", 0, "", "", "NASDAQ", "USD", "AAPL", "NMS")
    report = (f"0001.{exec_id}", "20261125-10:00:00", "DU1234567", "NASDAQ", "BOT", 10, 100.5, 77, 7, 0, 10, 100.5)
    return (11, -1, 5, *contract, *report, "", "", "", "", 1, 0)


def commission(exec_id: str, amount: float) -> tuple[object, ...]:
    return (59, 1, f"0001.{exec_id}", amount, "USD", 0, "", "")


@pytest.mark.parametrize(
    ("messages", "commissions"),
    [
        # whichever comes first
        (
            [commission("b.01", 2.0), execution("a.01"), commission("a.01", 1.0), execution("b.01")],
            {"a.01": 1, "b.01": 2},
        ),
        # a late one of what was corrected is not the correction's
        ([execution("a.01"), execution("a.02"), commission("a.02", 2.0), commission("a.01", 1.0)], {"a.02": 2}),
        # one that comes before its correction waits for it
        ([execution("a.01"), commission("a.01", 1.0), commission("a.02", 2.0), execution("a.02")], {"a.02": 2}),
        # one without an execution is no other's
        ([commission("d.01", 4.0), execution("c.01")], {"c.01": None}),
    ],
)
async def test_each_commission_goes_to_its_own_execution(
    messages: list[tuple[object, ...]], commissions: dict[str, float | None]
) -> None:
    async def gateway(peer: Peer) -> None:
        await peer.shake(version=178)
        for message in (*messages, execution("end.01")):
            peer.send(*message)
        await peer.finish()

    async with session(gateway) as made:
        await until(lambda: "0001.end.01" in made.rows("fills"))
        found = {row.execId: row.commission for row in made.rows("fills").values()}

    assert found == {"0001.end.01": None} | {f"0001.{name}": amount for name, amount in commissions.items()}


async def test_no_text_of_the_gateway_carries_a_control_character_into_a_row():
    escape, turned = "\x1b[2J\x9b31m\r\n", "\u202e"

    async def gateway(peer: Peer) -> None:
        await peer.shake(accounts=f"DU1234567{escape},{turned}", version=178)
        contract = (265598, f"AAPL{escape}", "STK", "", 0, "", "", f"NASDAQ{turned}", "USD", f"AA{escape}", "NMS")
        report = ("0001.a.01", "20261125-10:00:00", "DU1234567", "NASDAQ", "BOT", 10, 100.5, 77, 7, 0, 10, 100.5)
        peer.send(11, -1, 5, *contract, *report, f"mine{escape}", "", "", "", 1, 0)
        await peer.until(6)
        peer.send(6, 2, f"NetLiquidation{escape}", f"5{turned}", f"USD{escape}", f"DU1234567{escape}")
        peer.send(54, 1, "DU1234567")
        await peer.finish()

    async with session(gateway) as made:
        await made.tws.sync({"accounts", "summary"})
        await until(lambda: made.rows("fills"))
        assert made.tws.accounts == ("DU1234567 [2J 31m",)
        for topic in ("accounts", "summary", "fills"):
            report = [f"{key} {row}" for key, row in made.rows(topic).items()]
            assert report
            assert all(text.isprintable() for text in report), report


async def test_live_positions_come_and_go():
    async with Gateway(World(positions=0, fills=0)) as gateway, synced(gateway) as made:
        gateway.fill("AAPL", 100, client_id=7)
        await until(lambda: made.rows("positions").get("DU1234567:265598"))
        gateway.fill("AAPL", -100, client_id=7)
        await until(lambda: "DU1234567:265598" not in made.rows("positions"))


async def test_a_market_figure_brings_no_closed_position_back():
    async def gateway(peer: Peer) -> None:
        await peer.shake()
        aapl = (265598, "AAPL", "STK", "", 0, "", "", "NASDAQ", "USD", "AAPL", "NMS")
        figures = ("10100", "100", "100", "0", "DU1234567")
        await peer.until(61)
        peer.send(61, 3, "DU1234567", *aapl, "100", "100")
        peer.send(62, 1)
        await peer.until(61)
        peer.send(7, 8, *aapl, "100", "101", *figures)
        peer.send(62, 1)
        peer.send(7, 8, *aapl, "100", "102", *figures)
        await peer.until(49)
        peer.send(49, 1, 1700000000)
        await peer.finish()

    async with session(gateway) as made:
        await made.tws.sync({"positions"})
        assert list(made.rows("positions")) == ["DU1234567:265598"]
        await made.tws.sync({"positions"})
        await made.tws.probe(10)

        assert made.rows("positions") == {}


async def test_an_order_lives_through_its_states():
    async with Gateway(World(positions=1, orders=0, fills=0, completed=0)) as gateway, synced(gateway) as made:
        perm = str(gateway.place("AAPL", 10, 1.0, client_id=7))
        row = await until(lambda: made.rows("orders").get(perm))
        assert (row.placedBy, row.done, row.filled, row.avgFillPrice) == ("thisClient", False, 0.0, None)
        gateway.cancel(int(perm))
        await until(lambda: made.rows("orders")[perm].done)
        assert made.rows("orders")[perm].status == "Cancelled"


async def test_unset_values_are_null():
    """The largest double, the largest integers, NaN and infinity are IBKR's ways to say nothing."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = (await peer.until(92))[1]
        peer.send(94, request, "1.7976931348623157E308", "NaN", "Infinity")
        await peer.finish()

    async with session(gateway) as made:
        assert await made.tws.sync({"pnl"}) == frozenset()
        row = made.rows("pnl")["DU1234567"]
        assert (row.dailyPnL, row.unrealizedPnL, row.realizedPnL) == (None, None, None)


async def test_an_execution_with_an_unknown_time_zone_is_not_lost():
    """ib_async refuses such a message, and with it a fill (FAULTS 53)."""

    async def gateway(peer: Peer) -> None:
        await peer.shake(version=178)
        for number, time in enumerate(
            ["20261125 10:00:00 中国标准时间", "20261125-10:00:00", "20261125 05:00:00 US/Eastern"]
        ):
            contract = [265598, "AAPL", "STK", "", 0, "", "", "NASDAQ", "USD", "AAPL", "NMS"]
            execution = [f"0001.{number}.01", time, "DU1234567", "NASDAQ", "BOT", 10, 100.5, 77, 7, 0, 10, 100.5]
            peer.send(11, -1, 5, *contract, *execution, "", "", "", "", 1, 0)
        await peer.finish()

    async with session(gateway) as made:
        await until(lambda: len(made.rows("fills")) == 3)
        utc = {row.time.isoformat() for key, row in made.rows("fills").items() if not key.startswith("0001.0")}
        assert utc == {"2026-11-25T10:00:00+00:00"}
        assert made.tws.decode_errors == {"timezone": 1}
        (notice,) = made.rows("notices").values()
        assert "中国标准时间" in notice.text


async def test_a_packet_is_one_step():
    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = (await peer.until(92))[1]
        peer.send(94, request, "1", "2", "3")
        await peer.until(49)
        figures = [frame(94, request, number, "5", "6") for number in range(10)]
        peer.raw(b"".join([*figures, frame(49, 1, 1700000000)]))
        await peer.finish()

    async with session(gateway) as made:
        await made.tws.sync({"pnl"})
        steps: list[int] = []
        made.store.on_step.append(lambda: steps.append(made.store.seq))
        await made.tws.probe(10)

    assert made.rows("pnl")["DU1234567"].dailyPnL == 9
    assert len(steps) == 1


async def test_the_ring_of_notices_takes_a_repeated_text_once():
    """TWS repeats 1100 every few seconds for minutes."""
    async with Gateway(World(positions=1)) as gateway, joined(gateway.port) as made:
        for _ in range(5):
            gateway.send_error(1100)
        gateway.send_error(10147, "OrderId 5 that needs\r\nto be cancelled is\x1b[31m not found.", req_id=5)
        await until(lambda: [row for row in made.rows("notices").values() if row.code == 10147])

        report = list(made.rows("notices").values())
        assert sum(row.code == 1100 for row in report) == 1
        assert report[-1].text == "OrderId 5 that needs to be cancelled is [31m not found."
        assert report[-1].reqId == 5
