"""Every row, request and answer that crosses a socket, as frozen structs; the names of topics and phases.

Fields are spelled as they cross, which for broker objects is ib_async's own spelling. `None` is `null`: not known.
Times are UTC. Never decides anything: reasons have their catalogue in `reasons.py`, folding its law in `replica.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from shared.transport.address import DEFAULT_SESSION

PROTOCOL = 1
"""The number both sides name in `hello`. It rises when a line's meaning changes, not when a field is added."""

Phase = Literal[
    "disabled", "held", "connecting", "syncing", "ready", "upstreamLost", "unproven", "waiting", "blocked", "stopping"
]
Upstream = Literal["ok", "lost", "unknown"]
MarketDataType = Literal["live", "frozen", "delayed", "delayedFrozen"]

STATE_TOPICS = (
    "link",
    "farms",
    "accounts",
    "summary",
    "pnl",
    "positions",
    "orders",
    "fills",
    "gaps",
    "notices",
    "sync",
)
"""The topics that always exist. Beside them `quotes:CONID` and `bars:CONID:SIZE` come and go with their readers."""

BROKER_TOPICS = ("accounts", "summary", "pnl", "positions", "orders", "fills")
"""The topics whose rows come from the gateway, each with a row in `sync`."""

UInt31 = Annotated[int, Meta(ge=0, le=2_147_483_647)]
"""Client ids are signed 32-bit and never negative."""

MAX_CON_ID = 2**63 - 1
"""conId and permId are signed 64-bit in today's gateways."""

ConId = Annotated[int, Meta(ge=1, le=MAX_CON_ID)]


class Message(Struct, frozen=True, kw_only=True):
    """A value that crosses a socket. Unknown fields are ignored, so that a newer peer may say more."""


# --- the link -------------------------------------------------------------------------------------------------------


class Proof(Message, frozen=True, kw_only=True):
    """The last complete message from the gateway. `ageMs`: its age when the row was made, `rttMs` of the last probe."""

    at: datetime | None = None
    ageMs: int | None = None
    rttMs: float | None = None


class Endpoint(Message, frozen=True, kw_only=True):
    host: str
    port: int


class GatewayFacts(Message, frozen=True, kw_only=True):
    """What is dialled and what answered. `product` is a guess from the port, `None` when the port says nothing."""

    host: str
    port: int
    clientId: int
    serverVersion: int | None = None
    product: Literal["TWS", "Gateway"] | None = None
    configured: Endpoint


class FarmState(Message, frozen=True, kw_only=True):
    state: Literal["ok", "broken", "inactive", "connecting"]
    type: Literal["market", "hmds", "secdef"]


class Expected(Message, frozen=True, kw_only=True):
    """The planned window around now, never a state. `nextAt`: when this one ends or the next begins."""

    active: bool = False
    kind: str | None = None
    nextAt: datetime | None = None


class LastError(Message, frozen=True, kw_only=True):
    """`code`: IBKR's or the system's number. `text` is theirs, with control characters removed."""

    code: int | None = None
    text: str = ""
    at: datetime


class Streams(Message, frozen=True, kw_only=True):
    wanted: int = 0
    live: int = 0


class Pacing(Message, frozen=True, kw_only=True):
    """Requests counted against IBKR's limit for small bars: `limit` in ten minutes."""

    used: int = 0
    limit: int = 60
    resetsAt: datetime | None = None


class DaemonFacts(Message, frozen=True, kw_only=True):
    pid: int
    version: str
    uptimeS: float


class Link(Message, frozen=True, kw_only=True):
    """The one row of topic `link`. `reason`, `sentence` and `advice` speak while the phase is not `ready`."""

    phase: Phase | None
    reason: str | None
    sentence: str
    advice: tuple[str, ...] = ()
    since: datetime | None = None
    epoch: str | None = None
    session: int = 0
    connected: bool = False
    stale: bool = False
    proof: Proof = Proof()
    gateway: GatewayFacts | None = None
    accounts: tuple[str, ...] = ()
    readOnly: bool = False
    upstream: Upstream = "unknown"
    farms: dict[str, FarmState] = {}
    attempts: int = 0
    nextAttemptAt: datetime | None = None
    expected: Expected = Expected()
    lastError: LastError | None = None
    streams: Streams = Streams()
    pacing: Pacing = Pacing()
    daemon: DaemonFacts | None = None


class Farm(Message, frozen=True, kw_only=True):
    farm: str
    type: Literal["market", "hmds", "secdef"]
    state: Literal["ok", "broken", "inactive", "connecting"]
    since: datetime


# --- what the account holds -----------------------------------------------------------------------------------------


class Account(Message, frozen=True, kw_only=True):
    account: str
    paper: bool


class AccountValue(Message, frozen=True, kw_only=True):
    """`value` is IBKR's own text, number or not; `None` where it is one of IBKR's unset values."""

    account: str
    tag: str
    value: str | None
    currency: str
    modelCode: str = ""


class PnL(Message, frozen=True, kw_only=True):
    """In the account's base currency."""

    account: str
    modelCode: str = ""
    dailyPnL: float | None = None
    unrealizedPnL: float | None = None
    realizedPnL: float | None = None


class PnLPoint(Message, frozen=True, kw_only=True):
    """One point of the day's series, in the account's base currency."""

    at: datetime
    dailyPnL: float | None
    unrealizedPnL: float | None
    realizedPnL: float | None


class Contract(Message, frozen=True, kw_only=True):
    """IBKR's description of an instrument."""

    conId: int = 0
    symbol: str = ""
    secType: str = ""
    lastTradeDateOrContractMonth: str = ""
    strike: float | None = None
    right: str = ""
    multiplier: str = ""
    exchange: str = ""
    currency: str = ""
    localSymbol: str = ""
    tradingClass: str = ""


class Position(Contract, frozen=True, kw_only=True):
    """`avgCost`, prices and values in the contract's currency; `position` in units, negative when short."""

    account: str
    position: float
    avgCost: float | None = None
    marketPrice: float | None = None
    marketValue: float | None = None
    unrealizedPNL: float | None = None
    realizedPNL: float | None = None
    modelCode: str = ""


class Order(Contract, frozen=True, kw_only=True):
    """An order and its state, as openOrder and orderStatus report it; never as an error code suggests.

    `orderId`, `clientId` and `placedBy` are unknown where IBKR reports an order only as completed.
    """

    permId: int
    orderId: int | None
    clientId: int | None
    placedBy: Literal["thisClient", "otherClient", "manual"] | None
    account: str
    action: str
    totalQuantity: float | None = None
    orderType: str = ""
    lmtPrice: float | None = None
    auxPrice: float | None = None
    tif: str = ""
    orderRef: str = ""
    parentId: int = 0
    status: str = ""
    filled: float | None = None
    remaining: float | None = None
    avgFillPrice: float | None = None
    lastFillPrice: float | None = None
    whyHeld: str = ""
    done: bool = False
    trailingPercent: float | None = None
    trailStopPrice: float | None = None
    cashQty: float | None = None


class Fill(Contract, frozen=True, kw_only=True):
    """One execution. `recovered`: first learnt by asking, not as it happened; it never changes."""

    execId: str
    time: datetime
    account: str
    side: str
    shares: float
    price: float
    permId: int | None
    orderId: int | None
    clientId: int | None
    cumQty: float | None = None
    avgPrice: float | None = None
    orderRef: str = ""
    commission: float | None = None
    commissionCurrency: str = ""
    realizedPNL: float | None = None
    recovered: bool = False


class Recovered(Message, frozen=True, kw_only=True):
    """`fills`: the first of them by time, `fillCount` all of them; the others are in `/executions?since=`."""

    fills: tuple[str, ...] = ()
    fillCount: int = 0
    streams: int = 0


class Gap(Message, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A time when a link that was ready was not. Sent when it has ended."""

    cause: str
    from_: datetime
    to: datetime
    expected: bool = False
    recovered: Recovered = Recovered()
    unrecovered: tuple[str, ...] = ()


class Notice(Message, frozen=True, kw_only=True):
    """IBKR's own text. `conId` where the request's contract is known."""

    at: datetime
    code: int
    text: str
    reqId: int = -1
    conId: int | None = None


class Sync(Message, frozen=True, kw_only=True):
    """Whether a topic's snapshot was ever complete, since when, and whether it may be old."""

    known: bool
    asOf: datetime | None = None
    stale: bool = False


# --- the market -----------------------------------------------------------------------------------------------------


class Quote(Message, frozen=True, kw_only=True):
    """Top of book and the day's figures, in the contract's currency. `ibCode`: why nothing comes, in IBKR's numbers."""

    conId: int
    marketDataType: MarketDataType | None = None
    bid: float | None = None
    bidSize: float | None = None
    ask: float | None = None
    askSize: float | None = None
    last: float | None = None
    lastSize: float | None = None
    volume: float | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    asOf: datetime | None = None
    priceAsOf: datetime | None = None
    ibCode: int | None = None


class Bar(Message, frozen=True, kw_only=True):
    """`date`: RFC 3339 UTC, or `YYYY-MM-DD` of a daily bar or longer."""

    date: str
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None = None
    average: float | None = None
    barCount: int | None = None


# --- contracts ------------------------------------------------------------------------------------------------------


class ContractMatch(Message, frozen=True, kw_only=True):
    """What IBKR's symbol search finds: an underlying, and which derivatives of it exist; or an issuer of bonds, which
    has no `conId` but an `issuerId`."""

    conId: int | None
    symbol: str = ""
    secType: str = ""
    primaryExchange: str = ""
    currency: str = ""
    description: str = ""
    derivativeSecTypes: tuple[str, ...] = ()
    issuerId: str = ""


class ContractDetails(Contract, frozen=True, kw_only=True):
    """All that IBKR says of one contract. `tradingHours`, `liquidHours`: IBKR's own text, in `timeZoneId`."""

    primaryExchange: str = ""
    longName: str = ""
    marketName: str = ""
    stockType: str = ""
    minTick: float | None = None
    priceMagnifier: int | None = None
    minSize: float | None = None
    sizeIncrement: float | None = None
    orderTypes: str = ""
    validExchanges: str = ""
    underConId: int | None = None
    underSymbol: str = ""
    underSecType: str = ""
    contractMonth: str = ""
    realExpirationDate: str = ""
    lastTradeTime: str = ""
    industry: str = ""
    category: str = ""
    subcategory: str = ""
    timeZoneId: str = ""
    tradingHours: str = ""
    liquidHours: str = ""
    cusip: str = ""


class OptionChain(Message, frozen=True, kw_only=True):
    """Which options of an underlying exist on one exchange. `expirations` are `YYYYMMDD`, both lists ascending."""

    exchange: str
    underlyingConId: int
    tradingClass: str = ""
    multiplier: str = ""
    expirations: tuple[str, ...] = ()
    strikes: tuple[float, ...] = ()


# --- queries ----------------------------------------------------------------------------------------------------------


class ConnectParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /connect` and params of `link.connect`. What is absent is taken from the settings."""

    host: Annotated[str, Meta(min_length=1, max_length=253)] | UnsetType = UNSET
    port: Annotated[int, Meta(ge=1024, le=65535)] | UnsetType = UNSET
    clientId: UInt31 | UnsetType = UNSET
    account: Annotated[str, Meta(max_length=32)] | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, le=3600)] | UnsetType = UNSET


class ContractQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /contracts/qualify`: what is known of a contract, in ib_async's names. Empty means any."""

    conId: Annotated[int, Meta(ge=0, le=MAX_CON_ID)] = 0
    symbol: Annotated[str, Meta(max_length=64)] = ""
    secType: Annotated[str, Meta(max_length=16)] = ""
    lastTradeDateOrContractMonth: Annotated[str, Meta(max_length=16)] = ""
    strike: Annotated[float, Meta(ge=0)] = 0.0
    right: Annotated[str, Meta(max_length=4)] = ""
    multiplier: Annotated[str, Meta(max_length=16)] = ""
    exchange: Annotated[str, Meta(max_length=32)] = ""
    primaryExchange: Annotated[str, Meta(max_length=32)] = ""
    currency: Annotated[str, Meta(max_length=8)] = ""
    localSymbol: Annotated[str, Meta(max_length=64)] = ""
    tradingClass: Annotated[str, Meta(max_length=32)] = ""
    includeExpired: bool = False
    secIdType: Annotated[str, Meta(max_length=16)] = ""
    secId: Annotated[str, Meta(max_length=64)] = ""


class BarsParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of `GET /bars` and params of `bars.fetch`, in ib_async's names.

    What each may say is decided in `daemon/market/history.py`.
    `whatToShow` empty: TRADES, or MIDPOINT where nothing trades on an exchange. `endDateTime` empty: now.
    """

    conId: ConId
    durationStr: str = "1 D"
    barSizeSetting: str = "1 min"
    whatToShow: str = ""
    useRTH: bool = True
    endDateTime: str = ""


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """`{}`: what `disconnect` and `reconnect` take."""


class Hello(Struct, frozen=True, kw_only=True):
    protocol: int
    client: str


class Welcome(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`session`: the name of the daemon's session; left out for the default one."""

    protocol: int
    daemon: str
    epoch: str
    session: str = DEFAULT_SESSION


class WatchParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    topics: Annotated[tuple[str, ...], Meta(max_length=1024)]
    epoch: str | None = None
    since: int | None = None


class LinkEvent(Message, frozen=True, kw_only=True):
    """One change of phase, or the outcome of `IBKR_REMEDY` in `remedy`. `durationS` is `None` while it lasts."""

    at: datetime
    phase: Phase
    reason: str | None = None
    expected: bool = False
    epoch: str = ""
    session: int = 0
    durationS: float | None = None
    remedy: str | None = None


class Uptime(Message, frozen=True, kw_only=True):
    """Seconds ready, not ready, not ready inside a planned window, and recorded since the first `ready`.

    `ratio` = up / (up + down), `None` if both are 0.
    """

    ratio: float | None
    upS: float
    downS: float
    plannedS: float
    knownS: float


class LinkHistory(Message, frozen=True, kw_only=True):
    events: tuple[LinkEvent, ...]
    uptime: dict[str, Uptime]
