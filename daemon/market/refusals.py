"""IBKR's refusals as problems of the catalogue, by code and text.

The number decides (`daemon/codes.py`); only 162, which has many meanings, is decided by its words, and what has none
of them stays a broker error (FAULTS 53).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

from daemon.codes import meaning
from daemon.market.conditions import SETTLING, Trust
from daemon.tws.errors import LinkLost, TwsBusy, TwsRefused, TwsSilent, TwsUnreadable
from shared.reasons import Problem

History = Literal["pacing", "empty", "cancelled", "denied", "competing", "invalid", "farm", "other"]

_HISTORY: Final[tuple[tuple[str, History], ...]] = (
    ("pacing violation", "pacing"),
    ("returned no data", "empty"),
    ("no data of type", "empty"),  # EODChart and the like: this contract has none of that kind
    ("no historical market data for", "empty"),
    ("hmds server disconnect", "farm"),
    ("hmds connection attempt failed", "farm"),
    ("query cancelled", "cancelled"),
    ("no market data permissions", "denied"),
    ("different ip address", "competing"),
    ("time length exceed", "invalid"),
    ("invalid step", "invalid"),
    ("starting time must occur before ending time", "invalid"),
    ("queries are not supported", "invalid"),  # “BEST queries are not supported for this contract”
)


class _Refusal(NamedTuple):
    reason: str = "brokerError"
    retryAfter: float | None = None


PACING_RETRY: Final = 600.0
"""s: the window of IBKR's history limit, after which a violation is over for certain."""
FARM_RETRY: Final = 10.0
"""s in which TWS has usually connected to a history farm again."""

_HISTORY_REFUSALS: Final[Mapping[History, _Refusal]] = {
    "pacing": _Refusal("pacingBudget", PACING_RETRY),
    "denied": _Refusal("notSubscribed"),
    "competing": _Refusal("competingSession"),
    "invalid": _Refusal("invalidParameters"),
    "farm": _Refusal("upstreamLost", FARM_RETRY),
}


def history(text: str) -> History:
    """Which of 162's meanings a text has."""
    words = text.lower()
    return next((kind for needle, kind in _HISTORY if needle in words), "other")


def problem(code: int, text: str, trust: Trust = "sound") -> Problem:
    """The problem for a request that IBKR refused.

    `trust`: while it is `impaired`, a 200 only means that IBKR could not look; while `settling`, it may mean that.
    """
    refusal = _HISTORY_REFUSALS.get(history(text), _Refusal()) if code == 162 else _Refusal(meaning(code).reason)
    detail = f"IBKR refused ({code}): {text}"
    if code == 200 and "ambiguous" in text.lower():
        refusal = _Refusal("contractAmbiguous")
    elif code == 200 and trust == "impaired":
        refusal = _Refusal("upstreamLost", SETTLING)
        detail = f"IBKR answered “{text}” while its link or a data farm is down, which may only mean that."
    elif code == 200 and trust == "settling":
        detail += f" (its link or a data farm was down less than {SETTLING:g} s ago: if in doubt, ask again later)"
    return Problem(refusal.reason, detail, ibCode=code, retryAfter=refusal.retryAfter)


def interrupted(what: str) -> Problem:
    """The problem for a request that IBKR cannot answer because the gateway has lost it."""
    return Problem("upstreamLost", f"The gateway lost IBKR's servers before {what} was answered.")


@contextmanager
def translated(what: str, trust: Callable[[], Trust] = lambda: "sound") -> Iterator[None]:
    """Raise a request's `TwsError` as a `Problem`. `trust`: see `problem`."""
    try:
        yield
    except TwsRefused as refused:
        raise problem(refused.code, refused.text, trust()) from refused
    except TwsSilent as silent:
        raise Problem("brokerTimeout", f"No complete answer to {what} within {silent.seconds:g} s.") from silent
    except TwsUnreadable as unreadable:
        raise Problem("brokerError", f"IBKR answered {what}, but {unreadable}.") from unreadable
    except TwsBusy as busy:
        raise Problem("brokerError", f"Too many messages wait to be sent to the gateway for {what}.") from busy
    except LinkLost as lost:
        reason = "notConnected" if lost.code is None else meaning(lost.code).reason
        raise Problem(reason, f"The link was lost before {what} was answered.", ibCode=lost.code) from lost
