"""`openOrder` and `completedOrder`: the two messages with every attribute of an order, by server version.

Pure. What the client sent comes back as it was sent; what it did not send has TWS's own default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daemon.simulator.orders import Order
from daemon.simulator.wire import UNSET_DOUBLE, UNSET_INTEGER, frame

DEFAULTS: Final[Mapping[str, str]] = {
    "openClose": "",
    "origin": "0",
    "outsideRth": "0",
    "hidden": "0",
    "discretionaryAmt": "0",
    "shortSaleSlot": "0",
    "exemptCode": "-1",
    "auctionStrategy": "0",
    "displaySize": UNSET_INTEGER,
    "blockOrder": "0",
    "sweepToFill": "0",
    "allOrNone": "0",
    "ocaType": "3",
    "eTradeOnly": "0",
    "firmQuoteOnly": "0",
    "triggerMethod": "0",
    "volatilityType": "0",
    "continuousUpdate": "0",
    "referencePriceType": "0",
    "scaleInitLevelSize": UNSET_INTEGER,
    "scaleSubsLevelSize": UNSET_INTEGER,
    "optOutSmartRouting": "0",
    "clearingIntent": "IB",
    "notHeld": "0",
    "solicited": "0",
    "whatIf": "0",
    "randomizeSize": "0",
    "randomizePrice": "0",
    "adjustedOrderType": "None",
    "triggerPrice": UNSET_DOUBLE,
    "lmtPriceOffset": UNSET_DOUBLE,
    "adjustedStopPrice": UNSET_DOUBLE,
    "adjustedStopLimitPrice": UNSET_DOUBLE,
    "adjustedTrailingAmount": UNSET_DOUBLE,
    "adjustableTrailingUnit": "0",
    "cashQty": "0",
    "dontUseAutoPriceForHedge": "1",
    "isOmsContainer": "0",
    "discretionaryUpToLimitPrice": "0",
    "usePriceMgmtAlgo": "0",
    "autoCancelParent": "0",
    "conditionsIgnoreRth": "0",
    "conditionsCancelOrder": "0",
    "deltaNeutralConId": "0",
    "deltaNeutralOpenClose": "?",
    "deltaNeutralShortSale": "0",
    "deltaNeutralShortSaleSlot": "0",
}
"""What TWS sends for an attribute that was not set; an attribute not listed is empty."""

SCALE: Final = (
    "scalePriceAdjustValue scalePriceAdjustInterval scaleProfitOffset scaleAutoReset scaleInitPosition "
    "scaleInitFillQty scaleRandomPercent"
)
PEG_BENCH: Final = (
    "referenceContractId isPeggedChangeAmountDecrease peggedChangeAmount referenceChangeAmount referenceExchangeId"
)
PEGGED: Final = "minTradeQty minCompeteSize competeAgainstBestOffset midOffsetAtWhole midOffsetAtHalf"


class Margin:
    """What a what-if order would do to the account; all unset for a real order."""

    def __init__(self, before: float | None = None, change: float | None = None, equity: float | None = None) -> None:
        self.before, self.change, self.equity = before, change, equity

    def fields(self) -> list[object]:
        if self.before is None or self.change is None or self.equity is None:
            return [UNSET_DOUBLE] * 9
        maintenance = round(self.before * 0.9, 2), round(self.change * 0.9, 2)
        before = [self.before, maintenance[0], self.equity]
        change = [self.change, maintenance[1], 0.0]
        return [*before, *change, *(round(b + c, 2) for b, c in zip(before, change, strict=True))]


class _Writer:
    def __init__(self, order: Order, version: int, first: list[object]) -> None:
        self.order, self.version, self.fields = order, version, first

    def attribute(self, name: str) -> str:
        value = self.order.wire.get(name) or DEFAULTS.get(name, "")
        return "Infinity" if value == "Infinite" else value  # clients write one and read the other

    def put(self, names: str) -> None:
        self.fields += [self.attribute(name) for name in names.split()]

    def raw(self, *values: object) -> None:
        self.fields += values

    def head(self, finished: bool = False) -> None:
        """The contract and the order itself; TWS lists filled orders, once they are finished, with a quantity of 0."""
        order, c = self.order, self.order.contract
        quantity = 0 if finished and order.filled else order.totalQuantity
        exchange = order.wire.get("exchange") or c.exchange
        self.raw(c.conId, c.symbol, c.secType, c.lastTradeDateOrContractMonth, c.strike, c.right or "?")
        self.raw(c.multiplier, exchange, c.currency, c.localSymbol, c.tradingClass)
        self.raw(
            order.action,
            quantity,
            order.orderType,
            order.lmtPrice or 0.0,
            order.auxPrice or 0.0,
        )
        self.raw(order.tif, order.ocaGroup, order.account)
        self.put("openClose origin")
        self.raw(order.orderRef)

    def allocation(self) -> None:
        self.put("faGroup faMethod faPercentage")
        if self.version < 177:
            self.put("faProfile")
        self.put(
            "modelCode goodTillDate rule80A percentOffset settlingFirm shortSaleSlot designatedLocation exemptCode"
        )

    def delta_neutral(self, names: str) -> None:
        kind = self.order.wire.get("deltaNeutralOrderType") or "None"
        self.raw(kind)
        self.put("deltaNeutralAuxPrice")
        self.put(names)

    def legs(self) -> None:
        wire = self.order.wire
        legs = [leg.split(",") for leg in wire.get("comboLegs", "").split(";") if leg]
        self.raw("", len(legs), *(field for leg in legs for field in leg))
        prices = wire.get("orderComboLegs", "").split(";") if wire.get("orderComboLegs") else []
        self.raw(len(prices), *prices)
        self._pairs("smartComboRoutingParams")

    def _pairs(self, name: str) -> None:
        pairs = [pair.split("=", 1) for pair in self.order.wire.get(name, "").split(";") if pair]
        self.raw(len(pairs), *(field for pair in pairs for field in pair))

    def scale(self) -> None:
        self.put("scaleInitLevelSize scaleSubsLevelSize scalePriceIncrement")
        if 0 < float(self.attribute("scalePriceIncrement") or 0) < 1e300:
            self.put(SCALE)

    def hedge(self) -> None:
        self.put("hedgeType")
        if self.attribute("hedgeType"):
            self.put("hedgeParam")

    def delta_neutral_contract(self) -> None:
        if self.order.wire.get("deltaNeutralContractConId"):
            self.raw(1)
            self.put("deltaNeutralContractConId deltaNeutralContractDelta deltaNeutralContractPrice")
        else:
            self.raw(0)

    def algo(self) -> None:
        self.put("algoStrategy")
        if self.attribute("algoStrategy"):
            self._pairs("algoParams")

    def peg_bench(self) -> None:
        if self.order.orderType in ("PEG BENCH", "PEGBENCH"):
            self.put(PEG_BENCH)

    def conditions(self) -> None:
        count = int(self.order.wire.get("conditionCount", "0"))
        self.raw(count)
        if count:
            self.raw(*self.order.wire["conditions"].split("\0"))
            self.put("conditionsIgnoreRth conditionsCancelOrder")


def open_order(order: Order, version: int, margin: Margin | None = None) -> bytes:
    """`openOrder` for a client of this version; `margin` only in the answer to a what-if order."""
    w = _Writer(order, version, [5] if version >= 145 else [5, 34])
    w.raw(order.orderId)
    w.head()
    w.raw(order.clientId, order.permId)
    w.put("outsideRth hidden discretionaryAmt goodAfterTime sharesAllocation")
    w.allocation()
    w.put("auctionStrategy startingPrice stockRefPrice delta stockRangeLower stockRangeUpper displaySize blockOrder")
    w.put("sweepToFill allOrNone minQty ocaType eTradeOnly firmQuoteOnly nbboPriceCap")
    w.raw(order.parentId)
    w.put("triggerMethod volatility volatilityType")
    w.delta_neutral(
        "deltaNeutralConId deltaNeutralSettlingFirm deltaNeutralClearingAccount deltaNeutralClearingIntent "
        "deltaNeutralOpenClose deltaNeutralShortSale deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation"
    )
    w.put("continuousUpdate referencePriceType trailStopPrice trailingPercent basisPoints basisPointsType")
    w.legs()
    w.scale()
    w.hedge()
    w.put("optOutSmartRouting clearingAccount clearingIntent notHeld")
    w.delta_neutral_contract()
    w.algo()
    w.put("solicited whatIf")
    w.raw(order.status)
    if version >= 142:
        w.raw(*(margin or Margin()).fields())
    else:
        w.raw(*(margin or Margin()).fields()[6:])
    w.raw(*([1.0, 1.0, 1.5, order.contract.currency, ""] if margin else ["", "", "", "", ""]))
    w.put("randomizeSize randomizePrice")
    w.peg_bench()
    w.conditions()
    w.put("adjustedOrderType triggerPrice")
    w.raw(order.wire.get("trailStopPrice") or UNSET_DOUBLE)
    w.put("lmtPriceOffset adjustedStopPrice adjustedStopLimitPrice adjustedTrailingAmount adjustableTrailingUnit")
    w.put("softDollarTierName softDollarTierVal softDollarTierDisplayName cashQty")
    for since, name in (
        (141, "dontUseAutoPriceForHedge"),
        (145, "isOmsContainer"),
        (148, "discretionaryUpToLimitPrice"),
        (151, "usePriceMgmtAlgo"),
        (159, "duration"),
        (160, "postToAts"),
        (162, "autoCancelParent"),
        (170, PEGGED),
    ):
        if version >= since:
            w.put(name)
    return frame(*w.fields)


def completed_order(order: Order, version: int, completed_at: str) -> bytes:
    """`completedOrder` (server versions from 150 on); `completed_at` is TWS's text of `order.completedAt`."""
    w = _Writer(order, version, [101])
    w.head(finished=True)
    w.raw(order.permId)
    w.put("outsideRth hidden discretionaryAmt goodAfterTime")
    w.allocation()
    w.put("startingPrice stockRefPrice delta stockRangeLower stockRangeUpper displaySize sweepToFill allOrNone minQty")
    w.put("ocaType triggerMethod volatility volatilityType")
    w.delta_neutral("deltaNeutralConId deltaNeutralShortSale deltaNeutralShortSaleSlot deltaNeutralDesignatedLocation")
    w.put("continuousUpdate referencePriceType trailStopPrice trailingPercent")
    w.legs()
    w.scale()
    w.hedge()
    w.put("clearingAccount clearingIntent notHeld")
    w.delta_neutral_contract()
    w.algo()
    w.put("solicited")
    w.raw(order.status)
    w.put("randomizeSize randomizePrice")
    w.peg_bench()
    w.conditions()
    w.raw(order.wire.get("trailStopPrice") or UNSET_DOUBLE)
    w.put("lmtPriceOffset cashQty dontUseAutoPriceForHedge isOmsContainer")
    w.raw("", order.filled, UNSET_INTEGER)
    w.put("autoCancelParent")
    w.raw("Not an insider or substantial shareholder", 0, 0, 0, completed_at, order.completedStatus)
    if version >= 170:
        w.put(PEGGED)
    return frame(*w.fields)
