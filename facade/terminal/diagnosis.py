"""The doctor's examination as commands start it: of this machine, or of a daemon on another one by what it answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping

from facade.doctor import checks as doctor
from facade.doctor.remote import RemoteDaemon, examine_remote
from facade.replica.nats import nats_connector
from shared import scaleout
from shared.clock import SystemClock
from shared.jsonrpc.codec import RpcError
from shared.settings import Settings, SettingsError

CONNECT_TIMEOUT = 4.0
"""s for NATS and the daemon's next sign of life: one comes each second."""
CALL_TIMEOUT = 3.0


def examine(
    environ: Mapping[str, str], settings: Settings | None = None, *, dial: bool = True
) -> Iterator[doctor.Check]:
    """As `doctor.checks.examine`, of the session of the settings, wherever its daemon is."""
    if settings is None:
        try:
            settings = Settings.load(environ)
        except SettingsError:
            return doctor.examine(environ, dial=dial)  # which names what is wrong with them
        if not settings.is_remote(settings.session):
            return doctor.examine(environ, dial=dial)
    if settings.is_remote(settings.session):
        return examine_remote(environ, settings, asyncio.run(_ask_and_close(settings)))
    return doctor.examine(environ, settings=settings, dial=dial)


async def _ask_and_close(settings: Settings) -> RemoteDaemon:
    try:
        return await ask(settings)
    finally:  # the connection closes in a task of its own, which has a time-out
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def ask(settings: Settings) -> RemoteDaemon:
    """What the daemon of a remote session answers."""
    server = scaleout.Server(settings.nats_url, settings.nats_creds)
    connect = nats_connector(server, scaleout.Subjects(settings.nats_prefix, settings.session), SystemClock())
    try:
        conversation = await connect(lambda _delta: None, lambda: None, lambda _reason: None, CONNECT_TIMEOUT)
    except TimeoutError:
        return RemoteDaemon(None, None, "NATS answers, or is slow, and no daemon of this session gives a sign of life.")
    except (OSError, RpcError) as error:
        return RemoteDaemon(None, None, str(error))
    try:
        link = json.loads(bytes(await conversation.call("link.get", {}, CALL_TIMEOUT)))
        answered_at = time.time()
        info = json.loads(bytes(await conversation.call("daemon.info", {}, CALL_TIMEOUT)))
    except (OSError, RpcError, TimeoutError) as error:
        return RemoteDaemon(None, None, str(error) or f"no answer within {CALL_TIMEOUT:g} s")
    finally:
        conversation.abort()
    return RemoteDaemon(link, info, "", answered_at)
