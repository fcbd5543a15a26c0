"""What a contract is in the simulated world, and the well-known ones that are always there.

No prices, accounts or sockets. Names are the wire's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

NEW_YORK: Final = "US/Eastern"
CHICAGO: Final = "US/Central"
FRANKFURT: Final = "MET"
LONDON: Final = "GB-Eire"

STOCK_VENUES: Final = "SMART,AMEX,NYSE,CBOE,PHLX,ISE,CHX,ARCA,ISLAND,DRCTEDGE,BEX,BATS,EDGEA,BYX,IEX,EDGX,NASDAQ"


@dataclass(frozen=True, slots=True)
class Bond:
    """What `bondContractDetails` has beyond the contract; dates as YYYYMMDD, the coupon in percent."""

    cusip: str
    coupon: float
    maturity: str
    issued: str
    issuer: str


@dataclass(frozen=True, slots=True)
class Contract:
    """One instrument, with what `contractDetails` has about it. `price` is what it is worth around, in its currency."""

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
    expired: bool = False
    bond: Bond | None = None

    @property
    def size(self) -> float:
        """Units of the underlying in one contract: the multiplier, 1 where there is none."""
        return float(self.multiplier) if self.multiplier else 1.0


def stock(
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
        stock(con_id, symbol, venue, price, name),
        currency=currency,
        tradingClass="XETRA" if venue == "IBIS" else symbol,
        timeZoneId=zone,
        validExchanges=f"SMART,{venue},GETTEX2,TGATE",
        derivativeSecTypes=("CFD",),
    )


STOCKS: Final[tuple[Contract, ...]] = (
    stock(265598, "AAPL", "NASDAQ", 228.0, "APPLE INC"),
    stock(272093, "MSFT", "NASDAQ", 418.0, "MICROSOFT CORP"),
    stock(4815747, "NVDA", "NASDAQ", 141.0, "NVIDIA CORP"),
    stock(3691937, "AMZN", "NASDAQ", 202.0, "AMAZON.COM INC", "Communications"),
    stock(208813719, "GOOGL", "NASDAQ", 176.0, "ALPHABET INC-CL A", "Communications"),
    stock(107113386, "META", "NASDAQ", 561.0, "META PLATFORMS INC-CLASS A", "Communications"),
    stock(76792991, "TSLA", "NASDAQ", 339.0, "TESLA INC", "Consumer, Cyclical"),
    stock(8314, "IBM", "NYSE", 212.0, "INTL BUSINESS MACHINES CORP"),
    stock(4721, "AMD", "NASDAQ", 137.0, "ADVANCED MICRO DEVICES"),
    stock(270639, "INTC", "NASDAQ", 24.4, "INTEL CORP"),
    stock(13977, "XOM", "NYSE", 120.0, "EXXON MOBIL CORP", "Energy"),
    stock(1520593, "JPM", "NYSE", 245.0, "JPMORGAN CHASE & CO", "Financial"),
    stock(72063691, "BRK B", "NYSE", 476.0, "BERKSHIRE HATHAWAY INC-CL B", "Financial"),
    stock(49462172, "V", "NYSE", 311.0, "VISA INC-CLASS A SHARES", "Financial"),
    stock(8719, "JNJ", "NYSE", 153.0, "JOHNSON & JOHNSON", "Consumer, Non-cyclical"),
    stock(11017, "PG", "NYSE", 171.0, "PROCTER & GAMBLE CO/THE", "Consumer, Non-cyclical"),
    stock(8894, "KO", "NYSE", 63.0, "COCA-COLA CO/THE", "Consumer, Non-cyclical"),
    stock(6459, "DIS", "NYSE", 113.0, "WALT DISNEY CO/THE", "Communications"),
    stock(10190, "MCD", "NYSE", 291.0, "MCDONALD'S CORP", "Consumer, Cyclical"),
    stock(5437, "CAT", "NYSE", 382.0, "CATERPILLAR INC", "Industrial"),
    stock(756733, "SPY", "ARCA", 592.0, "SS SPDR S&P 500 ETF TRUST-US", "Funds", "ETF"),
    stock(320227571, "QQQ", "NASDAQ", 503.0, "INVESCO QQQ TRUST SERIES 1", "Funds", "ETF"),
    stock(9579970, "IWM", "ARCA", 229.0, "ISHARES RUSSELL 2000 ETF", "Funds", "ETF"),
    stock(15547841, "TLT", "NASDAQ", 90.3, "ISHARES 20+ YEAR TREASURY BD", "Funds", "ETF"),
    stock(51529211, "GLD", "ARCA", 243.0, "SPDR GOLD SHARES", "Funds", "ETF"),
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


CASH: Final[tuple[Contract, ...]] = (
    _pair(12087792, "EUR", "USD", 1.0541, 0.00005, "European Monetary Union Euro"),
    _pair(12087797, "GBP", "USD", 1.2673, 0.00005, "British pound"),
    _pair(15016059, "USD", "JPY", 154.72, 0.005, "United States dollar"),
    _pair(12087820, "USD", "CHF", 0.8871, 0.00005, "United States dollar"),
)

INDEXES: Final[tuple[Contract, ...]] = (
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

CFDS: Final[tuple[Contract, ...]] = tuple(
    replace(
        share,
        conId=120_500_000 + share.conId % 100_000,
        secType="CFD",
        exchange="SMART",
        primaryExchange="",
        localSymbol=f"{share.symbol}n",
        tradingClass=f"{share.symbol}n",
        validExchanges="SMART",
        underConId=share.conId,
        derivativeSecTypes=(),
    )
    for share in STOCKS
    if share.symbol in ("AAPL", "IBM") and share.currency == "USD" and share.primaryExchange != "LSE"
)
"""CFDs on shares; their market data is the share's."""

CRYPTO: Final[tuple[Contract, ...]] = tuple(
    Contract(
        conId=con_id,
        symbol=symbol,
        secType="CRYPTO",
        exchange="PAXOS",
        localSymbol=f"{symbol}.USD",
        tradingClass=symbol,
        longName=name,
        minTick=tick,
        validExchanges="PAXOS,ZEROHASH",
        price=price,
    )
    for con_id, symbol, name, tick, price in (
        (479_624_278, "BTC", "Bitcoin", 0.25, 67_250.0),
        (495_759_171, "ETH", "Ethereum", 0.01, 3_120.0),
    )
)

BONDS: Final[tuple[Contract, ...]] = (
    Contract(
        conId=365_207_014,
        symbol="IBM",
        secType="BOND",
        localSymbol="IBM 3.875 05/15/29",
        tradingClass="IBM",
        longName="INTL BUSINESS MACHINES CORP",
        minTick=0.001,
        validExchanges="SMART,BOND,TMC,TWEB",
        price=97.4,
        bond=Bond("459200KA8", 3.875, "20290515", "20190515", "e1428257"),
    ),
)
