"""Messages of the gateway → calls of the session's callbacks. What ib_async reads wrongly is read rightly here.

ib_async's decoder (2.1.0) has the order of the fields for each server version. Seen in it, and mended here:

- an empty field is 0.0: here it is unknown (NaN), and where a row cannot do without it, the row cannot be read;
- `?`, with which IBKR writes an unknown price of a bar, cannot be decoded; nor can bars without a year in their dates;
- a bond's coupon is an int; a name with a backslash cannot be decoded, and letters beyond ASCII are garbled;
- the zone of the last trade time overwrites `timeZoneId`;
- the time of an execution in a zone that Python has no name for cannot be decoded, and the execution is lost;
- what cannot be decoded is logged with a traceback.
"""

# ruff: noqa: N802 - ib_async's names
# mypy: disable-error-code="no-untyped-call, no-untyped-def"

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import ib_async as ib
from ib_async.decoder import Decoder

from daemon.tws.error_text import clean
from daemon.tws.rows import bar_row, number
from daemon.tws.times import read_bar_date, read_time
from shared.messages import Bar

Fields = list[str]
Unreadable = Callable[[str, Fields, str, str], None]
"""Called with a message's name and fields, with the field that could not be read, and with what is wrong with it."""

UNKNOWN: Final = frozenset({"", "?"})
"""How the gateway writes that a value is not known."""
NAN: Final = "nan"

ROW_FIELDS: Final[dict[type, frozenset[str]]] = {
    ib.Contract: frozenset({"conId", "strike"}),
    ib.Order: frozenset(
        {
            "orderId", "clientId", "permId", "parentId", "totalQuantity", "filledQuantity", "lmtPrice", "auxPrice",
            "trailingPercent", "trailStopPrice", "cashQty", "whatIf",
        }
    ),
    ib.Execution: frozenset({"shares", "price", "permId", "orderId", "clientId", "cumQty", "avgPrice"}),
}  # fmt: skip
"""Numbers that become part of a row: without them there is no row. What else cannot be read costs nothing."""


IDS: Final = frozenset({"orderId", "clientId", "permId"})
"""Which are unknown where they are empty, and not 0."""


class FieldError(ValueError):
    """A field whose text cannot be read. `field`: its name in the API."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field} is {text[:40]!r}")
        self.field = field


class MessageDecoder(Decoder):
    """One session's. Calls `callbacks`, whose methods have the API's names; messages without such a method are dropped.

    `unreadable` is called for each message that cannot be decoded, and for each field of one that was lost. `now`: the
    wall clock, for times that are written without a year.
    """

    def __init__(self, callbacks: object, unreadable: Unreadable, now: Callable[[], datetime]) -> None:
        self._unreadable = unreadable
        self._now = now
        super().__init__(callbacks, 0)  # type: ignore[arg-type] # all that the decoder needs of it are its methods
        self.names = {str(number): handler.__name__ for number, handler in self.handlers.items()}
        self._decode: dict[str, Callable[[Fields], object]] = {
            str(number): handler if hasattr(callbacks, handler.__name__) else ignore
            for number, handler in self.handlers.items()
        }
        self._message: Fields = []

    def decode(self, fields: Fields) -> None:
        """One message, without its length."""
        handler = self._decode.get(fields[0]) if fields else None
        if handler is None:
            self._unreadable("unknown", fields, "message type", repr(fields[0][:40]) if fields else "no field")
            return
        self._message = fields
        try:
            handler(fields)
        except FieldError as error:
            self._unreadable(self.names[fields[0]], fields, error.field, str(error))
        except Exception as error:
            self._unreadable(self.names[fields[0]], fields, "fields", f"{type(error).__name__}: {error}")

    def _lost(self, field: str, text: str) -> None:
        """A field that costs nothing but itself."""
        name = self.names[self._message[0]]
        self._unreadable(f"{name}.{field}", [], field, str(FieldError(field, text)))

    # --- ib_async's two general readers -----------------------------------------------------------------------------

    def wrap(self, methodName: str, types: Sequence[type], skip: int = 2) -> Callable[[Fields], None]:
        """A reader of messages that are `types` after `skip` fields."""
        own: Callable[[Fields], None] | None = getattr(self, methodName, None)
        if own is not None:
            return own
        method = getattr(self.wrapper, methodName, ignore)
        names = tuple(inspect.signature(method).parameters)

        def handler(fields: Fields) -> None:
            values = fields[skip : skip + len(types)]
            if len(values) < len(types):
                raise FieldError("fields", f"{len(fields)} of them")
            method(*[convert(*each) for each in zip(names, types, values, strict=True)])

        handler.__name__ = methodName
        return handler

    def parse(self, obj: object) -> None:
        """Texts of a dataclass → numbers, as its defaults are."""
        kept = ROW_FIELDS.get(type(obj), frozenset())
        ids = isinstance(obj, ib.Order | ib.Execution)
        optional = isinstance(obj, ib.ContractDetails)
        for name, kind, default in numeric_fields(type(obj)):  # type: ignore[arg-type] # a class is hashable
            value = getattr(obj, name)
            if value in UNKNOWN:
                none = (optional and kind is not bool) or (ids and name in IDS)
                setattr(obj, name, None if none else default)
            elif isinstance(value, str):
                setattr(obj, name, self._number(name, kind, value, default, name in kept, optional))

    def _number(self, name: str, kind: type, text: str, default: Any, kept: bool, optional: bool) -> Any:
        try:
            value = int(text) if kind is bool else kind(text)
            if kind is not bool or not kept or value in (0, 1):
                return kind(value)
        except ValueError:
            pass
        try:
            number = float(text)  # a bond's coupon; an id as 5.0
            if kind is not bool and (not kept or number == int(number)):
                return number if not kept else int(number)
        except (ValueError, OverflowError):
            pass
        if kept:
            raise FieldError(name, text)
        self._lost(name, text)
        return None if optional and kind is not bool else default

    # --- ticks ------------------------------------------------------------------------------------------------------

    def priceSizeTick(self, fields: Fields) -> None:
        _, _, request, kind, price, size, _ = fields
        self.wrapper.priceSizeTick(int(request), int(kind), float(price or NAN), float(size or NAN))

    def tickSize(self, fields: Fields) -> None:
        _, _, request, kind, size = fields
        self.wrapper.tickSize(int(request), int(kind), float(size or NAN))

    # --- the session ------------------------------------------------------------------------------------------------

    def nextValidId(self, _fields: Fields) -> None:
        """That it came is what counts: we place no orders."""
        self.wrapper.nextValidId(0)

    def currentTime(self, _fields: Fields) -> None:
        """The answer to a probe, whatever time it gives."""
        self.wrapper.currentTime(0)

    def errorMsg(self, fields: Fields) -> None:
        request, code, text = fields[2:5]
        self.wrapper.error(-1 if request in UNKNOWN else int(request), int(code), text, "")

    errorMsg.__name__ = "error"

    # --- positions --------------------------------------------------------------------------------------------------

    def position(self, fields: Fields) -> None:
        needed(fields, (3, "conId"), (14, "position"))
        unknown_as_nan(fields, (15, "avgCost"))
        super().position(fields)

    def positionMulti(self, fields: Fields) -> None:
        needed(fields, (4, "conId"), (15, "position"))
        unknown_as_nan(fields, (16, "avgCost"))
        super().positionMulti(fields)

    def updatePortfolio(self, fields: Fields) -> None:
        needed(fields, (2, "conId"), (13, "position"))
        for at, name in enumerate(("marketPrice", "marketValue", "averageCost", "unrealizedPNL", "realizedPNL"), 14):
            try:
                unknown_as_nan(fields, (at, name))
            except FieldError:
                self._lost(name, fields[at])
                fields[at] = NAN
        super().updatePortfolio(fields)

    # --- orders and executions --------------------------------------------------------------------------------------

    def openOrder(self, fields: Fields) -> None:
        needed(fields, (2, "conId"), (25, "permId"))
        unknown_as_nan(fields, (14, "totalQuantity"))
        super().openOrder(fields)

    def completedOrder(self, fields: Fields) -> None:
        needed(fields, (1, "conId"), (23, "permId"))
        unknown_as_nan(fields, (13, "totalQuantity"))
        super().completedOrder(fields)

    def execDetails(self, fields: Fields) -> None:
        needed(fields, (3, "conId"), (19, "shares"), (20, "price"))
        unknown_as_nan(fields, (24, "cumQty"), (25, "avgPrice"))
        if not fields[14]:
            raise FieldError("execId", "")
        try:
            when, zone = read_time(fields[15], self._now())
        except ValueError:
            raise FieldError("time", fields[15]) from None
        if zone:
            self._unreadable("timezone", fields, "time", f"the time zone {zone[:40]!r} is not known")
        fields[15] = str(int(when.timestamp()))
        super().execDetails(fields)

    def commissionReport(self, fields: Fields) -> None:
        unknown_as_nan(fields, (3, "commission"), (5, "realizedPNL"))
        fields[6] = fields[7] = ""  # yields of bonds, which no row holds
        super().commissionReport(fields)

    # --- contracts --------------------------------------------------------------------------------------------------

    def contractDetails(self, fields: Fields) -> None:
        head = 5 if self.serverVersion < 164 else 4
        long_name = head + (16 if self.serverVersion < 164 else 15)
        needed(fields, (head + 8, "conId"))
        fields = list(fields)
        fields[head] = last_trade(fields[head])
        fields[long_name] = clean(fields[long_name]).encode("unicode_escape").decode("ascii")
        super().contractDetails(fields)

    def bondContractDetails(self, fields: Fields) -> None:
        head = 7 if self.serverVersion < 164 else 6
        needed(fields, (head + 13, "conId"))
        fields = list(fields)
        fields[head] = last_trade(fields[head])
        super().bondContractDetails(fields)

    # --- bars -------------------------------------------------------------------------------------------------------

    def historicalData(self, fields: Fields) -> None:
        _, request, _start, end, count, *values = fields
        if len(values) != 8 * int(count):
            raise FieldError("bars", f"{len(values)} fields for {count} of them")
        bars = [
            read_bar(*values[at : at + 6], count=values[at + 7], average=values[at + 6], until=end)
            for at in range(0, len(values), 8)
        ]
        self.wrapper.historicalData(int(request), bars)  # type: ignore[arg-type] # all bars at once, as rows

    def historicalDataUpdate(self, fields: Fields) -> None:
        _, request, count, date, opened, close, high, low, average, volume, *_ = fields
        bar = read_bar(date, opened, high, low, close, volume, count=count, average=average, near=self._now())
        self.wrapper.historicalDataUpdate(int(request), bar)  # type: ignore[arg-type] # a row


def ignore(fields: Fields) -> None:
    """A message that nothing here uses."""


def convert(name: str, kind: type, text: str) -> Any:
    """A field of one of the short messages. A number that is not known is NaN, or 0 for an id that may be absent."""
    if kind is str:
        return text
    try:
        if kind is float:
            return float(NAN if text in UNKNOWN else text)
        if text in UNKNOWN and name not in ("reqId", "permId"):
            text = "0"
        return bool(int(text)) if kind is bool else int(text)
    except ValueError:
        raise FieldError(name, text) from None


@functools.cache
def numeric_fields(kind: Any) -> tuple[tuple[str, type, object], ...]:
    """Names, types and defaults of a dataclass's numbers, as ib_async's decoder takes them from the defaults."""
    return tuple(
        (field.name, type(field.default), field.default)
        for field in dataclasses.fields(kind)
        if type(field.default) in (int, float, bool)
    )


def needed(fields: Fields, *places: tuple[int, str]) -> None:
    """Raise FieldError unless there is a number at each of these places."""
    for at, name in places:
        try:
            known = number(float(fields[at])) is not None
        except ValueError:
            known = False
        if not known:
            raise FieldError(name, fields[at])


def unknown_as_nan(fields: Fields, *places: tuple[int, str]) -> None:
    """Write NaN for numbers that are unknown to the gateway. Raises FieldError where there is anything else."""
    for at, name in places:
        if fields[at] in UNKNOWN:
            fields[at] = NAN
            continue
        try:
            float(fields[at])
        except ValueError:
            raise FieldError(name, fields[at]) from None


def last_trade(text: str) -> str:
    """Date, and time with its zone, in a form from which ib_async takes no `timeZoneId`. It splits at each `-`: a zone
    with one in its name is left out."""
    found = re.fullmatch(r"(\d{6,8})[ -]+(\S+)(?: +(.*))?", text)
    if found is None:
        return text
    date, time, zone = found.groups()
    return f"{date}-{time} {zone}" if zone and "-" not in zone else f"{date}-{time}"


def read_bar(
    date: str,
    opened: str,
    high: str,
    low: str,
    close: str,
    volume: str,
    *,
    average: str,
    count: str,
    until: str = "",
    near: datetime | None = None,
) -> Bar:
    try:
        when = read_bar_date(date, until, near)
    except ValueError:
        raise FieldError("date", date) from None
    return bar_row(
        when,
        quantity("open", opened),
        quantity("high", high),
        quantity("low", low),
        quantity("close", close),
        quantity("volume", volume),
        quantity("average", average),
        quantity("barCount", count),
    )


def quantity(name: str, text: str) -> float | None:
    if text in UNKNOWN:
        return None
    try:
        return number(float(text))
    except ValueError:
        raise FieldError(name, text) from None
