"""What the store holds, and by which steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from daemon.state.store import FILLS_HELD, GAPS, NOTICES, Store
from shared.messages import BROKER_TOPICS, Account, Fill, Gap, Notice, PnL, Position, Quote, Sync
from tests.clock import HandClock

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


class SlowRecorder:
    """A ledger that says when it has written."""

    def __init__(self) -> None:
        self.pending: list[tuple[Sequence[Fill], Callable[[], object]]] = []

    def fills_complete(self, at: datetime) -> None:
        """Not looked at here."""

    def keep(self, fills: Sequence[Fill], then: Callable[[], object]) -> None:
        self.pending.append((fills, then))

    def write(self) -> None:
        pending, self.pending = self.pending, []
        for _, then in pending:
            then()


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOON)


@pytest.fixture
def store(clock: HandClock) -> Store:
    return Store("e1", clock)


def position(account: str, con_id: int, units: float = 1.0) -> Position:
    return Position(account=account, conId=con_id, position=units)


def fill(exec_id: str, time: datetime = NOON, **more: object) -> Fill:
    facts = {"account": "DU1", "side": "BOT", "shares": 1.0, "price": 2.0, "permId": 1, "orderId": 1, "clientId": 1}
    return Fill(execId=exec_id, time=time, **(facts | more))


def test_at_first_nothing_is_known(store: Store) -> None:
    assert store.rows("sync") == {topic: Sync(known=False) for topic in BROKER_TOPICS}
    assert store.replica.rows("positions") == {}


def test_a_row_is_encoded_as_it_crosses(store: Store) -> None:
    store.put({"pnl": {"DU1": PnL(account="DU1", dailyPnL=float("nan"), unrealizedPnL=float("inf"), realizedPnL=1.5)}})

    assert store.replica.row("pnl", "DU1") == (
        b'{"account":"DU1","modelCode":"","dailyPnL":null,"unrealizedPnL":null,"realizedPnL":1.5}'
    )
    store.put({"fills": {"x": fill("x")}})
    assert msgspec.json.decode(store.replica.row("fills", "x") or b"")["time"] == "2026-01-02T12:00:00Z"


def test_equal_rows_cost_no_step(store: Store) -> None:
    steps = []
    row = PnL(account="DU1", dailyPnL=float("nan"))
    seq = store.put({"pnl": {"DU1": row}, "accounts": {"DU1": Account(account="DU1", paper=True)}})
    store.on_step.append(lambda: steps.append(store.seq))

    assert store.put({"pnl": {"DU1": PnL(account="DU1", dailyPnL=float("nan"))}}) == seq
    assert store.put({"accounts": {"DU1": Account(account="DU1", paper=True), "DU2": None}}) == seq
    assert steps == []


def test_one_put_is_one_step(store: Store) -> None:
    before = store.seq
    after = store.put({"pnl": {"a": PnL(account="a")}, "accounts": {"a": Account(account="a", paper=False)}})

    assert after == before + 1
    assert store.replica.state("pnl") == store.replica.state("accounts")


def test_a_swap_removes_what_is_gone(store: Store) -> None:
    store.replace("positions", {"DU1:1": position("DU1", 1), "DU1:2": position("DU1", 2)})
    before = store.seq
    store.replace("positions", {"DU1:2": position("DU1", 2), "DU1:3": position("DU1", 3)})

    assert set(store.rows("positions")) == {"DU1:2", "DU1:3"}
    lacking = store.replica.since({"positions"}, before)
    assert lacking is not None
    assert {key: row is None for key, (_, row) in lacking["positions"].rows.items()} == {"DU1:1": True, "DU1:3": False}


def test_a_swap_of_one_account_leaves_the_others(store: Store) -> None:
    store.replace("positions", {"DU1:1": position("DU1", 1), "DU2:1": position("DU2", 1)})
    store.replace("positions", {}, where=lambda row: isinstance(row, Position) and row.account == "DU1")

    assert set(store.rows("positions")) == {"DU2:1"}


def test_an_empty_snapshot_is_known_to_be_empty(store: Store, clock: HandClock) -> None:
    before = store.seq
    store.replace("positions", {}, known=True)

    assert store.row("sync", "positions") == Sync(known=True, asOf=clock.now())
    assert store.replica.state("positions").seq == before + 1
    assert store.replica.state("positions").asOf == "2026-01-02T12:00:00Z"


def test_stale_is_not_unknown(store: Store) -> None:
    store.known("positions")
    store.stale(["positions", "orders"])

    assert store.row("sync", "positions") == Sync(known=True, asOf=NOON, stale=True)
    assert store.row("sync", "orders") == Sync(known=False)
    store.known("positions")
    assert store.row("sync", "positions") == Sync(known=True, asOf=NOON)


def test_what_is_forgotten_has_no_rows_and_is_unknown(store: Store) -> None:
    store.replace("positions", {"DU1:1": position("DU1", 1)}, known=True)
    store.forget("positions")

    assert store.rows("positions") == {}
    assert store.row("sync", "positions") == Sync(known=False)


def test_a_line_let_go_takes_its_topic_with_it(store: Store) -> None:
    before = store.put({"quotes:1": {"1": Quote(conId=1, bid=2.0)}})
    store.drop("quotes:1")

    lacking = store.replica.since({"quotes:1"}, before)
    assert lacking is not None
    assert lacking["quotes:1"].rows == {"1": (before + 1, None)}
    store.replica.trim("9")
    assert "quotes:1" not in set(store.replica.topics())


@pytest.mark.parametrize(
    ("topic", "limit"),
    [("notices", NOTICES), ("gaps", GAPS)],
)
def test_notices_and_gaps_are_bounded(store: Store, topic: str, limit: int) -> None:
    for number in range(limit + 3):
        if topic == "notices":
            store.notice(Notice(at=NOON, code=number, text="x"))
        else:
            store.gap(Gap(cause=str(number), from_=NOON, to=NOON))

    held = store.rows(topic)
    assert len(held) == limit
    assert list(held)[-1] == f"e1-{store.seq}"
    assert set(store.replica.rows(topic)) == set(held)


def test_a_fill_is_shown_once_it_is_recorded(clock: HandClock) -> None:
    """No reader sees a fill that a killed daemon would not have again."""
    recorder = SlowRecorder()
    store = Store("e1", clock, recorder)
    store.put({"fills": {"a.01": fill("a.01")}})

    assert store.replica.rows("fills") == {}
    assert set(store.rows("fills")) == {"a.01"}
    recorder.write()
    assert set(store.replica.rows("fills")) == {"a.01"}


async def test_fills_are_known_once_they_are_shown(clock: HandClock) -> None:
    """A complete list is not known to be empty while its fills are still being recorded."""
    recorder = SlowRecorder()
    store = Store("e1", clock, recorder)
    store.replace("fills", {"a.01": fill("a.01")}, known=True)
    assert store.row("sync", "fills") == Sync(known=False)
    recorder.write()
    await store.recorded()
    assert store.row("sync", "fills") == Sync(known=True, asOf=NOON)

    store.replace("fills", {"b.01": fill("b.01")}, known=True)
    store.stale(["fills"])
    recorder.write()
    assert store.row("sync", "fills") == Sync(known=True, asOf=NOON, stale=True)


def test_a_commission_that_comes_before_the_record_is_not_lost(clock: HandClock) -> None:
    """Execution and commission arrive within a millisecond; the row that is shown has both."""
    recorder = SlowRecorder()
    store = Store("e1", clock, recorder)
    store.put({"fills": {"a.01": fill("a.01")}})
    store.put({"fills": {"a.01": fill("a.01", commission=1.0, commissionCurrency="USD")}})
    recorder.write()

    assert msgspec.json.decode(store.replica.row("fills", "a.01") or b"")["commission"] == 1.0


def test_a_correction_takes_the_place_of_what_it_corrects(store: Store) -> None:
    store.put({"fills": {"a.b.01": fill("a.b.01", recovered=True)}})
    before = store.seq
    store.put({"fills": {"a.b.02": fill("a.b.02", price=3.0)}})

    assert store.seq == before + 1
    assert set(store.replica.rows("fills")) == {"a.b.02"}
    assert store.rows("fills") == {"a.b.02": fill("a.b.02", price=3.0)}, "a correction says how it was learnt itself"
    store.put({"fills": {"a.b.01": fill("a.b.01")}})
    assert store.seq == before + 1


def test_fills_do_not_vanish_from_a_snapshot(store: Store) -> None:
    """IBKR lists a day; what it lists no longer has happened all the same."""
    store.replace("fills", {"a.01": fill("a.01")}, known=True)
    store.replace("fills", {}, known=True)
    store.forget("fills")

    assert set(store.replica.rows("fills")) == {"a.01"}
    assert store.row("sync", "fills") == Sync(known=False)


def test_the_topic_is_the_last_24_hours_of_fills(store: Store, clock: HandClock) -> None:
    store.load([fill("old.01", NOON - timedelta(hours=25)), fill("new.01", NOON - timedelta(hours=23))])
    assert set(store.replica.rows("fills")) == {"new.01"}
    assert set(store.rows("fills")) == {"old.01", "new.01"}

    clock.jump(timedelta(hours=2).total_seconds())
    store.expire()
    assert store.replica.rows("fills") == {}
    assert set(store.rows("fills")) == {"old.01", "new.01"}
    clock.jump(timedelta(days=8).total_seconds())
    store.put({"fills": {"newest.01": fill("newest.01", clock.now())}})
    store.expire()
    assert set(store.rows("fills")) == {"newest.01"}


@pytest.mark.parametrize("days", [2, 12, 4000])
def test_a_passing_clock_error_hides_nothing(store: Store, clock: HandClock, days: int) -> None:
    store.put({"fills": {"a.01": fill("a.01")}})
    clock.jump(timedelta(days=days).total_seconds())
    store.expire()
    assert store.replica.rows("fills") == {}
    store.put({"fills": {"b.01": fill("b.01", NOON + timedelta(minutes=1))}})
    clock.jump(-timedelta(days=days).total_seconds())
    store.expire()

    assert set(store.replica.rows("fills")) == {"a.01", "b.01"}


def test_fills_of_earlier_daemons_are_known_and_stale(store: Store) -> None:
    """If one of them has read the list to its end; until this session's own list has come."""
    store.load([fill("a.01")])
    assert store.row("sync", "fills") == Sync(known=False)

    store.load([fill("a.01")], complete=NOON)
    assert store.row("sync", "fills") == Sync(known=True, asOf=NOON, stale=True)
    store.replace("fills", {}, known=True)
    assert store.row("sync", "fills") == Sync(known=True, asOf=NOON)
    store.load([], complete=NOON)
    assert store.row("sync", "fills") == Sync(known=True, asOf=NOON)


def test_the_fills_in_memory_are_bounded(store: Store) -> None:
    store.put(
        {"fills": {f"{n}.x.01": fill(f"{n}.x.01", NOON - timedelta(seconds=FILLS_HELD - n)) for n in range(FILLS_HELD)}}
    )
    store.put({"fills": {"last.x.01": fill("last.x.01")}})

    assert len(store.rows("fills")) <= FILLS_HELD
    assert set(store.replica.rows("fills")) == set(store.rows("fills"))
    assert "last.x.01" in store.rows("fills")
    assert "0.x.01" not in store.rows("fills")
    assert store.fills(NOON - timedelta(seconds=FILLS_HELD)) is None, "only the ledger has them"
    assert store.fills(NOON) == [fill("last.x.01")]

    # reported late: older than what was let go, and let go at once
    store.put({"fills": {f"late{n}.x.01": fill(f"late{n}.x.01", NOON - timedelta(days=2)) for n in range(3)}})
    assert store.fills(NOON - timedelta(seconds=FILLS_HELD)) is None, "memory lacks no less than before"


def test_a_row_that_is_put_again_after_it_went_is_new(store: Store) -> None:
    """Gone and come back in later steps leaves the row, not the tombstone."""
    store.put({"positions": {"DU1:1": position("DU1", 1)}})
    store.put({"positions": {"DU1:1": None}})
    before = store.seq
    store.put({"positions": {"DU1:1": position("DU1", 1)}})

    assert store.seq == before + 1
    assert msgspec.json.decode(store.replica.row("positions", "DU1:1") or b"", type=Position) == position("DU1", 1)
    assert store.put({"positions": {"DU1:1": replace(position("DU1", 1))}}) == before + 1
