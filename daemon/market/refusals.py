"""What IBKR's numbers mean to somebody who asked for data: code and text → a problem of the catalogue.

The number decides (`daemon/codes.py`); only 162, which says many things, is told apart by its words, and what has none
of them stays a broker error (FAULTS 53). Never decides whether to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

from daemon.codes import meaning
from daemon.tws.errors import LinkLost, TwsBusy, TwsRefused, TwsSilent
from shared.reasons import Problem

History = Literal["pacing", "empty", "cancelled", "denied", "competing", "invalid", "other"]

_HISTORY: Final[tuple[tuple[str, History], ...]] = (
    ("pacing violation", "pacing"),
    ("returned no data", "empty"),
    ("no data of type", "empty"),  # EODChart and the like: this contract has none of that kind
    ("query cancelled", "cancelled"),
    ("no market data permissions", "denied"),
    ("different ip address", "competing"),
    ("time length exceed", "invalid"),
    ("invalid step", "invalid"),
)

_HISTORY_REASONS: Final[dict[History, str]] = {
    "pacing": "pacingBudget",
    "denied": "notSubscribed",
    "competing": "competingSession",
    "invalid": "invalidParameters",
}

PACING_RETRY: Final = 600.0
"""s: the window of IBKR's history limit, after which a violation is over for certain."""


def history(text: str) -> History:
    """Which of 162's meanings a text has."""
    words = text.lower()
    return next((kind for needle, kind in _HISTORY if needle in words), "other")


def problem(code: int, text: str, *, doubtful: bool = False) -> Problem:
    """What to tell somebody whose question IBKR refused.

    `doubtful`: upstream or a farm is or was just impaired, when a 200 only means that IBKR could not look.
    """
    reason = meaning(code).reason
    retry = None
    if code == 162:
        kind = history(text)
        reason = _HISTORY_REASONS.get(kind, "brokerError")
        retry = PACING_RETRY if kind == "pacing" else None
    elif code == 200 and doubtful:
        return Problem(
            "upstreamLost",
            f"IBKR answered “{text}”, but its link or a data farm is or was just broken: that cannot be believed yet.",
            ibCode=code,
            retryAfter=60.0,
        )
    elif code == 200 and "ambiguous" in text.lower():
        reason = "contractAmbiguous"
    return Problem(reason, f"IBKR refused ({code}): {text}", ibCode=code, retryAfter=retry)


@contextmanager
def translated(what: str, doubtful: Callable[[], bool]) -> Iterator[None]:
    """Failures of a question to the gateway as problems. `doubtful`: see `problem`."""
    try:
        yield
    except TwsRefused as refused:
        raise problem(refused.code, refused.text, doubtful=doubtful()) from refused
    except TwsSilent as silent:
        raise Problem("brokerTimeout", f"No complete answer to {what} within {silent.seconds:g} s.") from silent
    except TwsBusy as busy:
        raise Problem("brokerError", f"Too many messages wait to be sent to the gateway for {what}.") from busy
    except LinkLost as lost:
        reason = "notConnected" if lost.code is None else meaning(lost.code).reason
        raise Problem(reason, f"The link was lost before {what} was answered.", ibCode=lost.code) from lost
