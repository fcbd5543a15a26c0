"""Messages that go out with one field changed: what a real gateway sends now and then, and no decoder expects.

Pure. An alteration names a message and one of its fields; `altered` applies it to the bytes of a packet.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from daemon.simulator.wire import framed

MESSAGES: Final[dict[str, int]] = {
    "tickPrice": 1,
    "tickSize": 2,
    "orderStatus": 3,
    "error": 4,
    "openOrder": 5,
    "accountValue": 6,
    "portfolioValue": 7,
    "accountTime": 8,
    "nextValidId": 9,
    "contractDetails": 10,
    "execution": 11,
    "managedAccounts": 15,
    "historicalData": 17,
    "bondContractDetails": 18,
    "optionComputation": 21,
    "tickGeneric": 45,
    "tickString": 46,
    "currentTime": 49,
    "realTimeBar": 50,
    "contractDetailsEnd": 52,
    "openOrderEnd": 53,
    "accountDownloadEnd": 54,
    "executionEnd": 55,
    "tickSnapshotEnd": 57,
    "marketDataType": 58,
    "commissionReport": 59,
    "position": 61,
    "positionEnd": 62,
    "accountSummary": 63,
    "accountSummaryEnd": 64,
    "positionMulti": 71,
    "positionMultiEnd": 72,
    "accountUpdateMulti": 73,
    "accountUpdateMultiEnd": 74,
    "optionChain": 75,
    "optionChainEnd": 76,
    "symbolSamples": 79,
    "tickReqParams": 81,
    "headTimestamp": 88,
    "historicalDataUpdate": 90,
    "reroute": 91,
    "marketRule": 93,
    "pnl": 94,
    "pnlSingle": 95,
    "tickByTick": 99,
    "orderBound": 100,
    "completedOrder": 101,
    "completedOrdersEnd": 102,
}
"""The messages that can be altered, by the name of the decoder's method or, for an `…End`, of the list it ends."""

Where = int | Literal["more", "fewer"]
"""A field, counted from the message's number (0); `more`: one field is added; `fewer`: the last one is left out."""

_LENGTH: Final = struct.Struct(">I")


@dataclass(slots=True)
class Alteration:
    """`times` is how many messages are still to be altered, after `skip` that are not; below 0 all of them."""

    message: int
    where: Where
    value: str = ""
    times: int = -1
    skip: int = 0


def number_of(message: str) -> int:
    """The number of the message that `message` names. ValueError: there is none."""
    if message.isdigit():
        return int(message)
    if message not in MESSAGES:
        raise ValueError(f"there is no message {message!r}; there are: {' '.join(MESSAGES)}")
    return MESSAGES[message]


def altered(data: bytes, alterations: Sequence[Alteration]) -> bytes:
    """A packet of whole messages with the alterations made; anything else comes back as it is."""
    parts: list[bytes] = []
    start = 0
    while start < len(data):
        if len(data) - start < 4:
            return data
        (length,) = _LENGTH.unpack_from(data, start)
        end = start + 4 + length
        if end > len(data):
            return data
        parts.append(_message(data[start:end], alterations))
        start = end
    return b"".join(parts)


def _message(message: bytes, alterations: Sequence[Alteration]) -> bytes:
    number = message[4:].partition(b"\0")[0]
    for change in alterations:
        if not change.times or number != b"%d" % change.message:
            continue
        if change.skip > 0:
            change.skip -= 1
            continue
        change.times -= change.times > 0
        fields = message[4:].split(b"\0")[:-1]
        value = change.value.encode()
        if change.where == "more":
            fields.append(value)
        elif change.where == "fewer":
            del fields[-1]
        elif change.where < len(fields):
            fields[change.where] = value
        message = framed(b"".join(field + b"\0" for field in fields))
    return message
