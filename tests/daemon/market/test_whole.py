"""Market data through the whole daemon, from the simulated gateway's wire to a peer on the local socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.process import Daemon
from daemon.simulator import Gateway, World
from shared.jsonrpc.codec import RpcError
from tests.daemon.running import Mirror, place, running, settings
from tests.waiting import until


class House:
    """A gateway, a daemon connected to it, and a peer of the daemon's."""

    def __init__(self, gateway: Gateway, daemon: Daemon, peer: Mirror) -> None:
        self.gateway, self.daemon, self.peer = gateway, daemon, peer

    def conId(self, symbol: str) -> int:
        return self.gateway.world.catalogue.named(symbol).conId

    def requests(self, name: str) -> list[dict[str, str]]:
        """The gateway's requests of this name, in order."""
        return [seen.fields for seen in self.gateway.requests if seen.name == name]

    def lines(self) -> dict[int, int]:
        return self.gateway.quotes.by_contract()

    async def join(self, *topics: str) -> Mirror:
        return await Mirror.join(self.daemon.settings.socket_path, topics)

    async def bars(self, **params: Any) -> list[Any]:
        return await self.peer.all("bars.fetch", **params)


async def refusal(request: Any) -> dict[str, Any]:
    with pytest.raises(RpcError) as refused:
        await request
    return refused.value.data


@pytest.fixture
def options() -> dict[str, Any]:
    """Settings other than usual, for the daemon."""
    return {}


@pytest.fixture
async def house(options: dict[str, Any]) -> AsyncIterator[House]:
    async with place() as directory, Gateway(World(seed=7), tick_rate=20.0) as gateway:
        config = settings(directory, port=gateway.port, auto_connect=True, **options)
        async with running(config) as daemon:
            peer = await Mirror.join(config.socket_path)
            await peer.until(lambda: bool(peer.link["connected"]))
            yield House(gateway, daemon, peer)
            await peer.leave()


async def test_a_share_cfd_is_quoted_by_its_underlying(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """IBKR reroutes the request; the row is the CFD's, and its line is freed like any other."""
    monkeypatch.setattr("daemon.market.streams.LINGER", 0.2)
    cfd = next(each for each in house.gateway.world.catalogue.by_con_id.values() if each.secType == "CFD")

    (row,) = (await house.peer.call("quotes.get", conIds=[cfd.conId]))["rows"]
    assert (row["conId"], row["ibCode"], row["bid"] > 0) == (cfd.conId, None, True)
    assert house.lines() == {cfd.underConId: 1}
    await until(lambda: not house.lines())


async def test_a_reconnect_requests_each_wanted_line_once(house: House) -> None:
    topic = f"quotes:{house.conId('AAPL')}"
    peer = await house.join(topic, "sync", "link")
    await peer.until(lambda: bool(peer.rows(topic)))

    house.gateway.drop()
    await peer.until(lambda: not peer.link["connected"])
    assert peer.rows("sync")[topic]["stale"]
    assert peer.rows(topic)  # what was last known stays
    await peer.until(lambda: bool(peer.link["connected"]) and not peer.rows("sync")[topic]["stale"])

    assert len(house.requests("reqMktData")) == 2
    assert house.lines() == {house.conId("AAPL"): 1}
    await peer.leave()


@pytest.mark.parametrize(
    ("code", "reason"), [(354, "notSubscribed"), (10089, "notSubscribed"), (10168, "notSubscribed")]
)
async def test_what_is_not_subscribed_is_said_with_ibkrs_code(house: House, code: int, reason: str) -> None:
    house.gateway.entitlement(code, "AAPL")
    aapl, msft = house.conId("AAPL"), house.conId("MSFT")

    data = await refusal(house.peer.call("quotes.get", conIds=[aapl]))
    rows = (await house.peer.call("quotes.get", conIds=[aapl, msft]))["rows"]

    assert (data["reason"], data["ibCode"]) == (reason, code)
    assert [row["ibCode"] for row in rows] == [code, None]
    assert rows[1]["bid"] > 0


@pytest.mark.parametrize("options", [{"market_data": "delayed"}])
@pytest.mark.parametrize("code", [10089, 10167, 10168])
async def test_delayed_data_flows_where_it_was_requested(house: House, code: int) -> None:
    house.gateway.entitlement(code, "AAPL")
    rows = (await house.peer.call("quotes.get", conIds=[house.conId("AAPL"), house.conId("MSFT")]))["rows"]

    assert [(row["marketDataType"], row["ibCode"]) for row in rows] == [("delayed", None), ("live", None)]
    assert rows[0]["bid"] > 0


async def test_too_many_tickers_of_which_tws_itself_uses_some(house: House) -> None:
    """101 from the gateway, before our own count of a hundred is reached."""
    house.gateway.quotes.limit = 1
    peer = await house.join(f"quotes:{house.conId('AAPL')}")
    await until(lambda: bool(house.lines()))

    data = await refusal(house.peer.call("quotes.get", conIds=[house.conId("MSFT")]))

    assert (data["reason"], data["ibCode"]) == ("tooManySubscriptions", 101)
    await peer.leave()


# --- bars -----------------------------------------------------------------------------------------------------------


async def test_bars_of_a_day_and_of_a_minute(house: House) -> None:
    aapl = house.conId("AAPL")
    days = await house.bars(conId=aapl, durationStr="1 M", barSizeSetting="1 day")
    minutes = await house.bars(conId=aapl, durationStr="1 D", barSizeSetting="1 min", endDateTime="20261120-20:00:00")

    pages = await house.bars(conId=aapl, durationStr="1 M", barSizeSetting="1 min")

    assert len(days) > 15
    assert len(pages) > 5000
    assert [bar["date"] for bar in pages] == sorted({bar["date"] for bar in pages})
    assert all(len(bar["date"]) == 10 and bar["date"][4] == bar["date"][7] == "-" for bar in days)
    assert len(minutes) > 100
    assert all(bar["date"].endswith("Z") and bar["date"][10] == "T" for bar in minutes)
    assert [bar["date"] for bar in minutes] == sorted(bar["date"] for bar in minutes)
    assert minutes[-1]["date"] == "2026-11-20T19:59:00Z"
    assert all(bar["low"] <= min(bar["open"], bar["close"]) and bar["volume"] > 0 for bar in minutes)


async def test_a_burst_of_500_violates_no_pacing_rule(house: House) -> None:
    contracts = [each.conId for each in house.gateway.world.catalogue.portfolio(25)]
    questions = [
        {
            "conId": contracts[number % len(contracts)],
            "durationStr": f"{1800 + number % 250} S",
            "barSizeSetting": "5 secs",
        }
        for number in range(500)
    ]
    answers = await asyncio.gather(
        *(house.peer.call("bars.fetch", **each) for each in questions), return_exceptions=True
    )

    refused = [each for each in answers if isinstance(each, RpcError)]
    served = [each for each in answers if isinstance(each, dict)]
    assert {each.data["reason"] for each in refused} == {"pacingBudget"}
    assert all(20 < each.data["retryAfter"] < 3100 for each in refused)
    assert len(refused) + len(served) == 500
    assert len(served) == 120  # sixty questions, two clients each
    assert all(each["rows"] for each in served)
    assert (house.gateway.history.violations, house.gateway.history.requests) == (0, 60)
    assert house.gateway.connections.over_rate == 0
    await house.peer.until(lambda: house.peer.link["pacing"]["used"] == 60)


# --- contracts ------------------------------------------------------------------------------------------------------


async def test_contracts_are_found_described_and_qualified(house: House) -> None:
    aapl = house.conId("AAPL")
    found = await house.peer.all("contracts.search", q="AAP")
    details = (await house.peer.call("contracts.get", conId=aapl))["rows"][0]
    one = await house.peer.call("contracts.qualify", symbol="AAPL", secType="STK", exchange="SMART", currency="USD")
    chain = await house.peer.all("contracts.options", conId=aapl)
    ambiguous = await refusal(house.peer.call("contracts.qualify", symbol="ES", secType="FUT"))

    assert aapl in [match["conId"] for match in found]
    assert (details["conId"], details["symbol"]) == (aapl, "AAPL")
    assert details["tradingHours"]
    assert one["rows"][0]["conId"] == aapl
    assert all(row["expirations"] and row["strikes"] == sorted(row["strikes"]) for row in chain)
    assert len(chain) > 0
    assert ambiguous["reason"] == "contractAmbiguous"
    assert len({each["conId"] for each in ambiguous["candidates"]}) > 1
