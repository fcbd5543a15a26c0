"""What real gateways send, and no decoder expects: as the gateway's ordinary behaviour, and as verbs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daemon.simulator import Gateway, ManualClock, World, faults
from daemon.simulator.alterations import Alteration, altered
from daemon.simulator.wire import frame
from tests.daemon.simulator.waiting import APPLE, Raw, quote, ready


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway(World(accounts=2), clock=ManualClock()) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> Raw:
    """A client whose session has begun."""
    return await ready(gateway)


def history(client: Raw, req_id: int = 1, *, size: str = "1 min", format_date: int = 1, keep: int = 0) -> None:
    client.send(20, req_id, *APPLE, 0, "", size, "600 S", 1, "TRADES", format_date, keep, "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Alteration(61, 2, "?"), frame(61, 3, "?", 7)),
        (Alteration(61, "more", "x"), frame(61, 3, "DU1", 7, "x")),
        (Alteration(61, "fewer"), frame(61, 3, "DU1")),
        (Alteration(61, 9, "?"), frame(61, 3, "DU1", 7)),
        (Alteration(62, 1, "?"), frame(61, 3, "DU1", 7)),
    ],
)
def test_one_field_of_one_message_is_altered(change: Alteration, expected: bytes) -> None:
    before, after = frame(1, 6, 1), frame(62, 1) if change.message == 61 else frame(2)
    assert altered(before + frame(61, 3, "DU1", 7) + after, [change]) == before + expected + after


def test_an_alteration_skips_and_ends() -> None:
    change = Alteration(2, 1, "?", times=1, skip=1)
    packet = frame(2, 0) * 4
    assert altered(packet, [change]) == frame(2, 0) + frame(2, "?") + frame(2, 0) * 2
    assert altered(packet, [change]) == packet


def test_what_is_no_message_is_not_altered() -> None:
    for data in (b"", b"\0", b"HTTP/1.1 400", frame(2, 1)[:-1]):
        assert altered(data, [Alteration(2, 1, "?")]) == data


@pytest.mark.parametrize("line", ["alter=nothing,1,x", "alter=position", "alter=position,-1,x"])
async def test_an_alteration_of_nothing_is_refused(gateway: Gateway, line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        faults.apply(gateway, line)


async def test_a_row_that_cannot_be_decoded_stands_in_a_list(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "alter=position,14,?,1,2")
    client.send(61, 1)
    rows = [await client.until("61") for _ in range(4)]
    assert [row[14] == "?" for row in rows] == [False, False, True, False]


async def test_an_account_list_that_cannot_be_decoded(gateway: Gateway) -> None:
    faults.apply(gateway, "alter=managedAccounts,fewer")
    client = await Raw.open(gateway.port)
    assert await client.until("15") == ["15", "1"]


async def test_the_market_data_type_comes_before_the_terms(gateway: Gateway, client: Raw) -> None:
    quote(client, 1)
    assert (await client.read())[0] == "58"
    assert (await client.read())[0] == "81"


async def test_an_index_has_no_size(gateway: Gateway, client: Raw) -> None:
    quote(client, 1, (416904, "SPX", "IND", "", 0, "", "", "CBOE", "", "USD", "", ""))
    assert (await client.until("1", "6", "1", "4"))[5] == ""


async def test_a_contract_without_data_has_prices_of_0_without_size(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "no-prices=AAPL")
    quote(client, 1)
    assert (await client.until("1", "6", "1", "1"))[4:6] == ["-1", "0"]
    assert (await client.until("1", "6", "1", "4"))[4:6] == ["0", "0"]
    assert await client.until("2", "6", "1", "5") == ["2", "6", "1", "5", "0"]


async def test_bars_come_with_unknown_prices_without_a_year_and_empty(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "odd-bars=unknown")
    history(client)
    answer = await client.until("17")
    assert len(answer) == 5 + 8 * int(answer[4])
    assert answer[-7:] == ["?", "?", "?", "?", "-1", "-1.00", "-1"]

    faults.apply(gateway, "odd-bars=noYear")
    history(client, 2, size="30 secs")
    assert (await client.until("17"))[5][:5].replace(" ", "").isdigit()

    faults.apply(gateway, "odd-bars=emptyUpdate")
    history(client, 3, size="10 secs", keep=1)
    await client.until("17", "3")
    gateway.clock.advance(1)  # type: ignore[attr-defined]
    assert (await client.until("90", "3"))[4:] == ["", "", "", "", "-1.0", "-1"]


async def test_a_filled_order_is_listed_with_a_quantity_of_0(gateway: Gateway, client: Raw) -> None:
    client.send(99, 0)
    filled = await client.until("101")
    assert (filled[12], filled[13]) == ("BUY", "0")


async def test_a_commission_is_pending_and_then_known_or_empty(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "pend-commissions")
    fill = gateway.fill("AAPL", 10, 200)
    assert (await client.until("59"))[3] == "-1"
    gateway.report_commission(fill.execId, -0.35)
    assert (await client.until("59"))[3] == "-0.35"
    gateway.report_commission(fill.execId)
    assert (await client.until("59"))[3] == ""


async def test_an_execution_comes_without_news_of_its_order(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "silence-orders")
    gateway.fill("AAPL", 10, 200)
    assert (await client.read())[0] == "11"


async def test_an_old_state_of_a_finished_order_comes_late(gateway: Gateway, client: Raw) -> None:
    fill = gateway.fill("AAPL", 100, 200)
    await client.until("59")
    gateway.repeat_order(fill.permId, 60)
    assert (await client.until("3"))[2:4] == ["Submitted", "60"]


async def test_execution_times_are_in_a_zone_of_the_gateways(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "execution-zone=JST,9")
    fill = gateway.fill("AAPL", 10, 200)
    at = (await client.until("11"))[15]
    assert fill.time == gateway.clock.time() == 1_763_380_800.0
    assert at == "20251117 21:00:00 JST"


async def test_the_values_of_one_account_are_refused(gateway: Gateway, client: Raw) -> None:
    first, second = gateway.world.accounts
    faults.apply(gateway, f"refuse-account={second}")
    client.send(76, 1, 5, first, "", 0)
    client.send(76, 1, 6, second, "", 0)
    assert (await client.until("74"))[2] == "5"
    assert (await client.until("4"))[2:4] == ["6", "321"]


async def test_the_tags_of_ledgers_have_a_prefix(gateway: Gateway, client: Raw) -> None:
    faults.apply(gateway, "prefix-ledgers")
    client.send(76, 1, 5, gateway.world.accounts[0], "", 0)
    assert await client.until("73", "1", "5", gateway.world.accounts[0], "", "$LEDGER-CashBalance")


async def test_a_model_has_values_and_positions_of_its_own(gateway: Gateway, client: Raw) -> None:
    account = gateway.world.accounts[0]
    gateway.hold_in_model(account, "Growth")
    client.send(76, 1, 5, account, "", 0)
    total = float((await client.until("73", "1", "5", account, "", "NetLiquidation"))[6])
    part = float((await client.until("73", "1", "5", account, "Growth", "NetLiquidation"))[6])
    assert part == pytest.approx(total / 2, abs=0.01)
    client.send(74, 1, 7, account, "")
    assert [(await client.until("71"))[-1] for _ in range(2)] == ["", "Growth"]


async def test_the_version_comes_late_or_cut_off(gateway: Gateway) -> None:
    faults.apply(gateway, "slow-version=8")
    client = await Raw.dial(gateway.port)
    client.greet()
    assert await client.silent()
    gateway.clock.advance(8)  # type: ignore[attr-defined]
    assert len(await client.read()) == 2

    faults.apply(gateway, "behave")
    faults.apply(gateway, "close-in-handshake=off,off,on")
    client = await Raw.dial(gateway.port)
    client.greet()
    assert 0 < len(await client.rest()) < 20


async def test_an_account_has_as_many_values_as_a_real_one(gateway: Gateway, client: Raw) -> None:
    client.send(76, 1, 5, gateway.world.accounts[0], "", 0)
    rows = [await client.until("73")]
    while (row := await client.read())[0] == "73":
        rows.append(row)
    assert len(rows) == len({(row[5], row[7]) for row in rows}) == 153


def contract(symbol: str, sec_type: str, exchange: str = "SMART", con_id: int = 0) -> tuple[object, ...]:
    return (con_id, symbol, sec_type, "", 0, "", "", exchange, "", "USD", "", "")


async def test_market_data_of_a_cfd_is_the_shares(gateway: Gateway, client: Raw) -> None:
    quote(client, 1, contract("AAPL", "CFD"))
    assert await client.read() == ["91", "1", "265598", "SMART"]
    assert not gateway.quotes.lines


async def test_cryptocurrencies_trade_in_parts_and_have_aggregated_trades(gateway: Gateway, client: Raw) -> None:
    bitcoin = contract("BTC", "CRYPTO", "PAXOS")
    quote(client, 1, bitcoin)
    assert 0 < float((await client.until("1", "6", "1", "1"))[5]) < 1
    for req_id, show in ((2, "TRADES"), (3, "AGGTRADES")):
        client.send(20, req_id, *bitcoin, 0, "", "1 hour", "1 D", 0, show, 1, 0, "")
    assert (await client.until("4"))[2:4] == ["2", "10299"]
    assert int((await client.until("17", "3"))[4]) >= 14


async def test_an_expired_future_is_found_where_expired_ones_are_wanted(gateway: Gateway, client: Raw) -> None:
    future = next(c for c in gateway.world.catalogue.by_con_id.values() if c.expired)
    for req_id, expired in ((1, 0), (2, 1)):
        client.send(9, 8, req_id, *contract("", "", "", future.conId), expired, "", "", "")
    assert (await client.until("4"))[2:4] == ["1", "200"]
    assert (await client.until("10"))[12] == str(future.conId)


async def test_a_bond_has_details_of_its_own_and_its_issuer_no_con_id(gateway: Gateway, client: Raw) -> None:
    client.send(9, 8, 1, *contract("IBM", "BOND"), 0, "", "", "")
    assert (await client.until("18"))[1:6] == ["1", "IBM", "BOND", "459200KA8", "3.875"]
    client.send(81, 2, "IBM")
    found = await client.until("79", "2")
    issuer = found.index("-1")
    assert found[issuer : issuer + 7] == ["-1", "INTL BUSINESS MACHINES CORP", "BOND", "", "", "0", found[issuer + 6]]
    assert found[-1] == "e1428257"


async def test_bid_and_ask_are_never_crossed(gateway: Gateway, client: Raw) -> None:
    gateway.quotes.rate = 20
    quote(client, 1)
    await client.until("46")
    prices = {"1": 0.0, "2": float("inf")}
    for _ in range(12):
        gateway.clock.advance(30)  # type: ignore[attr-defined]
        for _ in range(200):
            tick = await client.until("1", "6", "1")
            if tick[3] in prices and float(tick[4]) > 0:
                prices[tick[3]] = float(tick[4])
                assert prices["1"] < prices["2"]


async def test_the_last_trade_time_of_a_future_has_a_zone_of_its_own(gateway: Gateway, client: Raw) -> None:
    future = next(c for c in gateway.world.catalogue.by_con_id.values() if c.secType == "FUT" and not c.expired)
    client.send(9, 8, 1, *contract("", "", "", future.conId), 0, "", "", "")
    details = await client.until("10")
    assert details[4] == f"{future.lastTradeDateOrContractMonth} 08:30 CST"
    assert "US/Central" in details
