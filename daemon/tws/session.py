"""One session with TWS or IB Gateway, from the dial to its end. Used once: the next session is a new object.

Says what happens as events and writes what the gateway tells as rows. Never decides whether, when or whom to dial
again, and never says anything after `abort()` or `close()`.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection

from ib_async.ib import IB
from msgspec import Struct

from daemon.events import (
    Dialled,
    Event,
    Failed,
    Greeted,
    Heard,
    Lost,
    MessageTrouble,
    Opened,
    PortMoved,
    ReadOnlyApi,
    Target,
    UpstreamLost,
    UpstreamRestored,
)
from daemon.sink import Sink
from daemon.tws import codes
from daemon.tws.api import HIGHEST, LOWEST, Api, check_version
from daemon.tws.book import Book
from daemon.tws.callbacks import Callbacks
from daemon.tws.dial import DialError, dial
from daemon.tws.errors import LinkLost, TwsRefused
from daemon.tws.gate import RATE, Gate, Lane
from daemon.tws.marks import Singles
from daemon.tws.receive import Frames, UnreadableError, Wire
from daemon.tws.snapshot import Snapshots
from daemon.tws.startup import Startup
from shared.clock import Clock
from shared.messages import Notice, Recovered

TROUBLE_WINDOW = 60.0
"""s over which messages that cannot be decoded are counted."""

TROUBLES_TOLD = 8
"""Each of the first ones is an event: the machine gives a session up after a few."""
REPEATS = 60.0
"""s in which a text just noted is not noted again."""

NO_FIGURES = (math.nan, math.nan, math.nan)

check_version()


class Limits(Struct, frozen=True, kw_only=True):
    """What one session may use. Lengths in bytes."""

    firstFrame: int = 64 * 1024  # version and date have 30 bytes; HTTP's or TLS's first four read as 300 MB and more
    frame: int = 64 * 1024 * 1024  # the longest real ones, scanner parameters and option chains, have a few MB
    rate: int = RATE  # messages a second


class Tws:
    """ONE session. `emit` is called with events, `store` gets the rows; both from the event loop's thread."""

    def __init__(
        self,
        number: int,
        target: Target,
        emit: Callable[[Event], None],
        store: Sink,
        clock: Clock,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.number = number
        self.target = target
        self.heard = 0.0
        """Monotonic s of the last complete message; 0 before the first."""
        self.decode_errors = 0
        self.server_version: int | None = None
        self.accounts: tuple[str, ...] = ()
        self._tell = emit
        self._store = store
        self.snapshots = Snapshots(store)
        self.book = Book(self.snapshots, store, target.clientId)
        self._clock = clock
        self._over = False
        self._is_open = False
        self._has_id = False
        self._list_came = False  # an account list, if only an empty one
        self._last_error: tuple[int, str] | None = None
        self._overdue = False  # a probe was; the next message is news
        self._probe: asyncio.Future[float] | None = None
        self._asked: deque[float] = deque()  # when each unanswered probe was sent
        self._troubles: deque[float] = deque()
        self._gate = Gate(clock, limits.rate)
        self._wire = Wire(
            Frames(limits.firstFrame, limits.frame),
            message=self._first,
            packet=self._packet,
            ended=self._ended,
            broken=self._broken,
            writable=lambda ready: self._gate.hold(held=not ready),
        )
        self._api = Api(self._wire, target.clientId, self._callbacks, self._undecodable)
        self.singles = Singles(self._api, self._gate)
        self._startup = Startup(self._api, self._gate, self.book, self.snapshots, store, target.account)
        self._renewed = False  # the account subscription, after TWS had ended it
        self._last_notice: tuple[int, int, str, float] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._end: asyncio.Event = asyncio.Event()

    def _callbacks(self, ib: IB) -> Callbacks:
        return Callbacks(ib, self)

    @property
    def messages_in(self) -> int:
        return self._wire.numMsgRecv

    @property
    def messages_out(self) -> int:
        return int(self._wire.numMsgSent)

    def emit(self, event: Event) -> None:
        if not self._over:
            self._tell(event)

    # --- beginning ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Dial and shake hands under one deadline. Emits Dialled, Greeted, then exactly one of Opened and Failed."""
        loop = asyncio.get_running_loop()
        self._opening = loop.create_future()
        deadline = loop.time() + self.target.timeout
        try:
            sock, peer = await dial(self.target.host, self.target.port, self.target.timeout)
            await loop.create_connection(lambda: self._wire, sock=sock)
            self.emit(Dialled(session=self.number, peer=peer))
            hello = b"v%d..%d" % (LOWEST, HIGHEST)
            self._wire.sendMsg(b"API\0" + len(hello).to_bytes(4, "big") + hello)
            async with asyncio.timeout_at(deadline):
                await self._opening
        except DialError as failed:
            self._fail(failed.reason, failed.code, str(failed))
        except TimeoutError:
            self._fail(*self._unfinished())
        except BaseException:
            self.abort()
            raise

    def _unfinished(self) -> tuple[str, int | None, str]:
        """What the deadline found missing."""
        limit = f"within {self.target.timeout:g} s"
        if self.server_version is None:
            return "handshakeTimeout", None, f"the connection was accepted, but no server version came {limit}"
        missing = []
        if not self.accounts:
            missing.append("the account list was empty" if self._list_came else "no account list came")
        if not self._has_id:
            missing.append("no next valid id came")
        code, said = self._last_error or (None, "")
        text = f"server version {self.server_version} came, but {' and '.join(missing)} {limit}"
        return "sessionIncomplete", code, f"{text}; the gateway said: {said}" if said else text

    def _fail(self, reason: str, code: int | None, text: str) -> None:
        if self._over:
            return
        self.emit(Failed(session=self.number, reason=reason, code=code, text=text))
        self.abort()

    def _first(self, fields: list[str]) -> None:
        """The server's version, or proof that this is no gateway."""
        version = fields[0] if fields else ""
        if not version.removeprefix("-").isdecimal() or len(version) > 6:
            shown = codes.clean("\\0".join(fields))[:40]
            self._fail("notTws", None, f"the first message holds no server version but {shown!r}")
            return
        self.server_version = int(version)
        self._wire.frames.settled()
        self.emit(Greeted(session=self.number, serverVersion=self.server_version))
        if not LOWEST <= self.server_version <= HIGHEST:
            text = f"server version {version} is not between {LOWEST} and {HIGHEST}"
            self._fail("versionUnsupported", None, text)
            return
        self._wire.message = self._api.client.decoder.interpret
        self._api.greeted(self.server_version)

    def on_next_id(self) -> None:
        self._has_id = True
        self._maybe_open()

    def on_accounts(self, accounts: list[str]) -> None:
        self._list_came = True
        if not self._is_open:
            self.accounts = tuple(accounts)
            self._maybe_open()

    def _maybe_open(self) -> None:
        if self._is_open or not self._has_id or not self.accounts or self._over or self.server_version is None:
            return
        self._is_open = True
        self._api.opened(list(self.accounts))
        self.emit(Opened(session=self.number, serverVersion=self.server_version, accounts=self.accounts))
        if self._opening and not self._opening.done():
            self._opening.set_result(None)

    # --- what the accounts hold --------------------------------------------------------------------------------------

    async def sync(self) -> frozenset[str]:
        """First snapshots, each swapped in whole at its end marker; the topics not told to their end within the
        target's timeout. Those stay unknown until a late marker or `refetch` ends them.
        """
        return await self._startup.sync(self.target.timeout)

    async def refetch(self, topics: Collection[str]) -> frozenset[str]:
        """Ask for `topics` again; those not told to their end within the target's timeout."""
        return await self._startup.refetch(topics, self.target.timeout)

    async def recover(self, cause: str) -> Recovered:  # noqa: ARG002 - every cause needs the same
        """Everything again after a gap. `unknown` then names the topics that were not told to their end."""
        return await self._startup.recover(self.target.timeout)

    @property
    def unknown(self) -> frozenset[str]:
        """Topics whose latest question was not answered to its end."""
        return self._startup.unknown

    def on_position(self, account: str, con_id: int, *, gone: bool) -> None:
        """Positions whose figures the own account's portfolio does not tell are followed one by one."""
        if gone:
            self.singles.leave(account, con_id)
        elif account != self._startup.own:
            self.singles.follow(account, con_id)

    def on_pnl(self, request: int, daily: float, unrealized: float, realized: float) -> None:
        account = self._startup.pnl_accounts.get(request)
        if account is not None:
            self.book.pnl(account, daily, unrealized, realized)
            self.snapshots.end(request)

    # --- liveness ----------------------------------------------------------------------------------------------------

    def _packet(self) -> None:
        """After each batch of messages."""
        self.heard = self._clock.monotonic()
        self.snapshots.flush()
        if self._overdue:
            self._overdue = False
            self.emit(Heard(session=self.number))

    async def probe(self, timeout: float) -> float:
        """Ask for the time and give the seconds its answer took. Calls while one is open share it.

        Raises TimeoutError when no answer came within `timeout` s (the next message, of any kind, then emits Heard)
        and `LinkLost` when the session is over.
        """
        if self._over or not self._is_open:
            raise LinkLost
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_future()
            self._probe.add_done_callback(retrieved)
            self._gate.send(Lane.PROBE, self._ask_time)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._probe)
        except TimeoutError:
            self._overdue = True
            self._probe = None
            raise

    def _ask_time(self) -> None:
        self._asked.append(self._clock.monotonic())
        self._api.client.reqCurrentTime()

    def on_time(self) -> None:
        if self._asked and self._probe and not self._probe.done():
            self._probe.set_result(self._clock.monotonic() - self._asked[0])
        if self._asked:
            self._asked.popleft()  # answers come in the order of the questions

    # --- what IBKR says ----------------------------------------------------------------------------------------------

    def on_error(self, request: int, code: int, text: str) -> None:
        """Any error message, `text` already one line."""
        self._last_error = (code, text)
        if code in codes.REFUSED_AT_CONNECT and not self._is_open:
            self._fail(codes.REFUSED_AT_CONNECT[code], code, text)
            return
        for event in codes.link_events(self.number, code, text):
            if isinstance(event, UpstreamLost | PortMoved):
                self.snapshots.fail_all(LinkLost(text, code))
            if isinstance(event, UpstreamLost | UpstreamRestored):
                self._startup.upstream_lost = isinstance(event, UpstreamLost)
            self.emit(event)
        if code == codes.TOO_FAST:
            self._gate.halve()
        elif code in codes.UNSUBSCRIBED:
            self._unsubscribed()
        nameless = request in codes.NO_REQUEST
        if codes.says_read_only(code, text, order_question=nameless and self._startup.asks_orders()):
            self._read_only(code, text)
        if not nameless and code not in codes.FLOWS:
            self._request_failed(request, code, text)
        self._note(-1 if nameless else request, code, text)

    def _request_failed(self, request: int, code: int, text: str) -> None:
        error = LinkLost(text, code) if code in codes.INTERRUPTS else TwsRefused(code, text)
        account = self._startup.pnl_accounts.get(request)
        if account is not None and isinstance(error, TwsRefused):
            # there is no PnL for this account, which a row without figures says
            self.on_pnl(request, *NO_FIGURES)
        self.snapshots.fail(request, error)

    def _read_only(self, code: int, text: str) -> None:
        if not self._startup.read_only:
            self._startup.refuse_orders(TwsRefused(code, text))
            self.emit(ReadOnlyApi(session=self.number, text=text))

    def _unsubscribed(self) -> None:
        """TWS has stopped telling account values. Asked for once more; if that does not last, others want them."""
        if self.snapshots.is_telling("summary"):
            return  # the echo of our own asking again
        self._store.stale(["summary"])
        if not self._renewed:
            self._renewed = True
            self._startup.renew_own()

    def _note(self, request: int, code: int, text: str) -> None:
        """A notice, but not the same one again and again: TWS repeats 1100 every few seconds."""
        now = self._clock.monotonic()
        same = self._last_notice is not None and self._last_notice[:3] == (request, code, text)
        if same and self._last_notice is not None and now - self._last_notice[3] < REPEATS:
            return
        self._last_notice = (request, code, text, now)
        contract = self._api.wrapper._reqId2Contract.get(request)
        con_id = contract.conId if contract is not None else None
        self._store.notice(Notice(at=self._clock.now(), code=code, text=text, reqId=request, conId=con_id or None))

    def _undecodable(self, text: str) -> None:
        """A message could not be decoded; the session goes on, counted (FAULTS 54)."""
        self.decode_errors += 1
        now = self._clock.monotonic()
        self._troubles.append(now)
        while now - self._troubles[0] > TROUBLE_WINDOW:
            self._troubles.popleft()
        count = len(self._troubles)
        if count <= TROUBLES_TOLD or count & (count - 1) == 0:  # then at 16, 32 …: news, but no flood of it
            self.emit(MessageTrouble(session=self.number, count=count, text=codes.clean(text)[:200]))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _ended(self, error: Exception | None) -> None:
        """The socket is gone, by whoever's hand."""
        self._end.set()
        if self._over:
            return
        code = getattr(error, "errno", None)
        text = str(error) if error else "the gateway closed the connection"
        if self._is_open:
            self.emit(Lost(session=self.number, code=code, text=text))
            self.abort()
            return
        stage = (
            "before its version came" if self.server_version is None else "before account list and next id were there"
        )
        said = f"; it had said: {self._last_error[1]}" if self._last_error else ""
        self._fail("closedDuringHandshake", code or (self._last_error or (None,))[0], f"{text} {stage}{said}")

    def _broken(self, error: UnreadableError) -> None:
        text = f"this is not the stream of a TWS or IB Gateway: {error}"
        if self._is_open:
            self.emit(Lost(session=self.number, reason="notTws", text=text))
            self.abort()
        else:
            self._fail("notTws", None, text)

    def abort(self) -> None:
        """End it now, whatever the peer does: nothing is emitted any more and every question fails with `LinkLost`."""
        if self._over:
            return
        self._over = True
        self._wire.deafen()
        self._wire.disconnect()
        self._gate.close()
        lost = LinkLost()
        self.snapshots.fail_all(lost)
        if self._probe and not self._probe.done():
            self._probe.set_exception(lost)
        self._api.over()
        if self._opening and not self._opening.done():
            self._opening.set_result(None)

    async def close(self, timeout: float) -> None:
        """End it politely, so that the client id is free at once: FIN, then up to `timeout` s for the peer's own."""
        transport = self._wire.transport
        if self._over or transport is None:
            self.abort()
            return
        self._over = True
        try:
            # not transport.close(): with unread bytes in the kernel that would be a reset
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
            async with asyncio.timeout(timeout):
                await self._end.wait()
        except (TimeoutError, OSError):
            pass  # it has had its chance
        finally:
            self._over = False
            self.abort()


def retrieved(future: asyncio.Future[float]) -> None:
    """Nobody may be waiting any more; that is no reason for asyncio to complain."""
    if not future.cancelled():
        future.exception()
