"""What a contract is worth at a moment: a pure function of seed, contract and time, so that ticks, bars and portfolio
values of one world agree without anything being stored.

Option prices follow Black and Scholes on the underlying's price; no sessions, no sockets.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from daemon.simulator.contracts import Contract

WAVES: Final = (
    (86_400 * 47.0, 0.090),
    (86_400 * 9.0, 0.030),
    (86_400 * 1.0, 0.010),
    (3_600.0, 0.0030),
    (311.0, 0.0008),
    (37.0, 0.0003),
)
"""Period in seconds and height, as a part of the price, of the waves a price is made of."""

DAY: Final = 86_400
"""Seconds of a day; a contract's own begins at midnight UTC."""

YEAR: Final = 365.25 * DAY
RATE: Final = 0.043


@dataclass(frozen=True, slots=True)
class Quote:
    """The top of a contract's book and its day so far; prices in its currency, sizes in units."""

    bid: float
    ask: float
    last: float
    bidSize: float
    askSize: float
    lastSize: float
    open: float
    high: float
    low: float
    close: float
    volume: int


@dataclass(frozen=True, slots=True)
class Greeks:
    """A model's figures for an option; `impliedVol` a year, `theta` a day."""

    impliedVol: float
    delta: float
    optPrice: float
    gamma: float
    vega: float
    theta: float
    undPrice: float


def to_tick(price: float, tick: float) -> float:
    """`price` on the grid of `tick`, never below one tick."""
    return round(max(1, round(price / tick)) * tick, 8)


class Prices:
    """The prices of one world. `named` gives a contract by conId (an option needs its underlying)."""

    def __init__(self, seed: int, named: Callable[[int], Contract]) -> None:
        self._seed = seed
        self._named = named
        self._phases: dict[int, tuple[float, ...]] = {}
        self._pinned: dict[int, float] = {}
        self._opening: dict[int, tuple[float, float]] = {}
        self.pins = 0

    def pin(self, contract: Contract, price: float | None) -> None:
        """From now on `contract` is worth exactly `price`; None lets it move again."""
        self.pins += 1
        if price is None:
            self._pinned.pop(contract.conId, None)
        else:
            self._pinned[contract.conId] = price

    def _wave(self, contract: Contract, at: float) -> float:
        phases = self._phases.get(contract.conId)
        if phases is None:
            rng = random.Random(f"{self._seed}:{contract.conId}")
            phases = self._phases[contract.conId] = tuple(rng.uniform(0, math.tau) for _ in WAVES)
        calm = 0.15 if contract.secType == "CASH" else 1.0
        move = 0.0
        for (period, height), phase in zip(WAVES, phases, strict=True):
            move += height * math.sin(math.tau * at / period + phase)
        return contract.price * (1.0 + calm * move)

    def price(self, contract: Contract, at: float) -> float:
        """What `contract` is worth at `at` (seconds since the epoch), not rounded to its tick."""
        pinned = self._pinned.get(contract.conId)
        if pinned is not None:
            return pinned
        if contract.secType == "OPT":
            return self.greeks(contract, at).optPrice
        return self._wave(contract, at)

    def opening(self, contract: Contract, at: float) -> float:
        """What `contract` was worth when the day of `at` (UTC) began, pinned or not; kept for the day."""
        day = at - at % DAY
        known = self._opening.get(contract.conId)
        if known is None or known[0] != day:
            worth = self.greeks(contract, day).optPrice if contract.secType == "OPT" else self._wave(contract, day)
            known = self._opening[contract.conId] = (day, worth)
        return known[1]

    def volume(self, contract: Contract, at: float) -> int:
        """Units traded since the day of `at` (UTC) began."""
        return int(at % DAY * (3 + contract.conId % 17))

    def quote(self, contract: Contract, at: float) -> Quote:
        """The market of `contract` at `at`: one tick wide on either side of its price."""
        tick = contract.minTick
        last = to_tick(self.price(contract, at), tick)
        day = at - at % DAY
        walked = [self.price(contract, day + (at - day) * n / 16) for n in range(17)]
        size = 1 + hash_of(contract.conId, int(at)) % 9
        unit = 0.05 if contract.secType == "CRYPTO" else 100
        return Quote(
            bid=round(last - tick, 8),
            ask=round(last + tick, 8),
            last=last,
            bidSize=round(size * unit, 8),
            askSize=round((10 - size) * unit, 8),
            lastSize=round(size * unit / 10, 8),
            open=to_tick(walked[0], tick),
            high=to_tick(max(walked), tick),
            low=to_tick(min(walked), tick),
            close=to_tick(self.price(contract, day), tick),
            volume=self.volume(contract, at),
        )

    def greeks(self, contract: Contract, at: float) -> Greeks:
        """Black and Scholes for an option of this world, with a volatility that belongs to its strike."""
        under = self.price(self._named(contract.underConId), at)
        expiry = datetime.strptime(contract.lastTradeDateOrContractMonth, "%Y%m%d").replace(tzinfo=UTC, hour=21)
        years = max((expiry.timestamp() - at) / YEAR, 1e-5)
        vol = 0.24 + 0.4 * abs(math.log(contract.strike / under))
        spread = vol * math.sqrt(years)
        d1 = (math.log(under / contract.strike) + (RATE + vol * vol / 2) * years) / spread
        d2 = d1 - spread
        sign = 1 if contract.right == "C" else -1
        discounted = contract.strike * math.exp(-RATE * years)
        density = math.exp(-d1 * d1 / 2) / math.sqrt(math.tau)
        value = sign * (under * _normal(sign * d1) - discounted * _normal(sign * d2))
        return Greeks(
            impliedVol=round(vol, 6),
            delta=round(sign * _normal(sign * d1), 6),
            optPrice=round(max(value, 0.01), 6),
            gamma=round(density / (under * spread), 6),
            vega=round(under * density * math.sqrt(years) / 100, 6),
            theta=round(
                (-under * density * vol / (2 * math.sqrt(years)) - sign * RATE * discounted * _normal(sign * d2)) / 365,
                6,
            ),
            undPrice=round(under, 4),
        )


def _normal(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def hash_of(*parts: int) -> int:
    """A small deterministic number for the noise of sizes and volumes (not for anything secret)."""
    value = 2_166_136_261
    for part in parts:
        value = ((value ^ (part & 0xFFFFFFFF)) * 16_777_619) & 0xFFFFFFFF
        value ^= value >> 15
    return value
