"""The serving child: one process's loop, from the listening socket to the last response.

Owns the order of start and stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from facade.alerts import DaemonAlerts, SavedFile, run_alone, sender
from facade.app import Facade, Session, application
from facade.events.stream import Streams, StreamSlots
from facade.http import peers
from facade.http.accept_thread import AcceptThread
from facade.http.connections import CONNECTIONS, AcceptErrors, bounded, server_logger
from facade.http.guard import Guard, names, spelled
from facade.keeper.handover import WINDOWS, ParentChannel, received
from facade.keeper.state_file import say
from facade.replica.conversation import Connect
from facade.replica.local import local_connector
from facade.replica.mirror import FIRST_ATTEMPT_TIMEOUT, Mirror
from facade.replica.state import ReplicaState
from facade.routes.files import page_routes
from facade.routes.paths import ROUTES
from shared import scaleout
from shared.clock import Clock, SystemClock
from shared.log import set_up
from shared.settings import BAD_SETTINGS, Settings, SettingsError, shared_client_ids
from shared.transport.address import DEFAULT_SESSION
from shared.transport.private_paths import UnsafePath, private_directory

log = structlog.get_logger(__name__)

DRAIN = 0.25
"""s between the last accept and the first close: requests under way are answered, and responses end connections."""

STOP_TIMEOUT = 2.0
"""s for requests under way at the end; a client that waits longer, for history, must retry."""

BACKLOG = 512
"""Connections that may wait to be accepted: as many as are served."""

NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

LAG_EVERY = 0.5
"""s between measurements of the loop's lag."""


KEEP_ALIVE = 15.0
"""s that a connection may be idle, or take for a request's headers."""

LINGER = 1.0
"""s in which the rest of a refused body is read and dropped, so that the refusal arrives before the close."""


def build(settings: Settings, port: int, clock: Clock, sessions: Mapping[str, Settings] | None = None) -> Facade:
    """A facade whose parts are connected; nothing runs yet. Raises `SettingsError` for an unusable token file.

    `sessions`: the settings of each session that is served, by name; by default the one of `settings`.
    """
    routes = (*ROUTES, *page_routes())
    guard = Guard(
        names(settings.facade_host, port),
        spelled(settings.facade_names),
        (route.template for route in routes if route.open),
        token=settings.token(),
        peer_check=settings.peer_check,
    )
    facade = Facade(settings=settings, clock=clock, routes=routes, guard=guard)
    slots = StreamSlots()
    for name, own in (sessions or {settings.session: settings}).items():
        state = ReplicaState(own.probe_interval + own.probe_timeout, clock)
        mirror = Mirror(_connector(settings, name, own, clock), state)
        streams = Streams(mirror, slots)
        facade.sessions[name] = Session(name=name, settings=own, facade=facade, mirror=mirror, streams=streams)
        if (send := sender(own)) is not None:
            file = SavedFile(settings.state_dir / f"facade-alerts-{name}.json")
            facade.alerts.append(DaemonAlerts(name, own, send, _reachable(state), clock, file))
    return facade


def _reachable(state: ReplicaState) -> Callable[[], bool]:
    return lambda: state.reachable


def _connector(settings: Settings, name: str, own: Settings, clock: Clock) -> Connect:
    """How the daemon of the session `name` is reached; nothing else depends on it."""
    if not settings.is_remote(name):
        return local_connector(own.socket_path, clock, name if name != DEFAULT_SESSION else "")
    from facade.replica.nats import nats_connector

    server = scaleout.Server(settings.nats_url, settings.nats_creds)
    return nats_connector(server, scaleout.Subjects(settings.nats_prefix, name), clock)


@asynccontextmanager
async def served(
    settings: Settings,
    sockets: Sequence[socket.socket],
    clock: Clock | None = None,
    *,
    drain: float = DRAIN,
    sessions: Mapping[str, Settings] | None = None,
) -> AsyncIterator[Facade]:
    """Serve `sockets` inside the block. At its end: accept no more, answer what is under way, close."""
    clock = clock or SystemClock()
    facade = build(settings, sockets[0].getsockname()[1], clock, sessions)
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(
        application(facade),
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=KEEP_ALIVE,
        lingering_time=LINGER,
        logger=server_logger(),
        shutdown_timeout=STOP_TIMEOUT,
    )
    async with asyncio.TaskGroup() as tasks:
        running = [
            *(tasks.create_task(one.mirror.run(), name=f"mirror {name}") for name, one in facade.sessions.items()),
            *(tasks.create_task(one.streams.run(), name=f"streams {name}") for name, one in facade.sessions.items()),
            tasks.create_task(run_alone(facade.alerts, settings.state_dir, clock), name="daemon alerts"),
            tasks.create_task(_measure_lag(facade, clock), name="lag"),
        ]
        servers: list[AcceptThread | asyncio.Server] = []
        try:
            await runner.setup()
            facade.server = runner.server
            assert facade.server is not None  # noqa: S101 - set up
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_ATTEMPT_TIMEOUT):
                    for session in facade.sessions.values():
                        await session.mirror.first_attempt_done.wait()
            factory = bounded(facade.server, CONNECTIONS)
            for sock in sockets:
                if WINDOWS:
                    servers.append(AcceptThread(factory, sock))
                else:
                    servers.append(await loop.create_server(factory, sock=sock, backlog=BACKLOG))
            yield facade
        finally:
            facade.draining = True
            for server in servers:
                _stop_accepting(server)
            await asyncio.sleep(drain if servers else 0)
            for server in servers:
                server.close()
            for session in facade.sessions.values():
                session.streams.close()
            await runner.cleanup()
            peers.close()
            for task in running:
                task.cancel()


def _stop_accepting(server: AcceptThread | asyncio.Server) -> None:
    """Leave new connections to the other processes that hold the socket; asyncio's server can only close it."""
    if isinstance(server, AcceptThread):
        server.close()
    else:
        for sock in server.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())


async def _measure_lag(facade: Facade, clock: Clock) -> None:
    while True:
        due = clock.monotonic() + LAG_EVERY
        await clock.sleep(LAG_EVERY)
        facade.loop_lag = max(0.0, clock.monotonic() - due)


# --- the process ----------------------------------------------------------------------------------------------------


def serve(environ: Mapping[str, str], handed: Sequence[str]) -> int:
    """Serve until the parent ends the conversation. The exit status: 0, 1 if it cannot bind, 78 for bad settings."""
    channel, inherited = received([word for word in handed if word != "--activated"])
    try:
        settings = Settings.load(environ)
        sessions = settings.of_sessions(environ)
        settings.token()  # what is unusable stops the start before anything is bound
        with private_directory(str(settings.state_dir), "IBKR_STATE_DIR"):
            pass
        for name, own in sessions.items():
            # the secret is made where no daemon has made it yet
            if own.alerts and "daemon" in own.alerts_on and not settings.is_remote(name):
                with private_directory(str(own.state_dir), "IBKR_STATE_DIR"):
                    pass
            sender(own)
    except (SettingsError, UnsafePath) as error:
        say(str(error))
        return BAD_SETTINGS
    set_up(settings.log_level, settings.log_format, file=settings.state_dir / "logs" / "facade.log", environ=environ)
    known = settings.other_sessions(environ)
    if settings.session in sessions:
        known[settings.session] = settings
    for _, _, sentence in shared_client_ids({name: one.gateway_client for name, one in known.items()}):
        log.warning("settings.client_id_shared", message=sentence)
    try:
        sockets = inherited if "--activated" in handed else _listening(settings, inherited)
    except OSError as error:
        place = f"{settings.facade_host}:{settings.facade_port}"
        cause = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            from shared.listeners import listener_name

            cause = (
                f"{listener_name(settings.facade_port)} holds the port. End it, or give the facade another port: "
                f"IBKR_FACADE_PORT={settings.facade_port + 1} in .env"
            )
        log.error("facade.bind", message=f"The facade cannot listen on {place}: {cause}")
        return 1
    host, port = sockets[0].getsockname()[:2]
    try:
        channel.send(
            {"stateDir": str(settings.state_dir), "address": f"{host}:{port}"},
            () if sockets is inherited else sockets,
            os.getppid(),
        )
    except OSError:  # the parent has ended already, and so does this process
        for sock in sockets:
            sock.close()
        return 0
    asyncio.run(_serve(settings, sessions, sockets, channel))
    return 0


def _listening(settings: Settings, inherited: list[socket.socket]) -> list[socket.socket]:
    """A socket for each address of the settings: the inherited ones where they are those, else new ones."""
    host, port = settings.facade_host, settings.facade_port
    addresses: list[tuple[int, tuple[str, int]]]
    if host == "localhost":  # clients try either, whatever the system's own table of names has
        addresses = [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    else:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        addresses = [(found[0], (str(found[4][0]), port))]
    if [sock.getsockname()[:2] for sock in inherited] == [address for _, address in addresses]:
        return inherited
    for sock in inherited:
        sock.close()
    sockets: list[socket.socket] = []
    for kind, address in addresses:
        try:
            sockets.append(_bound(kind, address))
        except OSError as error:
            if error.errno in NO_SUCH_ADDRESS and sockets:
                continue  # a machine without IPv6
            for sock in sockets:
                sock.close()
            raise
    return sockets


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":  # there, SO_REUSEADDR would let another process take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def _serve(
    settings: Settings, sessions: Mapping[str, Settings], sockets: list[socket.socket], channel: ParentChannel
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(AcceptErrors())
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, ended.set)
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # for the keeper alone
    threading.Thread(target=_watch_parent, args=(channel, loop, ended), name="parent", daemon=True).start()
    for sock in sockets:
        sock.setblocking(False)
    async with served(settings, sockets, sessions=sessions) as facade:
        host, port = sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info("facade.running", message=f"Facade running on http://{shown}:{port}")
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            log.warning("facade.exposed", message="Every network of this machine can reach the facade; see README.md.")
        _report(channel, serving=True, complete=facade.complete)
        reported = facade.complete

        def complete() -> None:
            nonlocal reported
            if not reported and facade.complete:
                reported = True
                _report(channel, complete=True)

        for session in facade.sessions.values():
            session.mirror.state.add_listener(complete)
        await ended.wait()


def _report(channel: ParentChannel, **message: bool) -> None:
    with contextlib.suppress(OSError):  # the parent has ended, and so does this process
        channel.send(message)


def _watch_parent(channel: ParentChannel, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Set `ended` when the parent closes the conversation; it sends nothing on it."""
    channel.sock.setblocking(True)
    while channel.receive() is not None:
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(ended.set)
