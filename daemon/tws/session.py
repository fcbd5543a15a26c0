"""One session with TWS or IB Gateway, from the dial to its end. Used once: the next session is a new object.

What happens is emitted as events, and what the gateway reports is written as rows; nothing after `abort()` or
`close()`. Whether and when to dial again is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from daemon.codes import meaning
from daemon.link.events import AttemptOverdue, Dialled, Event, Failed, Greeted, Lost, MessageReceived, Opened, Target
from daemon.state.sink import Sink
from daemon.tws import rows
from daemon.tws.bars import Bars
from daemon.tws.book import OUR_NOTICE, Book
from daemon.tws.callbacks import Callbacks
from daemon.tws.client import HIGHEST, LOWEST, GatewayClient, check_version
from daemon.tws.decode_errors import DecodeErrors
from daemon.tws.decoder import MessageDecoder
from daemon.tws.dial import DialError, dial
from daemon.tws.error_router import ErrorRouter
from daemon.tws.error_text import clean, plain
from daemon.tws.errors import LinkLost
from daemon.tws.lookups import Lookups, contract
from daemon.tws.pending import PendingRequests
from daemon.tws.pnl_single import MOST, PnlSingleSubscriptions
from daemon.tws.probe import Probe
from daemon.tws.receive import Frames, UnreadableError, Wire
from daemon.tws.send_queue import RATE, SendQueue
from daemon.tws.snapshot import Snapshots
from daemon.tws.startup import REQUESTED, Startup
from daemon.tws.ticks import Ticks
from shared.clock import Clock
from shared.log import protect
from shared.messages import Bar, ContractQuery, Notice, Quote, Recovered

check_version()


class Limits(Struct, frozen=True, kw_only=True):
    """What one session may use. Lengths in bytes."""

    firstFrame: int = 64 * 1024  # version and date have 30 bytes; HTTP's or TLS's first four read as 300 MB and more
    frame: int = 64 * 1024 * 1024  # the longest real ones, scanner parameters and option chains, have a few MB
    rate: int = RATE  # messages a second


class Tws:
    """ONE session. `emit` is called with events, `store` gets the rows; both from the event loop's thread.

    Look-ups, all bounded in time, see `lookups.py`: `contract_details`, `matching_symbols`, `option_chain`,
    `historical_bars`.
    """

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
        self.last_received = 0.0
        """Monotonic s of the last complete message; 0 before the first."""
        self.server_version: int | None = None
        self.accounts: tuple[str, ...] = ()
        self._emit = emit
        self._clock = clock
        self._store = store
        self._left_out = 0  # positions without figures of their own, as a notice has reported
        self._over = False
        self._is_open = False
        self._has_id = False
        self._list: Literal["", "was empty", "came, but could not be read"] = ""  # what is wrong with the account list
        self._last_error: tuple[int, str] | None = None
        self._opening: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None  # when the attempt is reported as overdue
        self._ended = asyncio.Event()

        self.queue = queue = SendQueue(clock, limits.rate)
        self.wire = Wire(
            Frames(limits.firstFrame, limits.frame),
            message=self._first,
            packet=self._packet,
            ended=self._end,
            broken=self._broken,
            writable=lambda ready: queue.pause(paused=not ready),
        )
        self.client = client = GatewayClient(self.wire, target.clientId, number)
        self.snapshots = Snapshots(store)
        self.book = Book(self.snapshots, store, clock, target.clientId)
        self.pending = PendingRequests()
        self.pnl_singles = PnlSingleSubscriptions(client, queue)
        self.on_quotes: Callable[[Sequence[tuple[int, Quote]]], None] = ignore
        """Called once a network packet with (request, quote) of the lines it changed."""
        self.on_bars: Callable[[int, Sequence[Bar]], None] = ignore
        """Called with a request and its past, then with the bars that one network packet changed."""
        self.on_trouble: Callable[[int, int, str], None] = ignore
        """Called with a stream's request, and IBKR's code and text about it."""
        self.ticks = Ticks(client, queue, clock, lambda packet: self.on_quotes(packet))
        self.bars = Bars(client, queue, lambda request, bars: self.on_bars(request, bars), self._stream_failed)
        self.startup = Startup(client, queue, self.book, self.snapshots, store, target.account)
        self.errors = ErrorRouter(
            number,
            self.emit,
            self._stream_failed,
            store=store,
            clock=clock,
            queue=queue,
            pending=self.pending,
            snapshots=self.snapshots,
            startup=self.startup,
            book=self.book,
            pnl_singles=self.pnl_singles,
            ticks=self.ticks,
            bars=self.bars,
        )
        self._undecodable = DecodeErrors(
            store, clock, self.snapshots, self.pending, self.bars, accounts_lost=self._accounts_unreadable
        )
        callbacks = Callbacks(self, self.book, self.snapshots, self.pending, self.ticks, self.bars)
        self._decoder = MessageDecoder(callbacks, self._undecodable, clock.now)
        self._probe = Probe(client, queue, clock)
        lookups = Lookups(client, queue, self.pending)
        self._prove_upstream = lookups.prove_upstream
        self.contract_details = lookups.contract_details
        self.matching_symbols = lookups.matching_symbols
        self.option_chain = lookups.option_chain
        self.historical_bars = lookups.historical_bars

    def _stream_failed(self, request: int, code: int, text: str) -> None:
        self.on_trouble(request, code, text)

    @property
    def decode_errors(self) -> Mapping[str, int]:
        """What could not be decoded: kind → how often."""
        return self._undecodable.counts

    @property
    def messages_in(self) -> int:
        return self.wire.messages_in

    @property
    def messages_out(self) -> int:
        return self.wire.messages_out

    def emit(self, event: Event) -> None:
        if not self._over:
            self._emit(event)

    # --- beginning --------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Dial and shake hands. Emits Dialled, Greeted, then exactly one of Opened and Failed.

        A dial fails after the target's timeout. A handshake that is not over by then is reported as `AttemptOverdue`
        and goes on until `abort()` or `close()`.
        """
        loop = asyncio.get_running_loop()
        self._opening = loop.create_future()
        deadline = loop.time() + self.target.timeout
        try:
            sock, peer = await dial(self.target.host, self.target.port, self.target.timeout, self.target.address)
            self._deadline = loop.call_at(deadline, self._report_overdue)
            await loop.create_connection(lambda: self.wire, sock=sock)
            if self._over:  # it was ended meanwhile
                self.wire.abort()
                return
            self.emit(Dialled(session=self.number, peer=peer))
            versions = b"v%d..%d" % (LOWEST, HIGHEST)
            self.wire.send(b"API\0" + len(versions).to_bytes(4, "big") + versions)
            await self._opening
        except DialError as failed:
            self._fail(failed.reason, failed.code, str(failed))
        except BaseException:
            self.abort()
            raise
        finally:
            if self._deadline is not None:
                self._deadline.cancel()

    def _report_overdue(self) -> None:
        """Once without a version; with one, every further timeout, and what is missing is requested again."""
        self._deadline = None
        reason, code, text = self._unfinished()
        self.emit(AttemptOverdue(session=self.number, reason=reason, code=code, text=text))
        if self.server_version is not None and not self._over:
            self._deadline = asyncio.get_running_loop().call_later(self.target.timeout, self._report_overdue)
            if not self.accounts:
                self.client.reqManagedAccts()
            if not self._has_id:
                self.client.reqIds(1)

    def _unfinished(self) -> tuple[str, int | None, str]:
        """What is missing at the deadline."""
        limit = f"within {self.target.timeout:g} s"
        if self.server_version is None:
            return "handshakeTimeout", None, f"the connection was accepted, but no server version came {limit}"
        missing = []
        if not self.accounts:
            missing.append(f"the account list {self._list}" if self._list else "no account list came")
        if not self._has_id:
            missing.append("no next valid id came")
        code, reported = self._last_error or (None, "")
        text = f"server version {self.server_version} came, but {' and '.join(missing)} {limit}"
        return "sessionIncomplete", code, f"{text}; the gateway reported: {reported}" if reported else text

    def _fail(self, reason: str, code: int | None, text: str) -> None:
        self.emit(Failed(session=self.number, reason=reason, code=code, text=text))
        self.abort()

    def _first(self, fields: list[str]) -> None:
        """The server's version, or proof that this is no gateway."""
        version = fields[0] if fields else ""
        if not version.removeprefix("-").isdecimal() or len(version) > 6:
            shown = clean(" ".join(fields))[:40]
            self._fail("notTws", None, f"the first message holds no server version but {shown!r}")
            return
        self.server_version = int(version)
        self.wire.frames.settled()
        self.emit(Greeted(session=self.number, serverVersion=self.server_version))
        if self._opening is not None and self._deadline is None:  # it came late: the rest gets as long again
            self._deadline = asyncio.get_running_loop().call_later(self.target.timeout, self._report_overdue)
        if not LOWEST <= self.server_version <= HIGHEST:
            text = f"server version {version} is not between {LOWEST} and {HIGHEST}"
            self._fail("versionUnsupported", None, text)
            return
        decode = self._decoder.decode
        self._decoder.serverVersion = self._undecodable.server_version = self.server_version
        self.wire.message = lambda fields: decode(plain(fields))
        self.client.greeted(self.server_version)

    def on_next_id(self) -> None:
        self._has_id = True
        self._maybe_open()

    def on_accounts(self, accounts: list[str]) -> None:
        protect(accounts)
        self._list = "was empty"
        if not self._is_open:
            self.accounts = tuple(accounts)
            if accounts:
                self.startup.manage(accounts)
            self._maybe_open()

    def _accounts_unreadable(self) -> None:
        self._list = "came, but could not be read"

    def _maybe_open(self) -> None:
        if self._is_open or not self._has_id or not self.accounts or self._over or self.server_version is None:
            return
        self._is_open = True
        self.emit(Opened(session=self.number, serverVersion=self.server_version, accounts=self.accounts))
        self._settle()

    def _settle(self) -> None:
        """The attempt is decided."""
        if self._opening and not self._opening.done():
            self._opening.set_result(None)

    # --- liveness ---------------------------------------------------------------------------------------------------

    async def probe(self, timeout: float) -> float:
        """Request the time; the seconds that its answer took. Calls while one is open share it.

        Raises TimeoutError when no answer came within `timeout` s (the next message, of any kind, then emits
        MessageReceived) and `LinkLost` when the session is over.
        """
        if self._over or not self._is_open:
            raise LinkLost
        return await self._probe.send(timeout)

    @property
    def probing(self) -> bool:
        """Whether the answer of a probe, late or not, is still to come."""
        return self._probe.under_way and not self._over

    async def prove_upstream(self, timeout: float) -> bool:
        """Whether IBKR's servers answer: after 2110 that is as good as 1102."""
        proven = await self._prove_upstream(timeout)
        if proven:
            self.errors.upstream_proven()
        return proven

    def on_time(self) -> None:
        self._probe.answered()

    def _packet(self) -> None:
        """After each batch of messages: what it changed is published, in one step."""
        self.last_received = self._clock.monotonic()
        self.book.flush()
        if self.book.orders_outdated:
            self.startup.refresh_orders(self.last_received)
        self.snapshots.flush()
        self.ticks.flush()
        self.bars.flush()
        if self.pnl_singles.left_out > 2 * self._left_out and self.snapshots.is_live("positions"):
            self._report_left_out()
        if self._probe.overdue:
            self._probe.overdue = False
            self.emit(MessageReceived(session=self.number))

    def _report_left_out(self) -> None:
        """Once, and again when there are twice as many."""
        self._left_out = self.pnl_singles.left_out
        text = (
            f"{self._left_out} positions have no market value and no PnL: IBKR reports these for each position alone, "
            f"except for the account of the session, and at most {MOST} positions are subscribed"
        )
        self._store.notice(Notice(at=self._clock.now(), code=OUR_NOTICE, text=text))

    # --- what the accounts hold -------------------------------------------------------------------------------------

    async def sync(self, topics: Collection[str] | None = None) -> frozenset[str]:
        """Snapshots, each swapped in whole at its end marker; the topics whose end did not come within the target's
        timeout. Those stay what they were until a late marker, or a request for these `topics` alone, ends them.

        Raises `LinkLost` when the session is over.
        """
        self._need_open()
        if topics is None or "accounts" in topics:
            self.startup.publish_accounts()
        unknown = await self.startup.read(REQUESTED if topics is None else topics, self.target.timeout)
        self._need_open()
        return unknown

    async def recover(self, cause: str) -> Recovered:  # noqa: ARG002 - every cause needs the same
        """Everything again after a gap. `unknown` then names the topics whose end did not come.

        Raises `LinkLost` when the session is over, or has lost its upstream meanwhile: then the gap goes on.
        """
        self._need_open()
        self.pnl_singles.unsubscribe_all()
        recovered = await self.startup.recover(self.target.timeout)
        self._need_open()
        if self.startup.upstream_lost:
            raise LinkLost("IBKR was lost again")
        return recovered

    @property
    def unknown(self) -> frozenset[str]:
        """Topics whose latest request was not answered to its end."""
        return self.startup.unknown

    def on_pnl(self, request: int, daily: float, unrealized: float, realized: float) -> None:
        account = self.startup.pnl.accounts.get(request)
        if account is not None:
            self.book.pnl(account, daily, unrealized, realized)
            self.snapshots.end(request)

    def on_position(self, account: str, con_id: int, *, closed: bool) -> None:
        """Positions whose figures do not come with the own account's portfolio are subscribed one by one."""
        if closed:
            self.pnl_singles.unsubscribe(account, con_id)
        elif account != self.startup.own:
            self.pnl_singles.subscribe(account, con_id)

    def on_pnl_single(self, request: int, value: float, unrealized: float, realized: float) -> None:
        position = self.pnl_singles.position(request)
        if position is not None:
            number = rows.number
            self.book.marks(*position, (None, number(value), number(unrealized), number(realized)))

    # --- streams ----------------------------------------------------------------------------------------------------

    def subscribe_quote(self, query: ContractQuery, marketDataType: int) -> int:
        """Request a market-data line; its request id, fresh each time. Raises `LinkLost`."""
        self._need_open()
        return self.ticks.subscribe(contract(query), marketDataType)

    def unsubscribe_quote(self, reqId: int) -> None:
        self.ticks.unsubscribe(reqId)

    def subscribe_bars(
        self, query: ContractQuery, *, durationStr: str, barSizeSetting: str, whatToShow: str, useRTH: bool
    ) -> int:
        """Request bars that are kept up to date; the request id, fresh each time. Raises `LinkLost`."""
        self._need_open()
        return self.bars.subscribe(contract(query), durationStr, barSizeSetting, whatToShow, useRTH)

    def unsubscribe_bars(self, reqId: int) -> None:
        self.bars.unsubscribe(reqId)

    def _need_open(self) -> None:
        if self._over or not self._is_open:
            raise LinkLost

    # --- error messages ---------------------------------------------------------------------------------------------

    def on_error(self, request: int, code: int, text: str) -> None:
        """An error message, `text` already one line."""
        self._last_error = (code, text)
        means = meaning(code)
        if not self._is_open and means.concerns == "link" and means.request == "fails":
            self._fail(means.reason, code, text)
        else:
            self.errors.route(request, code, text)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, error: Exception | None) -> None:
        """The socket is closed, by either side."""
        self._ended.set()
        if self._over:
            return
        code = getattr(error, "errno", None)
        text = str(error) if error else "the gateway closed the connection"
        if self._is_open:
            self.emit(Lost(session=self.number, code=code, text=text))
            self.abort()
            return
        version, session = "before its version came", "before account list and next id were there"
        stage = version if self.server_version is None else session
        reported_code, reported = self._last_error or (None, "")
        if reported:
            stage += f"; it had reported: {reported}"
        self._fail("closedDuringHandshake", code or reported_code, f"{text} {stage}")

    def _broken(self, error: UnreadableError) -> None:
        text = f"this is not the stream of a TWS or IB Gateway: {error}"
        if self._is_open:
            self.emit(Lost(session=self.number, reason="notTws", text=text))
            self.abort()
        else:
            self._fail("notTws", None, text)

    def abort(self) -> None:
        """End it now, whatever the peer does: no event follows and every request fails with `LinkLost`."""
        self._let_go()
        self.wire.abort()

    async def close(self, timeout: float) -> None:
        """End it in order, so that the client id is free at once: FIN, then up to `timeout` s for the peer's own."""
        transport = self.wire.transport
        if self._over or transport is None:
            self.abort()
            return
        self._let_go()
        try:
            # not transport.close(): with unread bytes in the kernel that would be a reset
            if transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except (TimeoutError, OSError):
            pass  # the peer had its time
        finally:
            self.wire.abort()

    def _let_go(self) -> None:
        """The session is over: nothing is published any more, whatever the socket does."""
        if self._over:
            return
        self._over = True
        self.wire.stop()
        lost = LinkLost()
        self.queue.close()
        self._probe.fail(lost)
        self.snapshots.drop_all(lost)
        self.ticks.clear()
        self.bars.clear()
        self.pending.fail_all(lost)
        self._settle()


def ignore(*_: object) -> None:
    """Until `Market` sets its own."""
