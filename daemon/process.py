"""The daemon's one TaskGroup: what it is made of, started in order and ended in reverse within five seconds.

Reads no environment and decides nothing about the link. Each part is given what it needs here, and only here.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from msgspec.structs import asdict

from daemon.alerts.heartbeat import Heartbeat
from daemon.alerts.watch import Alerts
from daemon.link.events import Event, Target
from daemon.link.states import Policy
from daemon.link.windows import Calendar
from daemon.market.data import Market
from daemon.notify import READY, STOPPING, WATCHDOG
from daemon.server.commands import Commands
from daemon.server.conversations import Server
from daemon.session.remedy import Remedy
from daemon.session.supervisor import Supervisor
from daemon.signals import stop_on_signals
from daemon.state.feed import Feed
from daemon.state.ledger import Ledger
from daemon.state.outbox import Outbox
from daemon.state.pnl import PnLSeries
from daemon.state.store import FILLS_KNOWN, Store
from daemon.tws import Tws
from shared import scaleout
from shared.alerts.delivery import Sender
from shared.clock import Clock
from shared.jsonrpc.server import RpcService
from shared.messages import Link
from shared.settings import Settings
from shared.transport.private_paths import AlreadyRunning

log = structlog.get_logger(__name__)

LINK_LIMIT = 2.5
"""s for the session's polite end, which keeps two for itself."""
PEERS_LIMIT = 1.5
"""s for peers to read their last response. With the ledger's second this makes the five that the whole end may take."""
PATHS_INTERVAL = 1.0
"""s between looks whether the socket and the state directory are still where they were: a stat each."""
UPKEEP = 60.0
"""s between looks at what has become too old to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What comes from outside the process. `notify`: to systemd; `watchdog`: s between its signs of life.

    `state_dir_held`: whether the lock on the state directory still keeps a second daemon out. `environ`: what
    `IBKR_REMEDY` inherits.
    """

    clock: Clock
    random_unit: Callable[[], float]
    calendar: Calendar
    version: str
    notify: Callable[[str], object] = lambda _message: None
    watchdog: float | None = None
    state_dir_held: Callable[[], bool] = lambda: True
    environ: Mapping[str, str] = field(default_factory=dict)
    alerts_secret: bytes = b""


class StateDirectoryLost(Exception):  # noqa: N818 - what happened
    """The state directory was removed or replaced: nothing is kept any more, and a second daemon could start."""


async def run(settings: Settings, around: Surroundings) -> None:
    """Run the daemon until the system or a client stops it.

    Raises `UnsafePath`, `AlreadyRunning` or `OSError` about the socket's path, `StateDirectoryLost` after a clean end.
    """
    stop = asyncio.Event()
    with stop_on_signals(asyncio.get_running_loop(), stop.set):
        ledger = await Ledger.open(settings.state_dir, around.clock)
        try:
            tasks = asyncio.TaskGroup()
            daemon = Daemon(settings, around, ledger, tasks, stop)
            await daemon.load()
            await daemon.listen()
            try:
                async with tasks:
                    daemon.start()
                    await stop.wait()
                    await daemon.end()
            finally:
                await daemon.close()
        finally:
            await ledger.close()
    if daemon.state_dir_lost:
        raise StateDirectoryLost(
            f"The state directory {settings.state_dir} was removed or replaced while the daemon ran. The daemon has "
            "ended, since a second one could have started beside it; start it again."
        )


class Daemon:
    """The parts, and the tasks they run in. `stopping` is set to end them."""

    def __init__(
        self, settings: Settings, around: Surroundings, ledger: Ledger, tasks: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        self.settings = settings
        self.stopping = stop
        self.state_dir_lost = False
        self._around = around
        self._tasks = tasks
        self._faults = 0
        self._lag = 0.0
        clock = around.clock
        self.ledger = ledger
        self.store = Store(ledger.epoch, clock, ledger)
        self.feed = Feed(self.store, asyncio.get_running_loop().call_soon)
        self.market = Market(self._spawn_contained, clock, self.store, settings.market_data, put=self.feed.put)
        self.link = Supervisor(
            policy(settings, around.calendar),
            probeInterval=settings.probe_interval,
            probeTimeout=settings.probe_timeout,
            factory=self._session,
            store=self.store,
            memory=ledger,
            market=self.market,
            clock=clock,
            random_unit=around.random_unit,
            version=around.version,
        )
        self.alerts = Alerts(
            sinks=settings.alerts,
            on=settings.alerts_on,
            after=settings.alerts_after,
            session=settings.session,
            store=self.store,
            outbox=Outbox(ledger),
            send=Sender(around.alerts_secret),
            clock=clock,
            name=lambda: secrets.token_hex(12),
        )
        self.heartbeat = None
        if settings.heartbeat is not None:
            self.heartbeat = Heartbeat(settings.heartbeat, self.store, Sender(b""), clock)
        self.series = PnLSeries(self.store, ledger, clock)
        self.commands = Commands(
            settings=settings,
            store=self.store,
            feed=self.feed,
            ledger=ledger,
            series=self.series,
            alerts=self.alerts,
            link=self.link,
            market=self.market,
            clock=clock,
            version=around.version,
            stop=stop.set,
            figures=self._figures,
        )
        service = RpcService(
            daemon=f"ibkr/{around.version}",
            epoch=ledger.epoch,
            methods=self.commands.table(),
            session=settings.session,
        )
        self.server = Server(service, self.feed, self.commands)
        self._loaded = False
        self._linking: asyncio.Task[None] | None = None
        self._background: list[asyncio.Task[None]] = []

    async def load(self) -> None:
        """What earlier daemons have written down: fills that IBKR may not list any more."""
        try:
            fills = await self.ledger.recent(self._around.clock.now() - FILLS_KNOWN)
            self.store.load(fills, await self.ledger.complete())
            self._loaded = True
        except (OSError, sqlite3.Error):
            pass  # the ledger has logged it; it is tried again

    async def listen(self) -> None:
        """Before anything else: where that is not possible, the gateway is not disturbed."""
        address = await self.server.listen(self.settings.socket_path)
        log.info("daemon.listening", message=f"Daemon listening on {address}", epoch=self.store.epoch)

    def start(self) -> None:
        self._background = [
            self._spawn(self.ledger.run(), "ledger"),
            self._spawn(self._keep_up(), "upkeep"),
            self._spawn(self.market.run(), "market"),
            self._spawn(self.series.run(), "pnl series"),
            self._spawn(self._watchdog_loop(), "watchdog"),
            self._spawn_contained(self.alerts.run(), "alerts"),
            *([self._spawn_contained(self.heartbeat.run(), "heartbeat")] if self.heartbeat else []),
            self._spawn(self._watch_paths(), "paths"),
        ]
        if self.settings.remedy is not None:
            self._background.append(self._spawn_contained(self._remedy(self.settings.remedy).run(), "remedy"))
        if self.settings.nats_url:
            self._background.append(self._spawn(self._publish(), "scaleout"))
        self._linking = self._spawn(self.link.run(), "link")
        self._linking.add_done_callback(lambda _task: self.stopping.set())
        self._around.notify(READY)

    def _remedy(self, program: Path) -> Remedy:
        return Remedy(
            program,
            self.settings.remedy_after,
            link=self._link_row,
            ledger=self.ledger,
            clock=self._around.clock,
            session=self.settings.session,
            environ=self._around.environ,
        )

    def _link_row(self) -> Link | None:
        row = self.store.row("link", "link")
        return row if isinstance(row, Link) else None

    async def end(self) -> None:
        """The session goes first, so that its client id is free at once and readers see the phase `stopping`."""
        self._around.notify(STOPPING)
        if self._linking is not None:
            self.link.stop()
            await asyncio.wait([self._linking], timeout=LINK_LIMIT)
            self._linking.cancel()
        await self.close()
        for task in self._background:
            task.cancel()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        try:
            async with asyncio.timeout(PEERS_LIMIT):
                await self.server.close()
        except TimeoutError:
            pass  # a peer that does not read sees the end of the connection

    # --- tasks ------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return self._tasks.create_task(work, name=name)

    def _spawn_contained(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """For questions and streams: a fault in one must not end the session that all others use."""
        return self._tasks.create_task(self._contained(work, name), name=name)

    async def _contained(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:
            self._faults += 1
            log.exception("market.fault", message=f"{name} failed.", faults=self._faults)

    async def _publish(self) -> None:
        from daemon.scaleout.publisher import Publisher

        settings = self.settings
        await Publisher(
            server=scaleout.Server(settings.nats_url, settings.nats_creds),
            subjects=scaleout.Subjects(settings.nats_prefix, settings.session),
            daemon=f"ibkr/{self._around.version}",
            store=self.store,
            feed=self.feed,
            market=self.market,
            methods=self.commands.table(),
            clock=self._around.clock,
        ).run()

    async def _keep_up(self) -> None:
        while True:
            await self._around.clock.sleep(UPKEEP)
            if not self._loaded:
                await self.load()
            self.store.expire()

    async def _watch_paths(self) -> None:
        """Serve a socket that was removed again; end the daemon where its state directory is gone."""
        warned = False
        while True:
            await self._around.clock.sleep(PATHS_INTERVAL)
            if not self._around.state_dir_held():
                self.state_dir_lost = True
                self.stopping.set()
                return
            try:
                if await self.server.relisten():
                    warned = False
                    log.warning(
                        "daemon.listening_again",
                        message=f"The socket {self.settings.socket_path} was removed; listening there again.",
                    )
            except (AlreadyRunning, OSError) as error:
                if not warned:
                    warned = True
                    log.warning(
                        "daemon.socket_lost",
                        message="The socket was removed and cannot be made again; no client can connect. Trying on.",
                        error=str(error),
                    )

    async def _watchdog_loop(self) -> None:
        """Ping systemd's watchdog from the loop, and measure how late it turns."""
        clock, pause = self._around.clock, self._around.watchdog or 5.0
        while True:
            before = clock.monotonic()
            await clock.sleep(pause)
            self._lag = max(0.0, clock.monotonic() - before - pause)
            if self._around.watchdog is not None:
                self._around.notify(WATCHDOG)

    def _session(self, number: int, target: Target, emit: Callable[[Event], None]) -> Tws:
        return Tws(number, target, emit, self.store, self._around.clock)

    def _figures(self) -> dict[str, Any]:
        """For `daemon.info`, and from there for the metrics."""
        streams, pacing = self.market.streams(), self.market.pacing()
        return {
            **self.server.figures(),
            "marketFaults": self._faults,
            "marketLines": streams.live,
            "marketLinesWanted": streams.wanted,
            "historyBudgetRemaining": pacing.limit - pacing.used,
            "loopLagS": round(self._lag, 6),
            "alerts": self.alerts.health(),
            "incidents": self.alerts.incidents(),
            "heartbeat": None if self.heartbeat is None else self.heartbeat.health(),
            "link": asdict(self.link.figures()),
        }


def policy(settings: Settings, calendar: Calendar) -> Policy:
    """The link's policy from the settings."""
    target = Target(
        host=settings.host,
        port=settings.port,
        clientId=settings.client_id,
        account=settings.account,
        timeout=settings.connect_timeout,
    )
    return Policy(
        configured=target, automatic=settings.auto_connect, reconnectMax=settings.reconnect_max, calendar=calendar
    )
