"""The gateway itself: it listens, takes clients in, hands every request to its answer, and records it.

How it misbehaves is set through `verbs.Verbs` and kept in `behaviour.Behaviour`; its data is `market.World`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from daemon.simulator import accounts, bars, feeds, messages, quotes, reference, trading
from daemon.simulator.behaviour import CACHED, ORDERS, kind_of, only_end, without_end
from daemon.simulator.clock import Clock, RealClock, Timer
from daemon.simulator.codes import AT_CONNECT, READ_ONLY
from daemon.simulator.lines import LINES
from daemon.simulator.market import World
from daemon.simulator.pacing import HistoryLimits, over_rate
from daemon.simulator.requests import Request, UnknownRequestError, UnreadableRequestError, decode
from daemon.simulator.seen import Seen
from daemon.simulator.session import SLOW_BUFFER, Session
from daemon.simulator.verbs import Verbs
from daemon.simulator.wire import SERVER_VERSION

ANSWERS: Final = reference.ANSWERS | accounts.ANSWERS | trading.ANSWERS | quotes.ANSWERS | bars.ANSWERS | feeds.ANSWERS

MESSAGE_RATE: Final = 50
"""Messages a second one client may send."""

RATE_PATIENCE: Final = 3
"""Seconds of too many messages after which a client is disconnected."""


class Gateway(Verbs):
    """A simulated TWS or IB Gateway on one TCP port.

    `tick_rate` is ticks a second and line, `lines` the market-data lines in all. `message_rate` 0 switches the limit of
    50 messages a second off; `history_limits` None never refuses for pacing (breaches are counted all the same);
    `pacing_patience` is after how many breaches a client is disconnected (0: never). `slow_buffer` is how many bytes
    may wait for a client before it is dropped, `commission_delay` the seconds between an execution and its commission,
    `orders_at_connect` whether a session begins with the client's open orders, `master_client_id` the client that gets
    every order.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        server_version: int = SERVER_VERSION,
        tick_rate: float = 2.0,
        lines: int = LINES,
        message_rate: int = MESSAGE_RATE,
        history_limits: HistoryLimits | None = HistoryLimits(),  # noqa: B008 frozen
        pacing_patience: int = 0,
        slow_buffer: int = SLOW_BUFFER,
        commission_delay: float = 0.0,
        orders_at_connect: bool = True,
        master_client_id: int = -1,
    ) -> None:
        super().__init__(
            world or World(),
            clock or RealClock(),
            tick_rate=tick_rate,
            lines=lines,
            history_limits=history_limits,
            pacing_patience=pacing_patience,
            commission_delay=commission_delay,
            master_client_id=master_client_id,
        )
        self.host = host
        self.port = 0
        self.server_version = server_version
        self.message_rate = message_rate
        self.slow_buffer = slow_buffer
        self.orders_at_connect = orders_at_connect
        self._server: asyncio.Server | None = None
        self._second: Timer | None = None
        self._seconds = 0
        self._restart: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()

    # listening

    async def start(self, port: int = 0) -> int:
        """Listen on `port` (0: any free one) and return it."""
        self.world.open(self.clock.time())
        self.port = port
        await self.listen()
        return self.port

    async def listen(self) -> None:
        """Accept connections (again, on the same port)."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Session(self), self.host, self.port, backlog=256)
            self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Close the port: dials are refused. Sessions that stand stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Close the port and every connection, and wait until they are gone."""
        for timer in (self._restart, self._second):
            if timer is not None:
                timer.cancel()
        self._restart = self._second = None
        for task in self._tasks:
            task.cancel()
        self.refuse()
        self.faults.frozen = False
        for session in list(self.sessions):
            session.reset()
        if self.sessions:
            self._gone.clear()
            await self._gone.wait()

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def listening(self) -> bool:
        return self._server is not None

    # connections

    def accepted(self, session: Session) -> None:
        self.sessions.add(session)
        self.connections.total += 1
        self.connections.now += 1

    def closed(self, session: Session, clean: bool, reset: bool) -> None:
        self.sessions.discard(session)
        self.connections.now -= 1
        if not session.dropped_here:
            self.connections.clean += clean
            self.connections.resets += reset
        if not self.sessions:
            self._gone.set()
        self.quotes.drop(session)
        session.subscriptions.bars.clear()
        if session.client_id is not None and self.client_ids.get(session.client_id) is session:
            del self.client_ids[session.client_id]
            if self.faults.ghost_s:
                self.ghosts[session.client_id] = self.clock.monotonic() + self.faults.ghost_s

    def _begin(self, session: Session, client_id: int) -> None:
        """`startApi`: the client's id is free, or the connection ends with 326."""
        now = self.clock.monotonic()
        ghost = self.ghosts.get(client_id, 0.0) > now
        if client_id in self.client_ids or ghost or self.faults.id_taken_until > now:
            self.connections.refused_ids += 1
            session.error(-1, 326)
            session.hang_up()
            return
        self.ghosts.pop(client_id, None)
        session.client_id, session.ready = client_id, True
        self.client_ids[client_id] = session
        self.connections.sessions += 1
        session.answer(self._welcome(session))
        if self._second is None:
            self._arm_second()

    def _welcome(self, session: Session) -> Iterable[bytes]:
        """What a session begins with: its own open orders, the accounts, the next id, and the state of the farms.

        While IBKR is out of reach it gets 2110; 1100 goes to the sessions that were open when it was lost.
        """
        faults, version = self.faults, session.version
        if self.orders_at_connect and not faults.read_only and faults.upstream is None:
            own = trading.own_orders(self, session)
            for order in own:
                yield trading.state(order, version)
            if own:
                yield messages.open_order_end()
        if faults.accounts != "missing":
            yield messages.managed_accounts(self.world.managed if faults.accounts == "normal" else ())
        if faults.next_id:
            yield messages.next_valid_id(self.world.next_order_id)
        if faults.upstream is None:
            for code, farm in AT_CONNECT:
                yield messages.notice(version, code, farm=farm)
        else:
            yield messages.notice(version, 2110)

    # requests

    def received(self, session: Session, fields: list[str]) -> None:
        """One message of a client: counted, recorded, and answered when its time comes."""
        if not self._within_rate(session):
            return
        try:
            request = decode(fields, session.version)
        except UnknownRequestError:
            session.error(-1, 505)
            session.hang_up()
            return
        except UnreadableRequestError as error:
            session.error(error.reqId, 320, cause=f"Unable to parse data. {error}")
            return
        client = session.client_id if session.client_id is not None else -1
        self.requests.append(Seen(self.clock.time(), client, request.name, dict(request.fields)))
        if request.name == "startApi":
            if not session.ready:
                self._begin(session, request.number("clientId"))
        elif session.ready:
            delay = self.faults.delay(kind_of(request.name))
            if delay:
                self._later(session, request, delay)
            else:
                self.answer(session, request)

    def _later(self, session: Session, request: Request, delay: float) -> None:
        waits = request.name == "reqHistoricalData"
        if waits and request.reqId in session.subscriptions.histories:
            self.answer(session, request)  # the id is taken: an error at once
            return
        if waits:
            session.subscriptions.histories.add(request.reqId)

        def due() -> None:
            if waits and request.reqId not in session.subscriptions.histories:
                return  # cancelled while it waited
            session.subscriptions.histories.discard(request.reqId)
            self.answer(session, request)

        self.clock.call_later(delay, due)

    def _within_rate(self, session: Session) -> bool:
        """Whether the client keeps to its messages a second; it is warned once a second, the third time dropped."""
        if not self.message_rate or "+PACEAPI" in session.options:
            return True
        now = self.clock.monotonic()
        seen = over_rate(session.sent_at, now, self.message_rate)
        if seen and now - session.warned_at >= 1.0:
            session.warned_at = now
            session.rate_violations += 1
            self.connections.over_rate += 1
            session.error(-1, 100, limit=self.message_rate, seen=seen, count=session.rate_violations)
            if session.rate_violations >= RATE_PATIENCE:
                session.hang_up()
                return False
        return True

    def answer(self, session: Session, request: Request) -> None:
        """Answer a request now, as far as the faults that are set let it be answered."""
        name, kind = request.name, kind_of(request.name)
        faults = self.faults
        if session.closing:
            return
        if faults.read_only and name in ORDERS:
            session.error(request.number("orderId", -1), 321, who="bY", cause=READ_ONLY)
            return
        outage = faults.upstream.answer(name, request.reqId) if faults.upstream is not None else None
        if outage is not None and outage.code:
            session.error(request.reqId, outage.code, cause=outage.cause)
            return
        if kind in faults.muted or outage is not None:
            session.hang(request)
            return
        if not name.startswith("cancel"):
            session.unanswered.pop(request.reqId, None)
        respond = ANSWERS.get(name)
        frames = respond(self, session, request) if respond is not None else None
        if frames is None:
            return
        if faults.upstream is not None and faults.upstream.answers == "empty" and name in CACHED:
            frames = only_end(frames)
        if kind in faults.endless:
            frames = without_end(frames)
        cut = faults.cuts.get(kind)
        if cut is None or not cut.times:
            session.answer(frames)
            return
        cut.times -= 1
        session.answer(islice(frames, cut.after), then=session.reset if cut.reset else session.hang_up)

    # what goes on by itself

    def _arm_second(self) -> None:
        self._second = self.clock.call_later(1.0, self._each_second) if self.sessions else None

    def _each_second(self) -> None:
        self._seconds += 1
        if not self.faults.frozen and self.faults.upstream is None:
            trading.publish(self, self.world.meet_market(self.clock.time()))
            due = self._seconds % int(accounts.UPDATE_EVERY) == 0
            for session in self.ready_sessions():
                accounts.every_second(self, session)
                if not self.faults.quiet:
                    bars.every_second(self, session)
                    feeds.every_second(self, session)
                if due:
                    accounts.every_three_minutes(self, session)
        self._arm_second()

    def listen_after(self, seconds: float = 0.0) -> None:
        """Accept connections again in `seconds`, in place of an earlier such plan."""
        if self._restart is not None:
            self._restart.cancel()
        self._restart = self.clock.call_later(seconds, self._listen_now)

    def _listen_now(self) -> None:
        self._restart = None
        task = asyncio.get_running_loop().create_task(self.listen(), name="simulator listens again")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
