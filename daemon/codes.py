"""IBKR's message codes: one row a code. The number decides, not the English words (FAULTS 53).

What a code's text names besides (farms, a port) is read in `daemon/tws/error_text.py`; the many meanings of 162 are
distinguished by their words in `daemon/market/refusals.py`. No code is about an order's state (FAULTS 11).
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple

Farm = tuple[Literal["market", "hmds", "secdef"], Literal["ok", "broken", "inactive", "connecting"]]


class Code(NamedTuple):
    """What one code means.

    `concerns`: the part of the system that it is about. `request`, what becomes of the request whose id it bears: it
    `fails`; it is `interrupted` (the link cut its answer off); it `stalls` (a stream without data for now, not ended;
    any other request fails); it `continues`, and its data flow. `reason`: of the catalogue, for a request that fails.

    `retry`: s until a stream is requested again, doubling with each try; infinite: not by itself. `needs_farm`: not
    before the farm of its kind of data is up. `echo`: may follow our own cancel, after the request is closed (FAULTS
    50). `farm`: type and state that a farm's code reports.
    """

    concerns: Literal["link", "farm", "pacing", "account", "order", "request"] = "request"
    request: Literal["fails", "interrupted", "stalls", "continues"] = "fails"
    reason: str = "brokerError"
    retry: float = 300.0
    needs_farm: bool = False
    echo: bool = False
    farm: Farm | None = None

    @property
    def flows(self) -> bool:
        """Whether the data of the request go on."""
        return self.request == "continues"


def _farm(kind: Literal["market", "hmds", "secdef"], state: Literal["ok", "broken", "inactive", "connecting"]) -> Code:
    """A farm's code is not about the session (FAULTS 8, 9)."""
    return Code("farm", "continues", farm=(kind, state))


_REMARK: Final = Code(request="continues")
_INTERRUPTS: Final = Code("link", "interrupted", "upstreamLost")
_INVALID: Final = Code(reason="invalidParameters", retry=math.inf)
_NOT_SUBSCRIBED: Final = Code(reason="notSubscribed", retry=1800.0)

CODES: Final[dict[int, Code]] = {
    100: Code("pacing"),  # more messages a second than IBKR's limit; a disconnect may follow
    101: Code(reason="tooManySubscriptions", retry=60.0),  # lines are also used up by TWS's own screen
    102: Code(retry=1.0),  # duplicate ticker id, a replay race: the next request has a fresh id (FAULTS 50)
    162: Code(retry=60.0, echo=True),
    165: _REMARK,
    200: Code(reason="notFound", retry=math.inf),
    300: Code(request="continues", echo=True),
    321: _INVALID,  # also how a read-only API refuses questions about orders (FAULTS 46)
    322: _INVALID,
    326: Code("link", reason="clientIdInUse"),
    354: _NOT_SUBSCRIBED,
    366: Code(retry=1.0, needs_farm=True, echo=True),
    399: Code("order", "continues"),
    404: Code("order", "continues"),
    420: Code(retry=math.inf),
    503: Code("link", reason="versionUnsupported"),
    1100: _INTERRUPTS,
    1101: _INTERRUPTS,
    1102: _INTERRUPTS,
    1300: _INTERRUPTS,
    2100: Code("account", "continues"),  # TWS has ended the subscription of account values (FAULTS 52)
    2101: Code("account", "continues"),
    2103: _farm("market", "broken"),
    2104: _farm("market", "ok"),
    2105: _farm("hmds", "broken"),
    2106: _farm("hmds", "ok"),
    2107: _farm("hmds", "inactive"),
    2108: _farm("market", "inactive"),
    2110: _INTERRUPTS,
    2119: _farm("market", "connecting"),
    2157: _farm("secdef", "broken"),
    2158: _farm("secdef", "ok"),
    10089: _NOT_SUBSCRIBED,
    10090: _REMARK,
    10167: _REMARK,
    10168: _NOT_SUBSCRIBED,
    10182: Code(retry=1.0, needs_farm=True),  # FAULTS 3: the stream is dead while everything is green
    10197: Code(request="stalls", reason="competingSession"),
    10225: Code(retry=1.0),
    10299: _INVALID,  # whatToShow that the contract does not have
    10314: _INVALID,  # end date and time in a form that IBKR cannot read
    10339: _INVALID,  # end date and time of a continuous future
}

_OTHER: Final = Code()


def meaning(code: int) -> Code:
    """The row of `code`. Those from 2100 to 2199 that have none are warnings; any other one fails its request."""
    return CODES.get(code) or (_REMARK if 2100 <= code < 2200 else _OTHER)
