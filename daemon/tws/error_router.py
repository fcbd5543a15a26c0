"""IBKR's error messages → what they are about: link events, failed requests, streams in trouble, notices.

`daemon/codes.py` has what a code means. No code changes an order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog

from daemon.codes import meaning
from daemon.link.events import Event, PortMoved, ReadOnlyApi, UpstreamLost, UpstreamRestored
from daemon.state.sink import Sink
from daemon.tws import error_text
from daemon.tws.bars import Bars
from daemon.tws.book import Book
from daemon.tws.errors import LinkLost, TwsError, TwsRefused
from daemon.tws.pending import PendingRequests
from daemon.tws.pnl_single import PnlSingleSubscriptions
from daemon.tws.send_queue import SendQueue
from daemon.tws.snapshot import Snapshots
from daemon.tws.startup import COMPLETED, OPEN, OWN, POSITIONS, Startup
from daemon.tws.ticks import Ticks
from shared.clock import Clock
from shared.messages import Notice

log = structlog.get_logger("daemon.tws")

REPEATS = 60.0
"""s in which a text just noted is not noted again."""

NO_FIGURES = (math.nan, math.nan, math.nan)

NAMELESS = ((OWN,), (POSITIONS,), (OPEN, COMPLETED))
"""End markers of the requests for lists that have no id, by list."""

INVALID = frozenset({321, 322})
"""Validation failed. IBKR does not always name the request."""


class ErrorRouter:
    """One session's. `trouble(request, code, text)`: a stream of market data has failed."""

    def __init__(
        self,
        session: int,
        emit: Callable[[Event], None],
        trouble: Callable[[int, int, str], None],
        *,
        store: Sink,
        clock: Clock,
        queue: SendQueue,
        pending: PendingRequests,
        snapshots: Snapshots,
        startup: Startup,
        book: Book,
        pnl_singles: PnlSingleSubscriptions,
        ticks: Ticks,
        bars: Bars,
    ) -> None:
        self._session = session
        self._emit = emit
        self._trouble = trouble
        self._store = store
        self._clock = clock
        self._queue = queue
        self._pending = pending
        self._snapshots = snapshots
        self._startup = startup
        self._book = book
        self._pnl_singles = pnl_singles
        self._ticks = ticks
        self._bars = bars
        self._renewed = False  # the account subscription, after TWS had ended it
        self._noted: tuple[int, int, str] | None = None
        self._noted_at = 0.0
        self._lost = 0  # the code that reported the loss of upstream

    def route(self, request: int, code: int, text: str) -> None:
        """An error message, `text` already one line."""
        means = meaning(code)
        for event in error_text.link_events(self._session, code, text):
            self._link(event, code, text)
        if means.concerns == "pacing":
            self._queue.halve()
        elif means.concerns == "account":
            self._unsubscribed()
        no_request = request in error_text.NO_REQUEST
        reading_orders = no_request and self._startup.is_reading_orders()
        if error_text.is_read_only(code, text, reading_orders=reading_orders):
            self._read_only(code, text)
        elif no_request and code in INVALID:
            self._failed_without_id(TwsRefused(code, text))
        ours = not no_request and self._ours(request)
        if ours or no_request or not means.echo:
            self._note(-1 if no_request else request, code, text)
        if ours and not means.flows:
            self._failed(request, code, text)

    def upstream_proven(self) -> None:
        """An answer came that only IBKR's servers can give: that undoes a 2110, and no 1100 (FAULTS 8)."""
        if self._lost == 2110:
            self._lost = 0
            self._startup.upstream_lost = False

    def _link(self, event: Event, code: int, text: str) -> None:
        if isinstance(event, UpstreamLost | PortMoved):
            # lists under way may now be ended as if they were whole, and requests are not answered any more
            lost = LinkLost(text, code)
            self._snapshots.drop_all(lost)
            self._pending.fail_all(lost)
        if isinstance(event, UpstreamLost):
            self._lost = 1100 if self._lost == 1100 else code
            self._startup.upstream_lost = True
        elif isinstance(event, UpstreamRestored):
            self._lost = 0
            self._startup.upstream_lost = False
        self._emit(event)

    def _ours(self, request: int) -> bool:
        """Whether it names a request or stream of this session; else it is an order, or long over."""
        places = self._pending, self._ticks, self._bars, self._startup, self._pnl_singles
        return any(request in place for place in places)

    def _failed(self, request: int, code: int, text: str) -> None:
        interrupted = meaning(code).request == "interrupted"
        error: TwsError = LinkLost(text, code) if interrupted else TwsRefused(code, text)
        if request in self._ticks or request in self._bars:
            if not interrupted:
                self._trouble(self._ticks.owner(request), code, text)
        elif request in self._pending:
            self._pending.fail(request, error)
        else:
            if not interrupted:
                self._account_refused(request, code, text)
            self._snapshots.fail(request, error)

    def _account_refused(self, request: int, code: int, text: str) -> None:
        """That one account's values or PnL are unknown, which a row without figures shows; the others' are not.

        One that had been answered is not kept up to date any more: its topic is stale until it is read again, and a
        list that is being read is void.
        """
        subscription = self._startup.subscription(request)
        if subscription is None:
            if (position := self._pnl_singles.refused(request)) is not None:
                self._book.marks_unknown(*position)
        elif not self._snapshots.is_missing(request):
            subscription.refused(request)
            self._snapshots.drop(subscription.topic, TwsRefused(code, text))
            self._outdated(subscription.topic, code=code, text=text)
        elif account := subscription.accounts.get(request):
            if subscription is self._startup.pnl:
                self._book.pnl(account, *NO_FIGURES)
            elif subscription is self._startup.values:
                self._book.value_unknown(account)
            else:
                return
            subscription.refused(request)
            self._snapshots.end(request)

    def _outdated(self, *topics: str, code: int, text: str) -> None:
        log.warning(
            "tws.subscription_ended",
            message="The gateway refused a subscription after its first answer; what it brought is stale until it is "
            "read again.",
            topics=list(topics),
            code=code,
            text=text,
        )
        self._store.stale(topics)

    def _failed_without_id(self, error: TwsRefused) -> None:
        """The one request that it can be about; where there are several it may be any of them. Without one it is about
        a subscription that had been answered."""
        lists = [ends for ends in NAMELESS if any(map(self._snapshots.is_missing, ends))]
        if not lists and not self._pending:
            if live := [topic for topic in ("summary", "positions") if self._snapshots.is_live(topic)]:
                self._outdated(*live, code=error.code, text=error.text)
        elif len(lists) + len(self._pending) == 1:
            for ends in lists:
                for end in ends:
                    self._snapshots.fail(end, error)
            self._pending.fail_all(error)

    def _read_only(self, code: int, text: str) -> None:
        if not self._startup.read_only:
            self._startup.refuse_orders(TwsRefused(code, text))
            self._emit(ReadOnlyApi(session=self._session, text=text))

    def _unsubscribed(self) -> None:
        """TWS has ended the subscription of account values. It is renewed once; a second time another client may have
        taken it."""
        if self._snapshots.is_reading("summary"):
            return  # the echo of our own renewal
        self._store.stale(["summary"])
        if not self._renewed:
            self._renewed = True
            self._startup.renew_own()

    def _note(self, request: int, code: int, text: str) -> None:
        """A notice, but not the same one again and again: TWS repeats 1100 every few seconds."""
        now = self._clock.monotonic()
        if self._noted == (request, code, text) and now - self._noted_at < REPEATS:
            return
        self._noted, self._noted_at = (request, code, text), now
        con_id = self._pending.con_id(request) or self._ticks.con_id(request) or self._bars.con_id(request) or None
        self._store.notice(Notice(at=self._clock.now(), code=code, text=text, reqId=request, conId=con_id))
