from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon.simulator import Gateway, World
from daemon.tws import LinkLost, TwsRefused, TwsSilent
from shared.messages import ContractQuery
from tests.daemon.tws.scripted import Peer
from tests.daemon.tws.sessions import Session, joined, session
from tests.waiting import until

AAPL = ContractQuery(conId=265598, exchange="SMART")
MINUTES: dict[str, Any] = {
    "endDateTime": None,
    "durationStr": "1 D",
    "barSizeSetting": "5 mins",
    "whatToShow": "TRADES",
    "useRTH": True,
}


async def test_none_is_ibkrs_own_refusal():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        with pytest.raises(TwsRefused) as refused:
            await made.tws.contract_details(ContractQuery(conId=999), 10)

        assert refused.value.code == 200
        assert not made.tws.pending
        (notice,) = [row for row in made.rows("notices").values() if row.code == 200]
        assert notice.conId == 999


async def test_silence_is_not_an_empty_list():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        gateway.mute("contractDetails")
        with pytest.raises(TwsSilent):
            await made.tws.contract_details(AAPL, 0.02)

        assert not made.tws.pending


async def test_an_answer_after_the_deadline_is_dropped():
    late = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = (await peer.until(78))[1]
        await late.wait()
        peer.send(75, request, "SMART", 265598, "AAPL", "100", 1, "20261218", 1, "100")
        peer.send(76, request)
        peer.error(200, "No security definition has been found", request=int(request))
        await peer.until(49)
        peer.send(49, 1, 1700000000)
        await peer.finish()

    async with session(gateway) as made:
        with pytest.raises(TwsSilent):
            await made.tws.option_chain("AAPL", "", "STK", 265598, 0.02)
        late.set()
        await made.tws.probe(10)

        assert made.tws.decode_errors == {}
        assert not made.tws.pending


async def test_a_validation_error_fails_its_request():
    """ib_async takes 321 for a warning, and its caller would wait for ever (FAULTS 45)."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = int((await peer.until(9))[2])
        peer.error(321, "Error validating request.-'bF' : cause - Please enter a symbol", request=request)
        await peer.finish()

    async with session(gateway) as made:
        with pytest.raises(TwsRefused) as refused:
            await made.tws.contract_details(ContractQuery(), 10)

    assert refused.value.code == 321


async def test_a_warning_does_not_end_a_request():
    async def gateway(peer: Peer) -> None:
        await peer.shake()
        request = int((await peer.until(78))[1])
        peer.error(2106, "HMDS data farm connection is OK:ushmds", request=request)
        peer.send(75, request, "SMART", 265598, "AAPL", "100", 1, "20261218", 1, "100")
        peer.send(76, request)
        await peer.finish()

    async with session(gateway) as made:
        assert len(await made.tws.option_chain("AAPL", "", "STK", 265598, 10)) == 1


async def hanging_bars(gateway: Gateway, made: Session) -> asyncio.Task[Any]:
    """A request for bars that the gateway has received and does not answer."""
    gateway.mute("historicalData")
    pending = asyncio.create_task(made.tws.historical_bars(AAPL, **MINUTES, timeout=60))
    await until(lambda: any(seen.name == "reqHistoricalData" for seen in gateway.requests))
    return pending


@pytest.mark.parametrize(("code", "named"), [(1100, True), (1100, False), (2110, True), (2110, False), (1102, True)])
async def test_an_outage_with_a_requests_id_interrupts_it(code: int, named: bool):
    """It is no refusal, and an empty answer least of all (FAULTS 11). Without an id it interrupts all (A23)."""
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        pending = await hanging_bars(gateway, made)
        gateway.send_error(code, req_id=next(iter(made.tws.pending)) if named else -1)
        with pytest.raises(LinkLost) as lost:
            await pending

        assert lost.value.code == code
        assert not made.tws.pending


@pytest.mark.parametrize("code", [321, 322])
async def test_a_validation_error_without_a_request_id_fails_the_one_open_request(code: int):
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        gateway.mute("contractDetails")
        pending = asyncio.create_task(made.tws.contract_details(AAPL, 60))
        await until(lambda: len(made.tws.pending) == 1)
        gateway.send_error(code, "Error validating request.-'bQ' : cause - Please enter a local symbol", req_id=-1)
        with pytest.raises(TwsRefused) as refused:
            await pending

        assert refused.value.code == code


async def test_a_validation_error_without_a_request_id_fails_none_of_several():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        gateway.mute("contractDetails")
        both = [asyncio.create_task(made.tws.contract_details(query, 60)) for query in (AAPL, ContractQuery(conId=1))]
        await until(lambda: len(made.tws.pending) == 2)
        gateway.send_error(321, "Error validating request.-'bQ' : cause - Please enter a local symbol", req_id=-1)
        await made.tws.probe(60)

        assert not any(task.done() for task in both)
        for task in both:
            task.cancel()
        await asyncio.wait(both)


async def test_the_end_of_the_session_fails_its_requests():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        pending = await hanging_bars(gateway, made)
        gateway.reset()
        with pytest.raises(LinkLost):
            await pending
        with pytest.raises(LinkLost):
            await made.tws.historical_bars(AAPL, **MINUTES, timeout=60)


async def test_a_cancelled_request_for_bars_is_cancelled_at_the_gateway():
    async with Gateway(World()) as gateway, joined(gateway.port) as made:
        pending = await hanging_bars(gateway, made)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending

        await until(lambda: any(seen.name == "cancelHistoricalData" for seen in gateway.requests))
        assert not made.tws.pending


async def test_upstream_is_proven_by_an_answer_that_tws_cannot_give():
    """After 2110 a symbol search that is answered is as good as 1102; while it hangs nothing is proven."""
    async with Gateway(World()) as gateway:
        gateway.lose_upstream(2110)
        async with joined(gateway.port) as made:
            assert not await made.tws.prove_upstream(0.05)
            assert await made.tws.sync({"positions"}) == {"positions"}
            gateway.behave()
            assert await made.tws.prove_upstream(10)
            await made.tws.sync()
            assert made.is_current("positions")
