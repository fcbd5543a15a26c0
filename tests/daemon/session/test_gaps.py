"""A gap's row: when it began and ended, why, and what was learnt of it."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from daemon.session.gaps import FILLS_NAMED, Gaps, Moment
from shared.messages import Fill, Gap, Recovered
from tests.clock import WEDNESDAY
from tests.rows import fill


def recovered_fill(exec_id: str) -> Fill:
    return fill(exec_id, WEDNESDAY, recovered=True)


BEGIN = Moment(WEDNESDAY, 1000.0)
LATER = Moment(WEDNESDAY + timedelta(minutes=1), 1060.0)


def test_a_gap_is_a_row_when_it_has_ended() -> None:
    gaps = Gaps()
    gaps.begin("upstreamLost", BEGIN, expected=False, fills=["old"])
    gaps.replayed(3)

    assert gaps.end(
        LATER, fills={"old": recovered_fill("old"), "new": recovered_fill("new")}, unrecovered={"pnl", "orders"}
    ) == Gap(
        cause="upstreamLost",
        from_=WEDNESDAY,
        to=LATER.wall,
        recovered=Recovered(fills=("new",), fillCount=1, streams=3),
        unrecovered=("orders", "pnl"),
    )
    assert gaps.end(LATER, fills={}, unrecovered=()) is None, "once"


def test_what_follows_before_it_has_ended_is_part_of_it() -> None:
    gaps = Gaps()
    gaps.begin("upstreamLost", BEGIN, expected=False, fills=())
    gaps.begin("socketLost", LATER, expected=False, fills=["in the gap"])
    gap = gaps.end(LATER, fills={"in the gap": recovered_fill("in the gap")}, unrecovered=())

    assert gap is not None
    assert (gap.cause, gap.from_, gap.recovered.fills) == ("upstreamLost", WEDNESDAY, ("in the gap",))


def test_a_gap_names_the_first_of_many_fills_and_counts_all() -> None:
    """Its row is one line of the event stream, which readers take up to 48 KB."""
    fills = {name: recovered_fill(name) for name in (f"0000e0d5.{number:08x}.01.01" for number in range(5000))}
    gaps = Gaps()
    gaps.begin("socketLost", BEGIN, expected=False, fills=())
    gap = gaps.end(LATER, fills=fills, unrecovered=())

    assert gap is not None
    assert gap.recovered.fillCount == 5000
    assert gap.recovered.fills == tuple(fills)[:FILLS_NAMED]
    assert len(msgspec.json.encode(gap)) < 24_000


def test_fills_seen_as_they_happened_are_not_recovered() -> None:
    gaps = Gaps()
    gaps.begin("socketLost", BEGIN, expected=False, fills=())
    gap = gaps.end(LATER, fills={"seen": fill("seen", WEDNESDAY)}, unrecovered=())

    assert gap is not None
    assert gap.recovered.fills == ()


def test_a_gap_that_reaches_into_a_planned_window_is_expected() -> None:
    gaps = Gaps()
    gaps.begin("socketLost", BEGIN, expected=False, fills=())
    gaps.expect(True)
    gaps.expect(False)
    gap = gaps.end(LATER, fills={}, unrecovered=())

    assert gap is not None
    assert gap.expected


def test_where_nothing_was_lost_nothing_is_replayed_or_expected() -> None:
    gaps = Gaps()
    gaps.replayed(3)
    gaps.expect(True)

    assert not gaps.open


def test_a_gap_is_as_long_as_it_was_whatever_the_wall_clock_is_set_to_meanwhile() -> None:
    gaps = Gaps()
    gaps.begin("socketLost", BEGIN, expected=False, fills=())
    gap = gaps.end(Moment(WEDNESDAY + timedelta(days=2), 1060.0), fills={}, unrecovered=())

    assert gap is not None
    assert gap.to - gap.from_ == timedelta(minutes=1)
