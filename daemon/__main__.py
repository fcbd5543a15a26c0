"""The daemon's entry point, `python -m daemon`: settings, lock, logs, event loop, exit status."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import structlog

from shared.settings import BAD_SETTINGS, TABLE, Settings, SettingsError, shared_client_ids
from shared.transport.private_paths import AlreadyRunning, UnsafePath, claim
from shared.zones import use_newest

log = structlog.get_logger("daemon")

USAGE = (
    "usage: python -m daemon [--session NAME]\n\n"
    "Settings, from the environment and .env (see docs/settings.md): "
    f"{', '.join(('IBKR_ENV_FILE', *TABLE))}.\n"
)
DISTRIBUTION = "ibkr-link"

FAILED = 1
BAD_USAGE = 2
ALREADY_RUNNING = 75
"""EX_TEMPFAIL: another daemon holds the state directory or the socket."""

WATCHDOG_EVERY = 10.0
"""s between signs of life, or a third of what systemd allows, whichever is less."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 stopped by request, 1 failed, 2 usage, 75 already running, 78 bad settings or unsafe paths."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    environ: Mapping[str, str] = os.environ
    if len(arguments) == 2 and arguments[0] == "--session":  # for services without an environment
        environ, arguments = {**environ, "IBKR_SESSION": arguments[1]}, []
    if arguments:
        help_requested = arguments in (["-h"], ["--help"])
        write(USAGE, error=not help_requested)
        return 0 if help_requested else BAD_USAGE
    try:
        settings = Settings.load(environ)
        claimed = claim(settings.state_dir)
    except (SettingsError, UnsafePath) as error:
        write(f"{error}\n")
        return BAD_SETTINGS
    except AlreadyRunning as error:
        write(f"{error}\n")
        return ALREADY_RUNNING
    except OSError as error:
        write(f"The state directory cannot be used: {error}.\n")
        return FAILED
    try:
        return serve(settings, environ, claimed.in_place)
    except KeyboardInterrupt:  # before or after the time in which it is a signal like others
        return 0
    finally:
        claimed.release()


def serve(settings: Settings, environ: Mapping[str, str], state_dir_held: Callable[[], bool]) -> int:
    """Run until stopped; what goes wrong is one line and an exit status."""
    use_newest()  # before anything computes with a zone
    from shared import log as logs

    file = settings.state_dir / "logs" / "daemon.log"
    logs.set_up(settings.log_level, settings.log_format, file=file, environ=environ)
    for warning in settings.warnings:
        log.warning("settings.odd", message=warning)
    for sentence in shared_with_others(settings, environ):
        log.warning("settings.client_id_shared", message=sentence)
    # what follows takes half a second to import, and is not needed to refuse
    from daemon.link.windows import calendar, read_overrides
    from daemon.process import StateDirectoryLost, Surroundings, run
    from shared.clock import SystemClock

    try:
        windows = calendar(read_overrides(settings.state_dir / "windows.json"), settings.restart_at)
    except ValueError as error:
        return refuse(str(error), BAD_SETTINGS)
    try:
        secret = alerts_secret(settings)
    except ValueError as error:
        return refuse(str(error), BAD_SETTINGS)
    around = Surroundings(
        clock=SystemClock(),
        random_unit=random.random,
        calendar=windows,
        version=installed_version(),
        notify=make_notifier(environ.get("NOTIFY_SOCKET", "")),
        watchdog=watchdog(environ, os.getpid()),
        state_dir_held=state_dir_held,
        environ=environ,
        alerts_secret=secret,
    )
    try:
        with asyncio.Runner() as runner:
            runner.run(run(settings, around))
    except UnsafePath as error:
        return refuse(str(error), BAD_SETTINGS)
    except AlreadyRunning as error:
        return refuse(str(error), ALREADY_RUNNING)
    except StateDirectoryLost as error:
        return refuse(str(error), FAILED)
    except OSError as error:
        return refuse(f"The daemon cannot listen: {error}.", FAILED)
    except Exception as error:
        log.error("daemon.fault", message="The daemon failed.", exc_info=first(error))
        return FAILED
    log.info("daemon.stopped", message="Daemon stopped")
    return 0


def shared_with_others(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """A sentence for each session of this machine that uses the same gateway with the same client id."""
    known = {settings.session: settings, **settings.other_sessions(environ)}
    pairs = shared_client_ids({name: one.gateway_client for name, one in known.items()})
    return [sentence for one, _, sentence in pairs if one == settings.session]


def alerts_secret(settings: Settings) -> bytes:
    """The secret that signs alerts, empty where none are sent. Raises `ValueError` for what cannot be used."""
    if not settings.alerts:
        return b""
    from shared.alerts.delivery import unusable
    from shared.alerts.signing import FILE, secret_of

    for sink in settings.alerts:
        if why := unusable(sink):
            raise ValueError(f"IBKR_ALERTS: {why}")
    return secret_of(settings.alerts_secret_file or settings.state_dir / FILE)


def first(error: BaseException) -> BaseException:
    """The error that ended a group of tasks; the others were its consequence."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def refuse(sentence: str, status: int) -> int:
    log.error("daemon.refused", message=sentence)
    return status


def make_notifier(address: str) -> Callable[[str], object]:
    """A function that notifies systemd at `address`."""
    from daemon.notify import notify

    return lambda message: notify(address, message)


def watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    """s between signs of life, where systemd wants them of this very process."""
    limit = environ.get("WATCHDOG_USEC", "")
    if not limit.isdecimal() or int(limit) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return min(WATCHDOG_EVERY, int(limit) / 3e6)


def installed_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a tree that is not installed
        return "0"


def write(text: str, *, error: bool = True) -> None:
    """To the terminal, where there is one."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        stream.write(text)


if __name__ == "__main__":
    sys.exit(main())
