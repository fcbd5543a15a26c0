from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.link.events import Lost, Target
from daemon.simulator import Gateway, World
from daemon.state.store import Store
from daemon.tws import Tws
from shared.clock import SystemClock
from tests.daemon.tws.scripted import frame
from tests.daemon.tws.sessions import synced
from tests.waiting import until

numbers = st.sampled_from(["0", "1", "-1", "2147483647", "1.7976931348623157E308", "NaN", "Infinity", "1e999", ""])
texts = st.text(max_size=12).map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode())
fields = st.lists(numbers | texts, max_size=40)
messages = st.tuples(st.integers(-1, 120), fields).map(lambda sent: frame(sent[0], *sent[1]))


class Nowhere:
    """A transport whose other end is a test."""

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


@given(st.lists(messages, max_size=30))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_message_breaks_a_session(sent: list[bytes]):
    async def receive() -> Tws:
        store = Store("e1", SystemClock())
        tws = Tws(1, Target(host="nowhere", port=1, clientId=7), lambda event: None, store, SystemClock())
        wire = tws.wire
        wire.connection_made(Nowhere())  # type: ignore[arg-type]
        wire.data_received(frame(178, "20261125 10:00:00 UTC") + frame(15, 1, "DU1") + frame(9, 1, 1))
        for message in sent:
            wire.data_received(message)
        tws.abort()
        return tws

    tws = asyncio.run(receive())

    assert tws.messages_in == 3 + len(sent)
    assert sum(tws.decode_errors.values()) <= len(sent)


@pytest.mark.parametrize("how", ["zeroLength", "unknownId", "fewFields", "manyFields", "notNumber", "noFields"])
async def test_a_malformed_message_costs_itself_alone(how: str):
    async with Gateway(World(positions=2, fills=0)) as gateway, synced(gateway) as made:
        before = made.rows("positions")
        gateway.malformed(how)
        await made.tws.probe(10)

        assert sum(made.tws.decode_errors.values()) == 1
        assert set(made.rows("positions")) == set(before)


@pytest.mark.parametrize("how", ["latin1", "notUtf8"])
async def test_a_foreign_encoding_is_no_malformed_message(how: str):
    async with Gateway(World(positions=2)) as gateway, synced(gateway) as made:
        gateway.malformed(how)
        await made.tws.probe(10)

        assert made.tws.decode_errors == {}


async def test_a_huge_length_ends_the_session():
    async with Gateway(World(positions=2)) as gateway, synced(gateway) as made:
        gateway.malformed("hugeLength")
        await until(lambda: made.of(Lost))
