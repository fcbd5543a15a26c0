"""Market-data lines: what a line may see, its first ticks, and the stream of ticks that follows.

Owns every line of the gateway. A tick follows the world's price; many ticks of one moment go out in one packet.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from daemon.simulator import data_messages
from daemon.simulator.behaviour import Behaviour
from daemon.simulator.clock import Clock, Timer
from daemon.simulator.contracts import Contract
from daemon.simulator.market import World
from daemon.simulator.messages import units
from daemon.simulator.prices import DAY
from daemon.simulator.subscriptions import Client, Line

LINES: Final = 100
"""Market-data lines of an ordinary user."""

DELAY_S: Final = 900
"""Seconds by which delayed data is late."""

FAST: Final = 1000
"""Ticks a second, all lines together, from which they are sent every hundredth of a second instead of every tenth."""

BID, ASK, LAST, BID_SIZE, ASK_SIZE, LAST_SIZE, HIGH, LOW, VOLUME, CLOSE, OPEN = 1, 2, 4, 0, 3, 5, 6, 7, 8, 9, 14
_CYCLE: Final = (BID, ASK, LAST, BID, ASK, BID_SIZE, ASK_SIZE, VOLUME)
"""The mix of a stream: which tick types follow each other."""

_CYCLES: Final = {"CASH": (BID, ASK, BID, ASK, BID, ASK, BID_SIZE, ASK_SIZE), "IND": (LAST,) * 8}
"""The mix of what has no trades, and of what has no market."""

_HEAD = struct.Struct(">I")


@dataclass(slots=True)
class Quotes:
    """All lines of the gateway, and their ticks.

    `rate` is ticks a second and line. With `marked` on, every tick is a last trade whose price is the monotonic clock
    at the moment of sending, in seconds with six decimals, and whose size is the number of the tick, counted through
    all lines.
    """

    world: World
    clock: Clock
    faults: Behaviour
    limit: int = LINES
    rate: float = 2.0
    marked: bool = False
    sent: int = 0
    lines: set[Line] = field(default_factory=set)
    _flood: tuple[float, float] = (0.0, 0.0)
    _timer: Timer | None = None
    _before: float = 0.0
    _number: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    # lines

    def by_contract(self) -> dict[int, int]:
        """Open lines by conId."""
        return dict(Counter(line.contract.conId for line in self.lines if not line.by_tick))

    def add(self, line: Line) -> None:
        self.lines.add(line)
        line.session.subscriptions.lines[line.reqId] = line
        if self._timer is None:
            self._before = self.clock.monotonic()
            self._arm()

    def remove(self, line: Line) -> None:
        self.lines.discard(line)
        line.session.subscriptions.lines.pop(line.reqId, None)

    def drop(self, client: Client | None = None) -> list[Line]:
        """Drop the lines of a client, or all of them; which they were."""
        gone = [line for line in self.lines if client is None or line.session is client]
        for line in gone:
            self.remove(line)
        return gone

    # ticks

    def flood(self, rate: float, seconds: float) -> None:
        """For `seconds`, send `rate` ticks a second in all, dealt to the lines evenly."""
        self._flood = (rate, self.clock.monotonic() + seconds)
        if self._timer is not None:
            self._timer.cancel()
            self._arm()

    def _total(self, now: float) -> float:
        rate, until = self._flood
        return rate if now < until else self.rate * len(self.lines)

    def _arm(self) -> None:
        self._timer = None
        if self.lines:
            fast = self._total(self.clock.monotonic()) > FAST
            self._timer = self.clock.call_later(0.01 if fast else 0.1, self._pulse)

    def _pulse(self) -> None:
        now = self.clock.monotonic()
        passed, self._before = now - self._before, now
        each = self._total(now) * passed / max(1, len(self.lines))
        faults = self.faults
        if not (faults.frozen or faults.quiet or faults.upstream is not None or faults.competing):
            self._tick(each)
        self._arm()

    def _tick(self, each: float) -> None:
        packets: dict[Client, list[bytes]] = {}
        wall, stamp = self.clock.time(), self.clock.monotonic()
        for line in self.lines:
            line.left += each
            count = int(line.left)
            if count:
                line.left -= count
                packet = packets.setdefault(line.session, [])
                if self.marked and not line.by_tick:
                    self._marked(line, count, stamp, packet)
                elif line.contract.conId in self.faults.no_prices:
                    continue
                elif line.by_tick:
                    packet += [self._by_tick(line, wall) for _ in range(count)]
                else:
                    self._moved(line, count, wall, packet)
                self.sent += count
        for session, packet in packets.items():
            session.write(b"".join(packet))

    def _marked(self, line: Line, count: int, stamp: float, packet: list[bytes]) -> None:
        kind, price = line.tick(LAST), f"{stamp:.6f}"
        packet += [_price_frame(line.reqId, kind, price, str(next(self._number))) for _ in range(count)]

    def _moved(self, line: Line, count: int, wall: float, packet: list[bytes]) -> None:
        contract, req_id = line.contract, line.reqId
        tick = contract.minTick
        at = wall - DELAY_S if line.kind >= 3 else wall
        middle = round(self.world.prices.price(contract, at) / tick)
        digits = max(0, -int(f"{tick:e}".split("e")[1])) + (1 if f"{tick:e}"[0] != "1" else 0)
        if line.day != at // DAY:  # nothing was traded yet: the first trade is both
            line.day, line.high, line.low = int(at // DAY), 0, sys.maxsize
        turn, cycle = line.turn, _CYCLES.get(contract.secType, _CYCLE)
        part = contract.secType == "CRYPTO" and line.session.version >= 163
        for _ in range(count):
            turn += 1
            kind = cycle[turn & 7]
            wobble = turn * 7 % 3 - 1
            size = f"{0.05 * (1 + turn * 5 % 9):g}" if part else str(100 * (1 + turn * 5 % 9))
            if kind in (BID_SIZE, ASK_SIZE, VOLUME):
                many = str(self.world.prices.volume(contract, at)) if kind == VOLUME else size
                packet.append(_size_frame(req_id, line.tick(kind), many))
                continue
            steps = max(1, middle + wobble)
            if kind == BID:  # below the ask that the client has, and the ask above its bid: never crossed
                steps = line.bid = max(1, min(steps - 1, line.ask - 1 if line.ask else steps))
            elif kind == ASK:
                steps = line.ask = max(2, steps + 1, line.bid + 1)
            price = f"{steps * tick:.{digits}f}"
            packet.append(_price_frame(req_id, line.tick(kind), price, size))
            if kind == LAST and steps > line.high:
                line.high = steps
                packet.append(_price_frame(req_id, line.tick(HIGH), price, "0"))
            if kind == LAST and steps < line.low:
                line.low = steps
                packet.append(_price_frame(req_id, line.tick(LOW), price, "0"))
        line.turn = turn

    def _by_tick(self, line: Line, wall: float) -> bytes:
        quote = self.world.quote(line.contract, wall)
        version, at = line.session.version, int(wall)
        if line.by_tick == "BidAsk":
            sizes = units(quote.bidSize, version), units(quote.askSize, version)
            return data_messages.tick_by_tick_quote(line.reqId, at, quote.bid, quote.ask, *sizes)
        if line.by_tick == "MidPoint":
            return data_messages.tick_by_tick_midpoint(line.reqId, at, round((quote.bid + quote.ask) / 2, 8))
        kind = 1 if line.by_tick == "Last" else 2
        venue = line.contract.primaryExchange or line.contract.exchange
        return data_messages.tick_by_tick_last(line.reqId, kind, at, quote.last, units(quote.lastSize, version), venue)

    def send_exact(self, contract: Contract, **prices: float) -> int:
        """Send these exact values now (`bid`, `ask`, `last`, with `size`) to every line on `contract`; to how many."""
        size = prices.pop("size", 100)
        reached = 0
        for line in self.lines:
            if line.contract.conId == contract.conId and not line.by_tick:
                kinds = {"bid": BID, "ask": ASK, "last": LAST, "close": CLOSE, "high": HIGH, "low": LOW, "open": OPEN}
                line.session.write(
                    b"".join(
                        data_messages.tick_price(line.reqId, line.tick(kinds[name]), price, size)
                        for name, price in prices.items()
                    )
                )
                reached += 1
        return reached


def _size_frame(req_id: int, kind: int, size: str) -> bytes:
    payload = f"2\x006\x00{req_id}\x00{kind}\x00{size}\x00".encode()
    return _HEAD.pack(len(payload)) + payload


def _price_frame(req_id: int, kind: int, price: str, size: str) -> bytes:
    payload = f"1\x006\x00{req_id}\x00{kind}\x00{price}\x00{size}\x000\x00".encode()
    return _HEAD.pack(len(payload)) + payload
