"""What crosses a socket, to the letter."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from shared import messages

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def test_a_gap_spells_from_and_to() -> None:
    row = msgspec.to_builtins(messages.Gap(cause="socketLost", from_=NOW, to=NOW))
    assert set(row) == {"cause", "from", "to", "expected", "recovered", "unrecovered"}


def test_numbers_that_are_none_leave_as_null() -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        assert b'"bid":null' in msgspec.json.encode(messages.Quote(conId=1, bid=value))


def test_times_are_rfc_3339_in_utc() -> None:
    assert b'"2026-03-01T12:00:00Z"' in msgspec.json.encode(messages.Sync(known=True, asOf=NOW))


@pytest.mark.parametrize(
    "body",
    [
        b'{"port": 7497.0}',
        b'{"port": "7497"}',
        b'{"port": true}',
        b'{"port": 80}',
        b'{"port": 65536}',
        b'{"clientId": -1}',
        b'{"clientId": 2147483648}',
        b'{"timeout": 0}',
        b'{"timeout": 3601}',
        b'{"host": ""}',
        b'{"hots": "x"}',
    ],
)
def test_connect_takes_no_wrong_type_range_or_name(body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=messages.ConnectParams)


@pytest.mark.parametrize(
    ("struct", "names"),
    [
        (messages.Farm, "farm type state since"),
        (messages.Account, "account paper"),
        (messages.AccountValue, "account tag value currency modelCode"),
        (messages.PnL, "account modelCode dailyPnL unrealizedPnL realizedPnL"),
        (messages.Notice, "at code text reqId conId"),
        (messages.Sync, "known asOf stale"),
        (
            messages.Position,
            "account conId symbol secType lastTradeDateOrContractMonth strike right multiplier exchange currency "
            "localSymbol tradingClass position avgCost marketPrice marketValue unrealizedPNL realizedPNL modelCode",
        ),
        (
            messages.Quote,
            "conId marketDataType bid bidSize ask askSize last lastSize volume open high low close asOf priceAsOf "
            "ibCode",
        ),
        (messages.Bar, "date open high low close volume average barCount"),
        (
            messages.Link,
            "phase reason sentence advice since epoch session connected stale proof gateway accounts readOnly upstream "
            "farms attempts nextAttemptAt expected lastError streams pacing daemon",
        ),
    ],
)
def test_rows_have_exactly_the_documented_fields(struct: type[msgspec.Struct], names: str) -> None:
    assert set(struct.__struct_encode_fields__) == set(names.split())
