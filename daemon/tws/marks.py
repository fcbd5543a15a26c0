"""Market value and PnL of positions whose account's portfolio is not subscribed: one reqPnLSingle each, bounded.

Never asks for the session's own account, whose portfolio tells more.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from daemon.tws.api import Api
from daemon.tws.gate import Gate, Lane

SINGLES = 100
"""Subscriptions at most: 2.5 s of the gate's rate in its last lane, and well below what TWS was seen to bear."""


class Singles:
    """Which positions are followed one by one. The first come are followed until they are gone."""

    def __init__(self, api: Api, gate: Gate) -> None:
        self._api = api
        self._gate = gate
        self._requests: dict[tuple[str, int], int] = {}
        self._positions: dict[int, tuple[str, int]] = {}

    def follow(self, account: str, con_id: int) -> None:
        key = (account, con_id)
        if key in self._requests or len(self._requests) >= SINGLES:
            return
        client = self._api.client
        request = client.getReqId()
        self._requests[key] = request
        self._positions[request] = key
        self._gate.send(Lane.RESUBSCRIBE, lambda: client.reqPnLSingle(request, account, "", con_id))

    def leave(self, account: str, con_id: int) -> None:
        request = self._requests.pop((account, con_id), None)
        if request is not None:
            del self._positions[request]
            self._gate.send(Lane.RESUBSCRIBE, lambda: self._api.client.cancelPnLSingle(request))

    def leave_all(self) -> None:
        """IBKR may have forgotten them; those positions that are told again are followed again."""
        for account, con_id in list(self._requests):
            self.leave(account, con_id)

    def position(self, request: int) -> tuple[str, int] | None:
        """Whose figures come with this request."""
        return self._positions.get(request)
