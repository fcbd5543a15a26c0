"""The doctor's own handshake, against the simulated gateway: named right, polite, and no other session disturbed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from daemon.simulator import Gateway, World
from facade.doctor.greeting import DOCTOR_CLIENT_ID, Greeting, greet


async def greeted(gateway: Gateway, client_id: int = DOCTOR_CLIENT_ID, timeout: float = 60.0) -> Greeting:
    return await asyncio.to_thread(
        greet, "127.0.0.1", gateway.port, client_id, timeout=timeout, now=time.monotonic, wall=time.time
    )


async def test_a_healthy_gateway_is_greeted_completely() -> None:
    async with Gateway(World(seed=7, accounts=("DU1234567",), positions=1)) as gateway:
        greeting = await greeted(gateway)
    assert greeting.reason is None
    assert greeting.complete
    assert (greeting.server_version, greeting.accounts) == (178, ("DU1234567",))
    assert greeting.server_time is not None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda gateway: gateway.close_in_handshake(), "closedDuringHandshake"),
        (lambda gateway: gateway.speak_http(), "notTws"),
        (lambda gateway: gateway.speak_tls(), "notTws"),
        (lambda gateway: gateway.old_version(100), "versionUnsupported"),
        (lambda gateway: gateway.client_id_in_use(), "clientIdInUse"),
        (lambda gateway: gateway.empty_accounts(), "sessionIncomplete"),
        (lambda gateway: gateway.refuse(), "portClosed"),
    ],
)
async def test_what_is_wrong_is_named(fault: Callable[[Gateway], None], reason: str) -> None:
    async with Gateway(World(seed=7)) as gateway:
        fault(gateway)
        assert (await greeted(gateway)).reason == reason


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda gateway: gateway.accept_silently(), "handshakeTimeout"),
        (lambda gateway: gateway.silence_after_handshake(), "sessionIncomplete"),
        (lambda gateway: gateway.no_next_id(), "sessionIncomplete"),
    ],
)
async def test_silence_ends_with_the_time_limit_and_has_its_reason(
    fault: Callable[[Gateway], None], reason: str
) -> None:
    async with Gateway(World(seed=7)) as gateway:
        fault(gateway)
        assert (await greeted(gateway, timeout=0.3)).reason == reason


async def test_upstream_trouble_is_reported_and_the_session_beside_ours_stays() -> None:
    async with Gateway(World(seed=7)) as gateway:
        first = await greeted(gateway, client_id=1)
        gateway.lose_upstream(2110)
        second = await greeted(gateway)
    assert first.complete
    assert 2110 in [code for code, _text in second.errors]
