"""The requests of clients: each one's name and fields, by message id and negotiated version.

Pure. A request is decoded to its name and a mapping of field names (the API's own) to the text that was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

CONTRACT: Final = (
    "conId symbol secType lastTradeDateOrContractMonth strike right multiplier exchange primaryExchange currency "
    "localSymbol tradingClass"
)
_BARE: Final = CONTRACT.replace(" primaryExchange", "")
_DEPTH_CONTRACT: Final = CONTRACT.replace("primaryExchange", "149:primaryExchange")

_LAYOUTS: Final[dict[int, tuple[str, str]]] = {
    1: ("reqMktData", f"version reqId {CONTRACT} *legs *dnc genericTickList snapshot regulatorySnapshot options"),
    2: ("cancelMktData", "version reqId"),
    3: ("placeOrder", "*order"),
    4: ("cancelOrder", "version orderId 169:manualCancelOrderTime"),
    5: ("reqOpenOrders", "version"),
    6: ("reqAccountUpdates", "version subscribe acctCode"),
    7: ("reqExecutions", "version reqId clientId acctCode time symbol secType exchange side"),
    8: ("reqIds", "version numIds"),
    9: ("reqContractDetails", f"version reqId {CONTRACT} includeExpired secIdType secId 176:issuerId"),
    10: ("reqMktDepth", f"version reqId {_DEPTH_CONTRACT} numRows 146:isSmartDepth options"),
    11: ("cancelMktDepth", "version reqId 146:isSmartDepth"),
    12: ("reqNewsBulletins", "version allMsgs"),
    13: ("cancelNewsBulletins", "version"),
    14: ("setServerLogLevel", "version logLevel"),
    15: ("reqAutoOpenOrders", "version autoBind"),
    16: ("reqAllOpenOrders", "version"),
    17: ("reqManagedAccts", "version"),
    18: ("requestFA", "version faDataType"),
    19: ("replaceFA", "version faDataType xml 157:reqId"),
    20: (
        "reqHistoricalData",
        f"reqId {CONTRACT} includeExpired endDateTime barSizeSetting durationStr useRTH whatToShow formatDate "
        "*legs keepUpToDate options",
    ),
    21: ("exerciseOptions", f"version reqId {_BARE} exerciseAction exerciseQuantity account override"),
    22: ("reqScannerSubscription", "*scanner"),
    23: ("cancelScannerSubscription", "version reqId"),
    24: ("reqScannerParameters", "version"),
    25: ("cancelHistoricalData", "version reqId"),
    49: ("reqCurrentTime", "version"),
    50: ("reqRealTimeBars", f"version reqId {CONTRACT} barSize whatToShow useRTH options"),
    51: ("cancelRealTimeBars", "version reqId"),
    52: (
        "reqFundamentalData",
        "version reqId conId symbol secType exchange primaryExchange currency localSymbol reportType ?count ?options",
    ),
    53: ("cancelFundamentalData", "version reqId"),
    54: ("calculateImpliedVolatility", f"version reqId {CONTRACT} optionPrice underPrice ?count ?options"),
    55: ("calculateOptionPrice", f"version reqId {CONTRACT} volatility underPrice ?count ?options"),
    56: ("cancelCalculateImpliedVolatility", "version reqId"),
    57: ("cancelCalculateOptionPrice", "version reqId"),
    58: ("reqGlobalCancel", "version"),
    59: ("reqMarketDataType", "version marketDataType"),
    61: ("reqPositions", "version"),
    62: ("reqAccountSummary", "version reqId groupName tags"),
    63: ("cancelAccountSummary", "version reqId"),
    64: ("cancelPositions", "version"),
    67: ("queryDisplayGroups", "version reqId"),
    68: ("subscribeToGroupEvents", "version reqId groupId"),
    69: ("updateDisplayGroup", "version reqId contractInfo"),
    70: ("unsubscribeFromGroupEvents", "version reqId"),
    71: ("startApi", "version clientId optCapab"),
    74: ("reqPositionsMulti", "version reqId account modelCode"),
    75: ("cancelPositionsMulti", "version reqId"),
    76: ("reqAccountUpdatesMulti", "version reqId account modelCode ledgerAndNLV"),
    77: ("cancelAccountUpdatesMulti", "version reqId"),
    78: ("reqSecDefOptParams", "reqId underlyingSymbol futFopExchange underlyingSecType underlyingConId"),
    79: ("reqSoftDollarTiers", "reqId"),
    80: ("reqFamilyCodes", ""),
    81: ("reqMatchingSymbols", "reqId pattern"),
    82: ("reqMktDepthExchanges", ""),
    83: ("reqSmartComponents", "reqId bboExchange"),
    84: ("reqNewsArticle", "reqId providerCode articleId options"),
    85: ("reqNewsProviders", ""),
    86: ("reqHistoricalNews", "reqId conId providerCodes startDateTime endDateTime totalResults options"),
    87: ("reqHeadTimeStamp", f"reqId {CONTRACT} includeExpired useRTH whatToShow formatDate"),
    88: ("reqHistogramData", f"reqId {CONTRACT} includeExpired useRTH timePeriod"),
    89: ("cancelHistogramData", "reqId"),
    90: ("cancelHeadTimeStamp", "reqId"),
    91: ("reqMarketRule", "marketRuleId"),
    92: ("reqPnL", "reqId account modelCode"),
    93: ("cancelPnL", "reqId"),
    94: ("reqPnLSingle", "reqId account modelCode conId"),
    95: ("cancelPnLSingle", "reqId"),
    96: (
        "reqHistoricalTicks",
        f"reqId {CONTRACT} includeExpired startDateTime endDateTime numberOfTicks whatToShow useRTH ignoreSize options",
    ),
    97: ("reqTickByTickData", f"reqId {CONTRACT} tickType 140:numberOfTicks 140:ignoreSize"),
    98: ("cancelTickByTickData", "reqId"),
    99: ("reqCompletedOrders", "apiOnly"),
    100: ("reqWshMetaData", "reqId"),
    101: ("cancelWshMetaData", "reqId"),
    102: (
        "reqWshEventData",
        "reqId conId 171:filter 171:fillWatchlist 171:fillPortfolio 171:fillCompetitors "
        "173:startDate 173:endDate 173:totalLimit",
    ),
    103: ("cancelWshEventData", "reqId"),
    104: ("reqUserInfo", "reqId"),
}

NUMBERS: Final = frozenset(
    (
        *("reqId", "orderId", "clientId", "conId", "underlyingConId", "parentId", "totalQuantity", "subscribe"),
        *("apiOnly", "marketDataType", "formatDate", "marketRuleId", "numberOfTicks", "faDataType"),
    )
)
"""Fields that must be numbers wherever they stand: what the answers count on."""

NAMES: Final[dict[int, str]] = {number: name for number, (name, _) in _LAYOUTS.items()}


class UnknownRequestError(Exception):
    """The message id is none of this gateway's."""


class UnreadableRequestError(Exception):
    """The message has too few fields, or text where a number belongs; `reqId` as far as it was read, else -1."""

    reqId = -1


@dataclass(frozen=True, slots=True)
class Request:
    """One decoded request. `name` is the API's method, `fields` its arguments as text."""

    name: str
    fields: Mapping[str, str]

    def number(self, field: str, default: int = 0) -> int:
        return int(float(self.fields.get(field) or default))

    @property
    def reqId(self) -> int:
        """The request's id; -1 where its kind has none."""
        return self.number("reqId", -1)


class Cursor:
    """Reads a message's fields in order into a mapping."""

    def __init__(self, fields: list[str], version: int) -> None:
        self._left: Iterator[str] = iter(fields)
        self.version = version
        self.values: dict[str, str] = {}

    def take(self, names: str) -> None:
        """Read one field for each of these names."""
        for name in names.split():
            self.values[name] = self.next()

    def take_rest(self, name: str) -> None:
        """Read one field if there is one: the clients differ in what they send at the end."""
        self.values[name] = next(self._left, "")

    def next(self) -> str:
        try:
            return next(self._left)
        except StopIteration:
            raise UnreadableRequestError("too few fields") from None

    def count(self) -> int:
        return int(self.next() or 0)

    def pairs(self, name: str) -> None:
        """A counted list of tags and values, kept as `tag=value;` text."""
        self.values[name] = "".join(f"{self.next()}={self.next()};" for _ in range(self.count()))


def decode(fields: list[str], version: int) -> Request:
    """The request that `fields` are. Raises UnknownRequestError or UnreadableRequestError."""
    try:
        name, layout = _LAYOUTS[int(fields[0])]
    except (KeyError, ValueError, IndexError):
        raise UnknownRequestError(fields[0] if fields else "") from None
    cursor = Cursor(fields[1:], version)
    try:
        for part in layout.split():
            since, _, field = part.rpartition(":")
            if field.startswith("*"):
                _SPECIAL[field](cursor)
            elif field.startswith("?"):
                cursor.take_rest(field[1:])
            elif not since or version >= int(since):
                cursor.take(field)
        request = Request(name, cursor.values)
        for field in NUMBERS.intersection(cursor.values):
            request.number(field)
    except (ValueError, OverflowError, UnreadableRequestError) as error:
        unreadable = UnreadableRequestError(str(error))
        req_id = cursor.values.get("reqId", "")
        unreadable.reqId = int(req_id) if req_id.isdecimal() else -1
        raise unreadable from None
    return request


def _legs(cursor: Cursor) -> None:
    if cursor.values["secType"] == "BAG":
        legs = [[cursor.next() for _ in range(4)] for _ in range(cursor.count())]
        cursor.values["comboLegs"] = ";".join(",".join(leg) for leg in legs)


def _delta_neutral(cursor: Cursor) -> None:
    if cursor.next() == "1":
        cursor.take("deltaNeutralContractConId deltaNeutralContractDelta deltaNeutralContractPrice")


def _scanner(cursor: Cursor) -> None:
    if cursor.version < 143:
        cursor.take("version")
    cursor.take("reqId numberOfRows instrument locationCode scanCode")


def _order(cursor: Cursor) -> None:
    version, values, take = cursor.version, cursor.values, cursor.take
    if version < 145:
        take("version")
    take(f"orderId {CONTRACT} secIdType secId")
    take("action totalQuantity orderType lmtPrice auxPrice tif ocaGroup account openClose origin orderRef transmit")
    take("parentId blockOrder sweepToFill displaySize triggerMethod outsideRth hidden")
    if values["secType"] == "BAG":
        legs = [[cursor.next() for _ in range(8)] for _ in range(cursor.count())]
        values["comboLegs"] = ";".join(",".join(leg) for leg in legs)
        values["orderComboLegs"] = ";".join(cursor.next() for _ in range(cursor.count()))
        cursor.pairs("smartComboRoutingParams")
    take("sharesAllocation discretionaryAmt goodAfterTime goodTillDate faGroup faMethod faPercentage")
    if version < 177:
        take("faProfile")
    take("modelCode shortSaleSlot designatedLocation exemptCode ocaType rule80A settlingFirm allOrNone minQty")
    take("percentOffset eTradeOnly firmQuoteOnly nbboPriceCap auctionStrategy startingPrice stockRefPrice delta")
    take("stockRangeLower stockRangeUpper overridePercentageConstraints volatility volatilityType")
    take("deltaNeutralOrderType deltaNeutralAuxPrice")
    if values["deltaNeutralOrderType"]:
        take("deltaNeutralConId deltaNeutralSettlingFirm deltaNeutralClearingAccount deltaNeutralClearingIntent")
        take("deltaNeutralOpenClose deltaNeutralShortSale deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation")
    take("continuousUpdate referencePriceType trailStopPrice trailingPercent")
    take("scaleInitLevelSize scaleSubsLevelSize scalePriceIncrement")
    if 0 < float(values["scalePriceIncrement"] or 0) < 1e300:
        take("scalePriceAdjustValue scalePriceAdjustInterval scaleProfitOffset scaleAutoReset scaleInitPosition")
        take("scaleInitFillQty scaleRandomPercent")
    take("scaleTable activeStartTime activeStopTime hedgeType")
    if values["hedgeType"]:
        take("hedgeParam")
    take("optOutSmartRouting clearingAccount clearingIntent notHeld")
    _delta_neutral(cursor)
    take("algoStrategy")
    if values["algoStrategy"]:
        cursor.pairs("algoParams")
    take("algoId whatIf orderMiscOptions solicited randomizeSize randomizePrice")
    if values["orderType"] in ("PEG BENCH", "PEGBENCH"):
        take("referenceContractId isPeggedChangeAmountDecrease peggedChangeAmount referenceChangeAmount")
        take("referenceExchangeId")
    _conditions(cursor)
    take("adjustedOrderType triggerPrice lmtPriceOffset adjustedStopPrice adjustedStopLimitPrice")
    take("adjustedTrailingAmount adjustableTrailingUnit extOperator softDollarTierName softDollarTierVal cashQty")
    for since, names in _LATE_ORDER_FIELDS:
        if version >= since:
            take(names)
    if version >= 170:
        _pegged(cursor)


_LATE_ORDER_FIELDS: Final = (
    (138, "mifid2DecisionMaker mifid2DecisionAlgo"),
    (139, "mifid2ExecutionTrader mifid2ExecutionAlgo"),
    (141, "dontUseAutoPriceForHedge"),
    (145, "isOmsContainer"),
    (148, "discretionaryUpToLimitPrice"),
    (151, "usePriceMgmtAlgo"),
    (158, "duration"),
    (160, "postToAts"),
    (162, "autoCancelParent"),
    (166, "advancedErrorOverride"),
    (169, "manualOrderTime"),
)

CONDITION_FIELDS: Final = {1: 6, 3: 3, 4: 3, 5: 4, 6: 5, 7: 5}
"""Fields of an order condition after its type, the conjunction included."""


def _conditions(cursor: Cursor) -> None:
    count = cursor.count()
    if count:
        found: list[list[str]] = []
        for _ in range(count):
            kind = cursor.count()
            if kind not in CONDITION_FIELDS:
                raise UnreadableRequestError(f"condition type {kind}")
            found.append([str(kind), *(cursor.next() for _ in range(CONDITION_FIELDS[kind]))])
        cursor.values["conditions"] = "\0".join("\0".join(condition) for condition in found)
        cursor.values["conditionCount"] = str(count)
        cursor.take("conditionsIgnoreRth conditionsCancelOrder")


def _pegged(cursor: Cursor) -> None:
    values = cursor.values
    if values["exchange"] == "IBKRATS":
        cursor.take("minTradeQty")
    middle = values["orderType"] in ("PEG MID", "PEGMID")
    if values["orderType"] in ("PEG BEST", "PEGBEST"):
        cursor.take("minCompeteSize competeAgainstBestOffset")
        middle = values["competeAgainstBestOffset"] == "Infinite"
    if middle:
        cursor.take("midOffsetAtWhole midOffsetAtHalf")


_SPECIAL: Final[dict[str, Callable[[Cursor], None]]] = {
    "*legs": _legs,
    "*dnc": _delta_neutral,
    "*order": _order,
    "*scanner": _scanner,
}
