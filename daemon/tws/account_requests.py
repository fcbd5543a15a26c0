"""Subscriptions of one topic, one request for each account: more of them than one reading has time for come in turns.

At IBKR's rate 150 accounts take longer than a reading may. The next reading then goes on with those that are still to
be sent, and after them sends those again that were not answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

from daemon.tws.client import GatewayClient
from daemon.tws.send_queue import Lane, SendQueue
from daemon.tws.snapshot import SnapshotBuilder, Snapshots

Send = Callable[[int, str], object]
"""Writes one message about a request and its account."""


class AccountRequests:
    """One topic's. `accounts`: request → the account that it is about; `send` subscribes it, `cancel` ends it."""

    def __init__(
        self, topic: str, client: GatewayClient, queue: SendQueue, snapshots: Snapshots, send: Send, cancel: Send
    ) -> None:
        self.topic = topic
        self.accounts: dict[int, str] = {}
        self._client = client
        self._queue = queue
        self._snapshots = snapshots
        self._send = send
        self._cancel = cancel
        self._sent: dict[int, str] = {}
        """Those that are to be cancelled before their account is requested again."""

    def __contains__(self, request: int) -> bool:
        return request in self._sent

    def refused(self, request: int) -> None:
        """The gateway has ended it: whatever else comes of it is about nothing that is subscribed."""
        del self._sent[request]
        self.accounts.pop(request, None)

    def begin(self, accounts: Collection[str], others: Collection[Hashable] = ()) -> SnapshotBuilder:
        """The list that is being read, or else a new one, which ends with `others` and each account's end."""
        builder = self._snapshots.under_way(self.topic)
        if builder is None:
            self.accounts = {self._client.getReqId(): name for name in accounts}
            builder = self._snapshots.begin(self.topic, [*others, *self.accounts])
        return builder

    async def read(self, builder: SnapshotBuilder) -> None:
        """Send what is missing, and wait for it. Raises the error that the list failed with."""
        unanswered = [request for request in self._sent if request in builder.missing]
        for request in [request for request in self._sent if request not in self.accounts]:
            await self._end(request)
        for request in [request for request in self.accounts if request not in self._sent]:
            if builder.failed is None:
                await self._begin(request)
        for request in unanswered:
            if request in builder.missing and builder.failed is None:
                await self._queue.admit(Lane.READ)
                if request not in builder.missing:
                    continue  # it was answered meanwhile
                self._cancel(request, self._sent.pop(request))
                again = self._client.getReqId()
                self.accounts[again] = self.accounts.pop(request)
                builder.missing ^= {request, again}
                await self._begin(again)
        for end in tuple(builder.missing):
            await self._snapshots.ended(builder, end)

    async def _begin(self, request: int) -> None:
        await self._queue.admit(Lane.READ)
        self._sent[request] = self.accounts[request]
        self._send(request, self._sent[request])

    async def _end(self, request: int) -> None:
        await self._queue.admit(Lane.READ)
        self._cancel(request, self._sent.pop(request))  # not before: one that was cut off here is ended by the next
