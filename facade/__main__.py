"""Entry point: `python -m facade` is the keeper, `python -m facade restart` replaces its serving child.

`python -m facade serve …` is the serving child itself, started by the keeper alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USAGE = "usage: python -m facade [restart]\n\nSettings come from the environment and .env; see README.md."


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
            sys.stdout.write(f"{USAGE}\n")
            return 0
        case _:
            sys.stderr.write(f"{USAGE}\n")
            return 2


def _restart() -> int:
    from facade.keeper.whereabouts import restart, say, state_of
    from shared.settings import BAD_SETTINGS, Settings, SettingsError

    try:
        ours = Settings.load(os.environ).state_dir
    except SettingsError as error:
        say(str(error))
        return BAD_SETTINGS
    demo = ours.with_name(f"{ours.name}-demo")  # where ./scripts/start --demo keeps its state
    return restart(demo if state_of(ours) is None and state_of(demo) is not None else ours)


if __name__ == "__main__":
    sys.exit(main())
