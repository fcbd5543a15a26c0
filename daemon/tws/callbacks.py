"""ib_async's decoder calls here. Each method hands one fact to its owner; none keeps or decides anything.

Stands in the place of ib_async's own `Wrapper`, whose bookkeeping is not ours: it invents order states from error
codes, hides openOrder while a question is open, drops executions of orders it has not seen, and formats a line for
each row.
"""

# ruff: noqa: N802, ARG002 - the names and signatures are the decoder's
from __future__ import annotations

from typing import TYPE_CHECKING

from ib_async.ib import IB
from ib_async.wrapper import Wrapper

from daemon.tws import codes

if TYPE_CHECKING:
    from daemon.tws.session import Tws


class Callbacks(Wrapper):
    """One session's ears."""

    def __init__(self, ib: IB, tws: Tws) -> None:
        super().__init__(ib)
        self._tws = tws

    def nextValidId(self, reqId: int) -> None:
        self._tws.on_next_id()

    def managedAccounts(self, accountsList: str) -> None:
        self._tws.on_accounts([name for name in accountsList.split(",") if name])

    def currentTime(self, time: int) -> None:
        self._tws.on_time()

    def error(self, reqId: int, errorCode: int, errorString: str, advancedOrderRejectJson: str) -> None:
        self._tws.on_error(reqId, errorCode, codes.clean(errorString))
