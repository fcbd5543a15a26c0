"""`ibkr mcp`: a Model Context Protocol server on stdio, with read-only tools over the daemon's socket."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from facade.doctor import checks as doctor
from facade.terminal.data import contract, find_contract
from facade.terminal.requests import Failure, request, rows
from shared.log import masked
from shared.settings import Settings

READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True)

INSTRUCTIONS = (
    "Reads one session with Interactive Brokers: link, accounts, positions, orders, fills, contracts, prices. Nothing "
    "can be changed. Every result has asOf (when it was current) and stale (true: the link is down or the list is "
    "being read again, so the rows are the last known ones). A list that is not known is an error, never an empty list."
)

ROW = dict[str, Any]


class Result(TypedDict):
    """What every tool returns. `asOf`: RFC 3339 UTC, null where nothing is known. `data`: rows in IBKR's own names."""

    asOf: str | None
    stale: bool
    session: str
    data: list[ROW]


class Tools:
    """The tools of one session. `show_accounts`: whole account ids in the results; else they are masked."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, show_accounts: bool) -> None:
        self._settings = settings
        self._environ = environ
        self._show_accounts = show_accounts

    def link_status(self) -> Result:
        """Whether the session with TWS or IB Gateway is connected, since when, and if not, why and what to do."""
        link = self._link()
        return self._result([link], _heard(link), stale=not link["connected"])

    def accounts(self) -> Result:
        """The accounts of this login, and whether each is a paper account."""
        return self._listed("account.list", {"allowStale": True})

    def account_summary(self, account: str = "") -> Result:
        """Account values such as NetLiquidation or BuyingPower. `account` is needed where there are several."""
        return self._listed("account.summary", {"account": self._account(account), "allowStale": True})

    def positions(self, account: str = "") -> Result:
        """What an account holds, with cost, price, value and profit. `account` is needed where there are several."""
        return self._listed("account.positions", {"account": self._account(account), "allowStale": True})

    def orders(self, account: str = "", completed: bool = False) -> Result:
        """Open orders; with `completed`, those that are done too."""
        scope = "" if completed else "open"
        return self._listed("account.orders", {"account": self._account(account), "scope": scope, "allowStale": True})

    def fills(self, account: str = "", since: str = "") -> Result:
        """Executions of the last day, or since an RFC 3339 time with offset."""
        params = {"account": self._account(account), **({"since": since} if since else {})}
        return self._listed("executions.list", params, paging="cursor")

    def search_contracts(self, text: str) -> Result:
        """Contracts whose symbol or name begins with `text`; the conId of a row identifies it elsewhere."""
        return self._listed("contracts.search", {"q": text})

    def quote(
        self, symbols: Annotated[list[str], "Symbols of US stocks, conIds, or currencies such as EUR.USD."]
    ) -> Result:
        """Prices now: bid, ask, last, volume, and how old they are."""
        found = [find_contract(self._settings, name, {"secType": "STK", "exchange": "SMART"}) for name in symbols]
        names = {one["conId"]: contract(one) for one in found}
        quotes, _ = rows(self._settings, "quotes.get", {"conIds": list(names)})
        times = [row["asOf"] for row in quotes if row.get("asOf")]
        shown = [{"symbol": names[row["conId"]], **row} for row in quotes]
        return self._result(shown, min(times, default=None), stale=not self._link()["connected"])

    def bars(self, symbol: str, size: str = "1 hour", duration: str = "5 D") -> Result:
        """Historical prices of a symbol or conId, in IBKR's spellings: size such as "5 mins", duration as "1 M"."""
        one = find_contract(self._settings, symbol, {"secType": "STK", "exchange": "SMART"})
        params = {"conId": one["conId"], "barSizeSetting": size, "durationStr": duration}
        return self._listed("bars.fetch", params)

    def diagnose(self) -> Result:
        """Check everything between here and IBKR, one thing after the other, each with evidence and remedy."""
        found = [check.as_dict() for check in doctor.examine(self._environ, settings=self._settings)]
        return self._result(found, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", stale=False)

    def table(self) -> Iterable[Callable[..., Result]]:
        return (
            self.link_status,
            self.accounts,
            self.account_summary,
            self.positions,
            self.orders,
            self.fills,
            self.search_contracts,
            self.quote,
            self.bars,
            self.diagnose,
        )

    def _link(self) -> ROW:
        link: ROW = request(self._settings, "link.get")
        return link

    def _listed(self, method: str, params: Mapping[str, Any], paging: str = "after") -> Result:
        found, facts = rows(self._settings, method, params, paging)
        link = self._link()
        stale = bool(facts.get("stale", not link["connected"]))
        return self._result(found, facts.get("asOf") or _heard(link), stale=stale)

    def _account(self, named: str) -> str:
        """The whole id of an account that was named by it, or as the results show it."""
        if not named:
            return ""
        known, _ = rows(self._settings, "account.list", {"allowStale": True})
        return next((row["account"] for row in known if named in (row["account"], masked(row["account"]))), named)

    def _result(self, data: Sequence[ROW], as_of: str | None, *, stale: bool) -> Result:
        shown: list[ROW] = (
            list(data) if self._show_accounts else json.loads(masked(json.dumps(data, ensure_ascii=False)))
        )
        return {"asOf": as_of, "stale": stale, "session": self._settings.session, "data": shown}


def serve(settings: Settings, environ: Mapping[str, str], *, version: str, show_accounts: bool) -> None:
    """Serve on standard input and output until the client closes them."""
    server = MCPServer("ibkr", instructions=INSTRUCTIONS, version=version, log_level="WARNING")
    for tool in Tools(settings, environ, show_accounts=show_accounts).table():
        server.tool(annotations=READ_ONLY, structured_output=True)(_with_tool_errors(tool, show_accounts=show_accounts))
    server.run("stdio")


def _with_tool_errors(tool: Callable[..., Result], *, show_accounts: bool) -> Callable[..., Result]:
    """`tool`, with a failure as the protocol's tool error: reason, sentence, advice."""

    @functools.wraps(tool)
    def wrapped(*arguments: Any, **named: Any) -> Result:
        try:
            return tool(*arguments, **named)
        except Failure as failure:
            problem = {
                "reason": failure.reason,
                "detail": failure.detail,
                "advice": list(failure.advice),
                **failure.extra,
            }
            text = json.dumps(problem, ensure_ascii=False)
            raise ToolError(text if show_accounts else masked(text)) from None

    return wrapped


def _heard(link: ROW) -> str | None:
    heard: str | None = (link.get("proof") or {}).get("at")
    return heard
