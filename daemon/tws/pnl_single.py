"""Market value and PnL of positions whose account's portfolio is not subscribed: one reqPnLSingle each, bounded."""

from __future__ import annotations

from collections import Counter

from daemon.tws.client import GatewayClient
from daemon.tws.send_queue import Lane, SendQueue

EVERY = 100
"""Subscriptions up to which each position has its own: 2.5 s of the rate, in its last lane."""

MOST = 1000
"""Subscriptions at most. Beyond the first hundred, one a contract: what it is worth is the same in each account."""


class PnlSingleSubscriptions:
    """Which positions have a subscription of their own. It lasts until the position is closed."""

    def __init__(self, client: GatewayClient, queue: SendQueue) -> None:
        self._client = client
        self._queue = queue
        self._requests: dict[tuple[str, int], int] = {}
        self._positions: dict[int, tuple[str, int]] = {}
        self._contracts: Counter[int] = Counter()

    def subscribe(self, account: str, con_id: int) -> None:
        key, count = (account, con_id), len(self._requests)
        if key in self._requests or count >= MOST or (count >= EVERY and self._contracts[con_id] > 0):
            return
        request = self._client.getReqId()
        self._requests[key] = request
        self._positions[request] = key
        self._contracts[con_id] += 1
        self._queue.send(Lane.RESUBSCRIBE, lambda: self._client.reqPnLSingle(request, account, "", con_id))

    def unsubscribe(self, account: str, con_id: int) -> None:
        request = self._requests.pop((account, con_id), None)
        if request is not None:
            del self._positions[request]
            self._contracts[con_id] -= 1
            self._queue.send(Lane.RESUBSCRIBE, lambda: self._client.cancelPnLSingle(request))

    def unsubscribe_all(self) -> None:
        """After a gap IBKR may have dropped them; positions that are reported again are subscribed again."""
        for account, con_id in list(self._requests):
            self.unsubscribe(account, con_id)

    def __contains__(self, request: int) -> bool:
        return request in self._positions

    def refused(self, request: int) -> tuple[str, int] | None:
        """The gateway has ended it: account and contract whose figures do not come any more."""
        key = self._positions.pop(request, None)
        if key is not None:
            del self._requests[key]
            self._contracts[key[1]] -= 1
        return key

    def position(self, request: int) -> tuple[str, int] | None:
        """Account and contract that the figures of this request are about."""
        return self._positions.get(request)
