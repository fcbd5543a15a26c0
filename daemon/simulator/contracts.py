"""The contracts of the simulated world and the rules by which a request's description finds them.

Knows nothing of prices, accounts or sockets. Names are the wire's own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Final

NEW_YORK: Final = "US/Eastern"
CHICAGO: Final = "US/Central"
FRANKFURT: Final = "MET"
LONDON: Final = "GB-Eire"

SYNTHETIC_CON_ID: Final = 900_000_000
"""First conId of the invented stocks that fill up large portfolios; far above those used by real ones here."""

STOCK_VENUES: Final = "SMART,AMEX,NYSE,CBOE,PHLX,ISE,CHX,ARCA,ISLAND,DRCTEDGE,BEX,BATS,EDGEA,BYX,IEX,EDGX,NASDAQ"


@dataclass(frozen=True, slots=True)
class Contract:
    """One instrument, with what `contractDetails` says of it. `price` is what it is worth around, in its currency."""

    conId: int
    symbol: str
    secType: str = "STK"
    lastTradeDateOrContractMonth: str = ""
    strike: float = 0.0
    right: str = ""
    multiplier: str = ""
    exchange: str = "SMART"
    primaryExchange: str = ""
    currency: str = "USD"
    localSymbol: str = ""
    tradingClass: str = ""
    longName: str = ""
    minTick: float = 0.01
    industry: str = ""
    category: str = ""
    subcategory: str = ""
    timeZoneId: str = NEW_YORK
    stockType: str = ""
    validExchanges: str = STOCK_VENUES
    underConId: int = 0
    derivativeSecTypes: tuple[str, ...] = ()
    price: float = 100.0

    @property
    def size(self) -> float:
        """Units of the underlying in one contract: the multiplier, 1 where there is none."""
        return float(self.multiplier) if self.multiplier else 1.0


def _stock(
    con_id: int, symbol: str, venue: str, price: float, name: str, industry: str = "Technology", kind: str = "COMMON"
) -> Contract:
    return Contract(
        conId=con_id,
        symbol=symbol,
        primaryExchange=venue,
        localSymbol=symbol,
        tradingClass="NMS" if venue == "NASDAQ" else symbol,
        longName=name,
        industry=industry,
        category=industry,
        subcategory=industry,
        stockType=kind,
        derivativeSecTypes=("CFD", "OPT", "IOPT", "WAR", "BAG"),
        price=price,
    )


def _listed_abroad(con_id: int, symbol: str, venue: str, currency: str, price: float, name: str, zone: str) -> Contract:
    return replace(
        _stock(con_id, symbol, venue, price, name),
        currency=currency,
        tradingClass="XETRA" if venue == "IBIS" else symbol,
        timeZoneId=zone,
        validExchanges=f"SMART,{venue},GETTEX2,TGATE",
        derivativeSecTypes=("CFD",),
    )


_STOCKS: Final[tuple[Contract, ...]] = (
    _stock(265598, "AAPL", "NASDAQ", 228.0, "APPLE INC"),
    _stock(272093, "MSFT", "NASDAQ", 418.0, "MICROSOFT CORP"),
    _stock(4815747, "NVDA", "NASDAQ", 141.0, "NVIDIA CORP"),
    _stock(3691937, "AMZN", "NASDAQ", 202.0, "AMAZON.COM INC", "Communications"),
    _stock(208813719, "GOOGL", "NASDAQ", 176.0, "ALPHABET INC-CL A", "Communications"),
    _stock(107113386, "META", "NASDAQ", 561.0, "META PLATFORMS INC-CLASS A", "Communications"),
    _stock(76792991, "TSLA", "NASDAQ", 339.0, "TESLA INC", "Consumer, Cyclical"),
    _stock(8314, "IBM", "NYSE", 212.0, "INTL BUSINESS MACHINES CORP"),
    _stock(4721, "AMD", "NASDAQ", 137.0, "ADVANCED MICRO DEVICES"),
    _stock(270639, "INTC", "NASDAQ", 24.4, "INTEL CORP"),
    _stock(13977, "XOM", "NYSE", 120.0, "EXXON MOBIL CORP", "Energy"),
    _stock(1520593, "JPM", "NYSE", 245.0, "JPMORGAN CHASE & CO", "Financial"),
    _stock(72063691, "BRK B", "NYSE", 476.0, "BERKSHIRE HATHAWAY INC-CL B", "Financial"),
    _stock(49462172, "V", "NYSE", 311.0, "VISA INC-CLASS A SHARES", "Financial"),
    _stock(8719, "JNJ", "NYSE", 153.0, "JOHNSON & JOHNSON", "Consumer, Non-cyclical"),
    _stock(11017, "PG", "NYSE", 171.0, "PROCTER & GAMBLE CO/THE", "Consumer, Non-cyclical"),
    _stock(8894, "KO", "NYSE", 63.0, "COCA-COLA CO/THE", "Consumer, Non-cyclical"),
    _stock(6459, "DIS", "NYSE", 113.0, "WALT DISNEY CO/THE", "Communications"),
    _stock(10190, "MCD", "NYSE", 291.0, "MCDONALD'S CORP", "Consumer, Cyclical"),
    _stock(5437, "CAT", "NYSE", 382.0, "CATERPILLAR INC", "Industrial"),
    _stock(756733, "SPY", "ARCA", 592.0, "SS SPDR S&P 500 ETF TRUST-US", "Funds", "ETF"),
    _stock(320227571, "QQQ", "NASDAQ", 503.0, "INVESCO QQQ TRUST SERIES 1", "Funds", "ETF"),
    _stock(9579970, "IWM", "ARCA", 229.0, "ISHARES RUSSELL 2000 ETF", "Funds", "ETF"),
    _stock(15547841, "TLT", "NASDAQ", 90.3, "ISHARES 20+ YEAR TREASURY BD", "Funds", "ETF"),
    _stock(51529211, "GLD", "ARCA", 243.0, "SPDR GOLD SHARES", "Funds", "ETF"),
    _listed_abroad(14204, "SAP", "IBIS", "EUR", 221.0, "SAP SE", FRANKFURT),
    _listed_abroad(41645598, "IBM", "IBIS", "EUR", 201.0, "INTL BUSINESS MACHINES CORP", FRANKFURT),
    _listed_abroad(38709539, "IBM", "LSE", "USD", 211.0, "INTL BUSINESS MACHINES CORP", LONDON),
    _listed_abroad(38708077, "VOD", "LSE", "GBP", 0.71, "VODAFONE GROUP PLC", LONDON),
)


def _pair(con_id: int, base: str, quote: str, price: float, tick: float, name: str) -> Contract:
    return Contract(
        conId=con_id,
        symbol=base,
        secType="CASH",
        exchange="IDEALPRO",
        primaryExchange="",
        currency=quote,
        localSymbol=f"{base}.{quote}",
        tradingClass=f"{base}.{quote}",
        longName=name,
        minTick=tick,
        validExchanges="IDEALPRO",
        price=price,
    )


_CASH: Final[tuple[Contract, ...]] = (
    _pair(12087792, "EUR", "USD", 1.0541, 0.00005, "European Monetary Union Euro"),
    _pair(12087797, "GBP", "USD", 1.2673, 0.00005, "British pound"),
    _pair(15016059, "USD", "JPY", 154.72, 0.005, "United States dollar"),
    _pair(12087820, "USD", "CHF", 0.8871, 0.00005, "United States dollar"),
)

_INDEXES: Final[tuple[Contract, ...]] = (
    Contract(
        conId=416904,
        symbol="SPX",
        secType="IND",
        exchange="CBOE",
        localSymbol="SPX",
        longName="S&P 500 Stock Index",
        validExchanges="CBOE",
        timeZoneId=CHICAGO,
        derivativeSecTypes=("OPT",),
        price=5917.0,
    ),
    Contract(
        conId=13455763,
        symbol="VIX",
        secType="IND",
        exchange="CBOE",
        localSymbol="VIX",
        longName="CBOE Volatility Index",
        validExchanges="CBOE",
        timeZoneId=CHICAGO,
        derivativeSecTypes=("OPT", "FUT"),
        price=16.1,
    ),
)


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
        for n, expiry in enumerate(_quarters(today, 4)):
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
        _stock(SYNTHETIC_CON_ID + number, symbol, rng.choice(("NYSE", "NASDAQ", "ARCA")), 0.0, f"SIMULATED {symbol}"),
        price=round(rng.uniform(5, 400), 2),
        derivativeSecTypes=(),
    )


class Catalogue:
    """Every contract of one world, and the look-ups the gateway offers. Same seed and day, same catalogue."""

    def __init__(self, seed: int, today: date, invented: int = 0) -> None:
        self._seed = seed
        self.chains: dict[int, Chain] = {
            stock.conId: _chain(stock, today, 700_000_000 + 10_000 * n)
            for n, stock in enumerate(_STOCKS)
            if stock.symbol in ("AAPL", "SPY", "IBM") and stock.currency == "USD" and stock.primaryExchange != "LSE"
        }
        everything = [*_STOCKS, *_CASH, *_INDEXES, *_futures(today)]
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
        if con_id:
            contract = self.by_con_id.get(con_id)
            return [contract] if contract is not None and _on(contract, wanted.get("exchange", "")) else []
        if wanted.get("symbol"):
            candidates = self._by_symbol.get(wanted["symbol"], [])
        else:
            candidates = self._by_local_symbol.get(wanted.get("localSymbol", ""), [])
        return [contract for contract in candidates if _fits(contract, wanted)]

    def search(self, pattern: str) -> list[Contract]:
        """At most 16 stocks, indexes and futures whose symbol starts with, or whose name contains, `pattern`."""
        wanted = pattern.upper().strip()
        if not wanted:
            return []
        listed = [c for c in self.by_con_id.values() if c.secType in ("STK", "IND", "CASH")]
        exact = [c for c in listed if c.symbol == wanted]
        begins = [c for c in listed if c.symbol.startswith(wanted) and c.symbol != wanted]
        names = [c for c in listed if wanted in c.longName.upper() and not c.symbol.startswith(wanted)]
        return [*exact, *begins, *names][:16]


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
