"""The data commands: accounts, positions, orders, fills, quotes and bars, read over the daemon's socket.

They read only: nothing here changes the link, an order or a setting.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from facade.terminal import link_view
from facade.terminal.requests import Failure, rows
from facade.terminal.tables import Column, Form, Row, figure, moment, number, show, text
from shared.settings import Settings

SUMMARY = {
    "NetLiquidation": "net liq.",
    "TotalCashValue": "cash",
    "AvailableFunds": "available",
    "ExcessLiquidity": "excess liq.",
    "MaintMarginReq": "margin",
}
"""The account values that the table shows, with their headings; --json has all of them."""


def contract(row: Row) -> str:
    """IBKR's own short name of a contract, such as `AAPL` or `ESZ6`."""
    return str(row.get("localSymbol") or row.get("symbol") or row.get("conId") or "")


CONTRACT = Column("contract", contract, right=False)
TYPE = text("secType", "type")


def accounts(settings: Settings, form: Form, *, stale: bool) -> int:
    found, facts = rows(settings, "account.list", {"allowStale": stale})
    shown: list[dict[str, Any]] = []
    for account in found:
        one = {"account": account["account"], "allowStale": stale}
        values, _ = rows(settings, "account.summary", one)
        pnl, _ = rows(settings, "account.pnl", one)
        total = [value for value in values if not value.get("modelCode")]
        by_tag = {value["tag"]: value for value in total if value["currency"] != "BASE"}
        currency = by_tag.get("NetLiquidation", {}).get("currency", "")
        shown.append(
            {
                **account,
                "currency": currency,
                **{tag: _amount(by_tag.get(tag)) for tag in SUMMARY},
                **next((row for row in pnl if not row.get("modelCode")), {"dailyPnL": None, "unrealizedPnL": None}),
                **({"values": values} if form == "json" else {}),
            }
        )
    columns = [
        text("account"),
        Column("", lambda row: "paper" if row["paper"] else "LIVE", right=False),
        *(number(tag, heading, 2) for tag, heading in SUMMARY.items()),
        number("dailyPnL", "today", 2),
        number("unrealizedPnL", "unrealized", 2),
        text("currency", ""),
    ]
    return _end(shown, columns, form, facts, "This login has no account.")


def positions(settings: Settings, form: Form, *, account: str, stale: bool) -> int:
    found: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    names = [account] if account else _accounts(settings, stale)
    for name in names or [""]:
        more, facts = rows(settings, "account.positions", {"account": name, "allowStale": stale})
        found += more
    columns = [
        *([text("account")] if len(names) > 1 else []),
        CONTRACT,
        TYPE,
        number("position"),
        number("avgCost", "avg. cost", 2),
        number("marketPrice", "price", 2),
        number("marketValue", "value", 2),
        number("unrealizedPNL", "unrealized", 2),
        text("currency", ""),
    ]
    return _end(found, columns, form, facts, "No positions.")


def orders(settings: Settings, form: Form, *, account: str, done: bool, stale: bool) -> int:
    params = {"account": account, "scope": "" if done else "open", "allowStale": stale}
    found, facts = rows(settings, "account.orders", params)
    columns = [
        *([text("account")] if len({row["account"] for row in found}) > 1 else []),
        text("permId", "order"),
        text("action"),
        number("totalQuantity", "quantity"),
        CONTRACT,
        Column("type", _order_type, right=False),
        text("tif"),
        text("status"),
        number("filled"),
        number("remaining"),
    ]
    return _end(found, columns, form, facts, "No orders." if done else "No open orders; --all shows completed ones.")


def fills(settings: Settings, form: Form, *, account: str, since: str) -> int:
    params = {"account": account, **({"since": since} if since else {})}
    found, facts = rows(settings, "executions.list", params, paging="cursor")
    columns = [
        moment("time"),
        *([text("account")] if len({row["account"] for row in found}) > 1 else []),
        text("side"),
        number("shares", "quantity"),
        CONTRACT,
        number("price"),
        number("commission", "", 2),
        number("realizedPNL", "realized", 2),
        text("currency", ""),
    ]
    nothing = "No fills." if facts["known"] else "Fills are not known: TWS has not listed them yet."
    return _end(found, columns, form, facts, nothing)


def quotes(settings: Settings, form: Form, names: Sequence[str], *, query: dict[str, str]) -> int:
    contracts = [find_contract(settings, name, query) for name in names]
    found, facts = rows(settings, "quotes.get", {"conIds": [one["conId"] for one in contracts]})
    by_id = {one["conId"]: one for one in contracts}
    shown = [{"symbol": contract(by_id[row["conId"]]), **row} for row in found]
    columns = [
        text("symbol"),
        number("bid"),
        number("ask"),
        number("bidSize", "bid size"),
        number("askSize", "ask size"),
        number("last"),
        number("close"),
        number("volume"),
        text("marketDataType", "data"),
        moment("asOf", "as of"),
    ]
    if form == "table":
        for row in shown:
            if row.get("ibCode"):
                print(f"{row['symbol']}: IBKR sends no data, code {row['ibCode']}.", file=sys.stderr)
    return _end(shown, columns, form, facts, "No quotes.")


def bars(settings: Settings, form: Form, name: str, *, query: dict[str, str], params: dict[str, Any]) -> int:
    one = find_contract(settings, name, query)
    found, facts = rows(settings, "bars.fetch", {"conId": one["conId"], **params})
    columns = [text("date"), *map(number, ("open", "high", "low", "close", "volume"))]
    return _end(found, columns, form, facts, f"IBKR has no bars of {contract(one)} for this time.")


def find_contract(settings: Settings, name: str, query: dict[str, str]) -> dict[str, Any]:
    """As `qualified`, with the command's own options in the words of a failure."""
    try:
        return qualified(settings, name, query)
    except Failure as failure:
        if failure.reason == "notFound":
            failure.detail = f"{name}: {failure.detail}"
            failure.advice = ("Check the symbol; --type, --currency, --exchange and --expiry describe it further.",)
        if failure.reason == "contractAmbiguous":
            lines = [
                f"{row['conId']:>12}  {contract(row)}  {row.get('secType', '')}  {row.get('exchange', '')}  "
                f"{row.get('currency', '')}  {row.get('lastTradeDateOrContractMonth', '')}".rstrip()
                for row in failure.extra.get("candidates", ())
            ]
            failure.detail = "\n".join(
                [f"{name} is ambiguous; use one of these conIds, or --currency, --type:", *lines]
            )
            failure.advice = ()
        raise


def qualified(settings: Settings, name: str, query: dict[str, str]) -> dict[str, Any]:
    """The contract that `name` means: a conId, or a symbol that `query` describes further. Raises `Failure`."""
    if name.isdecimal() and name.isascii():
        return {"conId": int(name), "symbol": name}
    description = {"symbol": name.upper(), **query}
    if pair := re.fullmatch(r"([A-Z]{3})\.([A-Z]{3})", name.upper()):
        description = {"symbol": pair[1], "currency": pair[2], "secType": "CASH", "exchange": "IDEALPRO"}
    found, _ = rows(settings, "contracts.qualify", description)
    return found[0]


def _accounts(settings: Settings, stale: bool) -> list[str]:
    found, _ = rows(settings, "account.list", {"allowStale": stale})
    return [row["account"] for row in found]


def _amount(value: Row | None) -> float | None:
    try:
        return None if value is None or value["value"] is None else float(value["value"])
    except ValueError:
        return None


def _order_type(row: Row) -> str:
    prices = [figure(row[name]) for name in ("lmtPrice", "auxPrice") if row.get(name)]
    return " ".join([row.get("orderType") or "", *prices])


def _end(found: Sequence[Row], columns: Sequence[Column], form: Form, facts: dict[str, Any], nothing: str) -> int:
    meta: dict[str, Any] = {name: facts[name] for name in ("asOf", "stale", "source") if name in facts}
    if meta.get("stale") and form != "json":
        print("Not current: the link is down or the list is being read again.", file=sys.stderr)
    show(found, columns, form, meta=meta, nothing=nothing)
    return link_view.CONNECTED
