"""Why a request to the gateway has failed.

TwsError
├── TwsRefused   IBKR refused it: `code`, `text`
├── TwsSilent    no answer, or no end of one, within the deadline
├── TwsUnreadable  an answer came and could not be decoded
├── TwsBusy      so much waits to be sent that the request was not taken
└── LinkLost     the session ended, or lost its upstream, before the answer came
"""

from __future__ import annotations

from typing import Final

DECODE_KINDS: Final = (
    "unknown", "timezone", "managedAccounts", "error",
    "updateAccountValue", "accountUpdateMulti", "accountSummary", "pnl", "pnlSingle",
    "position", "positionMulti", "updatePortfolio",
    "openOrder", "orderStatus", "completedOrder", "execDetails", "commissionReport",
    "contractDetails", "bondContractDetails", "symbolSamples", "securityDefinitionOptionParameter",
    "historicalData", "historicalDataUpdate", "priceSizeTick", "tickSize", "tickOptionComputation",
)  # fmt: skip
"""Kinds of messages whose failures to decode are counted from 0 on; others appear when one is counted."""


class TwsError(Exception):
    """A request that was not answered."""


class TwsRefused(TwsError):  # noqa: N818 - what happened, not what kind of thing
    """IBKR's own number and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class TwsSilent(TwsError):  # noqa: N818 - what happened, not what kind of thing
    """Nothing, or no end marker, came within `seconds`: what did come is not the whole and is not given."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"no complete answer to {what} within {seconds:g} s")
        self.what = what
        self.seconds = seconds


class TwsUnreadable(TwsError):  # noqa: N818 - what happened, not what kind of thing
    """A message with the answer, or with a part of it, came and could not be decoded. `field`: the one that could not.

    The text is for people.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(f"{field} in the gateway's message {message} could not be read")
        self.message = message
        self.field = field


class TwsBusy(TwsError):  # noqa: N818 - what happened, not what kind of thing
    """More sends wait than could be right."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} messages wait to be sent to the gateway")


class LinkLost(TwsError):  # noqa: N818 - what happened, not what kind of thing
    """The answer was cut off. `code`: 1100 or its like where the gateway sent one, `None` when the session is over."""

    def __init__(self, text: str = "the session with the gateway has ended", code: int | None = None) -> None:
        super().__init__(text)
        self.code = code
