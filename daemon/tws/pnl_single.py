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
        self._left_out: dict[tuple[str, int], None] = {}

    @property
    def left_out(self) -> int:
        """How many positions have no figures of their own."""
        return len(self._left_out)

    def subscribe(self, account: str, con_id: int) -> None:
        key = (account, con_id)
        if key in self._requests:
            return
        if not self._has_room(con_id):
            self._left_out[key] = None
            return
        self._left_out.pop(key, None)
        request = self._client.getReqId()
        self._requests[key] = request
        self._positions[request] = key
        self._contracts[con_id] += 1
        self._queue.send(Lane.RESUBSCRIBE, lambda: self._client.reqPnLSingle(request, account, "", con_id))

    def _has_room(self, con_id: int) -> bool:
        count = len(self._requests)
        return count < EVERY or (count < MOST and not self._contracts[con_id])

    def unsubscribe(self, account: str, con_id: int) -> None:
        """The position is closed: another takes its place."""
        self._left_out.pop((account, con_id), None)
        if self._cancel(account, con_id):
            self._subscribe_following()

    def _subscribe_following(self) -> None:
        following = next((key for key in self._left_out if self._has_room(key[1])), None)
        if following is not None:
            self.subscribe(*following)

    def _cancel(self, account: str, con_id: int) -> bool:
        request = self._requests.pop((account, con_id), None)
        if request is None:
            return False
        del self._positions[request]
        self._contracts[con_id] -= 1
        self._queue.send(Lane.RESUBSCRIBE, lambda: self._client.cancelPnLSingle(request))
        return True

    def unsubscribe_all(self) -> None:
        """After a gap IBKR may have dropped them; positions that are reported again are subscribed again."""
        self._left_out.clear()
        for account, con_id in list(self._requests):
            self._cancel(account, con_id)

    def __contains__(self, request: int) -> bool:
        return request in self._positions

    def refused(self, request: int) -> tuple[str, int] | None:
        """The gateway has ended it, and another takes its place: account and contract whose figures come no more."""
        key = self._positions.pop(request, None)
        if key is not None:
            del self._requests[key]
            self._contracts[key[1]] -= 1
            self._subscribe_following()
        return key

    def position(self, request: int) -> tuple[str, int] | None:
        """Account and contract that the figures of this request are about."""
        return self._positions.get(request)
