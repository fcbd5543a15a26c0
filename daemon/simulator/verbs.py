"""The verbs that make the gateway misbehave, or make something happen in its world.

Each is one method of `Gateway`; `faults.VERBS` names them for the command line. Verbs only set data and send messages:
what follows from the data is decided where requests are answered.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from daemon.simulator import accounts, codes, messages, trading
from daemon.simulator.behaviour import Answers, Behaviour, Cut, Handshake, Upstream, kind_of
from daemon.simulator.codes import NO_REQUEST, words
from daemon.simulator.contracts import Contract
from daemon.simulator.market import Changed
from daemon.simulator.orders import Fill, Refusal
from daemon.simulator.session import Session
from daemon.simulator.wire import framed

if TYPE_CHECKING:
    from daemon.simulator.clock import Clock
    from daemon.simulator.market import World
    from daemon.simulator.quotes import Quotes

Malformed = Literal[
    "zeroLength", "hugeLength", "unknownId", "fewFields", "manyFields", "notNumber", "latin1", "notUtf8", "noFields"
]

MALFORMED: dict[str, bytes] = {
    "zeroLength": struct.pack(">I", 0),
    "hugeLength": struct.pack(">I", 0xFFFFFFFF),
    "unknownId": framed(b"9999\x001\x00what\x00"),
    "notNumber": framed(b"garbage\x00here\x00"),
    "fewFields": framed(b"61\x003\x00DU1234567\x00265598\x00"),
    "manyFields": framed(b"61\x003\x00" + b"x\x00" * 40),
    "latin1": framed(b"4\x002\x00-1\x002104\x00Verbindung f\xfcr Marktdaten ist in Ordnung:usfarm\x00\x00"),
    "notUtf8": framed(b"6\x002\x00Gru\xdf\xff\xfe\x001\x00USD\x00DU1234567\x00"),
    "noFields": framed(b"\x00"),
}
"""Bytes no healthy gateway sends, by name."""


class Verbs:
    """What can be done to a gateway. Mixed into `server.Gateway`, which owns everything named here."""

    if TYPE_CHECKING:
        faults: Behaviour
        world: World
        clock: Clock
        quotes: Quotes
        sessions: set[Session]
        ghosts: dict[int, float]

        def ready_sessions(self) -> list[Session]: ...
        def refuse(self) -> None: ...
        def listen_after(self, seconds: float = 0.0) -> None: ...

    def behave(self) -> None:
        """Take back every fault that is set (connections that were lost stay lost)."""
        frozen, self.faults = self.faults.frozen, Behaviour()
        if frozen:
            self._thaw()

    # the port and the handshake (for connections to come)

    def handshake(self, how: Handshake) -> None:
        """How new connections are greeted; `normal` is as it should be."""
        self.faults.handshake = how

    def accept_silently(self) -> None:
        """Accept and never answer."""
        self.handshake("silent")

    def silence_after_handshake(self) -> None:
        """Answer the version and nothing after it."""
        self.handshake("silentAfterVersion")

    def close_in_handshake(self, after_version: bool = False, reset: bool = False) -> None:
        """Close right after accepting (with FIN, or RST), or after the version was answered."""
        self.handshake("closeAfterVersion" if after_version else "reset" if reset else "close")

    def speak_http(self) -> None:
        """Be a web server."""
        self.handshake("http")

    def speak_tls(self) -> None:
        """Be something that expects TLS."""
        self.handshake("tls")

    def old_version(self, version: int) -> None:
        """Answer the handshake with this server version."""
        self.faults.version = version

    def no_accounts(self) -> None:
        """Never send managedAccounts to new sessions."""
        self.faults.accounts = "missing"

    def empty_accounts(self) -> None:
        """Send new sessions an empty account list."""
        self.faults.accounts = "empty"

    def no_next_id(self) -> None:
        """Never send nextValidId to new sessions."""
        self.faults.next_id = False

    def client_id_in_use(self, for_s: float = float("inf")) -> None:
        """Answer `startApi` with 326 and close, for `for_s` seconds."""
        self.faults.id_taken_until = self.clock.monotonic() + for_s

    def client_id_free(self) -> None:
        self.faults.id_taken_until = 0.0
        self.ghosts.clear()

    def ghost_ids(self, seconds: float) -> None:
        """From now on a client id stays taken for `seconds` after its connection has ended, however it ended."""
        self.faults.ghost_s = seconds

    # connections that stand

    def drop(self, ghost_s: float = 0.0) -> None:
        """Close every connection with FIN; with `ghost_s` its client id stays taken that long."""
        self._end(reset=False, ghost_s=ghost_s)

    def reset(self, ghost_s: float = 0.0) -> None:
        """Close every connection with RST."""
        self._end(reset=True, ghost_s=ghost_s)

    def _end(self, reset: bool, ghost_s: float) -> None:
        for session in list(self.sessions):
            if ghost_s and session.client_id is not None:
                self.ghosts[session.client_id] = self.clock.monotonic() + ghost_s
            if reset:
                session.reset()
            else:
                session.hang_up()

    def freeze(self) -> None:
        """Stop reading and writing; connections stay open and are still accepted."""
        self.faults.frozen = True
        for session in self.sessions:
            session.freeze()

    def thaw(self) -> None:
        """Go on, with what was asked meanwhile."""
        self.faults.frozen = False
        self._thaw()

    def _thaw(self) -> None:
        for session in list(self.sessions):
            session.thaw()

    def slow_drip(self, bytes_per_s: float) -> None:
        """Send at most this many bytes a second to each client; 0 ends it."""
        self.faults.drip = bytes_per_s
        if not bytes_per_s:
            self._thaw()

    def scheduled_restart(self, down_s: float = 60.0, reset: bool = False, unready_s: float = 0.0) -> None:
        """The daily restart: every connection ends, the port is closed and opens again after `down_s`. For `unready_s`
        after that, connections are accepted and never answered."""
        self._end(reset=reset, ghost_s=0.0)
        self.refuse()
        self.listen_after(down_s)
        if unready_s:
            self.accept_silently()
            self.clock.call_later(down_s + unready_s, lambda: self.handshake("normal"))

    def move_port(self, port: int) -> None:
        """1300: the socket port was changed to `port`; connections are dropped. (Another gateway listens there.)"""
        self.say(1300, words(1300, port=port))
        self.drop()

    # answers

    def delay(self, seconds: float, kind: str = "") -> None:
        """Answer late, every request or those of one kind (`positions`, `historicalData`, …); 0 ends it."""
        self.faults.delays[kind_of(kind)] = seconds
        if not seconds:
            del self.faults.delays[kind_of(kind)]

    def mute(self, kind: str) -> None:
        """Never answer requests of this kind."""
        self.faults.muted.add(kind_of(kind))

    def withhold_end(self, kind: str) -> None:
        """Answer requests of this kind without their end marker."""
        self.faults.endless.add(kind_of(kind))

    def unmute(self, kind: str) -> None:
        """Answer requests of this kind in full again (not those that went unanswered)."""
        self.faults.muted.discard(kind_of(kind))
        self.faults.endless.discard(kind_of(kind))

    def close_during(self, kind: str, after: int = 1, reset: bool = False, times: int = 1) -> None:
        """End the connection after so many messages of the answer to a request of this kind."""
        self.faults.cuts[kind_of(kind)] = Cut(after, reset, times)

    def read_only(self, on: bool = True) -> None:
        """The API is in read-only mode: 321 to everything about orders, reading them included."""
        self.faults.read_only = on

    # words

    def say(self, code: int, text: str = "", req_id: int = NO_REQUEST, **parts: object) -> None:
        """Send an error or notice to every session, in the code's own words unless `text` is given."""
        said = text or words(code, id=req_id, **parts)
        for session in self.ready_sessions():
            session.write(messages.error(session.version, req_id, code, said))

    def farm(self, code: int, farm: str = "") -> None:
        """A farm notice (2103 to 2108, 2119, 2157, 2158) for `farm`, by default the one usual for the code."""
        self.say(code, words(code, farm=farm) if farm else "")

    def farm_blip(self, kills_streams: bool = True) -> None:
        """2105, with 10182 for every bar stream, which is dead from then on; then 2106."""
        self.farm(2105)
        if kills_streams:
            self.lose_streams()
        self.farm(2106)

    def malformed(self, how: Malformed) -> None:
        """Send every session bytes that no healthy gateway sends."""
        self.raw(MALFORMED[how])

    def raw(self, data: bytes) -> None:
        """Send every session these very bytes."""
        for session in self.ready_sessions():
            session.write(data)

    # IBKR behind the gateway

    def lose_upstream(self, code: int = 1100, answers: Answers = "hang", per_request: bool = False) -> None:
        """IBKR is out of reach (1100, or 2110). `answers` is what requests get: nothing (`hang`), empty lists and 200
        (`empty`), or what the gateway knew (`cached`; what needs IBKR hangs). `per_request` answers with the code
        itself, those requests too that had no answer yet."""
        self.faults.upstream = Upstream(code, answers, per_request)
        self.say(code)
        if per_request:
            self.interrupt_requests(code)

    def interrupt_requests(self, code: int = 1100) -> None:
        """Answer every request that has had no answer with `code`."""
        for session in self.ready_sessions():
            for req_id in list(session.unanswered):
                del session.unanswered[req_id]
                session.error(req_id, code)

    def restore_upstream(self, data_lost: bool = False, broken: str = "") -> None:
        """1102, or with `data_lost` 1101: then every market-data and bar stream is forgotten. `broken` names the farms
        that are not connected yet."""
        self.faults.upstream = None
        if data_lost:
            self.quotes.forget()
            for session in self.ready_sessions():
                session.subscriptions.bars.clear()
        farms = f"The following farms are not connected: {broken}" if broken else codes.ALL_FARMS
        self.say(1101 if data_lost else 1102, farms=farms)

    def nightly_reset(self, for_s: float = 15.0, every_s: float = 5.0, data_lost: bool = False) -> None:
        """IBKR's own reset: 1100 at once and every `every_s`, farms broken, and after `for_s` all is as it was."""
        self.lose_upstream()
        for code in (2103, 2105, 2157):
            self.farm(code)
        for n in range(1, int(for_s / every_s)):
            self.clock.call_later(n * every_s, lambda: self.say(1100))
        self.clock.call_later(for_s, lambda: self._reset_over(data_lost))

    def _reset_over(self, data_lost: bool) -> None:
        self.restore_upstream(data_lost)
        for code in (2104, 2106, 2158):
            self.farm(code)

    def lose_streams(self) -> None:
        """10182 for every bar stream, which never goes on."""
        for session in self.ready_sessions():
            for stream in session.subscriptions.bars.values():
                if not stream.dead:
                    stream.dead = True
                    session.error(stream.reqId, 10182)

    def lose_history(self) -> None:
        """366 for every bar stream, which never goes on."""
        for session in self.ready_sessions():
            for stream in session.subscriptions.bars.values():
                stream.dead = True
                session.error(stream.reqId, 366, id=stream.reqId)

    # data

    def compete(self, on: bool = True) -> None:
        """Another session of the same user has the data: 10197 for every line, which ends, and for each new one."""
        self.faults.competing = on
        if on:
            for line in self.quotes.forget():
                line.session.error(line.reqId, 10197)

    def entitlement(self, code: int, contract: str | int = "") -> None:
        """The market-data code one contract (or all) meets: 354, 10089, 10090, 10167, 10168; 0 = it may be seen."""
        if contract == "":
            self.faults.any_entitlement = code
            self.faults.entitlements.clear()
        else:
            self.faults.entitlements[self._contract(contract).conId] = code

    def refuse_bars(self, contract: str | int, cause: str = "No market data permissions") -> None:
        """420 to every real-time-bar request for this contract."""
        self.faults.invalid_bars[self._contract(contract).conId] = cause

    def no_history(self, contract: str | int) -> None:
        """162 (no data) to every historical request for this contract."""
        self.faults.no_history.add(self._contract(contract).conId)

    def quiet(self, on: bool = True) -> None:
        """The market is closed: nothing moves."""
        self.faults.quiet = on

    def flood(self, rate: float, seconds: float) -> None:
        """For `seconds`, send `rate` ticks a second in all."""
        self.quotes.flood(rate, seconds)

    def mark(self, on: bool = True) -> None:
        """Marked ticks: last prices that are the monotonic clock at sending, sizes that count (see `quotes.Quotes`)."""
        self.quotes.marked = on

    def tick(self, contract: str | int, **prices: float) -> int:
        """Send exact values (`bid`, `ask`, `last`, `size`) to the lines on a contract; to how many."""
        return self.quotes.say(self._contract(contract), **prices)

    def pin(self, contract: str | int, price: float | None) -> None:
        """Hold a contract at a price, for ticks, bars and portfolio alike; None lets it move again."""
        self.world.prices.pin(self._contract(contract), price)

    def _contract(self, name: str | int) -> Contract:
        return self.world.catalogue.named(name)

    # orders and executions

    def fill(
        self,
        contract: str | int,
        quantity: float,
        price: float | None = None,
        client_id: int | None = None,
        account: str = "",
    ) -> Fill:
        """An execution happens: bought if `quantity` is above 0, else sold. `client_id` is whose order it was (default:
        the connected client with the lowest id, else client 1; 0 = by hand). It is kept for `reqExecutions`; connected
        clients hear of it at once unless IBKR is out of reach."""
        if client_id is None:
            ready = self.ready_sessions()
            client_id = (ready[0].client_id or 0) if ready else 1
        order, fill = self.world.happen(contract, quantity, price, self.clock.time(), client_id, account)
        trading.publish(self._gateway(), [Changed(order), fill])
        return fill

    def correct_fill(self, exec_id: str, price: float) -> Fill:
        """A correction of an execution: its id's last part is one higher."""
        fill = self.world.correct(exec_id, price)
        trading.publish(self._gateway(), [fill])
        return fill

    def place(self, contract: str | int, quantity: float, limit: float, client_id: int = 0, account: str = "") -> int:
        """A limit order appears that this client did not place (0: by hand); its permId."""
        order, news = self.world.appear(contract, quantity, limit, self.clock.time(), client_id, account)
        if not isinstance(news, Refusal):
            trading.publish(self._gateway(), news)
        return order.permId

    def cancel(self, perm_id: int) -> None:
        """An open order is cancelled at IBKR."""
        order = self.world.orders[perm_id]
        trading.publish(self._gateway(), self.world.cancel(order, self.clock.time()))

    def unsubscribe_accounts(self) -> None:
        """2100: the account updates of every client end."""
        for session in self.ready_sessions():
            if session.subscriptions.account:
                session.subscriptions.account = ""
                session.error(NO_REQUEST, 2100)

    def update_accounts(self) -> None:
        """The account values that come every three minutes, now."""
        for session in self.ready_sessions():
            accounts.every_three_minutes(self._gateway(), session)

    if TYPE_CHECKING:
        from daemon.simulator.server import Gateway

    def _gateway(self) -> Gateway:
        return self  # type: ignore[return-value]
