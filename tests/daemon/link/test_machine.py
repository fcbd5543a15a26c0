"""The link machine: each phase, each reason's patience, and the laws no sequence of events can break."""

from __future__ import annotations

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


class Told:
    """A link, its time, and everything it has ordered."""

    def __init__(
        self,
        target: Target = HOME,
        *,
        automatic: bool = True,
        held: bool = False,
        wall: datetime = WEDNESDAY,
        dice: float = 0.5,
        restart_at: datetime | None = None,
    ) -> None:
        at = None if restart_at is None else restart_at.astimezone().time()
        self.policy = Policy(configured=target, automatic=automatic, calendar=calendar(restart_at=at))
        self.monotonic = 1000.0
        self.wall = wall
        self.dice = dice
        self.link, ordered = machine.begin(self.policy, self.now, held=held)
        self.ordered: list[act.Action] = list(ordered)

    @property
    def now(self) -> Now:
        return Now(self.monotonic, self.wall, self.dice)

    def after(self, seconds: float) -> Told:
        self.monotonic += seconds
        self.wall += timedelta(seconds=seconds)
        return self

    def tell(self, *events: ev.Event) -> tuple[act.Action, ...]:
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
        return self.tell(ev.Opened(session=self.session, serverVersion=178, accounts=accounts))

    def syncs(self) -> tuple[act.Action, ...]:
        return self.tell(ev.Synced(session=self.session))

    def up(self) -> Told:
        self.opens()
        self.syncs()
        assert self.link.phase == "ready"
        return self

    def fails(self, reason: str) -> tuple[act.Action, ...]:
        return self.tell(ev.Failed(session=self.session, reason=reason, code=111, text="theirs"))

    def lost(self, reason: str = "socketLost") -> tuple[act.Action, ...]:
        return self.tell(ev.Lost(session=self.session, reason=reason))

    def says(self, code: int) -> tuple[act.Action, ...]:
        if code in (1100, 2110):
            return self.tell(ev.UpstreamLost(session=self.session, code=code, text="gone"))
        return self.tell(ev.UpstreamRestored(session=self.session, code=code, text="back", dataLost=code == 1101))

    def wait(self) -> float:
        """Seconds until the next attempt."""
        assert isinstance(self.link.state, Waiting)
        return round(self.link.state.until - self.monotonic, 6)

    def wakes(self) -> tuple[act.Action, ...]:
        """Let the time pass that the machine asked for."""
        assert self.link.wake is not None
        self.after(max(0.0, self.link.wake - self.monotonic))
        return self.tell(ev.TimeCame())

    def overdue(self, reason: str = "handshakeTimeout", text: str = "theirs") -> tuple[act.Action, ...]:
        """The time limit of the attempt under way passes."""
        assert isinstance(self.link.state, Connecting)
        if self.link.state.overdue is None:
            self.after(self.link.state.timeout)
        return self.tell(ev.AttemptOverdue(session=self.session, reason=reason, text=text))

    def waits(self, reason: str, times: int) -> list[float]:
        """The waits after `times` failures in a row."""
        seen = []
        for _ in range(times):
            self.fails(reason)
            seen.append(self.wait())
            self.wakes()
        return seen


def asked(target: Target = HOME, *, bare: bool = False) -> ev.ConnectAsked:
    return ev.ConnectAsked(target=target, bare=bare)


def dials(actions: tuple[act.Action, ...] | list[act.Action]) -> list[Target]:
    return [action.target for action in actions if isinstance(action, act.Dial)]


# --- beginning ------------------------------------------------------------------------------------------------------


def test_an_automatic_link_dials_at_the_start() -> None:
    told = Told()

    assert told.link.phase == "connecting"
    assert told.ordered == [act.Dial(session=1, target=HOME)]


@pytest.mark.parametrize(
    ("automatic", "held", "phase", "reason"),
    [(False, False, "disabled", "autoConnectOff"), (True, True, "held", "manual"), (False, True, "held", "manual")],
)
def test_a_link_nobody_wants_dials_nothing(automatic: bool, held: bool, phase: str, reason: str) -> None:
    told = Told(automatic=automatic, held=held)

    assert (told.link.phase, told.link.reason, told.ordered, told.link.wake) == (phase, reason, [], None)


def test_a_session_becomes_ready_when_its_first_snapshots_are_over() -> None:
    """Opened is syncing and orders the snapshots; Synced is ready and orders the streams."""
    told = Told()

    assert told.opens() == (act.Read(session=1),)
    assert (told.link.phase, told.link.upstream) == ("syncing", "unknown")
    assert told.syncs() == (act.Replay(session=1), act.Settled(session=1, reason=None))
    assert (told.link.phase, told.link.reason, told.link.upstream) == ("ready", None, "ok")


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
    """The table of the contract, number by number."""
    assert Told(target).waits(reason, len(waits)) == waits


@pytest.mark.parametrize(
    ("host", "wait"), [("localhost", 0.5), ("127.0.0.2", 0.5), ("::1", 0.5), ("127.gateway.example", 1.0)]
)
def test_only_this_machine_is_dialled_twice_a_second(host: str, wait: float) -> None:
    """A name that begins like an address is somebody else's machine."""
    assert Told(replace(HOME, host=host)).waits("portClosed", 1) == [wait]


@pytest.mark.parametrize(("dice", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_a_wait_is_spread_after_its_cap(dice: float, factor: float) -> None:
    told = Told(AWAY, dice=dice)

    assert told.waits("portClosed", 6) == pytest.approx([wait * factor for wait in ORDINARY])


@pytest.mark.parametrize("reason", ["versionUnsupported", "notTws", "accountMismatch"])
def test_what_needs_a_person_is_blocked_and_goes_on_slowly(reason: str) -> None:
    told = Told()

    told.fails(reason)

    assert (told.link.phase, told.link.reason) == ("blocked", reason)
    assert dials(told.wakes()) == [HOME]


def test_our_own_ghost_is_waited_for_then_a_person_must_act() -> None:
    """Two minutes of 326 are probably our own dead session; the id stays what it is."""
    told = Told()
    told.fails("clientIdInUse")
    began = told.monotonic
    while told.link.phase == "waiting":
        told.wakes()
        told.fails("clientIdInUse")

    assert 120 <= told.monotonic - began <= 150
    assert (told.link.phase, told.wait()) == ("blocked", 60.0)
    told.wakes()
    told.fails("clientIdInUse")
    assert (told.link.phase, told.wait()) == ("blocked", 60.0)
    assert {target.clientId for target in dials(told.ordered)} == {1}


def test_the_latest_attempts_own_reason_decides_the_next_wait() -> None:
    """A refused dial after a silent one waits as refused dials do, and neither forgets how far it had come."""
    told = Told(AWAY)
    assert told.waits("portClosed", 3) == [1.0, 2.0, 4.0]
    assert told.waits("clientIdInUse", 2) == [1.0, 2.0]
    assert told.waits("dialTimeout", 1) == [8.0]


def test_the_wait_starts_anew_only_after_a_session_that_lasted() -> None:
    told = Told(AWAY)
    told.waits("portClosed", 4)
    told.up().after(29.9)
    told.lost()
    told.fails("portClosed")
    assert told.wait() == 15.0
    told.wakes()

    told.up().after(30)
    told.lost()
    told.fails("portClosed")
    assert told.wait() == 1.0


def test_every_reason_of_the_catalogue_has_a_patience() -> None:
    """Whatever reason an attempt ends with, there is a next attempt or nobody wants one."""
    for reason in LINK_REASONS:
        told = Told()
        told.fails(reason)
        assert isinstance(told.link.state, Waiting), reason


def test_a_night_of_refusals_is_one_wait_that_began_with_the_first() -> None:
    """An attempt that ends where it began is part of the wait around it; another reason begins anew."""
    told = Told()
    told.fails("portClosed")
    began = told.link.since
    for _ in range(20):
        told.wakes()
        told.after(0.1)
        told.fails("portClosed")
    assert told.link.since == began

    told.wakes()
    told.fails("handshakeTimeout")
    assert told.link.since == told.wall


# --- attempts that stay open ----------------------------------------------------------------------------------------

UNANSWERED = ["handshakeTimeout", "sessionIncomplete"]


@pytest.mark.parametrize("reason", UNANSWERED)
def test_an_unanswered_attempt_is_reported_and_stays_open_for_two_minutes(reason: str) -> None:
    """One connection in 120 s, then a new one after a second: each may raise another dialog in TWS."""
    told = Told()

    assert told.overdue(reason) == (act.Settled(session=1, reason=reason),)
    assert (told.link.phase, told.link.reason, told.link.current) == ("waiting", reason, 1)
    assert told.link.next_attempt == 1000.0 + 120.0
    began = told.link.since
    assert told.after(109.9).tell(ev.TimeCame()) == ()
    assert told.wakes()[0] == act.Abort(session=1)
    assert (told.link.phase, told.link.reason, told.wait()) == ("waiting", reason, 1.0)
    assert told.wakes() == (act.Dial(session=2, target=HOME),)
    told.overdue(reason)
    assert told.link.since == began, "it has been unanswered all the time"


@pytest.mark.parametrize("seconds", [0.0, 20.0, 109.0])
def test_an_open_attempt_becomes_the_session_when_the_gateway_answers(seconds: float) -> None:
    told = Told()
    told.overdue()

    told.after(seconds).tell(ev.Greeted(session=1, serverVersion=178))
    assert told.opens() == (act.Read(session=1),)
    assert (told.link.phase, told.link.reason) == ("syncing", "handshakeTimeout")
    told.syncs()

    assert (told.link.phase, told.link.reason, told.link.wake) == ("ready", None, None)
    assert dials(told.ordered) == [HOME]


def test_an_open_attempt_whose_version_came_but_not_the_rest_is_incomplete() -> None:
    """Its 120 s began with the dial."""
    told = Told()
    told.overdue()
    told.after(30).overdue("sessionIncomplete", "no next valid id came")

    assert (told.link.phase, told.link.reason) == ("waiting", "sessionIncomplete")
    assert told.link.next_attempt == 1120.0
    assert told.link.lastError is not None
    assert told.link.lastError.text == "no next valid id came"


def test_an_open_attempt_that_the_gateway_ends_is_what_it_ended_for() -> None:
    told = Told(AWAY)
    told.overdue()

    told.fails("closedDuringHandshake")

    assert (told.link.phase, told.link.reason, told.wait()) == ("waiting", "closedDuringHandshake", 1.0)


@pytest.mark.parametrize("event", [ev.ReconnectAsked(), ev.MachineWoke(seconds=60), ev.WindowEnded()])
def test_what_ends_a_wait_closes_the_open_attempt_and_dials_anew(event: ev.Event) -> None:
    told = Told()
    told.overdue()

    assert told.tell(event)[:2] == (act.Abort(session=1), act.Dial(session=2, target=HOME))


@pytest.mark.parametrize("event", [asked(bare=True), asked()])
def test_connect_closes_the_open_attempt_and_dials_anew(event: ev.Event) -> None:
    told = Told()
    told.overdue()

    assert told.tell(event)[:3] == (act.Abort(session=1), act.Dial(session=2, target=HOME), act.Await(session=2))
    assert told.overdue() == (act.Settled(session=2, reason="handshakeTimeout"),), "the answer comes at the time limit"
    assert told.link.current == 2, "and the attempt stays open, since the target is an automatic one"


def test_connect_elsewhere_closes_the_open_attempt_and_goes_back_to_dialling_if_it_fails() -> None:
    told = Told()
    told.overdue()

    assert told.tell(asked(OTHER))[:2] == (act.Abort(session=1), act.Dial(session=2, target=OTHER))
    told.fails("portClosed")
    assert (told.link.phase, told.link.reason) == ("waiting", "handshakeTimeout")
    assert dials(told.wakes()) == [HOME]


def test_an_attempt_that_only_a_person_asked_for_is_closed_at_its_time_limit() -> None:
    told = Told(automatic=False)
    told.tell(asked(replace(HOME, timeout=3.0)))

    assert told.overdue() == (act.Abort(session=1), act.Settled(session=1, reason="handshakeTimeout"))
    assert told.link.phase == "disabled"


def test_a_named_port_that_does_not_answer_gives_way_at_the_time_limit() -> None:
    told = Told().up()
    told.tell(ev.PortMoved(session=1, port=7498, text="reset"))

    assert told.overdue()[:2] == (act.Abort(session=2), act.Dial(session=3, target=HOME))


def test_an_attempt_whose_time_limit_is_longer_than_two_minutes_fails_at_it() -> None:
    told = Told(replace(HOME, timeout=120.0))

    assert told.overdue()[0] == act.Abort(session=1)
    assert (told.link.phase, told.wait()) == ("waiting", 1.0)


def test_disconnect_closes_an_open_attempt() -> None:
    told = Told()
    told.overdue()

    assert told.tell(ev.DisconnectAsked())[0] == act.Abort(session=1)
    assert told.link.phase == "held"


def test_a_person_who_connected_in_time_has_not_agreed_to_the_login_that_answers_later() -> None:
    """Paper was there; the request failed; minutes later live answers the connection that stayed open."""
    told = Told().up()
    told.lost()
    told.tell(asked(bare=True))
    told.overdue()

    told.opens(("U7654321",))

    assert (told.link.phase, told.link.reason) == ("blocked", "accountMismatch")


def test_the_time_limit_of_a_request_is_kept_only_by_a_session_that_it_brought() -> None:
    """A request that fails leaves the automatic attempts as they were."""
    told = Told()
    told.fails("dialTimeout")
    short = replace(HOME, timeout=0.5)

    assert dials(told.tell(asked(short))) == [short]
    told.fails("dialTimeout")
    assert dials(told.wakes()) == [HOME]
    told.fails("dialTimeout")

    told.tell(asked(short))
    told.up().after(60).lost()
    assert dials(told.ordered)[-1] == short


# --- losses ---------------------------------------------------------------------------------------------------------


def test_a_lost_socket_is_dialled_at_once() -> None:
    told = Told().up().after(60)

    assert told.lost() == (act.Dial(session=2, target=HOME), act.Settled(session=1, reason="socketLost"))
    assert (told.link.phase, told.link.reason) == ("connecting", "socketLost")


def test_a_socket_lost_again_within_moments_waits() -> None:
    told = Told().up().after(60)
    told.lost()
    told.up().after(29)

    told.lost()

    assert (told.link.phase, told.link.reason, told.wait()) == ("waiting", "socketLost", 1.0)


def test_a_frozen_gateway_is_unproven_then_aborted_never_closed() -> None:
    told = Told().up().after(60)

    assert told.tell(ev.ProbeOverdue(session=1)) == (act.Probe(session=1),)
    assert (told.link.phase, told.link.reason) == ("unproven", "probeTimeout")
    assert told.tell(ev.ProbeOverdue(session=1)) == (
        act.Abort(session=1),
        act.Dial(session=2, target=HOME),
        act.Settled(session=1, reason="probeTimeout"),
    )


@pytest.mark.parametrize("proof", [ev.Heard(session=1), ev.ProbeAnswered(session=1, rtt=0.1)])
def test_any_message_proves_the_session_again(proof: ev.Event) -> None:
    told = Told().up()
    told.tell(ev.ProbeOverdue(session=1), proof)
    assert told.link.phase == "ready"

    told.tell(ev.ProbeOverdue(session=1))
    assert told.link.phase == "unproven"


def test_what_was_said_last_is_kept_as_one_bounded_line() -> None:
    """Whatever a gateway or a system writes: no second line, no escape sequence, no page of text in the row."""
    told = Told()

    told.tell(ev.Failed(session=1, reason="notTws", code=None, text="a\r\nb\x1b[2J\u202ec" + "d" * 10_000))

    assert told.link.lastError is not None
    assert told.link.lastError.text.startswith("a  b [2J cd")
    assert told.link.lastError.text.isprintable()
    assert len(told.link.lastError.text) <= machine.TEXT


def test_an_event_of_an_old_session_changes_nothing() -> None:
    told = Told().up()
    told.lost()
    before = told.link

    assert told.tell(ev.Lost(session=1), ev.UpstreamLost(session=1, code=1100, text=""), ev.Synced(session=1)) == ()
    assert told.link == before


@pytest.mark.parametrize("early", [ev.ReconnectAsked(), ev.MachineWoke(seconds=60), ev.WindowEnded()])
def test_a_wait_ends_at_once_on_request_after_sleep_and_after_a_window(early: ev.Event) -> None:
    told = Told()
    told.fails("notTws")

    assert dials(told.tell(early)) == [HOME]


def test_where_nothing_waits_reconnect_changes_nothing() -> None:
    for told in (Told(), Told().up(), Told(automatic=False), Told(held=True)):
        before = told.link
        assert told.tell(ev.ReconnectAsked()) == ()
        assert told.link == before


def test_after_sleep_a_session_is_probed_at_once() -> None:
    assert Told().up().tell(ev.MachineWoke(seconds=3600)) == (act.Probe(session=1),)


def test_a_timer_that_fires_early_changes_nothing() -> None:
    told = Told()
    told.fails("notTws")

    assert told.tell(ev.TimeCame()) == ()


# --- upstream -------------------------------------------------------------------------------------------------------


def test_a_lost_upstream_keeps_the_session() -> None:
    told = Told().up()

    assert told.says(1100) == (act.StopReading(session=1), act.Settled(session=1, reason="upstreamLost"))
    assert (told.link.phase, told.link.reason, told.link.upstream) == ("upstreamLost", "upstreamLost", "lost")


def test_repeats_of_1100_are_one_loss() -> None:
    told = Told().up()
    told.says(1100)
    since = told.link.since

    for _ in range(20):
        assert told.after(5).says(1100) == ()
    assert (told.link.phase, told.link.since) == ("upstreamLost", since)


def test_1102_reads_again_and_1101_replays_every_stream_first() -> None:
    told = Told().up()
    told.says(1100)
    assert told.says(1102)[0] == act.Recover(session=1, cause="1102")
    assert told.link.phase == "ready"

    told.says(1100)
    assert told.says(1101)[:2] == (act.Replay(session=1), act.Recover(session=1, cause="1101"))


def test_only_1101_and_1102_undo_1100() -> None:
    """A farm that is back and an answer from upstream say nothing about a lost upstream."""
    told = Told().up()
    told.says(1100)

    told.tell(ev.FarmChanged(session=1, farm="usfarm", type="market", state="ok"))
    told.tell(ev.UpstreamRestored(session=1, code=None, text="", dataLost=False))
    told.tell(ev.ProbeAnswered(session=1, rtt=0.01), ev.Heard(session=1))

    assert told.link.phase == "upstreamLost"


def test_a_farm_that_breaks_never_changes_the_session() -> None:
    told = Told().up()

    assert told.tell(ev.FarmChanged(session=1, farm="usfarm", type="market", state="broken")) == ()
    assert isinstance(told.link.state, Live)
    assert (told.link.phase, told.link.state.facts.farms["usfarm"].state) == ("ready", "broken")


def test_2110_in_the_handshake_postpones_the_snapshots() -> None:
    """What TWS answers without IBKR behind it cannot be trusted, so it is not asked."""
    told = Told()
    told.says(2110)
    assert told.opens() == (act.Settled(session=1, reason="upstreamLost"),)
    assert told.link.phase == "upstreamLost"

    assert told.says(1102) == (act.Read(session=1),)
    assert told.link.phase == "syncing"
    told.syncs()
    assert told.link.phase == "ready"


def test_2110_is_undone_by_a_proven_answer() -> None:
    told = Told().up()
    told.says(2110)

    told.tell(ev.UpstreamRestored(session=1, code=None, text="", dataLost=False))

    assert told.link.phase == "ready"


@pytest.mark.parametrize("codes", [(2110, 1100), (1100, 2110)])
def test_1100_outweighs_2110(codes: tuple[int, ...]) -> None:
    """In whichever order they come: an answer from upstream must not undo what only 1101 and 1102 undo."""
    told = Told().up()
    for code in codes:
        told.says(code)
    told.tell(ev.UpstreamRestored(session=1, code=None, text="", dataLost=False))

    assert told.link.phase == "upstreamLost"


def test_snapshots_under_way_when_upstream_is_lost_are_not_believed() -> None:
    told = Told()
    told.opens()
    assert act.StopReading(session=1) in told.says(1100)
    told.syncs()
    assert told.link.phase == "upstreamLost"

    assert told.says(1101) == (act.Read(session=1),)
    assert told.link.phase == "syncing"


def test_upstream_lost_and_back_within_the_handshake_is_forgotten() -> None:
    told = Told()
    told.says(1100)
    told.says(1102)
    told.opens()

    assert told.link.phase == "syncing"


def test_a_session_that_freezes_while_upstream_is_lost_is_unproven_then_gone() -> None:
    told = Told().up()
    told.says(1100)
    told.tell(ev.ProbeOverdue(session=1))
    assert told.link.phase == "unproven"
    told.tell(ev.Heard(session=1))
    assert told.link.phase == "upstreamLost"
    told.tell(ev.ProbeOverdue(session=1))

    assert act.Abort(session=1) in told.tell(ev.ProbeOverdue(session=1))


def test_one_outage_of_the_socket_follows_one_of_upstream_at_once() -> None:
    told = Told().up().after(60)
    told.says(1100)

    assert dials(told.after(300).lost()) == [HOME]


# --- what things probably mean --------------------------------------------------------------------------------------


def test_upstream_lost_for_minutes_outside_the_windows_is_probably_another_login() -> None:
    told = Told().up()
    told.says(1100)
    assert told.after(299).tell(ev.TimeCame()) == ()
    assert told.link.reason == "upstreamLost"

    told.wakes()

    assert (told.link.phase, told.link.reason, told.link.wake) == ("upstreamLost", "competingSession", None)
    told.says(1102)
    assert told.link.reason is None


def test_inside_a_planned_window_a_lost_upstream_is_nobodys_fault() -> None:
    """05:20 UTC is 00:20 in New York: the nightly reset, which lasts until 01:45."""
    told = Told(wall=datetime(2025, 11, 19, 5, 20, tzinfo=UTC)).up()
    told.says(1100)
    told.wakes()
    assert told.link.reason == "upstreamLost"

    told.wakes()

    assert told.link.reason == "competingSession"
    assert told.wall == datetime(2025, 11, 19, 6, 50, tzinfo=UTC)


def test_10197_makes_another_login_the_likelier_cause_at_once() -> None:
    told = Told().up()
    told.tell(ev.CompetingSession(session=1, text="No market data during competing live session"))
    assert told.link.phase == "ready"

    told.says(1100)

    assert told.link.reason == "competingSession"


SUNDAY = datetime(2025, 11, 23, 6, 0, tzinfo=UTC)  # 01:00 in New York


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        (SUNDAY - timedelta(hours=2), SUNDAY + timedelta(hours=1)),  # down before the weekly end, refused after it
        (SUNDAY + timedelta(hours=12), SUNDAY + timedelta(hours=13)),  # ran through it, its next restart fails
        (SUNDAY - timedelta(hours=2), SUNDAY + timedelta(days=2)),  # and nobody has logged in since
    ],
)
def test_a_gateway_refused_since_the_weekly_end_of_logins_probably_waits_for_one(
    lost: datetime, found: datetime
) -> None:
    told = Told(wall=lost).up()
    told.lost()
    told.fails("portClosed")
    told.after((found - lost).total_seconds())
    told.wakes()
    told.fails("portClosed")

    assert (told.link.phase, told.link.reason) == ("waiting", "loginRequired")
    assert told.wait() == 0.5, "a guess changes nothing of what is done"


def test_a_restart_gets_its_allowance_before_anything_is_guessed() -> None:
    told = Told(wall=SUNDAY + timedelta(hours=2)).up()
    told.lost()
    told.after(240)
    told.fails("portClosed")

    assert told.link.reason == "portClosed"


def test_in_the_week_a_closed_port_is_a_closed_port() -> None:
    told = Told().up()
    told.lost()
    told.after(3600)
    told.fails("portClosed")

    assert told.link.reason == "portClosed"


def test_an_expected_restart_that_does_not_come_back_probably_needs_a_login() -> None:
    """Lost at the configured time of the gateway's restart, refused beyond the allowance."""
    told = Told(restart_at=WEDNESDAY).up()
    told.after(30).lost()
    told.fails("portClosed")
    assert told.link.reason == "portClosed"
    told.after(301).tell(ev.TimeCame())
    told.fails("portClosed")

    assert told.link.reason == "loginRequired"


# --- accounts -------------------------------------------------------------------------------------------------------


def test_the_configured_account_must_be_behind_the_port() -> None:
    told = Told(replace(HOME, account="U7654321"))

    ordered = told.opens(("DU1234567",))

    assert act.Close(session=1) in ordered
    assert (told.link.phase, told.link.reason) == ("blocked", "accountMismatch")
    assert act.Settled(session=1, reason="accountMismatch") in ordered


def test_another_login_is_not_taken_for_the_last_one() -> None:
    """Without a configured account a reconnect that finds no account of the last session stops and says so."""
    told = Told().up()
    told.lost()

    told.opens(("U7654321",))

    assert (told.link.phase, told.link.reason) == ("blocked", "accountMismatch")
    assert told.link.pursuit is not None
    assert (told.link.pursuit.accounts, told.link.pursuit.found) == (("DU1234567",), ("U7654321",))


def test_an_account_more_or_less_is_the_same_login() -> None:
    told = Told()
    told.opens(("DU1", "DU2"))
    told.syncs()
    told.lost()
    told.opens(("DU2", "DU3"))

    assert told.link.phase == "syncing"


def test_a_person_who_connects_means_whoever_is_logged_in_now() -> None:
    told = Told().up()
    told.lost()
    told.opens(("U7654321",))

    told.tell(asked(bare=True))
    told.opens(("U7654321",))

    assert told.link.phase == "syncing"


# --- what somebody asks for -----------------------------------------------------------------------------------------


def test_connect_from_disabled_is_kept_up_when_it_succeeds() -> None:
    told = Told(automatic=False)
    assert told.tell(asked(OTHER)) == (act.Dial(session=1, target=OTHER), act.Await(session=1))
    told.up()

    told.after(60).lost()

    assert dials(told.ordered) == [OTHER, OTHER]


@pytest.mark.parametrize("held", [False, True])
def test_connect_that_fails_leaves_a_link_nobody_wants_as_it_was(held: bool) -> None:
    told = Told(automatic=False, held=held)
    told.tell(asked())

    assert told.fails("portClosed") == (act.Settled(session=1, reason="portClosed"),)
    assert told.link.state == Down(held)
    assert told.link.lastError is not None


def test_connect_ends_a_hold_only_when_it_succeeds() -> None:
    told = Told(held=True)
    told.tell(asked())
    assert act.Keep(held=False) not in told.ordered
    told.up()

    assert told.ordered.count(act.Keep(held=False)) == 1


def test_connect_joins_an_equal_attempt_and_refuses_a_different_one() -> None:
    told = Told()

    assert told.tell(asked(bare=True)) == (act.Await(session=1),)
    assert told.tell(asked(replace(HOME, timeout=3.0))) == (act.Await(session=1),)
    assert told.tell(asked(OTHER)) == (act.Answer(reason="connectInProgress"),)
    told.opens()
    assert told.tell(asked(bare=True)) == (act.Await(session=1),)
    assert told.tell(asked(OTHER)) == (act.Answer(reason="connectInProgress"),)
    assert len(dials(told.ordered)) == 1


def test_connect_while_connected_is_already_done() -> None:
    assert Told().up().tell(asked()) == (act.Answer(reason=None),)


def test_connect_for_an_account_that_the_session_does_not_have_is_refused_and_changes_nothing() -> None:
    told = Told().up()
    before = told.link

    (answer,) = told.tell(asked(replace(HOME, account="U7654321")))

    assert isinstance(answer, act.Answer)
    assert answer.reason == "accountMismatch"
    assert all(account in answer.text for account in ("DU1234567", "U7654321"))
    assert told.link == before


def test_connect_for_the_sessions_own_account_joins_it_and_the_next_session_must_have_it_too() -> None:
    told = Told()
    told.opens(("DU1", "DU2"))
    own = replace(HOME, account="DU2")
    assert told.tell(asked(own)) == (act.Await(session=1),)
    assert told.syncs()[-1] == act.Settled(session=1, reason=None)
    assert told.tell(asked(own)) == (act.Answer(reason=None),)

    told.after(60).lost()
    told.opens(("DU1",))

    assert (told.link.phase, told.link.reason) == ("blocked", "accountMismatch")


@pytest.mark.parametrize("reason", ["portClosed", "notTws"])
def test_connect_dials_at_once_where_the_link_waits_or_is_blocked(reason: str) -> None:
    told = Told()
    told.fails(reason)

    assert told.tell(asked(bare=True)) == (act.Dial(session=2, target=HOME), act.Await(session=2))


def test_connect_elsewhere_that_fails_goes_back_to_waiting_for_the_old_target() -> None:
    told = Told()
    told.fails("notTws")
    told.tell(asked(OTHER))
    told.fails("clientIdInUse")

    assert (told.link.phase, told.link.reason, told.wait()) == ("blocked", "notTws", 300.0)
    assert dials(told.wakes()) == [HOME]


def test_connect_elsewhere_while_connected_closes_first_and_goes_back_if_it_fails() -> None:
    told = Told().up()

    assert told.tell(asked(OTHER))[:2] == (act.Close(session=1), act.Dial(session=2, target=OTHER))
    assert told.fails("clientIdInUse")[0] == act.Dial(session=3, target=HOME)
    told.up()
    assert told.link.target == HOME


def test_connect_elsewhere_that_succeeds_is_the_target_from_then_on() -> None:
    told = Told().up()
    told.tell(asked(OTHER))
    told.up().after(60)
    told.lost()
    told.fails("portClosed")

    assert told.link.target == OTHER
    assert dials(told.wakes()) == [OTHER]


def test_while_upstream_is_lost_connect_answers_that() -> None:
    told = Told().up()
    told.says(1100)

    assert told.tell(asked(bare=True)) == (act.Answer(reason="upstreamLost"),)


def test_a_connect_that_finds_upstream_lost_answers_that_and_keeps_the_session() -> None:
    told = Told(automatic=False)
    told.tell(asked())
    told.says(2110)

    assert told.opens() == (act.Settled(session=1, reason="upstreamLost"),)
    assert told.link.phase == "upstreamLost"


def test_connect_while_unproven_is_answered_by_what_comes_of_it() -> None:
    told = Told().up()
    told.tell(ev.ProbeOverdue(session=1))

    assert told.tell(asked()) == (act.Await(session=1),)
    assert told.tell(ev.Heard(session=1)) == (act.Settled(session=1, reason=None),)


def test_an_asked_session_lost_before_it_was_ready_leaves_things_as_they_were() -> None:
    told = Told(automatic=False)
    told.tell(asked())
    told.opens()
    told.lost()

    assert told.link.phase == "disabled"


def test_what_was_only_tried_is_not_gone_back_to() -> None:
    """A session that froze before it was ready has replaced nothing, so another target's failure leaves the hold."""
    told = Told(held=True)
    told.tell(asked())
    told.opens()
    told.tell(ev.ProbeOverdue(session=1))
    told.tell(asked(OTHER))

    assert told.fails("portClosed") == (act.Settled(session=2, reason="portClosed"),)
    assert told.link.state == Down(True)


@pytest.mark.parametrize("stage", ["dialling", "syncing", "ready", "unproven", "waiting", "disabled"])
def test_disconnect_holds_the_link_down_from_anywhere(stage: str) -> None:
    """A session is closed politely, so that its client id is free; a peer that is silent is not waited for."""
    told = Told(automatic=stage != "disabled")
    if stage == "syncing":
        told.opens()
    elif stage == "ready":
        told.up()
    elif stage == "unproven":
        told.up().tell(ev.ProbeOverdue(session=1))
    elif stage == "waiting":
        told.fails("portClosed")

    ordered = told.tell(ev.DisconnectAsked())

    assert (told.link.phase, told.link.reason, told.link.wake) == ("held", "manual", None)
    assert act.Keep(held=True) in ordered
    ended: dict[str, act.Action] = {
        "dialling": act.Abort(session=1),
        "syncing": act.Close(session=1),
        "ready": act.Close(session=1),
        "unproven": act.Abort(session=1),
    }
    assert [action for action in ordered if isinstance(action, act.Abort | act.Close)] == (
        [ended[stage]] if stage in ended else []
    )


def test_stop_closes_the_session_cleanly_and_ends_everything() -> None:
    told = Told().up()

    assert told.tell(ev.StopAsked())[0] == act.Close(session=1)
    assert told.tell(asked()) == (act.Answer(reason="shuttingDown"),)
    assert told.tell(ev.ReconnectAsked(), ev.TimeCame(), ev.DisconnectAsked()) == ()
    assert told.link.phase == "stopping"


# --- 1300 -----------------------------------------------------------------------------------------------------------


def test_a_moved_port_is_dialled_at_once_and_stays_the_target() -> None:
    told = Told().up()
    moved = replace(HOME, port=7498)

    assert told.tell(ev.PortMoved(session=1, port=7498, text="reset"))[:2] == (
        act.Close(session=1),
        act.Dial(session=2, target=moved),
    )
    assert told.link.reason == "portMoved"
    told.up()
    assert (told.link.target, told.link.base, told.link.policy.configured) == (moved, moved, HOME)
    told.after(60).lost()
    assert told.link.target == moved


def test_a_moved_port_that_fails_gives_way_to_the_configured_one() -> None:
    told = Told().up()
    told.tell(ev.PortMoved(session=1, port=7498, text="reset"))

    assert dials(told.fails("portClosed")) == [HOME]
    assert told.link.base == HOME
    assert (told.link.phase, told.link.reason) == ("connecting", "socketLost"), "what is dialled now was not named"


def test_behind_a_moved_port_there_must_be_the_same_login() -> None:
    told = Told().up()
    told.tell(ev.PortMoved(session=1, port=7496, text="reset"))

    ordered = told.opens(("U7654321",))

    assert act.Close(session=2) in ordered
    assert dials(ordered) == [HOME]


def test_two_gateways_that_name_each_other_are_followed_with_longer_and_longer_waits() -> None:
    told = Told().up()
    here, there = 7497, 7498
    waits = []
    told.tell(ev.PortMoved(session=told.session, port=there, text="reset"))
    for _ in range(6):
        here, there = there, here
        told.up()
        ordered = told.tell(ev.PortMoved(session=told.session, port=there, text="reset"))
        assert dials(ordered) == []
        assert (told.link.phase, told.link.reason, told.link.target.port) == ("waiting", "portMoved", there)
        waits.append(told.wait())
        assert dials(told.wakes()) == [replace(HOME, port=there)]

    assert waits == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@pytest.mark.parametrize("asking", [ev.TimeCame(), ev.ReconnectAsked(), None])
def test_a_named_port_that_had_to_wait_gives_way_as_well(asking: ev.Event | None) -> None:
    told = Told().up()
    told.lost()
    told.up()
    told.tell(ev.PortMoved(session=told.session, port=7498, text="reset"))
    told.after(60).tell(asking or asked(bare=True))

    assert told.link.target.port == 7498
    assert dials(told.fails("portClosed")) == [HOME]


def test_1300_without_a_usable_port_waits_for_the_loss() -> None:
    told = Told().up()

    assert told.tell(ev.PortMoved(session=1, port=None, text="reset")) == ()
    assert told.link.phase == "ready"


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
        self.told = Told()
        self.open: set[int] = {1}
        self.waiters: set[int] = set()
        self.stopped = False

    def play(self, event: ev.Event) -> None:
        told = self.told
        before = told.link
        actions = told.tell(event)
        if isinstance(event, ev.Failed | ev.Lost):
            self.open.discard(event.session)
        if isinstance(event, ev.SessionEvent) and event.session != before.current:
            assert told.link == before
            assert actions == ()
        self.stopped = self.stopped or isinstance(event, ev.StopAsked)
        if self.stopped:
            assert not dials(actions), "nothing is dialled after the end"
        if before.phase in ("held", "disabled") and not isinstance(event, ev.ConnectAsked):
            assert told.link.phase in (before.phase, "held", "stopping")
            assert not dials(actions)
        if told.link.phase == "ready" and before.phase == "upstreamLost":
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
                assert action.session in self.open, "nothing is asked of a session that is over"

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 20.0, 40.0, 400.0, 90000.0]))
    def time_passes(self, seconds: float) -> None:
        self.told.after(seconds)
        if self.told.link.wake is not None and self.told.monotonic >= self.told.link.wake:
            self.play(ev.TimeCame())

    @rule(wanted=TARGETS, bare=st.booleans())
    def somebody_connects(self, wanted: Target, bare: bool) -> None:
        self.play(asked(HOME if bare else wanted, bare=bare))

    @rule(
        event=st.sampled_from(
            [ev.DisconnectAsked(), ev.ReconnectAsked(), ev.MachineWoke(seconds=9), ev.WindowEnded(), ev.TimeCame()]
        )
    )
    def something_happens(self, event: ev.Event) -> None:
        self.play(event)

    @rule(back=st.sampled_from([0, 0, 0, 0, 1]), data=st.data())
    def the_session_speaks(self, back: int, data: st.DataObject) -> None:
        told = self.told
        number = max(1, told.link.session - back)
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
                    ev.Heard(session=number),
                    ev.UpstreamLost(session=number, code=data.draw(st.sampled_from([1100, 2110])), text="x"),
                    ev.UpstreamRestored(session=number, code=code, text="x", dataLost=code == 1101),
                    ev.FarmChanged(session=number, farm="usfarm", type="market", state="broken"),
                    ev.CompetingSession(session=number, text="x"),
                    ev.ReadOnlyApi(session=number, text="x"),
                    ev.PortMoved(session=number, port=data.draw(st.sampled_from([None, 7497, 7498])), text="x"),
                ]
            )
        )
        if number in self.open or number != told.link.current:
            self.play(event)

    @rule(reason=FAILURES)
    def the_attempt_fails(self, reason: str) -> None:
        told = self.told
        if isinstance(told.link.state, Connecting):
            self.play(ev.Failed(session=told.session, reason=reason))

    @rule()
    def the_socket_ends(self) -> None:
        told = self.told
        if isinstance(told.link.state, Live):
            self.play(ev.Lost(session=told.session))

    @rule()
    def the_daemon_stops(self) -> None:
        if self.told.link.session > 4:
            self.play(ev.StopAsked())

    @invariant()
    def the_link_is_what_it_says(self) -> None:
        link: Link = self.told.link
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
            assert link.wake - self.told.monotonic <= 360
            assert not self.waiters, "the answer does not wait for the next attempt"
        if isinstance(link.state, Connecting) and link.state.overdue is not None:
            assert link.state.overdue.until - self.told.monotonic <= 120
            assert link.state.back is None, "only what is tried by itself stays open"
        if isinstance(link.state, Waiting):
            assert not self.open
        if link.current is not None:
            assert self.open == {link.current}
        assert self.waiters <= ({link.current} if link.current is not None else set()), "whoever waits is told"


AnyLink.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
test_whatever_comes_the_laws_hold = AnyLink.TestCase


def test_the_number_of_the_session_counts_completed_handshakes() -> None:
    """Attempts that never became a session are attempts; they do not number one."""
    told = Told()
    for _ in range(3):
        told.fails("portClosed")
        told.wakes()
    assert told.link.opened == 0
    told.up()
    assert told.link.opened == 1
    told.lost()
    told.up()
    assert told.link.opened == 2


def test_attempts_count_from_when_the_link_was_last_ready() -> None:
    """A gateway that drops each session before it is ready has been tried as often; one that was ready begins anew."""
    told = Told()
    for tried in (1, 2, 3):
        assert told.link.pursuit is not None
        assert told.link.pursuit.attempts == tried
        told.opens()
        told.after(40).lost()
    told.up().lost()

    assert told.link.pursuit.attempts == 0
    told.wakes()
    assert told.link.pursuit.attempts == 1
