"""The verbs about the link: the port, the handshake, connections, answers and words.

They set `behaviour.Behaviour` and send messages; what follows is decided where requests are answered.
"""

from __future__ import annotations

from daemon.simulator import messages
from daemon.simulator.alterations import Alteration, Where, number_of
from daemon.simulator.behaviour import Cut, Handshake, kind_of
from daemon.simulator.broken import MALFORMED, Malformed
from daemon.simulator.codes import NO_REQUEST, words
from daemon.simulator.state import GatewayState


class LinkVerbs(GatewayState):
    """What can be done to a gateway's link. Mixed into `server.Gateway`, which owns everything named here."""

    def refuse(self) -> None:
        """Close the port: dials are refused. Sessions that stand stay."""
        raise NotImplementedError

    def listen_after(self, seconds: float = 0.0) -> None:
        """Accept connections again in `seconds`, in place of an earlier such plan."""
        raise NotImplementedError

    def behave(self) -> None:
        """Take back every fault that is set (connections that were lost stay lost)."""
        frozen = self.faults.frozen
        self.faults.clear()
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

    def close_in_handshake(self, after_version: bool = False, reset: bool = False, inside: bool = False) -> None:
        """Close right after accepting (with FIN, or RST), after the version was answered, or inside that answer."""
        when: Handshake = "closeInVersion" if inside else "closeAfterVersion" if after_version else "close"
        self.handshake("reset" if reset else when)

    def speak_http(self) -> None:
        """Be a web server."""
        self.handshake("http")

    def speak_tls(self) -> None:
        """Be something that expects TLS."""
        self.handshake("tls")

    def slow_version(self, seconds: float) -> None:
        """Answer the version message only after `seconds`."""
        self.faults.version_after = seconds

    def old_version(self, version: int) -> None:
        """Answer the handshake with this server version."""
        self.faults.version = version

    def no_accounts(self) -> None:
        """Never send managedAccounts: not to new sessions, and not on request."""
        self.faults.accounts = "missing"

    def empty_accounts(self) -> None:
        """Send an empty account list, to new sessions and on request."""
        self.faults.accounts = "empty"

    def no_next_id(self) -> None:
        """Never send nextValidId: not to new sessions, and not on request."""
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
        """Go on, with the requests that came meanwhile."""
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
        self.send_error(1300, words(1300, port=port))
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

    def send_error(self, code: int, text: str = "", req_id: int = NO_REQUEST, **parts: object) -> None:
        """Send an error or notice to every session, in the code's own words unless `text` is given."""
        shown = text or words(code, id=req_id, **parts)
        for session in self.ready_sessions():
            session.write(messages.error(session.version, req_id, code, shown))

    def farm(self, code: int, farm: str = "") -> None:
        """A farm notice (2103 to 2108, 2119, 2157, 2158) for `farm`, by default the one usual for the code."""
        self.send_error(code, words(code, farm=farm) if farm else "")

    def alter(self, message: str, where: Where, value: str = "", times: int = -1, skip: int = 0) -> None:
        """Change a field of outgoing messages: field `where` (the message's number is 0) becomes `value`, or there is
        one field `more` or `fewer`. The first `skip` such messages stay as they are, `times` after them change (below
        0: all). ValueError: there is no such message."""
        self.faults.alterations.append(Alteration(number_of(message), where, value, times, skip))

    def malformed(self, how: Malformed) -> None:
        """Send every session bytes that no healthy gateway sends."""
        self.raw(MALFORMED[how])

    def raw(self, data: bytes) -> None:
        """Send every session these very bytes."""
        for session in self.ready_sessions():
            session.write(data)
