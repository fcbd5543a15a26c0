"""What IBKR says in numbers, told to whom it concerns: link events, failed questions, streams in trouble, notices.

`codes.py` says what a number means. Never changes an order.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from daemon.codes import meaning
from daemon.link.events import Event, MessageTrouble, PortMoved, ReadOnlyApi, UpstreamLost, UpstreamRestored
from daemon.state.sink import Sink
from daemon.tws import codes
from daemon.tws.errors import LinkLost, TwsError, TwsRefused
from shared.clock import Clock
from shared.messages import Notice

if TYPE_CHECKING:
    from daemon.tws.session import Tws

TROUBLE_WINDOW = 60.0
"""s over which messages that cannot be decoded are counted."""

TROUBLES_TOLD = 8
"""Each of the first ones is an event: the machine gives a session up after a few."""

REPEATS = 60.0
"""s in which a text just noted is not noted again."""

NO_FIGURES = (math.nan, math.nan, math.nan)


class Remarks:
    """One session's."""

    def __init__(self, tws: Tws, store: Sink, clock: Clock) -> None:
        self._tws = tws
        self._wrapper = tws.api.wrapper
        self._store = store
        self._clock = clock
        self._renewed = False  # the account subscription, after TWS had ended it
        self._noted: tuple[int, int, str] | None = None
        self._noted_at = 0.0
        self._troubles: deque[float] = deque()
        self._lost = 0  # the code that said that upstream is

    def heard(self, request: int, code: int, text: str) -> None:
        """An error message, `text` already one line."""
        means = meaning(code)
        for event in codes.link_events(self._tws.number, code, text):
            self._link(event, code, text)
        if code == codes.TOO_FAST:
            self._tws.gate.halve()
        elif means.concerns == "account":
            self._unsubscribed()
        nameless = request in codes.NO_REQUEST
        if codes.says_read_only(code, text, order_question=nameless and self._tws.startup.asks_orders()):
            self._read_only(code, text)
        ours = not nameless and self._ours(request)
        if ours or nameless or not means.echo:
            self._note(-1 if nameless else request, code, text)
        if ours and not means.flows:
            self._failed(request, code, text)

    def proven(self) -> None:
        """Something came that only IBKR's servers can say: that undoes a 2110, and no 1100 (FAULTS 8)."""
        if self._lost == 2110:
            self._lost = 0
            self._tws.startup.upstream_lost = False

    def _link(self, event: Event, code: int, text: str) -> None:
        if isinstance(event, UpstreamLost | PortMoved):
            # lists under way may now be ended as if they were whole
            self._tws.snapshots.drop_all(LinkLost(text, code))
        if isinstance(event, UpstreamLost):
            self._lost = 1100 if self._lost == 1100 else code
            self._tws.startup.upstream_lost = True
        elif isinstance(event, UpstreamRestored):
            self._lost = 0
            self._tws.startup.upstream_lost = False
        self._tws.emit(event)

    def _ours(self, request: int) -> bool:
        """Whether it names a question or stream of this session; else it is an order, or long over."""
        return (
            request in self._wrapper._futures
            or request in self._tws.ticks
            or request in self._tws.bars
            or self._tws.startup.asks(request)
        )

    def _failed(self, request: int, code: int, text: str) -> None:
        interrupted = meaning(code).request == "interrupted"
        error: TwsError = LinkLost(text, code) if interrupted else TwsRefused(code, text)
        if request in self._tws.ticks or request in self._tws.bars:
            if not interrupted:
                self._tws.on_trouble(request, code, text)
        elif request in self._wrapper._futures:
            self._wrapper._endReq(request, error, success=False)
        else:
            account = self._tws.startup.pnl_accounts.get(request)
            if account is not None and isinstance(error, TwsRefused):
                # this account has no PnL, which a row without figures says
                self._tws.book.pnl(account, *NO_FIGURES)
                self._tws.snapshots.end(request)
            self._tws.snapshots.fail(request, error)

    def _read_only(self, code: int, text: str) -> None:
        if not self._tws.startup.read_only:
            self._tws.startup.refuse_orders(TwsRefused(code, text))
            self._tws.emit(ReadOnlyApi(session=self._tws.number, text=text))

    def _unsubscribed(self) -> None:
        """TWS has stopped telling account values. Asked for once more; if that does not last, others want them."""
        if self._tws.snapshots.is_telling("summary"):
            return  # the echo of our own asking again
        self._store.stale(["summary"])
        if not self._renewed:
            self._renewed = True
            self._tws.startup.renew_own()

    def _note(self, request: int, code: int, text: str) -> None:
        """A notice, but not the same one again and again: TWS repeats 1100 every few seconds."""
        now = self._clock.monotonic()
        if self._noted == (request, code, text) and now - self._noted_at < REPEATS:
            return
        self._noted, self._noted_at = (request, code, text), now
        notice = Notice(at=self._clock.now(), code=code, text=text, reqId=request, conId=self._con_id(request))
        self._store.notice(notice)

    def _con_id(self, request: int) -> int | None:
        asked = self._wrapper._reqId2Contract.get(request)
        return (asked.conId if asked else self._tws.ticks.con_id(request) or self._tws.bars.con_id(request)) or None

    def undecodable(self, text: str) -> None:
        """A message could not be decoded; the session goes on, counted (FAULTS 54)."""
        self._tws.decode_errors += 1
        now = self._clock.monotonic()
        self._troubles.append(now)
        while now - self._troubles[0] > TROUBLE_WINDOW:
            self._troubles.popleft()
        count = len(self._troubles)
        if count <= TROUBLES_TOLD or count & (count - 1) == 0:  # then at 16, 32 …: news, but no flood of it
            self._tws.emit(MessageTrouble(session=self._tws.number, count=count, text=codes.clean(text)[:200]))
