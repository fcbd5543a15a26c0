"""The link machine: the whole of what is decided about the one session with the gateway, as a pure function.

`step(link, event, now) -> (link, actions)`. It decides phase, reason, patience and target. It has no clock, socket, log
or randomness: `now` is an argument, and what has to be done is returned as actions.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.link import events as ev
from daemon.link.actions import (
    Abort,
    Action,
    Actions,
    Answer,
    Await,
    Close,
    Dial,
    Keep,
    Probe,
    Read,
    Recover,
    Replay,
    Settled,
    StopReading,
)
from daemon.link.events import Target
from daemon.link.patience import (
    COMPETING_AFTER,
    COMPETING_MEMORY,
    FLAPPING,
    KEPT_OPEN,
    FailureCounts,
    Outage,
    after,
    at_once,
    probably,
)
from daemon.link.states import (
    Back,
    Connecting,
    ConnectionTarget,
    Down,
    Facts,
    Link,
    Live,
    Now,
    Overdue,
    Policy,
    PreviousPhase,
    Return,
    State,
    Stopping,
    Waiting,
    reason,
)
from shared.messages import FarmState, LastError

TEXT = 500  # characters of a foreign text that are kept


def begin(policy: Policy, now: Now, *, held: bool) -> tuple[Link, Actions]:
    """The link at the daemon's start. `held`: it was disconnected by request before the daemon last ended."""
    base = policy.configured
    link = Link(policy=policy, base=base, state=Down(held), since=now.wall)
    if held or not policy.automatic:
        return link, ()
    return _dial(link, ConnectionTarget(target=base), now)


def step(link: Link, event: ev.Event, now: Now) -> tuple[Link, Actions]:
    """What `event` makes of `link`, and what is to be done about it. An event of another session changes nothing."""
    if isinstance(event, ev.SessionEvent) and event.session != link.current:
        return link, ()
    if isinstance(link.state, Stopping):
        return link, (Answer(reason="shuttingDown"),) if isinstance(event, ev.ConnectRequested) else ()
    changed, actions = _decide(link, event, now)
    changed, committed = _commit(changed, now)
    if changed.phase != link.phase:
        changed = _dated(link, changed, now)
    return changed, (*actions, *committed, *_settled(link, changed, event))


def _dated(before: Link, after: Link, now: Now) -> Link:
    """When the new phase began: an attempt that ends where it began is part of the wait around it."""
    if after.phase == "connecting":
        return replace(after, since=now.wall, previous=PreviousPhase(before.phase, before.reason, before.since))
    was = before.previous
    same = was is not None and before.phase == "connecting" and (was.phase, was.reason) == (after.phase, after.reason)
    return replace(after, since=was.since if was is not None and same else now.wall, previous=None)


def _decide(link: Link, event: ev.Event, now: Now) -> tuple[Link, Actions]:
    state = link.state
    match event, state:
        case ev.ConnectRequested(), _:
            return _connect(link, event, now)
        case ev.DisconnectRequested(), _:
            return replace(link, state=Down(True)), (*_hang_up(state), Keep(held=True))
        case ev.StopRequested(), _:
            return replace(link, state=Stopping()), _hang_up(state)
        case (
            (ev.ReconnectRequested() | ev.WindowEnded() | ev.MachineResumed()),
            Connecting(overdue=Overdue(reason=why)),
        ):
            link, dial = _dial(link, state.connection, now, why=why)
            return link, (*_hang_up(state), *dial)
        case ev.TimerExpired(), Connecting(overdue=Overdue(reason=why, until=until)) if now.monotonic >= until:
            return _fail(link, why, now, *_hang_up(state))
        case ((ev.ReconnectRequested() | ev.WindowEnded() | ev.MachineResumed()), Waiting()):
            return _redial(link, state, now)
        case ev.TimerExpired(), Waiting(until=until) if now.monotonic >= until:
            return _redial(link, state, now)
        case ev.TimerExpired(), Live(facts=Facts(suspectAt=float() as at)) if now.monotonic >= at:
            return _suspect(link, state, now)
        case ev.MachineResumed(), Live():
            return link, (Probe(session=state.session),)
        case ev.Lost(), Live():
            # whatever ended a session that stood, it was a gateway's: dialled again as after any loss
            return _fail(_note(link, event.code, event.text, now), "socketLost", now)
        case ((ev.Failed() | ev.Lost()), Connecting()):
            return _fail(_note(link, event.code, event.text, now), event.reason, now)
        case ev.AttemptOverdue(), Connecting():
            return _overdue(_note(link, event.code, event.text, now), state, event.reason, now)
        case ev.Opened(), Connecting():
            return _open(link, state, event, now)
        case ev.Synced(), Live(reading=True):
            live = replace(state, reading=False, synced=True)
            return replace(link, state=live), (Replay(session=state.session),)
        case ev.ProbeOverdue(), Live(overdue=False):
            return replace(link, state=replace(state, overdue=True)), (Probe(session=state.session),)
        case ev.ProbeOverdue(), Live(overdue=True):
            overdue = _note(link, None, "two probes in a row were not answered in time", now)
            return _fail(overdue, "probeTimeout", now, Abort(session=state.session))
        case ((ev.ProbeAnswered() | ev.MessageReceived()), Live(overdue=True)):
            return replace(link, state=replace(state, overdue=False)), ()
        case ev.UpstreamRestored(), Live():
            return _upstream_restored(link, state, event)
        case ev.PortMoved(port=int() as port), Live(connection=ConnectionTarget(target=target)) if port != target.port:
            return _move(_note(link, 1300, event.text, now), state, port, now)
        case ev.SessionEvent(), (Connecting() | Live()):
            return _learn(link, state, event, now)
    return link, ()


# --- requests to connect -----------------------------------------------------------------------------------------


def _connect(link: Link, event: ev.ConnectRequested, now: Now) -> tuple[Link, Actions]:
    state, target = link.state, event.target
    first: Actions = ()
    if isinstance(state, Connecting) and state.overdue is not None:
        # it waits, but for its connection, which is closed before the new dial
        first = _hang_up(state)
        state = Waiting(connection=state.connection, reason=state.overdue.reason, until=now.monotonic)
    if isinstance(state, Live) and _same_gateway(target, state.connection.target) and not event.bare:
        accounts = state.connection.accounts
        if target.account and target.account not in accounts:
            text = f"The session is logged in to {', '.join(accounts)}, not to {target.account}."
            return link, (Answer(reason="accountMismatch", text=text),)
        # the session that is there is meant; those that follow it have to be logged in to this account too
        wanted = replace(state.connection.target, account=target.account)
        state = replace(state, connection=replace(state.connection, target=wanted))
        link = replace(link, state=state)
    same = link.connection is not None and (event.bare or _same(target, link.connection.target))
    match state:
        case Connecting() if same:
            return replace(link, state=replace(state, requested=True)), (Await(session=state.session),)
        case Live() if same and link.phase == "ready":
            return link, (Answer(reason=None),)
        case Live() if same and link.phase == "upstreamLost":
            return link, (Answer(reason=link.reason),)
        case Live() if same:
            return link, (Await(session=state.session),)
        case Waiting(connection=connection) if same:
            limit = None if event.bare else target.timeout
            link, actions = _dial(
                link, connection, now, why=link.reason, back=state.back, requested=True, timeout=limit
            )
        case Connecting():
            return link, (Answer(reason="connectInProgress"),)
        case Live() if link.phase == "syncing":
            return link, (Answer(reason="connectInProgress"),)
        case Live(connection=connection):
            back = state.back or Return(connection=_rested(link, state, now))
            link, dial = _dial(link, ConnectionTarget(target=target), now, back=back, requested=True)
            actions = (*_hang_up(state), *dial)
        case Down() | Waiting():
            link, actions = _dial(link, ConnectionTarget(target=target), now, back=state, requested=True)
        case Stopping():
            return link, (Answer(reason="shuttingDown"),)
    return link, (*first, *actions, Await(session=link.session))


def _same(one: Target, other: Target) -> bool:
    """Whether they are the same session; how long a caller is ready to wait for it does not matter."""
    return replace(one, timeout=0.0) == replace(other, timeout=0.0)


def _same_gateway(one: Target, other: Target) -> bool:
    """Whether they are the same session but for the account it is used for."""
    return _same(replace(one, account=""), replace(other, account=""))


def _hang_up(state: State) -> Actions:
    match state:
        case Connecting(session=session) | Live(session=session, overdue=True):
            return (Abort(session=session),)
        case Live(session=session):
            return (Close(session=session),)
    return ()


# --- attempts -------------------------------------------------------------------------------------------------------


def _dial(
    link: Link,
    connection: ConnectionTarget,
    now: Now,
    *,
    why: str | None = None,
    back: Back | None = None,
    requested: bool = False,
    timeout: float | None = None,
) -> tuple[Link, Actions]:
    number = link.session + 1
    limit = connection.target.timeout if timeout is None else timeout
    connection = replace(
        connection,
        attempts=connection.attempts + 1,
        outage=connection.outage or Outage(since=now.monotonic),
    )
    state = Connecting(session=number, connection=connection, timeout=limit, why=why, back=back, requested=requested)
    return replace(link, session=number, state=state), (
        Dial(session=number, target=replace(connection.target, timeout=limit, address=connection.peer)),
    )


def _redial(link: Link, state: Waiting, now: Now) -> tuple[Link, Actions]:
    return _dial(link, state.connection, now, why=link.reason, back=state.back)


def _overdue(link: Link, state: Connecting, why: str, now: Now) -> tuple[Link, Actions]:
    """Reported as failed; only an automatic attempt goes on, since nothing else is tried while it is open."""
    left = KEPT_OPEN - state.timeout
    if state.back is not None or (state.overdue is None and left <= 0):
        return _fail(link, why, now, *_hang_up(state))
    until = now.monotonic + left if state.overdue is None else state.overdue.until
    # its caller has been answered: from here on it is automatic, and another login is not taken for the last one
    return replace(link, state=replace(state, overdue=Overdue(reason=why, until=until), requested=False)), ()


def _open(link: Link, state: Connecting, event: ev.Opened, now: Now) -> tuple[Link, Actions]:
    """A session; the accounts behind it are looked at before anything else is."""
    link = replace(link, opened=link.opened + 1)
    close = Close(session=state.session)
    wanted = _expected_accounts(state)
    if wanted and not set(wanted) & set(event.accounts):
        text = f"logged in to {', '.join(event.accounts)}, expected {' or '.join(wanted)}"
        link = replace(link, state=replace(state, connection=replace(state.connection, found=event.accounts)))
        return _fail(_note(link, None, text, now), "accountMismatch", now, close)
    facts = replace(state.facts, serverVersion=event.serverVersion)
    target = replace(state.connection.target, timeout=state.timeout)
    live = Live(
        session=state.session,
        connection=replace(state.connection, target=target, accounts=event.accounts),
        facts=facts,
        why=reason(state),
        back=state.back,
        reading=facts.lost is None,
    )
    return replace(link, state=live), (Read(session=state.session),) if live.reading else ()


def _expected_accounts(state: Connecting) -> tuple[str, ...]:
    """The accounts of which the session must have one; none where any will do.

    Where no account is configured, another login than the last session's must not be taken for it by itself, paper for
    live least of all. A person who requests to connect has seen that and means it.
    """
    if state.connection.target.account:
        return (state.connection.target.account,)
    return () if state.requested else state.connection.accounts


def _fail(link: Link, why: str, now: Now, *first: Action) -> tuple[Link, Actions]:
    """The attempt or session is over: back to what was before a trial, else on by the reason's patience."""
    match link.state:
        case Connecting(back=Down() as back) | Live(back=Down() as back):
            return replace(link, state=back), first
        case Connecting(back=Waiting() as back) | Live(back=Waiting() as back):
            return replace(link, state=back), first
        case Connecting(back=Return() as back) | Live(back=Return() as back):
            link, dial = _dial(link, back.connection, now, why="socketLost" if back.moved else None)
            return link, (*first, *dial)
        case Live() as state:
            connection = _lost(link, state, now)
            if at_once(why) and not _flaps(state, now):
                link, dial = _dial(link, connection, now, why=why)
                return link, (*first, *dial)
            return replace(link, state=_wait(link, connection, why, now)), first
        case Connecting(connection=connection):
            return replace(link, state=_wait(link, connection, why, now)), first
    return link, ()


def _flaps(state: Live, now: Now) -> bool:
    """Whether this session ends so soon after the one before that the next dial waits."""
    last = state.connection.lastLoss
    return last is not None and now.monotonic - last < FLAPPING


def _wait(link: Link, connection: ConnectionTarget, why: str, now: Now) -> Waiting:
    policy = link.policy
    failures, seconds, blocked = after(
        why,
        connection.target.host,
        connection.failures,
        longest=policy.reconnectMax,
        now=now.monotonic,
        random_unit=now.random_unit,
    )
    outage = connection.outage or Outage(since=now.monotonic)
    return Waiting(
        connection=replace(connection, failures=failures, outage=outage),
        reason=why,
        until=now.monotonic + seconds,
        blocked=blocked,
        hint=probably(why, outage, now.wall, now.monotonic),
    )


def _rested(link: Link, state: Live, now: Now) -> ConnectionTarget:
    """The target when its session stops being ready: an outage begins; failure counts are reset if it lasted."""
    connection = state.connection
    if state.readyAt is None:
        return connection
    lasted = now.monotonic - state.readyAt >= FLAPPING
    restarting = link.policy.calendar.restarting(now.wall)
    return replace(
        connection,
        failures=FailureCounts() if lasted else connection.failures,
        attempts=0,
        outage=Outage(since=now.monotonic, lastReady=now.wall, inRestart=restarting),
    )


def _lost(link: Link, state: Live, now: Now) -> ConnectionTarget:
    """The connection when its session ends: how long the gateway is away counts from here."""
    connection = _rested(link, state, now)
    known = connection.outage or Outage(since=now.monotonic)
    restarting = known.inRestart or link.policy.calendar.restarting(now.wall)
    outage = replace(known, since=now.monotonic, inRestart=restarting)
    return replace(connection, lastLoss=now.monotonic, outage=outage)


def _move(link: Link, state: Live, port: int, now: Now) -> tuple[Link, Actions]:
    """1300: the named port at once, back to the old one if it fails. Not requested, so the account check is strict.

    Two gateways may name each other: so soon after a loss the named port waits its turn.
    """
    old = _lost(link, state, now)
    back = state.back or Return(connection=old, moved=True)
    moved = replace(old, target=replace(old.target, port=port))
    if _flaps(state, now):
        return replace(link, state=replace(_wait(link, moved, "portMoved", now), back=back)), _hang_up(state)
    moved = replace(moved, failures=FailureCounts())
    link, dial = _dial(link, moved, now, why="portMoved", back=back)
    return link, (*_hang_up(state), *dial)


# --- events of a session -------------------------------------------------------------------------------------------


def _learn(link: Link, state: Connecting | Live, event: ev.SessionEvent, now: Now) -> tuple[Link, Actions]:
    """Facts of the session that leave it where it is, but for a lost upstream."""
    facts = state.facts
    match event:
        case ev.Dialled():
            state = replace(state, connection=replace(state.connection, peer=event.peer))
        case ev.Greeted():
            facts = replace(facts, serverVersion=event.serverVersion)
        case ev.FarmChanged():
            farm: Any = {"state": event.state, "type": event.type}
            facts = replace(facts, farms={**facts.farms, event.farm: msgspec.convert(farm, FarmState)})
        case ev.ReadOnlyApi():
            facts = replace(facts, readOnly=True)
        case ev.CompetingSession():
            facts = replace(facts, competedAt=now.monotonic, competing=facts.competing or facts.lost is not None)
        case ev.UpstreamLost():
            return _upstream_lost(_note(link, event.code, event.text, now), state, event.code, now)
        case ev.UpstreamRestored(code=code) if code is not None or facts.lost == 2110:
            facts = replace(facts, lost=None, competing=False, suspectAt=None)
        case ev.PortMoved():
            link = _note(link, 1300, event.text, now)
        case ev.RateExceeded():
            link = _note(link, 100, event.text, now)
    return replace(link, state=replace(state, facts=facts)), ()


def _upstream_lost(link: Link, state: Connecting | Live, code: int, now: Now) -> tuple[Link, Actions]:
    """Repeats are one loss. A 1100 outweighs a 2110: only 1101 and 1102 undo it."""
    facts = state.facts
    if facts.lost is not None:
        facts = replace(facts, lost=1100 if 1100 in (facts.lost, code) else code)
        return replace(link, state=replace(state, facts=facts)), ()
    competed = facts.competedAt is not None and now.monotonic - facts.competedAt < COMPETING_MEMORY
    facts = replace(facts, lost=code, competing=competed, suspectAt=now.monotonic + COMPETING_AFTER)
    if isinstance(state, Connecting):
        return replace(link, state=replace(state, facts=facts)), ()
    live = replace(state, facts=facts, reading=False, connection=_rested(link, state, now), readyAt=None)
    return replace(link, state=live), (StopReading(session=state.session),)


def _upstream_restored(link: Link, state: Live, event: ev.UpstreamRestored) -> tuple[Link, Actions]:
    """1101 and 1102 always count; an answer that proves upstream undoes a 2110 only."""
    if event.code is None and state.facts.lost != 2110:
        return link, ()
    facts = replace(state.facts, lost=None, competing=False, suspectAt=None)
    live = replace(state, facts=facts)
    session = state.session
    if not state.synced:
        read = () if state.reading else (Read(session=session),)
        return replace(link, state=replace(live, reading=True)), read
    recover = Recover(session=session, cause=str(event.code or 2110))
    return replace(link, state=live), (Replay(session=session), recover) if event.dataLost else (recover,)


def _suspect(link: Link, state: Live, now: Now) -> tuple[Link, Actions]:
    """Upstream has been lost for minutes: outside the planned windows another login is the likelier cause."""
    window = link.policy.calendar.at(now.wall)
    if window.active and window.nextAt is not None:
        later = now.monotonic + (window.nextAt - now.wall).total_seconds() + COMPETING_AFTER
        facts = replace(state.facts, suspectAt=later)
    else:
        facts = replace(state.facts, competing=True, suspectAt=None)
    return replace(link, state=replace(state, facts=facts)), ()


# --- after every step -----------------------------------------------------------------------------------------------


def _commit(link: Link, now: Now) -> tuple[Link, Actions]:
    """A session that works is the target from now on: what it would have given way to is forgotten."""
    state = link.state
    if not isinstance(state, Live):
        return link, ()
    actions: Actions = ()
    if link.phase in ("ready", "upstreamLost") and state.back is not None:
        link, actions = _adopt(link, state.back, state.connection.target)
        state = replace(state, back=None)
    if link.phase != "ready" and state.readyAt is not None:
        state = replace(state, connection=_rested(link, state, now), readyAt=None)
    elif link.phase == "ready" and state.readyAt is None:
        state = replace(
            state,
            readyAt=now.monotonic,
            why=None,
            connection=replace(state.connection, outage=None, found=()),
        )
    return replace(link, state=state), actions


def _adopt(link: Link, back: Back, target: Target) -> tuple[Link, Actions]:
    """A port the gateway named stays the settings' port until the daemon ends; a link that was held no longer is."""
    base = link.base
    match back:
        case Down(held=True):
            return link, (Keep(held=False),)
        case Return(moved=True, connection=ConnectionTarget(target=old)) if (old.host, old.port) == (
            base.host,
            base.port,
        ):
            return replace(link, base=replace(base, port=target.port)), ()
    return link, ()


def _settled(before: Link, now: Link, event: ev.Event) -> Actions:
    """The answer to the callers that wait for an attempt, once it is known."""
    session = before.current if before.current is not None else now.current
    if session is None:
        return ()
    if now.current == session:
        if now.phase in ("ready", "upstreamLost", "waiting") and now.phase != before.phase:
            return (Settled(session=session, reason=now.reason),)
        return ()
    match event:
        case ev.DisconnectRequested() | ev.ConnectRequested():
            return (Settled(session=session, reason="manual"),)
        case ev.StopRequested():
            return (Settled(session=session, reason="shuttingDown"),)
        case ev.Failed(reason=why) | ev.AttemptOverdue(reason=why):
            return (Settled(session=session, reason=why),)
        case ev.PortMoved():
            return (Settled(session=session, reason="portMoved"),)
        case ev.ProbeOverdue():
            return (Settled(session=session, reason="probeTimeout"),)
        case ev.Opened():
            return (Settled(session=session, reason="accountMismatch"),)
    return (Settled(session=session, reason="socketLost"),)


def _note(link: Link, code: int | None, text: str, now: Now) -> Link:
    clean = "".join(letter if letter.isprintable() else " " for letter in text[:TEXT]).strip()
    if code is None and not clean:
        return link
    return replace(link, lastError=LastError(code=code, text=clean, at=now.wall))
