"""The tools of `ibkr mcp`: what each takes, reads over the daemon's socket, and returns.

They only read. The protocol is `mcp_server.py`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

from msgspec import Meta, Struct

from facade.doctor import checks as doctor
from facade.terminal import diagnosis, link_view
from facade.terminal.data import qualified
from facade.terminal.requests import Failure, request, rows
from shared.clock import Clock
from shared.log import masked
from shared.messages import Account, AccountValue, Bar, ContractMatch, Fill, Link, Order, PnL, Position, Quote
from shared.reasons import describe
from shared.settings import Settings

Row = dict[str, Any]
Data = TypeVar("Data")


# --- what the tools return ------------------------------------------------------------------------------------------


class Result(Struct, Generic[Data], frozen=True, kw_only=True):
    """What every tool returns. A value that is not known is null."""

    asOf: Annotated[datetime | None, Meta(description="When the data last changed, UTC; null where it is not known.")]
    stale: Annotated[
        bool,
        Meta(
            description="False: the data is current now. True: last known; the link is down or it is being read again."
        ),
    ]
    session: Annotated[str, Meta(description="The session that was read.")]
    more: Annotated[bool, Meta(description="True: there are more rows than `limit`.")]
    data: Data


class AccountSummary(Struct, frozen=True, kw_only=True):
    """`values`: account values by tag. `pnl`: in the account's base currency, null while it is not known."""

    values: tuple[AccountValue, ...]
    pnl: tuple[PnL, ...] | None


class NamedQuote(Quote, frozen=True, kw_only=True):
    """`contract`: as it was named in the request."""

    contract: str


class Reading(NamedTuple):
    """One tool's answer, with whole account ids."""

    data: Any
    as_of: str | None
    stale: bool
    more: bool = False


# --- what the tools take --------------------------------------------------------------------------------------------


class Arguments(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None."""


AccountId = Annotated[str, Meta(max_length=32, description="Account id, as tool accounts shows it.")]
AllowStale = Annotated[
    bool, Meta(description="While the link is down: return the last known rows, marked stale, instead of an error.")
]
Limit = Annotated[int, Meta(ge=1, le=5000, description="Rows at most; `more` shows whether there are others.")]
Name = Annotated[
    str, Meta(min_length=1, max_length=64, description="A US stock (AAPL), a currency pair (EUR.USD), or a conId.")
]


class Stale(Arguments, frozen=True, kw_only=True):
    allowStale: AllowStale = False


class OneAccount(Stale, frozen=True, kw_only=True):
    account: Annotated[
        str, Meta(max_length=32, description="Account id, as tool accounts shows it; needed where there are several.")
    ] = ""


class OfPositions(OneAccount, frozen=True, kw_only=True):
    limit: Limit = 500


class OfOrders(Stale, frozen=True, kw_only=True):
    account: AccountId = ""
    scope: Literal["open", "completed", "all"] = "open"
    limit: Limit = 500


class OfFills(Stale, frozen=True, kw_only=True):
    account: AccountId = ""
    since: (
        Annotated[datetime, Meta(tz=True, description="RFC 3339 with offset, inclusive; by default the last 24 h.")]
        | None
    ) = None
    limit: Limit = 500


class OfSearch(Arguments, frozen=True, kw_only=True):
    text: Annotated[str, Meta(min_length=1, max_length=64, description="The beginning of a symbol or a name.")]


class OfQuote(Arguments, frozen=True, kw_only=True):
    contracts: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=50)]


class OfBars(Arguments, frozen=True, kw_only=True):
    contract: Name
    barSizeSetting: Annotated[str, Meta(description='IBKR\'s words, such as "5 mins", "1 hour", "1 day".')] = "1 hour"
    durationStr: Annotated[str, Meta(description='IBKR\'s words, such as "3600 S", "5 D", "1 M", "1 Y".')] = "5 D"
    whatToShow: Annotated[str, Meta(description="TRADES, MIDPOINT, BID, ASK …; empty: what suits the contract.")] = ""
    useRTH: Annotated[bool, Meta(description="Regular trading hours only.")] = True
    endDateTime: Annotated[str, Meta(description='Empty: now; else UTC as "20260130-21:00:00".')] = ""
    limit: Annotated[int, Meta(ge=1, le=5000, description="The newest bars at most.")] = 500


# --- the tools ------------------------------------------------------------------------------------------------------


class Tool(NamedTuple):
    """`result`: the type of what it returns. `read` is called with the decoded arguments and raises `Failure`."""

    title: str
    description: str
    arguments: type[Arguments]
    result: Any
    read: Callable[[Session, Any], Reading]


@dataclass(frozen=True)
class Session:
    """What the tools read from. `environ`: where the doctor reads the settings again."""

    settings: Settings
    environ: Mapping[str, str]
    clock: Clock

    def link(self) -> Row:
        link: Row = request(self.settings, "link.get")
        return link

    def rows(self, method: str, params: Mapping[str, Any]) -> tuple[list[Row], Row]:
        return rows(self.settings, method, params)

    def now(self) -> str:
        return self.clock.now().isoformat().replace("+00:00", "Z")

    def account(self, named: str) -> str:
        """The whole id of an account that is named by it, or masked. Raises `Failure` where several look the same."""
        if "…" not in named:
            return named
        known, _ = self.rows("account.list", {"allowStale": True})
        found = [row["account"] for row in known if masked(row["account"]) == named]
        if len(found) > 1:
            raise _failure("accountAmbiguous", f"{named} stands for {len(found)} accounts.", advice=SHOW_ACCOUNTS)
        return found[0] if found else named

    def contract(self, name: str) -> Row:
        """The contract that `name` stands for. Raises `Failure`."""
        try:
            return qualified(self.settings, name, {"secType": "STK", "exchange": "SMART"})
        except Failure as failure:
            failure.detail = f"{name}: {failure.detail}"
            if failure.reason in ("notFound", "contractAmbiguous"):
                failure.advice = SEARCH
            raise

    def of_topic(self, method: str, params: Mapping[str, Any], limit: int | None = None) -> Reading:
        found, facts = self.rows(method, params)
        return Reading(found[:limit], facts["asOf"], facts["stale"], limit is not None and len(found) > limit)

    def of_market(self, found: Sequence[Row], as_of: str | None, *, more: bool = False) -> Reading:
        """What the gateway answered, stale where the link is down by now."""
        return Reading(found, as_of, not self.link()["connected"], more)


SHOW_ACCOUNTS = ("Start the server with --show-accounts to name accounts by their whole ids.",)
SEARCH = ("Find the contract with tool search_contracts, and name it by its conId.",)


def link_status(session: Session, _arguments: Arguments) -> Reading:
    link = session.link()
    return Reading(link, session.now(), link["stale"])


def accounts(session: Session, arguments: Stale) -> Reading:
    return session.of_topic("account.list", {"allowStale": arguments.allowStale})


def account_summary(session: Session, arguments: OneAccount) -> Reading:
    params = {"account": session.account(arguments.account), "allowStale": arguments.allowStale}
    values = session.of_topic("account.summary", params)
    try:
        pnl = session.of_topic("account.pnl", params)
    except Failure as failure:
        if failure.reason != "snapshotIncomplete":
            raise
        return Reading({"values": values.data, "pnl": None}, values.as_of, values.stale)
    oldest = min((time for time in (values.as_of, pnl.as_of) if time), default=None)
    return Reading({"values": values.data, "pnl": pnl.data}, oldest, values.stale or pnl.stale)


def positions(session: Session, arguments: OfPositions) -> Reading:
    params = {"account": session.account(arguments.account), "allowStale": arguments.allowStale}
    return session.of_topic("account.positions", params, arguments.limit)


def orders(session: Session, arguments: OfOrders) -> Reading:
    params = {
        "account": session.account(arguments.account),
        "scope": "" if arguments.scope == "all" else arguments.scope,
        "allowStale": arguments.allowStale,
    }
    return session.of_topic("account.orders", params, arguments.limit)


def fills(session: Session, arguments: OfFills) -> Reading:
    params: Row = {"account": session.account(arguments.account), "limit": arguments.limit}
    if arguments.since is not None:
        params["since"] = arguments.since.isoformat()
    page = request(session.settings, "executions.list", params)
    if page["stale"] and not arguments.allowStale:
        link = session.link()
        if not link["connected"]:
            raise _failure(link["reason"] or "notConnected", link["sentence"], advice=link["advice"])
    if not page["known"]:
        raise _failure("snapshotIncomplete")
    return Reading(page["rows"], page["asOf"], page["stale"], page["next"] is not None)


def search_contracts(session: Session, arguments: OfSearch) -> Reading:
    found, facts = session.rows("contracts.search", {"q": arguments.text})
    return session.of_market(found, facts["asOf"])


def quote(session: Session, arguments: OfQuote) -> Reading:
    names = {session.contract(name)["conId"]: name for name in arguments.contracts}
    found, _ = session.rows("quotes.get", {"conIds": list(names)})
    oldest = min((row["asOf"] for row in found if row["asOf"]), default=None)
    return session.of_market([{"contract": names[row["conId"]], **row} for row in found], oldest)


def bars(session: Session, arguments: OfBars) -> Reading:
    params = {
        name: getattr(arguments, name)
        for name in ("barSizeSetting", "durationStr", "whatToShow", "useRTH", "endDateTime")
    }
    found, facts = session.rows("bars.fetch", {"conId": session.contract(arguments.contract)["conId"], **params})
    return session.of_market(found[-arguments.limit :], facts["asOf"], more=len(found) > arguments.limit)


def diagnose(session: Session, _arguments: Arguments) -> Reading:
    checks = diagnosis.examine(session.environ, session.settings, dial=False)
    return Reading([check.as_dict() for check in checks], session.now(), False)


TOOLS = {
    "link_status": Tool(
        "Link status",
        "Whether the session with TWS or IB Gateway is connected, since when, when TWS was last heard from, and if it "
        "is not connected: the reason, what to do, and when the next attempt is.",
        Arguments,
        Result[Link],
        link_status,
    ),
    "accounts": Tool(
        "Accounts",
        "The accounts of this login; paper: false is real money.",
        Stale,
        Result[tuple[Account, ...]],
        accounts,
    ),
    "account_summary": Tool(
        "Account values and PnL",
        "All account values of one account (NetLiquidation, BuyingPower, TotalCashValue …) and its PnL of today.",
        OneAccount,
        Result[AccountSummary],
        account_summary,
    ),
    "positions": Tool(
        "Positions",
        "What one account holds: quantity (negative when short), average cost, market price and value, PnL.",
        OfPositions,
        Result[tuple[Position, ...]],
        positions,
    ),
    "orders": Tool(
        "Orders",
        "Orders of all API clients and of TWS itself: the open ones, or with scope completed or all also those that "
        "are done.",
        OfOrders,
        Result[tuple[Order, ...]],
        orders,
    ),
    "fills": Tool(
        "Fills",
        "Executions by time, oldest first, with commission and realized PnL. Where more is true: call again with since "
        "= the last row's time (rows of that time come again; execId is unique).",
        OfFills,
        Result[tuple[Fill, ...]],
        fills,
    ),
    "search_contracts": Tool(
        "Search contracts",
        "Contracts whose symbol or company name begins with text. The conId identifies a contract in tools quote and "
        "bars.",
        OfSearch,
        Result[tuple[ContractMatch, ...]],
        search_contracts,
    ),
    "quote": Tool(
        "Quote",
        "Prices now: bid, ask, last, sizes, volume. asOf in each row is its last update, null where none has come; "
        "marketDataType shows live, frozen or delayed data; ibCode is IBKR's code where it refuses the data.",
        OfQuote,
        Result[tuple[NamedQuote, ...]],
        quote,
    ),
    "bars": Tool(
        "Historical bars",
        "Historical prices, oldest first. IBKR limits how often small bars are requested: pacingBudget means wait.",
        OfBars,
        Result[tuple[Bar, ...]],
        bars,
    ),
    "diagnose": Tool(
        "Diagnose",
        "Check this machine, the daemon, the link and IBKR's farms, each with evidence and remedy. Works without a "
        "daemon, and opens no connection to TWS.",
        Arguments,
        Result[tuple[doctor.Check, ...]],
        diagnose,
    ),
}


def _failure(reason: str, detail: str = "", *, advice: Sequence[str] | None = None) -> Failure:
    sentence, usual = describe(reason)
    return Failure(link_view.NOT_CONNECTED, reason, detail or sentence, usual if advice is None else advice, {})


def with_masked_accounts(value: Any) -> Any:
    """`value`, of JSON's types, with account ids masked in every text."""
    return json.loads(masked(json.dumps(value, ensure_ascii=False)))
