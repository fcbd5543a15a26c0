"""Entry point: `python -m facade` is the keeper, `python -m facade restart` replaces its serving child.

`python -m facade serve …` is the serving child itself, started by the keeper alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USAGE = "usage: python -m facade [restart]\n\nSettings, from the environment and .env (see docs/settings.md):"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 stopped by request, 1 could not serve, 2 usage, 78 bad settings."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    match arguments:
        case []:
            from facade.keeper.parent import keep

            return keep(os.environ)
        case ["serve", *handed]:
            from facade.serving import serve

            return serve(os.environ, handed)
        case ["restart"]:
            return _restart()
        case ["-h" | "--help"]:
            from shared.settings import TABLE

            sys.stdout.write(f"{USAGE} {', '.join(('IBKR_ENV_FILE', *TABLE))}.\n")
            return 0
        case _:
            sys.stderr.write(f"{USAGE.splitlines()[0]}\n")
            return 2


def _restart() -> int:
    from facade.keeper.state_file import restart, say, state_of
    from shared.jsonrpc.blocking_client import CallError, call_once
    from shared.settings import BAD_SETTINGS, Settings, SettingsError

    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        say(str(error))
        return BAD_SETTINGS
    state = state_of(settings.state_dir)
    if state is not None and state["complete"]:  # it works: a new one must be able to as well
        try:
            call_once(settings.socket_path, "ping")
        except (OSError, CallError) as error:
            say(
                f"The facade was not restarted: it works, and a new one could not reach the daemon at "
                f"{settings.socket_path} ({error}). Restart the daemon first: ibkr restart daemon"
            )
            return 1
    demo = settings.state_dir.with_name(
        f"{settings.state_dir.name}-demo"
    )  # where ./scripts/start --demo keeps its state
    if state is None and state_of(demo) is not None:
        say("Only a demonstration is running: its facade is restarted.")
        return restart(demo)
    return restart(settings.state_dir)


if __name__ == "__main__":
    sys.exit(main())
