"""The facade's door: `python -m facade` keeps it, `python -m facade restart` replaces its serving process.

`python -m facade serve …` is the serving process itself, started by the keeper alone.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

USAGE = "usage: python -m facade [restart]\n\nSettings come from the environment and .env; see README.md."

NEVER_USED = ("rich", "ssl")
"""What our libraries load where it is there and do without where it is not: structlog draws tracebacks with rich,
asyncio and aiohttp speak TLS, which is a proxy's job here. 10 MB and a tenth of a second of each serving process."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 stopped as asked, 1 could not serve, 2 usage, 78 bad settings."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    match arguments:
        case []:
            from facade.keeper.parent import keep

            return keep(os.environ)
        case ["serve", *handed]:
            gc.disable()  # nothing that is loaded is garbage; serving enables it again
            for name in NEVER_USED:
                sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # importing it fails, as where it is missing
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
