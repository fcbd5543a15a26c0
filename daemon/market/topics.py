"""How the topics are spelled that come and go with their readers: `quotes:CONID` and `bars:CONID:SIZE`. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from daemon.market.history import BAR_SIZES
from shared.messages import MAX_CON_ID
from shared.reasons import Problem

Kind = Literal["quotes", "bars"]

_SIZES: Final = {size.replace(" ", ""): size for size in BAR_SIZES if size != "1 secs"}
"""A size as a topic spells it, and as IBKR does. IBKR keeps no one-second bars up to date."""
_TOPIC: Final = re.compile(r"quotes:([1-9]\d{0,18})|bars:([1-9]\d{0,18}):([0-9a-z ]{1,12})", re.ASCII)


class Spec(NamedTuple):
    """What a stream is of. `size`: IBKR's barSizeSetting, empty for quotes."""

    kind: Kind
    conId: int
    size: str = ""

    @property
    def topic(self) -> str:
        """The one spelling, fit for a URL: `bars:265598:5mins`."""
        return f"{self.kind}:{self.conId}" + (f":{self.size.replace(' ', '')}" if self.size else "")


def read(topic: str) -> Spec:
    """What a topic is a stream of; IBKR's own spelling of a size is understood too. Raises `invalidParameters`."""
    match = _TOPIC.fullmatch(topic)
    if match and match[1] and int(match[1]) <= MAX_CON_ID:
        return Spec("quotes", int(match[1]))
    size = match and match[3] and _SIZES.get(match[3].replace(" ", ""))
    if match and size and int(match[2]) <= MAX_CON_ID:
        return Spec("bars", int(match[2]), size)
    raise Problem(
        "invalidParameters",
        f"{topic[:60]!r} is no topic: quotes:CONID, or bars:CONID:SIZE with a size of {', '.join(_SIZES)}",
    )
