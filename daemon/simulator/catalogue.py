"""Every contract of one world: those that are always there, those that expire, those that were invented to fill up
large portfolios; and the rules by which a request's description finds them.

Pure: the day is an argument. Knows nothing of prices, accounts or sockets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Final

from daemon.simulator.contracts import BONDS, CASH, CFDS, CHICAGO, CRYPTO, INDEXES, STOCKS, Contract, stock

SYNTHETIC_CON_ID: Final = 900_000_000
"""First conId of the invented stocks that fill up large portfolios; far above those used by real ones here."""


def _third_friday(year: int, month: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(4 - first.weekday()) % 7 + 14)


def _quarters(today: date, count: int) -> Iterator[date]:
    year, month = today.year, (today.month + 2) // 3 * 3
    while count:
        expiry = _third_friday(year, month)
        if expiry >= today:
            yield expiry
            count -= 1
        year, month = (year, month + 3) if month < 12 else (year + 1, 3)


def _third_friday_before(today: date) -> date:
    """The last expiry of the quarters that is over."""
    year, month = today.year, (today.month + 2) // 3 * 3
    while _third_friday(year, month) >= today:
        year, month = (year, month - 3) if month > 3 else (year - 1, 12)
    return _third_friday(year, month)


def _months(today: date, count: int) -> Iterator[date]:
    year, month = today.year, today.month
    while count:
        expiry = _third_friday(year, month)
        if expiry >= today:
            yield expiry
            count -= 1
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


_MONTH_CODES: Final = "FGHJKMNQUVXZ"


def _futures(today: date) -> Iterator[Contract]:
    for symbol, con_id, price, multiplier, name in (
        ("ES", 637_533_641, 5938.0, "50", "E-mini S&P 500"),
        ("NQ", 637_533_450, 20_750.0, "20", "E-mini NASDAQ 100"),
    ):
        for n, expiry in enumerate([_third_friday_before(today), *_quarters(today, 4)], start=-1):
            yield Contract(
                conId=con_id + n,
                symbol=symbol,
                secType="FUT",
                lastTradeDateOrContractMonth=f"{expiry:%Y%m%d}",
                multiplier=multiplier,
                exchange="CME",
                primaryExchange="",
                localSymbol=f"{symbol}{_MONTH_CODES[expiry.month - 1]}{expiry.year % 10}",
                tradingClass=symbol,
                longName=name,
                minTick=0.25,
                industry="Indices",
                timeZoneId=CHICAGO,
                validExchanges="CME",
                underConId=11_004_968 + (symbol == "NQ"),
                price=price * (1 + 0.008 * n),
                expired=n < 0,
            )


@dataclass(frozen=True, slots=True)
class Chain:
    """The options of one underlying: every expiration with every strike, both rights."""

    underlying: Contract
    expirations: tuple[str, ...]
    strikes: tuple[float, ...]
    multiplier: str = "100"
    first: int = 0

    def contracts(self) -> Iterator[Contract]:
        """Every option of the chain; conIds run upwards from `first`."""
        under = self.underlying
        con_id = self.first
        for expiration in self.expirations:
            for strike in self.strikes:
                for right in "CP":
                    yield Contract(
                        conId=con_id,
                        symbol=under.symbol,
                        secType="OPT",
                        lastTradeDateOrContractMonth=expiration,
                        strike=strike,
                        right=right,
                        multiplier=self.multiplier,
                        exchange="SMART",
                        localSymbol=f"{under.symbol:<6}{expiration[2:]}{right}{round(strike * 1000):08d}",
                        tradingClass=under.symbol,
                        longName=under.longName,
                        validExchanges="SMART,AMEX,CBOE,PHLX,ISE,BOX,NASDAQOM",
                        underConId=under.conId,
                        price=under.price,
                    )
                    con_id += 1


def _chain(underlying: Contract, today: date, first: int) -> Chain:
    step = 5.0 if underlying.price > 100 else 1.0
    middle = round(underlying.price / step) * step
    return Chain(
        underlying=underlying,
        expirations=tuple(f"{day:%Y%m%d}" for day in _months(today, 6)),
        strikes=tuple(middle + step * n for n in range(-10, 11) if middle + step * n > 0),
        first=first,
    )


def _invented(number: int, seed: int) -> Contract:
    rng = random.Random(f"{seed}/{number}")
    letters = ""
    rest = number
    for _ in range(4):
        rest, letter = divmod(rest, 26)
        letters = chr(65 + letter) + letters
    symbol = f"Z{letters}"
    return replace(
        stock(SYNTHETIC_CON_ID + number, symbol, rng.choice(("NYSE", "NASDAQ", "ARCA")), 0.0, f"SIMULATED {symbol}"),
        price=round(rng.uniform(5, 400), 2),
        derivativeSecTypes=(),
    )


class Catalogue:
    """Every contract of one world, and the look-ups the gateway offers. Same seed and day, same catalogue."""

    def __init__(self, seed: int, today: date, invented: int = 0) -> None:
        self._seed = seed
        self.chains: dict[int, Chain] = {
            listed.conId: _chain(listed, today, 700_000_000 + 10_000 * n)
            for n, listed in enumerate(STOCKS)
            if listed.symbol in ("AAPL", "SPY", "IBM") and listed.currency == "USD" and listed.primaryExchange != "LSE"
        }
        everything = [*STOCKS, *CASH, *INDEXES, *CFDS, *CRYPTO, *BONDS, *_futures(today)]
        for chain in self.chains.values():
            everything.extend(chain.contracts())
        everything.extend(_invented(number, seed) for number in range(invented))
        self.by_con_id: dict[int, Contract] = {contract.conId: contract for contract in everything}

    @cached_property
    def _by_symbol(self) -> dict[str, list[Contract]]:
        found: dict[str, list[Contract]] = {}
        for contract in self.by_con_id.values():
            found.setdefault(contract.symbol, []).append(contract)
        return found

    @cached_property
    def _by_local_symbol(self) -> dict[str, list[Contract]]:
        found: dict[str, list[Contract]] = {}
        for contract in self.by_con_id.values():
            found.setdefault(contract.localSymbol, []).append(contract)
        return found

    def portfolio(self, count: int) -> list[Contract]:
        """`count` contracts to hold: the well-known stocks first, invented ones after them."""
        stocks = [c for c in self.by_con_id.values() if c.secType == "STK" and c.currency == "USD"]
        return [c for c in stocks if c.primaryExchange != "LSE"][:count]

    def named(self, name: str | int) -> Contract:
        """The contract of a conId or of a symbol (the first listed under it). KeyError: there is none."""
        if isinstance(name, int) or name.isdigit():
            return self.by_con_id[int(name)]
        return self._by_symbol[name][0]

    def find(self, wanted: Mapping[str, str]) -> list[Contract]:
        """Every contract that fits the description of a request; an empty field fits everything."""
        con_id = int(wanted.get("conId") or 0)
        expired = wanted.get("includeExpired") == "1"
        if con_id:
            contract = self.by_con_id.get(con_id)
            fits = contract is not None and _on(contract, wanted.get("exchange", ""))
            return [contract] if contract is not None and fits and (expired or not contract.expired) else []
        if wanted.get("symbol"):
            candidates = self._by_symbol.get(wanted["symbol"], [])
        else:
            candidates = self._by_local_symbol.get(wanted.get("localSymbol", ""), [])
        return [contract for contract in candidates if (expired or not contract.expired) and _fits(contract, wanted)]

    def search(self, pattern: str) -> list[Contract]:
        """At most 16 stocks, indexes and currency pairs whose symbol starts with, or whose name contains, `pattern`."""
        wanted = pattern.upper().strip()
        if not wanted:
            return []
        listed = [c for c in self.by_con_id.values() if c.secType in ("STK", "IND", "CASH")]
        exact = [c for c in listed if c.symbol == wanted]
        begins = [c for c in listed if c.symbol.startswith(wanted) and c.symbol != wanted]
        names = [c for c in listed if wanted in c.longName.upper() and not c.symbol.startswith(wanted)]
        return [*exact, *begins, *names][:16]

    def issuers(self, pattern: str) -> list[Contract]:
        """A bond of each issuer whose name or symbol begins with `pattern`."""
        wanted = pattern.upper().strip()
        return [bond for bond in BONDS if wanted and bond.symbol.startswith(wanted)]


def _on(contract: Contract, exchange: str) -> bool:
    return not exchange or exchange in contract.validExchanges.split(",") or exchange == contract.primaryExchange


def _fits(contract: Contract, wanted: Mapping[str, str]) -> bool:
    right = wanted.get("right", "")[:1]
    strike = wanted.get("strike") or "0"
    return (
        wanted.get("secType", "") in ("", contract.secType)
        and wanted.get("currency", "") in ("", contract.currency)
        and wanted.get("localSymbol", "") in ("", contract.localSymbol)
        and wanted.get("tradingClass", "") in ("", contract.tradingClass)
        and wanted.get("multiplier", "") in ("", contract.multiplier)
        and wanted.get("primaryExchange", "") in ("", contract.primaryExchange, "SMART")
        and contract.lastTradeDateOrContractMonth.startswith(wanted.get("lastTradeDateOrContractMonth", ""))
        and (right in ("", "0", "?") or right == contract.right)
        and (float(strike) == 0.0 or float(strike) == contract.strike)
        and _on(contract, wanted.get("exchange", ""))
    )
