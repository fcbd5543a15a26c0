"""The link machine: each phase, each reason's patience, and the laws no sequence of events can break."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from daemon.link import actions as act
from daemon.link import events as ev
from daemon.link import machine
from daemon.link.events import Target
from daemon.link.states import Connecting, Down, Link, Live, Now, Policy, Waiting
from daemon.link.windows import calendar
from shared.messages import Phase
from shared.reasons import LINK_REASONS

HOME = Target(host="127.0.0.1", port=7497, clientId=1)
AWAY = replace(HOME, host="gateway.example")
OTHER = replace(HOME, clientId=7)
WEDNESDAY = datetime(2025, 11, 19, 15, 0, tzinfo=UTC)  # 10:00 in New York: no planned window for 14 h
PAPER = ("DU1234567",)


class Driver:
    """A link, its time, and everything it has ordered."""

    def __init__(
        self,
        target: Target = HOME,
        *,
        automatic: bool = True,
        held: bool = False,
        wall: datetime = WEDNESDAY,
        random_unit: float = 0.5,
        restart_at: datetime | None = None,
    ) -> None:
        at = None if restart_at is None else restart_at.astimezone().time()
        self.policy = Policy(configured=target, automatic=automatic, calendar=calendar(restart_at=at))
        self.monotonic = 1000.0
        self.wall = wall
        self.random_unit = random_unit
        self.link, ordered = machine.begin(self.policy, self.now, held=held)
        self.ordered: list[act.Action] = list(ordered)

    @property
    def now(self) -> Now:
        return Now(self.monotonic, self.wall, self.random_unit)

    def after(self, seconds: float) -> Driver:
        self.monotonic += seconds
        self.wall += timedelta(seconds=seconds)
        return self

    def post(self, *events: ev.Event) -> tuple[act.Action, ...]:
        """The actions of these events alone."""
        ordered: list[act.Action] = []
        for event in events:
            self.link, more = machine.step(self.link, event, self.now)
            ordered += more
        self.ordered += ordered
        return tuple(ordered)

    # --- a gateway's usual lines, for the session under way ---

    @property
    def session(self) -> int:
        assert self.link.current is not None
        return self.link.current

    def opens(self, accounts: tuple[str, ...] = PAPER) -> tuple[act.Action, ...]:
        return self.post(ev.Opened(session=self.session, serverVersion=178, accounts=accounts))

    def syncs(self) -> tuple[act.Action, ...]:
        return self.post(ev.Synced(session=self.session))

    def up(self) -> Driver:
        self.opens()
        self.syncs()
        assert self.link.phase == "ready"
        return self

    def fails(self, reason: str) -> tuple[act.Action, ...]:
        return self.post(ev.Failed(session=self.session, reason=reason, code=111, text="theirs"))

    def lost(self, reason: str = "socketLost") -> tuple[act.Action, ...]:
        return self.post(ev.Lost(session=self.session, reason=reason))

    def says(self, code: int) -> tuple[act.Action, ...]:
        if code in (1100, 2110):
            return self.post(ev.UpstreamLost(session=self.session, code=code, text="gone"))
        return self.post(ev.UpstreamRestored(session=self.session, code=code, text="back", dataLost=code == 1101))

    def wait(self) -> float:
        """Seconds until the next attempt."""
        assert isinstance(self.link.state, Waiting)
        return round(self.link.state.until - self.monotonic, 6)

    def wakes(self) -> tuple[act.Action, ...]:
        """Let the time pass until the machine's next wake."""
        assert self.link.wake is not None
        self.after(max(0.0, self.link.wake - self.monotonic))
        return self.post(ev.TimerExpired())

    def overdue(self, reason: str = "handshakeTimeout", text: str = "theirs") -> tuple[act.Action, ...]:
        """The time limit of the attempt under way passes."""
        assert isinstance(self.link.state, Connecting)
        if self.link.state.overdue is None:
            self.after(self.link.state.timeout)
        return self.post(ev.AttemptOverdue(session=self.session, reason=reason, text=text))

    def waits(self, reason: str, times: int) -> list[float]:
        """The waits after `times` failures in a row."""
        seen = []
        for _ in range(times):
            self.fails(reason)
            seen.append(self.wait())
            self.wakes()
        return seen


def connect_requested(target: Target = HOME, *, bare: bool = False) -> ev.ConnectRequested:
    return ev.ConnectRequested(target=target, bare=bare)


def dials(actions: tuple[act.Action, ...] | list[act.Action]) -> list[Target]:
    return [action.target for action in actions if isinstance(action, act.Dial)]


# --- beginning ------------------------------------------------------------------------------------------------------


def test_an_automatic_link_dials_at_the_start() -> None:
    driver = Driver()

    assert driver.link.phase == "connecting"
    assert driver.ordered == [act.Dial(session=1, target=HOME)]


@pytest.mark.parametrize(
    ("automatic", "held", "phase", "reason"),
    [(False, False, "disabled", "autoConnectOff"), (True, True, "held", "manual"), (False, True, "held", "manual")],
)
def test_a_link_that_is_not_wanted_dials_nothing(automatic: bool, held: bool, phase: str, reason: str) -> None:
    driver = Driver(automatic=automatic, held=held)

    assert (driver.link.phase, driver.link.reason, driver.ordered, driver.link.wake) == (phase, reason, [], None)


# --- the table of transitions: in which phase what event orders which actions ----------------------------------------


def overdue() -> Driver:
    driver = Driver()
    driver.overdue()
    return driver


def syncing() -> Driver:
    driver = Driver()
    driver.opens()
    return driver


def ready() -> Driver:
    return Driver().up().after(60)


def after_event(begin: Callable[[], Driver], event: ev.Event) -> Callable[[], Driver]:
    def driver() -> Driver:
        result = begin()
        result.post(event)
        return result

    return driver


LOST = ev.Lost(session=1, reason="socketLost")
PROBE_OVERDUE = ev.ProbeOverdue(session=1)
MESSAGE = ev.MessageReceived(session=1)
PROBE_ANSWERED = ev.ProbeAnswered(session=1, rtt=0.1)
PROVEN = ev.UpstreamRestored(session=1, code=None, text="", dataLost=False)
CODE_1100, CODE_2110 = (ev.UpstreamLost(session=1, code=code, text="gone") for code in (1100, 2110))
CODE_1101, CODE_1102 = (
    ev.UpstreamRestored(session=1, code=code, text="back", dataLost=code == 1101) for code in (1101, 1102)
)
FARM_BROKEN, FARM_OK = (
    ev.FarmChanged(session=1, farm="usfarm", type="market", state=state) for state in ("broken", "ok")
)
RESUMED = ev.MachineResumed(seconds=60)
ENDS_A_WAIT = (ev.ReconnectRequested(), RESUMED, ev.WindowEnded())

SITUATIONS: dict[str, Callable[[], Driver]] = {
    "dialling": Driver,
    "overdue": overdue,  # the handshake was not answered in time, and its connection is still open
    "syncing": syncing,
    "ready": ready,
    "unproven": after_event(ready, PROBE_OVERDUE),
    "1100": after_event(ready, CODE_1100),
    "2110": after_event(ready, CODE_2110),
    "waiting": after_event(Driver, ev.Failed(session=1, reason="portClosed")),
    "blocked": after_event(Driver, ev.Failed(session=1, reason="notTws")),
    "disabled": lambda: Driver(automatic=False),
    "held": lambda: Driver(held=True),
    "stopping": after_event(ready, ev.StopRequested()),
}

ABORT, CLOSE, PROBE, READ = act.Abort(session=1), act.Close(session=1), act.Probe(session=1), act.Read(session=1)
REPLAY, STOP_READING = act.Replay(session=1), act.StopReading(session=1)
DIAL, DIAL_OTHER = act.Dial(session=2, target=HOME), act.Dial(session=2, target=OTHER)
AWAIT_FIRST, AWAIT = act.Await(session=1), act.Await(session=2)
HOLD = act.Keep(held=True)
BARE, CONNECT = ev.ConnectRequested(target=HOME, bare=True), ev.ConnectRequested(target=HOME, bare=False)
CONNECT_OTHER = ev.ConnectRequested(target=OTHER, bare=False)
SHORT = ev.ConnectRequested(target=replace(HOME, timeout=3.0), bare=False)


def settled(reason: str | None) -> act.Settled:
    return act.Settled(session=1, reason=reason)


def answer(reason: str | None) -> act.Answer:
    return act.Answer(reason=reason)


def recover(cause: str) -> act.Recover:
    return act.Recover(session=1, cause=cause)


Row = tuple[str, tuple[ev.Event, ...], tuple[act.Action, ...], tuple[str, str | None]]
# situation, each of these events alone, the actions it orders, phase and reason afterwards
TRANSITIONS: list[Row] = [
    # a session becomes ready when its first snapshots are over
    ("dialling", (ev.Opened(session=1, serverVersion=178, accounts=PAPER),), (READ,), ("syncing", None)),
    ("syncing", (ev.Synced(session=1),), (REPLAY, settled(None)), ("ready", None)),
    # a lost socket is dialled at once, upstream lost or not
    ("ready", (LOST,), (DIAL, settled("socketLost")), ("connecting", "socketLost")),
    ("1100", (LOST,), (DIAL, settled("socketLost")), ("connecting", "socketLost")),
    # a frozen gateway is unproven, then aborted, never closed; any message proves the session again
    ("ready", (PROBE_OVERDUE,), (PROBE,), ("unproven", "probeTimeout")),
    ("1100", (PROBE_OVERDUE,), (PROBE,), ("unproven", "probeTimeout")),
    ("unproven", (PROBE_OVERDUE,), (ABORT, DIAL, settled("probeTimeout")), ("connecting", "probeTimeout")),
    ("unproven", (MESSAGE, PROBE_ANSWERED), (settled(None),), ("ready", None)),
    ("ready", (RESUMED,), (PROBE,), ("ready", None)),
    # a lost upstream keeps the session; 1102 reads again, 1101 replays every stream first
    ("ready", (CODE_1100, CODE_2110), (STOP_READING, settled("upstreamLost")), ("upstreamLost", "upstreamLost")),
    ("syncing", (CODE_1100, CODE_2110), (STOP_READING, settled("upstreamLost")), ("upstreamLost", "upstreamLost")),
    ("1100", (CODE_1102,), (recover("1102"), settled(None)), ("ready", None)),
    ("1100", (CODE_1101,), (REPLAY, recover("1101"), settled(None)), ("ready", None)),
    # 2110 is undone by a proven answer, 1100 only by 1101 and 1102; a broken farm never changes the session
    ("2110", (PROVEN,), (recover("2110"), settled(None)), ("ready", None)),
    ("1100", (PROVEN, FARM_OK, PROBE_ANSWERED, MESSAGE), (), ("upstreamLost", "upstreamLost")),
    ("ready", (FARM_BROKEN,), (), ("ready", None)),
    # what ends a wait dials at once, and closes an attempt that is still open; a timer that fires early does not
    ("waiting", ENDS_A_WAIT, (DIAL,), ("connecting", "portClosed")),
    ("blocked", ENDS_A_WAIT, (DIAL,), ("connecting", "notTws")),
    ("overdue", ENDS_A_WAIT, (ABORT, DIAL, settled("socketLost")), ("connecting", "handshakeTimeout")),
    ("blocked", (ev.TimerExpired(),), (), ("blocked", "notTws")),
    ("dialling", (ev.ReconnectRequested(),), (), ("connecting", None)),
    ("ready", (ev.ReconnectRequested(),), (), ("ready", None)),
    ("disabled", (ev.ReconnectRequested(),), (), ("disabled", "autoConnectOff")),
    ("held", (ev.ReconnectRequested(),), (), ("held", "manual")),
    # connect joins an equal attempt, whatever its deadline, and is refused beside a different one
    ("dialling", (BARE, CONNECT, SHORT), (AWAIT_FIRST,), ("connecting", None)),
    ("syncing", (BARE, CONNECT), (AWAIT_FIRST,), ("syncing", None)),
    ("dialling", (CONNECT_OTHER,), (answer("connectInProgress"),), ("connecting", None)),
    ("syncing", (CONNECT_OTHER,), (answer("connectInProgress"),), ("syncing", None)),
    ("ready", (BARE, CONNECT), (answer(None),), ("ready", None)),
    ("unproven", (BARE, CONNECT), (AWAIT_FIRST,), ("unproven", "probeTimeout")),
    ("1100", (BARE, CONNECT), (answer("upstreamLost"),), ("upstreamLost", "upstreamLost")),
    ("waiting", (BARE, CONNECT), (DIAL, AWAIT), ("connecting", "portClosed")),
    ("blocked", (BARE, CONNECT), (DIAL, AWAIT), ("connecting", "notTws")),
    ("overdue", (BARE, CONNECT), (ABORT, DIAL, AWAIT, settled("manual")), ("connecting", "handshakeTimeout")),
    ("overdue", (CONNECT_OTHER,), (ABORT, DIAL_OTHER, AWAIT, settled("manual")), ("connecting", None)),
    ("ready", (CONNECT_OTHER,), (CLOSE, DIAL_OTHER, AWAIT, settled("manual")), ("connecting", None)),
    ("stopping", (BARE, CONNECT_OTHER), (answer("shuttingDown"),), ("stopping", "shuttingDown")),
    # disconnect holds the link down from anywhere: a session is closed so that its client id is free, a silent peer
    # is not waited for
    ("dialling", (ev.DisconnectRequested(),), (ABORT, HOLD, settled("manual")), ("held", "manual")),
    ("overdue", (ev.DisconnectRequested(),), (ABORT, HOLD, settled("manual")), ("held", "manual")),
    ("syncing", (ev.DisconnectRequested(),), (CLOSE, HOLD, settled("manual")), ("held", "manual")),
    ("ready", (ev.DisconnectRequested(),), (CLOSE, HOLD, settled("manual")), ("held", "manual")),
    ("unproven", (ev.DisconnectRequested(),), (ABORT, HOLD, settled("manual")), ("held", "manual")),
    ("waiting", (ev.DisconnectRequested(),), (HOLD,), ("held", "manual")),
    ("disabled", (ev.DisconnectRequested(),), (HOLD,), ("held", "manual")),
    # stop closes the session and ends everything
    ("ready", (ev.StopRequested(),), (CLOSE, settled("shuttingDown")), ("stopping", "shuttingDown")),
    ("stopping", (*ENDS_A_WAIT, ev.TimerExpired(), ev.DisconnectRequested()), (), ("stopping", "shuttingDown")),
    # 1300 without a port waits for the loss
    ("ready", (ev.PortMoved(session=1, port=None, text="reset"),), (), ("ready", None)),
]


@pytest.mark.parametrize(("situation", "events", "actions", "after"), TRANSITIONS)
def test_each_phase_takes_each_event_as_the_table_has_it(
    situation: str, events: tuple[ev.Event, ...], actions: tuple[act.Action, ...], after: tuple[str, str | None]
) -> None:
    for event in events:
        driver = SITUATIONS[situation]()
        before = driver.link

        assert driver.post(event) == actions, event
        assert (driver.link.phase, driver.link.reason) == after, event
        if after[0] in ("held", "waiting", "blocked"):
            assert (driver.link.wake is None) is (after[0] == "held"), event
        if isinstance(event, ev.ReconnectRequested | ev.TimerExpired) and not actions:
            assert driver.link == before, "nothing waits, so nothing changes"


# --- the table of patience ------------------------------------------------------------------------------------------

ORDINARY = [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@pytest.mark.parametrize(
    ("target", "reason", "waits"),
    [
        (HOME, "portClosed", [0.5] * 6),
        (AWAY, "portClosed", ORDINARY),
        (HOME, "hostUnreachable", ORDINARY),
        (HOME, "dialTimeout", ORDINARY),
        (HOME, "closedDuringHandshake", ORDINARY),
        (HOME, "clientIdInUse", [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 30.0]),
        (HOME, "versionUnsupported", [300.0, 300.0]),
        (HOME, "notTws", [300.0, 300.0]),
        (HOME, "accountMismatch", [300.0, 300.0]),
    ],
)
def test_each_reason_has_its_own_waits(target: Target, reason: str, waits: list[float]) -> None:
    assert Driver(target).waits(reason, len(waits)) == waits


@pytest.mark.parametrize(
    ("host", "wait"), [("localhost", 0.5), ("127.0.0.2", 0.5), ("::1", 0.5), ("127.gateway.example", 1.0)]
)
def test_only_this_machine_is_dialled_twice_a_second(host: str, wait: float) -> None:
    """A name that begins like an address is another machine's."""
    assert Driver(replace(HOME, host=host)).waits("portClosed", 1) == [wait]


@pytest.mark.parametrize(("random_unit", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_a_wait_is_spread_after_its_cap(random_unit: float, factor: float) -> None:
    driver = Driver(AWAY, random_unit=random_unit)

    assert driver.waits("portClosed", 6) == pytest.approx([wait * factor for wait in ORDINARY])


@pytest.mark.parametrize("reason", ["versionUnsupported", "notTws", "accountMismatch"])
def test_what_needs_a_person_is_blocked_and_goes_on_slowly(reason: str) -> None:
    driver = Driver()

    driver.fails(reason)

    assert (driver.link.phase, driver.link.reason) == ("blocked", reason)
    assert dials(driver.wakes()) == [HOME]


def test_the_latest_attempts_own_reason_decides_the_next_wait() -> None:
    driver = Driver(AWAY)
    assert driver.waits("portClosed", 3) == [1.0, 2.0, 4.0]
    assert driver.waits("clientIdInUse", 2) == [1.0, 2.0]
    assert driver.waits("dialTimeout", 1) == [8.0]


def test_the_wait_starts_again_only_after_a_session_that_lasted() -> None:
    driver = Driver(AWAY)
    driver.waits("portClosed", 4)
    driver.up().after(29.9)
    driver.lost()
    driver.fails("portClosed")
    assert driver.wait() == 15.0
    driver.wakes()

    driver.up().after(30)
    driver.lost()
    driver.fails("portClosed")
    assert driver.wait() == 1.0


def test_every_reason_of_the_catalogue_has_a_patience() -> None:
    for reason in LINK_REASONS:
        driver = Driver()
        driver.fails(reason)
        assert isinstance(driver.link.state, Waiting), reason


def test_a_night_of_refusals_is_one_wait_that_began_with_the_first() -> None:
    driver = Driver()
    driver.fails("portClosed")
    began = driver.link.since
    for _ in range(20):
        driver.wakes()
        driver.after(0.1)
        driver.fails("portClosed")
    assert driver.link.since == began

    driver.wakes()
    driver.fails("handshakeTimeout")
    assert driver.link.since == driver.wall


# --- attempts that stay open ----------------------------------------------------------------------------------------

UNANSWERED = ["handshakeTimeout", "sessionIncomplete"]


@pytest.mark.parametrize("reason", UNANSWERED)
def test_an_unanswered_attempt_is_reported_and_stays_open_for_two_minutes(reason: str) -> None:
    """One connection in 120 s, then a new one after a second: each may raise another dialog in TWS."""
    driver = Driver()

    assert driver.overdue(reason) == (act.Settled(session=1, reason=reason),)
    assert (driver.link.phase, driver.link.reason, driver.link.current) == ("waiting", reason, 1)
    assert driver.link.next_attempt == 1000.0 + 120.0
    began = driver.link.since
    assert driver.after(109.9).post(ev.TimerExpired()) == ()
    assert driver.wakes()[0] == act.Abort(session=1)
    assert (driver.link.phase, driver.link.reason, driver.wait()) == ("waiting", reason, 1.0)
    assert driver.wakes() == (act.Dial(session=2, target=HOME),)
    driver.overdue(reason)
    assert driver.link.since == began, "it has been unanswered all the time"


@pytest.mark.parametrize("seconds", [0.0, 20.0, 109.0])
def test_an_open_attempt_becomes_the_session_when_the_gateway_answers(seconds: float) -> None:
    driver = Driver()
    driver.overdue()

    driver.after(seconds).post(ev.Greeted(session=1, serverVersion=178))
    assert driver.opens() == (act.Read(session=1),)
    assert (driver.link.phase, driver.link.reason) == ("syncing", "handshakeTimeout")
    driver.syncs()

    assert (driver.link.phase, driver.link.reason, driver.link.wake) == ("ready", None, None)
    assert dials(driver.ordered) == [HOME]


def test_an_open_attempt_whose_version_came_but_not_the_rest_is_incomplete() -> None:
    driver = Driver()
    driver.overdue()
    driver.after(30).overdue("sessionIncomplete", "no next valid id came")

    assert (driver.link.phase, driver.link.reason) == ("waiting", "sessionIncomplete")
    assert driver.link.next_attempt == 1120.0
    assert driver.link.lastError is not None
    assert driver.link.lastError.text == "no next valid id came"


def test_an_open_attempt_that_the_gateway_ends_is_what_it_ended_for() -> None:
    driver = Driver(AWAY)
    driver.overdue()

    driver.fails("closedDuringHandshake")

    assert (driver.link.phase, driver.link.reason, driver.wait()) == ("waiting", "closedDuringHandshake", 1.0)


def test_connect_elsewhere_closes_the_open_attempt_and_goes_back_to_dialling_if_it_fails() -> None:
    driver = Driver()
    driver.overdue()

    assert driver.post(connect_requested(OTHER))[:2] == (act.Abort(session=1), act.Dial(session=2, target=OTHER))
    driver.fails("portClosed")
    assert (driver.link.phase, driver.link.reason) == ("waiting", "handshakeTimeout")
    assert dials(driver.wakes()) == [HOME]


def test_an_attempt_that_only_a_request_started_is_closed_at_its_time_limit() -> None:
    driver = Driver(automatic=False)
    driver.post(connect_requested(replace(HOME, timeout=3.0)))

    assert driver.overdue() == (act.Abort(session=1), act.Settled(session=1, reason="handshakeTimeout"))
    assert driver.link.phase == "disabled"


def test_a_named_port_that_does_not_answer_gives_way_at_the_time_limit() -> None:
    driver = Driver().up()
    driver.post(ev.PortMoved(session=1, port=7498, text="reset"))

    assert driver.overdue()[:2] == (act.Abort(session=2), act.Dial(session=3, target=HOME))


def test_an_attempt_whose_time_limit_is_longer_than_two_minutes_fails_at_it() -> None:
    driver = Driver(replace(HOME, timeout=120.0))

    assert driver.overdue()[0] == act.Abort(session=1)
    assert (driver.link.phase, driver.wait()) == ("waiting", 1.0)


def test_a_person_who_connected_in_time_has_not_agreed_to_the_login_that_answers_later() -> None:
    """Paper was there; the request failed; minutes later live answers the connection that stayed open."""
    driver = Driver().up()
    driver.lost()
    driver.post(connect_requested(bare=True))
    driver.overdue()

    driver.opens(("U7654321",))

    assert (driver.link.phase, driver.link.reason) == ("blocked", "accountMismatch")


def test_the_time_limit_of_a_request_is_kept_only_by_a_session_that_it_brought() -> None:
    driver = Driver()
    driver.fails("dialTimeout")
    short = replace(HOME, timeout=0.5)

    assert dials(driver.post(connect_requested(short))) == [short]
    driver.fails("dialTimeout")
    assert dials(driver.wakes()) == [HOME]
    driver.fails("dialTimeout")

    driver.post(connect_requested(short))
    driver.up().after(60).lost()
    assert dials(driver.ordered)[-1] == short


# --- losses ---------------------------------------------------------------------------------------------------------


def test_the_last_error_is_kept_as_one_bounded_line() -> None:
    driver = Driver()

    driver.post(ev.Failed(session=1, reason="notTws", code=None, text="a\r\nb\x1b[2J\u202ec" + "d" * 10_000))

    assert driver.link.lastError is not None
    assert driver.link.lastError.text.startswith("a  b [2J cd")
    assert driver.link.lastError.text.isprintable()
    assert len(driver.link.lastError.text) <= machine.TEXT


def test_an_event_of_an_old_session_changes_nothing() -> None:
    driver = Driver().up()
    driver.lost()
    before = driver.link

    assert driver.post(ev.Lost(session=1), ev.UpstreamLost(session=1, code=1100, text=""), ev.Synced(session=1)) == ()
    assert driver.link == before


# --- upstream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [(2110, 1100), (1100, 2110)])
def test_1100_outweighs_2110(codes: tuple[int, ...]) -> None:
    driver = Driver().up()
    for code in codes:
        driver.says(code)
    driver.post(ev.UpstreamRestored(session=1, code=None, text="", dataLost=False))

    assert driver.link.phase == "upstreamLost"


def test_snapshots_under_way_when_upstream_is_lost_are_discarded() -> None:
    driver = Driver()
    driver.opens()
    assert act.StopReading(session=1) in driver.says(1100)
    driver.syncs()
    assert driver.link.phase == "upstreamLost"

    assert driver.says(1101) == (act.Read(session=1),)
    assert driver.link.phase == "syncing"


def test_upstream_lost_and_back_within_the_handshake_is_forgotten() -> None:
    driver = Driver()
    driver.says(1100)
    driver.says(1102)
    driver.opens()

    assert driver.link.phase == "syncing"


def test_a_session_that_freezes_while_upstream_is_lost_is_unproven_then_gone() -> None:
    driver = Driver().up()
    driver.says(1100)
    driver.post(ev.ProbeOverdue(session=1))
    assert driver.link.phase == "unproven"
    driver.post(ev.MessageReceived(session=1))
    assert driver.link.phase == "upstreamLost"
    driver.post(ev.ProbeOverdue(session=1))

    assert act.Abort(session=1) in driver.post(ev.ProbeOverdue(session=1))


# --- what things probably mean --------------------------------------------------------------------------------------


def test_inside_a_planned_window_a_lost_upstream_is_expected() -> None:
    """05:20 UTC is 00:20 in New York: the nightly reset, which lasts until 01:45."""
    driver = Driver(wall=datetime(2025, 11, 19, 5, 20, tzinfo=UTC)).up()
    driver.says(1100)
    driver.wakes()
    assert driver.link.reason == "upstreamLost"

    driver.wakes()

    assert driver.link.reason == "competingSession"
    assert driver.wall == datetime(2025, 11, 19, 6, 50, tzinfo=UTC)


def test_10197_makes_another_login_the_likelier_cause_at_once() -> None:
    driver = Driver().up()
    driver.post(ev.CompetingSession(session=1, text="No market data during competing live session"))
    assert driver.link.phase == "ready"

    driver.says(1100)

    assert driver.link.reason == "competingSession"


SUNDAY = datetime(2025, 11, 23, 6, 0, tzinfo=UTC)  # 01:00 in New York


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        (SUNDAY - timedelta(hours=2), SUNDAY + timedelta(hours=1)),  # down before the weekly end, refused after it
        (SUNDAY + timedelta(hours=12), SUNDAY + timedelta(hours=13)),  # ran through it, its next restart fails
        (SUNDAY - timedelta(hours=2), SUNDAY + timedelta(days=2)),  # and there was no login since
    ],
)
def test_a_gateway_refused_since_the_weekly_end_of_logins_probably_waits_for_one(
    lost: datetime, found: datetime
) -> None:
    driver = Driver(wall=lost).up()
    driver.lost()
    driver.fails("portClosed")
    driver.after((found - lost).total_seconds())
    driver.wakes()
    driver.fails("portClosed")

    assert (driver.link.phase, driver.link.reason) == ("waiting", "loginRequired")
    assert driver.wait() == 0.5, "a guess changes nothing of what is done"


def test_a_restart_gets_its_allowance_before_anything_is_guessed() -> None:
    driver = Driver(wall=SUNDAY + timedelta(hours=2)).up()
    driver.lost()
    driver.after(240)
    driver.fails("portClosed")

    assert driver.link.reason == "portClosed"


def test_in_the_week_a_closed_port_is_a_closed_port() -> None:
    driver = Driver().up()
    driver.lost()
    driver.after(3600)
    driver.fails("portClosed")

    assert driver.link.reason == "portClosed"


# --- accounts -------------------------------------------------------------------------------------------------------


def test_an_account_more_or_less_is_the_same_login() -> None:
    driver = Driver()
    driver.opens(("DU1", "DU2"))
    driver.syncs()
    driver.lost()
    driver.opens(("DU2", "DU3"))

    assert driver.link.phase == "syncing"


def test_a_person_who_connects_means_whoever_is_logged_in_now() -> None:
    driver = Driver().up()
    driver.lost()
    driver.opens(("U7654321",))

    driver.post(connect_requested(bare=True))
    driver.opens(("U7654321",))

    assert driver.link.phase == "syncing"


# --- requests -----------------------------------------------------------------------------------------


def test_connect_from_disabled_is_kept_up_when_it_succeeds() -> None:
    driver = Driver(automatic=False)
    assert driver.post(connect_requested(OTHER)) == (act.Dial(session=1, target=OTHER), act.Await(session=1))
    driver.up()

    driver.after(60).lost()

    assert dials(driver.ordered) == [OTHER, OTHER]


@pytest.mark.parametrize("held", [False, True])
def test_connect_that_fails_leaves_an_unwanted_link_as_it_was(held: bool) -> None:
    driver = Driver(automatic=False, held=held)
    driver.post(connect_requested())

    assert driver.fails("portClosed") == (act.Settled(session=1, reason="portClosed"),)
    assert driver.link.state == Down(held)
    assert driver.link.lastError is not None


def test_connect_ends_a_hold_only_when_it_succeeds() -> None:
    driver = Driver(held=True)
    driver.post(connect_requested())
    assert act.Keep(held=False) not in driver.ordered
    driver.up()

    assert driver.ordered.count(act.Keep(held=False)) == 1


def test_connect_for_an_account_that_the_session_does_not_have_is_refused_and_changes_nothing() -> None:
    driver = Driver().up()
    before = driver.link

    (answer,) = driver.post(connect_requested(replace(HOME, account="U7654321")))

    assert isinstance(answer, act.Answer)
    assert answer.reason == "accountMismatch"
    assert all(account in answer.text for account in ("DU1234567", "U7654321"))
    assert driver.link == before


def test_connect_for_the_sessions_own_account_joins_it_and_the_next_session_must_have_it_too() -> None:
    driver = Driver()
    driver.opens(("DU1", "DU2"))
    own = replace(HOME, account="DU2")
    assert driver.post(connect_requested(own)) == (act.Await(session=1),)
    assert driver.syncs()[-1] == act.Settled(session=1, reason=None)
    assert driver.post(connect_requested(own)) == (act.Answer(reason=None),)

    driver.after(60).lost()
    driver.opens(("DU1",))

    assert (driver.link.phase, driver.link.reason) == ("blocked", "accountMismatch")


def test_connect_elsewhere_that_fails_goes_back_to_waiting_for_the_old_target() -> None:
    driver = Driver()
    driver.fails("notTws")
    driver.post(connect_requested(OTHER))
    driver.fails("clientIdInUse")

    assert (driver.link.phase, driver.link.reason, driver.wait()) == ("blocked", "notTws", 300.0)
    assert dials(driver.wakes()) == [HOME]


def test_connect_elsewhere_while_connected_closes_first_and_goes_back_if_it_fails() -> None:
    driver = Driver().up()

    assert driver.post(connect_requested(OTHER))[:2] == (act.Close(session=1), act.Dial(session=2, target=OTHER))
    assert driver.fails("clientIdInUse")[0] == act.Dial(session=3, target=HOME)
    driver.up()
    assert driver.link.target == HOME


def test_connect_elsewhere_that_succeeds_is_the_target_from_then_on() -> None:
    driver = Driver().up()
    driver.post(connect_requested(OTHER))
    driver.up().after(60)
    driver.lost()
    driver.fails("portClosed")

    assert driver.link.target == OTHER
    assert dials(driver.wakes()) == [OTHER]


def test_a_connect_that_finds_upstream_lost_answers_that_and_keeps_the_session() -> None:
    driver = Driver(automatic=False)
    driver.post(connect_requested())
    driver.says(2110)

    assert driver.opens() == (act.Settled(session=1, reason="upstreamLost"),)
    assert driver.link.phase == "upstreamLost"


def test_connect_while_unproven_is_answered_by_what_comes_of_it() -> None:
    driver = Driver().up()
    driver.post(ev.ProbeOverdue(session=1))

    assert driver.post(connect_requested()) == (act.Await(session=1),)
    assert driver.post(ev.MessageReceived(session=1)) == (act.Settled(session=1, reason=None),)


def test_a_requested_session_lost_before_it_was_ready_leaves_things_as_they_were() -> None:
    driver = Driver(automatic=False)
    driver.post(connect_requested())
    driver.opens()
    driver.lost()

    assert driver.link.phase == "disabled"


def test_what_was_only_tried_is_not_gone_back_to() -> None:
    """A session that froze before it was ready has replaced nothing, so another target's failure leaves the hold."""
    driver = Driver(held=True)
    driver.post(connect_requested())
    driver.opens()
    driver.post(ev.ProbeOverdue(session=1))
    driver.post(connect_requested(OTHER))

    assert driver.fails("portClosed") == (act.Settled(session=2, reason="portClosed"),)
    assert driver.link.state == Down(True)


# --- 1300 -----------------------------------------------------------------------------------------------------------


def test_a_moved_port_is_dialled_at_once_and_stays_the_target() -> None:
    driver = Driver().up()
    moved = replace(HOME, port=7498)

    assert driver.post(ev.PortMoved(session=1, port=7498, text="reset"))[:2] == (
        act.Close(session=1),
        act.Dial(session=2, target=moved),
    )
    assert driver.link.reason == "portMoved"
    driver.up()
    assert (driver.link.target, driver.link.base, driver.link.policy.configured) == (moved, moved, HOME)
    driver.after(60).lost()
    assert driver.link.target == moved


def test_two_gateways_that_name_each_other_are_followed_with_longer_and_longer_waits() -> None:
    driver = Driver().up()
    here, there = 7497, 7498
    waits = []
    driver.post(ev.PortMoved(session=driver.session, port=there, text="reset"))
    for _ in range(6):
        here, there = there, here
        driver.up()
        ordered = driver.post(ev.PortMoved(session=driver.session, port=there, text="reset"))
        assert dials(ordered) == []
        assert (driver.link.phase, driver.link.reason, driver.link.target.port) == ("waiting", "portMoved", there)
        waits.append(driver.wait())
        assert dials(driver.wakes()) == [replace(HOME, port=there)]

    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@pytest.mark.parametrize("asking", [ev.TimerExpired(), ev.ReconnectRequested(), None])
def test_a_named_port_that_had_to_wait_gives_way_as_well(asking: ev.Event | None) -> None:
    driver = Driver().up()
    driver.lost()
    driver.up()
    driver.post(ev.PortMoved(session=driver.session, port=7498, text="reset"))
    driver.after(60).post(asking or connect_requested(bare=True))

    assert driver.link.target.port == 7498
    assert dials(driver.fails("portClosed")) == [HOME]


# --- what no sequence of events can break ---------------------------------------------------------------------------

PHASES = set(get_args(Phase))
ENDS = (act.Abort, act.Close)
TARGETS = st.sampled_from([HOME, OTHER, AWAY, replace(HOME, account="DU1234567")])
FAILURES = st.sampled_from(sorted(set(LINK_REASONS) - {"autoConnectOff", "manual", "shuttingDown", "accountMismatch"}))
ACCOUNTS = st.sampled_from([("DU1234567",), ("U7654321",), ("DU1234567", "DU7654321")])


class AnyLink(RuleBasedStateMachine):
    """Whatever comes, in whatever order, from whatever session."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.open: set[int] = {1}
        self.waiters: set[int] = set()
        self.stopped = False

    def play(self, event: ev.Event) -> None:
        driver = self.driver
        before = driver.link
        actions = driver.post(event)
        if isinstance(event, ev.Failed | ev.Lost):
            self.open.discard(event.session)
        if isinstance(event, ev.SessionEvent) and event.session != before.current:
            assert driver.link == before
            assert actions == ()
        self.stopped = self.stopped or isinstance(event, ev.StopRequested)
        if self.stopped:
            assert not dials(actions), "nothing is dialled after the end"
        if before.phase in ("held", "disabled") and not isinstance(event, ev.ConnectRequested):
            assert driver.link.phase in (before.phase, "held", "stopping")
            assert not dials(actions)
        if driver.link.phase == "ready" and before.phase == "upstreamLost":
            assert isinstance(event, ev.UpstreamRestored)
        self.perform(actions)

    def perform(self, actions: tuple[act.Action, ...]) -> None:
        for action in actions:
            if isinstance(action, ENDS):
                assert action.session in self.open, "what is ended was open"
                self.open.discard(action.session)
            elif isinstance(action, act.Dial):
                assert not self.open, "one attempt at a time"
                self.open.add(action.session)
            elif isinstance(action, act.Await):
                self.waiters.add(action.session)
            elif isinstance(action, act.Settled):
                self.waiters.discard(action.session)
            elif isinstance(action, act.Read | act.Recover | act.Replay | act.Probe | act.StopReading):
                assert action.session in self.open, "nothing is requested of a session that is over"

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 20.0, 40.0, 400.0, 90000.0]))
    def time_passes(self, seconds: float) -> None:
        self.driver.after(seconds)
        if self.driver.link.wake is not None and self.driver.monotonic >= self.driver.link.wake:
            self.play(ev.TimerExpired())

    @rule(wanted=TARGETS, bare=st.booleans())
    def a_person_connects(self, wanted: Target, bare: bool) -> None:
        self.play(connect_requested(HOME if bare else wanted, bare=bare))

    @rule(
        event=st.sampled_from(
            [
                ev.DisconnectRequested(),
                ev.ReconnectRequested(),
                ev.MachineResumed(seconds=9),
                ev.WindowEnded(),
                ev.TimerExpired(),
            ]
        )
    )
    def something_happens(self, event: ev.Event) -> None:
        self.play(event)

    @rule(back=st.sampled_from([0, 0, 0, 0, 1]), data=st.data())
    def the_session_posts(self, back: int, data: st.DataObject) -> None:
        driver = self.driver
        number = max(1, driver.link.session - back)
        code = data.draw(st.sampled_from([1101, 1102, None]))
        event = data.draw(
            st.sampled_from(
                [
                    ev.Dialled(session=number, peer="127.0.0.1"),
                    ev.Greeted(session=number, serverVersion=178),
                    ev.AttemptOverdue(session=number, reason=data.draw(st.sampled_from(UNANSWERED))),
                    ev.Opened(session=number, serverVersion=178, accounts=data.draw(ACCOUNTS)),
                    ev.Opened(session=number, serverVersion=178, accounts=PAPER),
                    ev.Synced(session=number),
                    ev.ProbeOverdue(session=number),
                    ev.ProbeAnswered(session=number, rtt=0.1),
                    ev.MessageReceived(session=number),
                    ev.UpstreamLost(session=number, code=data.draw(st.sampled_from([1100, 2110])), text="x"),
                    ev.UpstreamRestored(session=number, code=code, text="x", dataLost=code == 1101),
                    ev.FarmChanged(session=number, farm="usfarm", type="market", state="broken"),
                    ev.CompetingSession(session=number, text="x"),
                    ev.ReadOnlyApi(session=number, text="x"),
                    ev.PortMoved(session=number, port=data.draw(st.sampled_from([None, 7497, 7498])), text="x"),
                ]
            )
        )
        if number in self.open or number != driver.link.current:
            self.play(event)

    @rule(reason=FAILURES)
    def the_attempt_fails(self, reason: str) -> None:
        driver = self.driver
        if isinstance(driver.link.state, Connecting):
            self.play(ev.Failed(session=driver.session, reason=reason))

    @rule()
    def the_socket_ends(self) -> None:
        driver = self.driver
        if isinstance(driver.link.state, Live):
            self.play(ev.Lost(session=driver.session))

    @rule()
    def the_daemon_stops(self) -> None:
        if self.driver.link.session > 4:
            self.play(ev.StopRequested())

    @invariant()
    def the_link_is_what_it_says(self) -> None:
        link: Link = self.driver.link
        assert link.phase in PHASES
        assert (link.reason is None) or link.reason in LINK_REASONS
        if link.phase == "ready":
            assert isinstance(link.state, Live)
            assert link.state.synced
            assert link.state.facts.lost is None
            assert link.reason is None
            assert link.state.back is None, "a session that works is the target"
        if link.phase in ("waiting", "blocked"):
            assert link.wake is not None, "a wait always ends"
            assert link.wake == link.next_attempt
            assert link.wake - self.driver.monotonic <= 360
            assert not self.waiters, "the answer does not wait for the next attempt"
        if isinstance(link.state, Connecting) and link.state.overdue is not None:
            assert link.state.overdue.until - self.driver.monotonic <= 120
            assert link.state.back is None, "only what is tried by itself stays open"
        if isinstance(link.state, Waiting):
            assert not self.open
        if link.current is not None:
            assert self.open == {link.current}
        assert self.waiters <= ({link.current} if link.current is not None else set()), "whoever waits is driver"


AnyLink.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
test_whatever_comes_the_laws_hold = AnyLink.TestCase


def test_the_number_of_the_session_counts_completed_handshakes() -> None:
    driver = Driver()
    for _ in range(3):
        driver.fails("portClosed")
        driver.wakes()
    assert driver.link.opened == 0
    driver.up()
    assert driver.link.opened == 1
    driver.lost()
    driver.up()
    assert driver.link.opened == 2


def test_attempts_count_from_when_the_link_was_last_ready() -> None:
    driver = Driver()
    for tried in (1, 2, 3):
        assert driver.link.connection is not None
        assert driver.link.connection.attempts == tried
        driver.opens()
        driver.after(40).lost()
    driver.up().lost()

    assert driver.link.connection.attempts == 0
    driver.wakes()
    assert driver.link.connection.attempts == 1
