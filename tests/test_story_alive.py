"""Faults in which the link looks alive and is not, or looks dead and is not (FAULTS 1–12)."""

from __future__ import annotations

from datetime import timedelta

from tests.stories import story, until


async def test_01_the_nightly_reset_keeps_the_socket() -> None:
    """1100 repeated for minutes, farm codes around it, then 1102: one transition, no dial, one gap, all read again."""
    async with story() as told:
        session = told.row.session
        told.gateway.lose_upstream(1100)
        row = await told.becomes("upstreamLost", "upstreamLost")
        assert (row.upstream, row.connected, row.nextAttemptAt) == ("lost", False, None)
        assert row.advice[0].startswith("Wait: TWS reconnects to IBKR by itself")
        assert told.sync("positions").stale
        for _ in range(30):
            told.gateway.say(1100)
            told.gateway.farm(2103)
            told.gateway.farm(2105)
            await told.clock.pass_(5)
        told.gateway.restore_upstream()
        await told.becomes("ready")
        await until(lambda: told.gaps)

        assert (told.row.session, told.dials, told.row.upstream) == (session, 1, "ok")
        assert told.phases[-2:] == [("upstreamLost", "upstreamLost"), ("ready", None)]
        assert told.gaps[0].cause == "upstreamLost"
        assert told.gaps[0].to - told.gaps[0].from_ >= timedelta(seconds=149)
        assert not told.sync("positions").stale
        assert told.said("its own connection to IBKR's servers is down") == 1
        assert told.said("✓ Connected to IBKR on port") == 2
