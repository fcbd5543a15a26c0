"""The serving child: one process's loop, from the listening socket to the last answer.

Owns the order of start and stop, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from facade.app import Facade
from facade.events.stream import Streams
from facade.http.accepting import Accepting
from facade.http.connection import HttpServer
from facade.http.guard import Guard, names, spelled
from facade.http.table import Table
from facade.keeper.handover import WINDOWS, Line, received
from facade.keeper.whereabouts import say
from facade.replica.local import local_connector
from facade.replica.mirror import FIRST_ATTEMPT_TIMEOUT, Mirror
from facade.replica.state import ReplicaState
from facade.routes.files import page_routes
from facade.routes.paths import ROUTES
from shared.clock import Clock, SystemClock
from shared.log import set_up
from shared.settings import BAD_SETTINGS, Settings, SettingsError
from shared.transport.private_paths import EXHAUSTED, UnsafePath, private_directory

log = structlog.get_logger(__name__)

DRAIN = 0.25
"""s between the last accept and the first close: what is on its way is answered, and answers end their connection."""

STOP_LIMIT = 2.0
"""s for requests under way at the end; a client that waits for history longer than this asks again."""

LAG_EVERY = 0.5
"""s between looks at how late the loop is."""


def build(settings: Settings, port: int, clock: Clock) -> Facade:
    """A facade whose parts know each other; nothing runs yet. Raises `SettingsError` for an unusable token file."""
    table = Table([*ROUTES, *page_routes()])
    proof_limit = settings.probe_interval + settings.probe_timeout
    mirror = Mirror(local_connector(settings.socket_path), ReplicaState(proof_limit, clock))
    guard = Guard(
        table,
        names(settings.facade_host, port),
        spelled(settings.facade_names),
        token=settings.token(),
        peer_check=settings.peer_check,
    )
    return Facade(settings=settings, mirror=mirror, streams=Streams(mirror), clock=clock, table=table, guard=guard)


@asynccontextmanager
async def served(
    settings: Settings, sock: socket.socket, clock: Clock | None = None, *, drain: float = DRAIN
) -> AsyncIterator[Facade]:
    """Serve `sock` inside the block. At its end: accept no more, answer what is on its way, close."""
    clock = clock or SystemClock()
    facade = build(settings, sock.getsockname()[1], clock)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(facade.mirror.run(), name="mirror"),
            tasks.create_task(facade.streams.run(), name="streams"),
            tasks.create_task(_measure_lag(facade, clock), name="lag"),
        ]
        http = facade.http = HttpServer(facade.answer)
        server: Accepting | asyncio.Server | None = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT):
                    await facade.mirror.first_attempt_done.wait()
            server = Accepting(http, sock) if WINDOWS else await loop.create_server(http, sock=sock)
            yield facade
        finally:
            facade.draining = True
            if server is not None:
                _accept_no_more(loop, server, sock)
                await asyncio.sleep(drain)
                server.close()
            facade.streams.close()
            http.pre_shutdown()
            await http.shutdown(STOP_LIMIT)
            for task in running:
                task.cancel()


def _accept_no_more(loop: asyncio.AbstractEventLoop, server: Accepting | asyncio.Server, sock: socket.socket) -> None:
    """Leave what knocks now to whoever else has the socket; asyncio's own server cannot without closing it."""
    if isinstance(server, Accepting):
        server.close()
    else:
        loop.remove_reader(sock.fileno())


async def _measure_lag(facade: Facade, clock: Clock) -> None:
    while True:
        due = clock.monotonic() + LAG_EVERY
        await clock.sleep(LAG_EVERY)
        facade.loop_lag = max(0.0, clock.monotonic() - due)


# --- the process ----------------------------------------------------------------------------------------------------

BACKLOG = 512
"""Connections that may wait to be accepted: as many as are served."""


def serve(environ: Mapping[str, str], handed: Sequence[str]) -> int:
    """Serve until the parent says so, or is gone. The exit status: 0, 1 where it cannot bind, 78 for bad settings."""
    line, listener = received([word for word in handed if word != "--activated"])
    try:
        settings = Settings.load(environ)
        settings.token()  # an unusable one stops the start before anything is bound
        with private_directory(str(settings.state_dir), "IBKR_STATE_DIR"):
            pass
    except (SettingsError, UnsafePath) as error:
        say(str(error))
        return BAD_SETTINGS
    set_up(settings.log_level, settings.log_format, file=settings.state_dir / "logs" / "facade.log")
    try:
        sock = listener if listener is not None and "--activated" in handed else _listening(settings, listener)
    except OSError as error:
        place = f"{settings.facade_host}:{settings.facade_port}"
        log.error("facade.bind", message=f"The facade cannot listen on {place}: {error.strerror or error}")
        return 1
    host, port = sock.getsockname()[:2]
    try:
        line.say(
            {"stateDir": str(settings.state_dir), "address": f"{host}:{port}", "gives": sock is not listener},
            sock if sock is not listener else None,
            os.getppid(),
        )
    except OSError:  # the parent is gone already, and so are we
        sock.close()
        return 0
    asyncio.run(_serve(settings, sock, line))
    return 0


def _listening(settings: Settings, inherited: socket.socket | None) -> socket.socket:
    """The socket of the settings: the inherited one where it is that, else a new one."""
    family, _, _, _, address = socket.getaddrinfo(
        settings.facade_host, settings.facade_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if inherited is not None:
        if inherited.getsockname()[:2] == address[:2]:
            return inherited
        inherited.close()
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR would let another process take the port from us
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


class Strain:
    """The loop's complaints: no descriptors left to accept with is said once, and once when there are some again."""

    QUIET = 2.5
    """s without such a complaint that mean the end of it: asyncio tries to accept again every second."""

    def __init__(self) -> None:
        self._refused = 0
        self._over: asyncio.TimerHandle | None = None

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in EXHAUSTED):
            loop.default_exception_handler(context)
            return
        self._refused += 1
        if self._over is None:
            log.warning("facade.starved", message="No connection can be accepted for now.", error=str(error))
        else:
            self._over.cancel()
        self._over = loop.call_later(self.QUIET, self._recovered)

    def _recovered(self) -> None:
        log.info("facade.accepting", message="Connections are accepted again.", refusedBefore=self._refused)
        self._refused, self._over = 0, None


async def _serve(settings: Settings, sock: socket.socket, line: Line) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(Strain())
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, ended.set)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the keeper's business
    threading.Thread(target=_until_alone, args=(line, loop, ended), name="parent", daemon=True).start()
    sock.setblocking(False)
    async with served(settings, sock) as facade:
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info("facade.running", message=f"Facade running on http://{shown}:{port}")
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            log.warning("facade.exposed", message="Every network of this machine can reach the facade; see README.md.")
        # what lives as long as the process need not be looked at, now or again: a collection of it costs 20 ms
        gc.freeze()
        gc.enable()
        _tell(line, serving=True, complete=facade.mirror.state.complete)
        told = facade.mirror.state.complete

        def complete() -> None:
            nonlocal told
            if facade.mirror.state.complete and not told:
                told = True
                _tell(line, complete=True)

        facade.mirror.state.add_listener(complete)
        await ended.wait()


def _tell(line: Line, **message: bool) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, and so are we
        line.say(message)


def _until_alone(line: Line, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """The parent says nothing; that its end of the conversation closes is what counts."""
    line.sock.setblocking(True)
    while line.hear() is not None:
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(ended.set)
