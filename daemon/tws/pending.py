"""Requests that wait for their answer, by request id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from daemon.tws.errors import TwsError


class _Pending:
    __slots__ = ("answer", "con_id", "rows")

    def __init__(self, con_id: int | None) -> None:
        self.answer: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        self.rows: list[object] = []
        self.con_id = con_id


class PendingRequests:
    """One session's. What comes for a request that is not here any more is dropped: it came after the deadline."""

    def __init__(self) -> None:
        self._by_id: dict[int, _Pending] = {}

    def __contains__(self, request: int) -> bool:
        return request in self._by_id

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def con_id(self, request: int) -> int | None:
        """The contract that the request is about, as far as known."""
        pending = self._by_id.get(request)
        return pending.con_id if pending else None

    def open(self, request: int, con_id: int | None = None) -> asyncio.Future[list[object]]:
        """Its rows when it has ended, or its failure. To be closed by the caller."""
        pending = self._by_id[request] = _Pending(con_id)
        return pending.answer

    def close(self, request: int) -> None:
        self._by_id.pop(request, None)

    def add(self, request: int, row: object) -> None:
        """One more row of the answer."""
        pending = self._by_id.get(request)
        if pending is not None:
            pending.rows.append(row)

    def end(self, request: int) -> None:
        """The answer is complete."""
        pending = self._by_id.get(request)
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(pending.rows)

    def fail(self, request: int, error: TwsError) -> None:
        pending = self._by_id.get(request)
        if pending is not None and not pending.answer.done():
            pending.answer.set_exception(error)

    def fail_all(self, error: TwsError) -> None:
        for request in self._by_id:
            self.fail(request, error)
