"""The shell of the link machine: passes it one event at a time and performs the actions that it returns.

Owns the one current session with the gateway, its tasks and timers, and those who wait for it. Decides nothing about
the link; how the gateway is spoken to is in `daemon.tws`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

import structlog
from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from daemon.codes import meaning
from daemon.link import actions as act
from daemon.link import events as ev
from daemon.link import machine
from daemon.link.events import Event
from daemon.link.hints import listening
from daemon.link.patience import KEPT_OPEN
from daemon.link.states import Down, Link, Live, Now, Policy, Stopping, Waiting
from daemon.session.heartbeat import Heartbeat
from daemon.session.interfaces import Factory, Market, Memory, Rows, Tws
from daemon.session.publication import Publication
from daemon.session.reading import GRACE, Reading
from daemon.session.slots import Slots
from daemon.tws.errors import DECODE_KINDS, TwsError
from shared.clock import Clock
from shared.log import protect
from shared.messages import ConnectParams
from shared.reasons import CATALOGUE, Problem
from shared.settings import is_loopback

log = structlog.get_logger("daemon.session")

INBOX = 16_384
"""Events not yet stepped. One read of the socket holds 256 KiB, some 10 000 of the shortest messages that make one, and
the inbox is emptied before the next read. Beyond it the gateway floods us, and the session is given up."""
CLOSING = 2.0
"""s for the gateway's part of a polite end: on loopback it takes milliseconds; a dead peer must not delay a stop."""
LOOK = 30.0
"""s between looks for another port on which the gateway may listen, while ours is refused twice a second: each costs
some 10 ms, and a person who has started TWS meanwhile should see the right advice soon."""
TIMED_OUT = frozenset({"dialTimeout", "handshakeTimeout", "sessionIncomplete"})
"""Failures that mean nothing when this process was suspended meanwhile."""
NOT_CONNECTED = frozenset(name for name, reason in CATALOGUE.items() if reason.status == 503 and reason.patience)
"""Reasons of the link that are an answer to a question for the gateway; the others are answers to a connect."""
UNEXPLAINED = frozenset({"connectInProgress", "manual", "autoConnectOff", "shuttingDown", "brokerTimeout"})
"""Answers to which the link's last error adds nothing."""


class Counters(Struct):
    """For the metrics, since the daemon's start. s; messages are those of sessions that have ended."""

    attempts: int = 0
    losses: dict[str, int] = {}
    timeToReady: float | None = None
    loopLag: float = 0.0
    messagesIn: int = 0
    messagesOut: int = 0
    decodeErrors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DECODE_KINDS, 0))


class QueuedCommand(Struct):
    """An event whose caller waits until it is stepped, or with `wait` until its outcome is known."""

    event: Event
    reply: asyncio.Future[Problem | None]
    wait: bool = True


class Supervisor:
    """Runs the link machine. All times in s."""

    def __init__(
        self,
        policy: Policy,
        *,
        probeInterval: float,
        probeTimeout: float,
        factory: Factory,
        store: Rows,
        memory: Memory,
        market: Market,
        clock: Clock,
        random_unit: Callable[[], float],
        listening: Callable[[], frozenset[int]] = listening,
        version: str = "",
    ) -> None:
        self.counters = Counters(losses=Counter())
        protect([policy.configured.account])
        self._policy = policy
        self._probing = (probeInterval, probeTimeout)
        self._factory = factory
        self._store = store
        self._memory = memory
        self._market = market
        self._clock = clock
        self._random_unit = random_unit
        self._open_ports = listening
        self._inbox: asyncio.Queue[Event | QueuedCommand] = asyncio.Queue(INBOX)
        self._flooded: int | None = None
        self._replies: dict[int, list[asyncio.Future[Problem | None]]] = {}
        self._link, self._first = machine.begin(policy, self._now(), held=memory.held)
        self._publication = Publication(
            policy,
            store=store,
            memory=memory,
            market=market,
            clock=clock,
            proofLimit=probeInterval + probeTimeout,
            version=version,
        )
        market.on_pacing_refusal(lambda: self._publication.refresh_pacing(self._link))
        self._reading = Reading(store, clock, policy.configured.timeout, self._post, self._recovered)
        self._slots: Slots
        self._heartbeat: Heartbeat
        self._tws: Tws | None = None
        self._number = 0  # of `_tws`
        self._ending: set[asyncio.Task[None]] = set()  # work that must be over before the next session, or an answer
        self._down = clock.monotonic()  # when the link last stopped being ready, or was not wanted
        self._dialled = self._down
        self._look_at = self._down

    # --- for callers --------------------------------------------------------------------------------------------

    @property
    def link(self) -> Link:
        return self._link

    @property
    def tws(self) -> Tws:
        """The session, for requests to the gateway. Raises `Problem` where there is none."""
        if self._tws is None or self._link.phase != "ready":
            reason = self._link.reason
            raise self.problem(reason if reason in NOT_CONNECTED else "notConnected")
        return self._tws

    def figures(self) -> Counters:
        """The counters, with those of the session under way."""
        tws, so_far = self._tws, self.counters
        if tws is None:
            return so_far
        return replace(
            so_far,
            messagesIn=so_far.messagesIn + tws.messages_in,
            messagesOut=so_far.messagesOut + tws.messages_out,
            decodeErrors=_sum(so_far.decodeErrors, tws.decode_errors),
        )

    async def connect(self, params: ConnectParams, *, wait: bool = True) -> int:
        """Bring the link up to the target in `params`; returns the store's step that shows it. Raises `Problem`."""
        given = {name: value for name in params.__struct_fields__ if (value := getattr(params, name)) is not UNSET}
        target = replace(self._link.base, **given)
        protect([target.account])
        limit = target.timeout + self._policy.configured.timeout + 3 * sum(self._probing) + CLOSING + GRACE
        return await self._request(ev.ConnectRequested(target=target, bare=not given), limit, wait=wait)

    async def disconnect(self) -> int:
        """Hold the link down; answered when the session is closed and the hold is remembered. Raises `Problem`."""
        await self._request(ev.DisconnectRequested(), GRACE)
        await self._ended()
        return self._store.seq

    async def reconnect(self) -> int:
        """End the wait, where there is one. Raises `Problem`."""
        return await self._request(ev.ReconnectRequested(), GRACE)

    def stop(self) -> None:
        """Close the session cleanly and let `run` end."""
        self._post(ev.StopRequested())

    def planned(self, since: datetime, until: datetime) -> list[tuple[datetime, datetime]]:
        """The planned windows that touch a time, for the uptime."""
        return [(span.start, span.end) for span in self._policy.calendar.spans(since, until)]

    def problem(self, reason: str, text: str = "") -> Problem:
        """Why a request cannot be served now, in the catalogue's words and in `text`, or else the gateway's own."""
        error = None if text or reason in UNEXPLAINED else self._link.lastError
        until = self._link.next_attempt
        code = None if error is None else error.code
        return Problem(
            reason,
            text if error is None else error.text,
            # the code may also be the system's errno, and none of those is a code of the link
            ibCode=code if code is not None and meaning(code).concerns == "link" else None,
            retryAfter=None if until is None else max(0.0, until - self._clock.monotonic()),
        )

    async def _request(self, event: Event, limit: float, *, wait: bool = True) -> int:
        if isinstance(self._link.state, Stopping):
            raise self.problem("shuttingDown")
        command = QueuedCommand(event, asyncio.get_running_loop().create_future(), wait)
        try:
            self._inbox.put_nowait(command)
        except asyncio.QueueFull:
            raise self.problem("brokerTimeout") from None
        expiry = asyncio.create_task(self._expire(command, limit), name="link: deadline of a request")
        try:
            problem = await command.reply
        finally:
            expiry.cancel()
        if problem is not None:
            raise problem
        return self._store.seq

    async def _expire(self, command: QueuedCommand, seconds: float) -> None:
        await self._clock.sleep(seconds)
        _answer(command, self.problem("brokerTimeout"))

    # --- the one task that steps ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the link until `stop`, then end the session cleanly."""
        try:
            async with asyncio.TaskGroup() as group:
                self._slots = Slots(group, self._failed)
                self._heartbeat = Heartbeat(self._clock, *self._probing, self._post, self._slots)
                self._publication.begin(self._link)
                self._perform(self._first, None)
                work = self._heartbeat.run(self._publication.expected, self._turned)
                heartbeat = group.create_task(work, name="link: heartbeat")
                while not isinstance(self._link.state, Stopping):
                    await self._step_all()
                heartbeat.cancel()
                self._slots.cancel("timer")
                await self._ended()
        finally:
            if self._tws is not None:
                self._tws.abort()
            self._dismiss()

    async def _step_all(self) -> None:
        """Everything that has come, then one publication of what it comes to."""
        item = await self._inbox.get()
        while True:
            if isinstance(item, QueuedCommand):
                self._step(item.event, item)
            else:
                self._step(item, None)
            if self._inbox.empty() or isinstance(self._link.state, Stopping):
                break
            item = self._inbox.get_nowait()
        if self._flooded is not None:
            session, self._flooded = self._flooded, None
            self._step(ev.Lost(session=session, text="more messages about the link than can be right"), None)
        self._publication.last_message = self._heartbeat.last_message or self._publication.last_message
        self._publication.publish(self._link)
        self._heartbeat.wake_at(self._link.wake)

    def _dismiss(self) -> None:
        """Answer every caller that still waits."""
        while not self._inbox.empty():
            item = self._inbox.get_nowait()
            if isinstance(item, QueuedCommand):
                _answer(item, self.problem("shuttingDown"))
        for session in list(self._replies):
            self._settle(session, "shuttingDown")

    def _step(self, event: Event, command: QueuedCommand | None) -> None:
        before = self._link
        self._link, actions = machine.step(before, event, self._now())
        if isinstance(event, ev.ProbeAnswered) and event.session == before.current:
            self._publication.rtt = event.rtt
        self._publication.step(before, self._link)
        self._perform(actions, command)
        if self._number != self._link.current:
            self._drop(polite=False)  # it has ended by itself
        self._notice(before, event, actions)
        if not any(isinstance(action, act.Await) for action in actions):
            _answer(command, None)  # no outcome to wait for

    def _notice(self, before: Link, event: Event, actions: act.Actions) -> None:
        """What the shell itself does after a step."""
        after = self._link
        if isinstance(after.state, Live) and self._tws is not None:
            self._slots.cancel("attempt limit")
            self._heartbeat.begin(self._tws, self._number)
        if before.phase == "ready" != after.phase or isinstance(before.state, Down):
            self._down = self._clock.monotonic()
        if isinstance(before.state, Live) and isinstance(event, ev.SessionEvent) and before.current != after.current:
            why = next(action.reason for action in actions if isinstance(action, act.Settled))
            self.counters.losses[why or "socketLost"] += 1
        if after.phase == "ready" != before.phase:
            self.counters.timeToReady = self._clock.monotonic() - self._down
            if not self._reading.recovering and not any(isinstance(action, act.Recover) for action in actions):
                self._recovered()
        refused = isinstance(after.state, Waiting) and after.reason == "portClosed"
        if refused and is_loopback(after.target.host) and self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + LOOK
            self._slots.start("looking", self._look())
        timed_out = isinstance(event, ev.Failed | ev.AttemptOverdue) and event.reason in TIMED_OUT
        if timed_out and self._heartbeat.suspended_at > self._dialled:
            self._post(ev.MachineResumed(seconds=0.0))  # this process did not run meanwhile: no reason to wait

    def _post(self, event: Event) -> None:
        """Where every event enters. Sessions call it from within their own callbacks, so it only enqueues."""
        try:
            self._inbox.put_nowait(event)
        except asyncio.QueueFull:
            if isinstance(event, ev.SessionEvent) and self._flooded is None:
                self._flooded = event.session
                if self._tws is not None and self._number == event.session:
                    self._tws.abort()

    def _recovered(self) -> None:
        if self._link.phase == "ready":
            self._publication.end_gap(self._reading.unknown(self._link))

    async def _look(self) -> None:
        """Whether the gateway listens elsewhere. In a thread: on a busy machine it takes its time."""
        found = await asyncio.to_thread(self._open_ports)
        if found != self._publication.listening:
            self._publication.listening = found
            self._publication.publish(self._link)

    # --- actions ----------------------------------------------------------------------------------------------------

    def _perform(self, actions: act.Actions, command: QueuedCommand | None) -> None:
        for action in actions:
            match action:
                case act.Dial():
                    self._dial(action)
                case act.Abort():
                    self._drop(polite=False)
                case act.Close():
                    self._drop(polite=True)
                case act.Probe():
                    self._heartbeat.probe()
                case act.Keep(held=held):
                    self._finish("memory", self._memory.set_held(held))
                case act.Answer(reason=reason, text=text):
                    _answer(command, None if reason is None else self.problem(reason, text))
                case act.Await(session=session) if command is not None and command.wait:
                    self._replies.setdefault(session, []).append(command.reply)
                case act.Await():
                    _answer(command, None)
                case act.Settled(session=session, reason=reason):
                    self._settle(session, reason)
                case act.StopReading():
                    self._slots.cancel("reading")
                case act.Read() | act.Recover() | act.Replay() if self._tws is not None:
                    self._read(action, self._tws)

    def _read(self, action: act.Read | act.Recover | act.Replay, tws: Tws) -> None:
        match action:
            case act.Read(session=session):
                self._slots.start("reading", self._reading.first(tws, session))
            case act.Recover(cause=cause):
                self._slots.start("reading", self._reading.after_gap(tws, cause))
            case act.Replay():
                self._publication.replayed(self._market.ready(tws))

    def _settle(self, session: int, reason: str | None) -> None:
        for reply in self._replies.pop(session, ()):
            if not reply.done():
                reply.set_result(None if reason is None else self.problem(reason))

    def _dial(self, action: act.Dial) -> None:
        self._drop(polite=False)
        self.counters.attempts += 1
        self._dialled = self._clock.monotonic()
        self._tws, self._number = self._factory(action.session, action.target, self._post), action.session
        self._slots.start("opening", self._open(self._tws))
        self._slots.start("attempt limit", self._limit_attempt(action))

    async def _open(self, tws: Tws) -> None:
        """The attempt; the session before it is over first."""
        await self._ended()
        await tws.open()

    async def _limit_attempt(self, action: act.Dial) -> None:
        """Let the attempt fail, should it neither open nor fail by itself."""
        limit = max(action.target.timeout, KEPT_OPEN) + GRACE
        await self._clock.sleep(limit)
        text = f"nothing came of the attempt within {limit:g} s"
        self._post(ev.Failed(session=action.session, reason="handshakeTimeout", text=text))

    def _drop(self, *, polite: bool) -> None:
        """The current session is over for us: its late events carry an old number and change nothing."""
        tws, self._tws = self._tws, None
        if tws is None:
            return
        self.counters.messagesIn += tws.messages_in
        self.counters.messagesOut += tws.messages_out
        self.counters.decodeErrors = _sum(self.counters.decodeErrors, tws.decode_errors)
        self._slots.cancel("opening", "attempt limit", "reading")
        self._heartbeat.end()
        self._market.over()
        if polite:
            self._finish(f"closing {self._number}", self._close(tws))
        else:
            tws.abort()

    async def _close(self, tws: Tws) -> None:
        try:
            async with asyncio.timeout(CLOSING + GRACE):
                await tws.close(CLOSING)
        except TimeoutError:
            pass
        finally:
            tws.abort()

    def _finish(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._slots.start(name, work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _ended(self) -> None:
        """Until closing sessions are closed, and what is to be remembered is. Each has its own limit."""
        if self._ending:
            await asyncio.wait(self._ending)

    def _failed(self, name: str, fault: Exception) -> None:
        """A question cut off by the session's end is no news; a fault in one session's work ends that session only."""
        if isinstance(fault, TwsError):
            return
        log.error("link.fault", message=f"A fault in the link's own work ({name})", exc_info=fault)
        if name in ("opening", "reading", "probe"):
            self._post(ev.Lost(session=self._number, text=f"{type(fault).__name__} in our own work"))

    # --- what time brings -------------------------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self._clock.monotonic(), self._clock.now(), self._random_unit())

    def _turned(self) -> None:
        """After each turn of listening."""
        self.counters.loopLag = self._heartbeat.lag
        self._publication.last_message = self._heartbeat.last_message or self._publication.last_message
        if self._tws is not None and isinstance(self._link.state, Live):
            self._reading.upkeep(self._link, self._tws, self._slots)
        if self._inbox.empty():  # otherwise it is published after the events in the inbox
            self._publication.refresh(self._link)


def _answer(command: QueuedCommand | None, problem: Problem | None) -> None:
    """Once, and not to a caller that has stopped waiting."""
    if command is not None and not command.reply.done():
        command.reply.set_result(problem)


def _sum(before: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """By kind; those that are 0 stay."""
    return {kind: before.get(kind, 0) + more.get(kind, 0) for kind in (*before, *(more.keys() - before.keys()))}
