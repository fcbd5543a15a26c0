"""Error and notice codes that the gateway sends to an API client, with their texts.

Words as on the wire of TWS 10.x in English. When a code is sent is decided elsewhere.
"""

from __future__ import annotations

from typing import Final

NO_REQUEST: Final = -1
"""The request id of a notice that belongs to no request."""

TEXTS: Final[dict[int, str]] = {
    100: "Max rate of messages per second has been exceeded:max={limit} rec={seen} ({count})",
    101: "Max number of tickers has been reached.",
    102: "Duplicate ticker ID.",
    103: "Duplicate order id",
    104: "Cannot modify a filled order.",
    105: "Order being modified does not match original order.",
    110: "The price does not conform to the minimum price variation for this contract.",
    162: "Historical Market Data Service error message:{cause}",
    165: "Historical Market Data Service query message:{cause}",
    200: "No security definition has been found for the request",
    201: "Order rejected - reason:{cause}",
    202: "Order Canceled - reason:{cause}",
    300: "Can't find EId with tickerId:{id}",
    309: "Max number ({id}) of market depth requests has been reached.",
    310: "Can't find the subscribed market depth with tickerId:{id}",
    320: "Error reading request. {cause}",
    321: "Error validating request.-'{who}' : cause - {cause}",
    322: "Error processing request.-'{who}' : cause - {cause}",
    326: "Unable to connect as the client id is already in use. Retry with a unique client id.",
    354: "Requested market data is not subscribed.Delayed market data is not available.{what}",
    366: "No historical data query found for ticker id:{id}",
    420: "Invalid Real-time Query:{cause}",
    430: "We are sorry, but fundamentals data for the security specified is not available.Not allowed",
    434: "The order size cannot be zero.",
    503: "The TWS is out of date and must be upgraded.",
    505: "Fatal Error: Unknown message id.",
    1100: "Connectivity between IBKR and Trader Workstation has been lost.",
    1101: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IBKR and Trader Workstation has been restored - data maintained. {farms}.",
    1300: "TWS socket port has been reset and this connection is being dropped. "
    "Please reconnect on the new port - {port}",
    2100: "New account data requested from TWS. API client has been unsubscribed from account data.",
    2101: "Unable to subscribe to account as the following clients are subscribed to a different account.",
    2103: "Market data farm connection is broken:{farm}",
    2104: "Market data farm connection is OK:{farm}",
    2105: "HMDS data farm connection is broken:{farm}",
    2106: "HMDS data farm connection is OK:{farm}",
    2107: "HMDS data farm connection is inactive but should be available upon demand.{farm}",
    2108: "Market data farm connection is inactive but should be available upon demand.{farm}",
    2110: "Connectivity between Trader Workstation and server is broken. It will be restored automatically.",
    2119: "Market data farm is connecting:{farm}",
    2157: "Sec-def data farm connection is broken:{farm}",
    2158: "Sec-def data farm connection is OK:{farm}",
    10089: "Requested market data requires additional subscription for API. See link in 'Market Data Connections' "
    "dialog for more details.Delayed market data is available.{what}",
    10090: "Part of requested market data is not subscribed. Subscription-independent ticks are still active."
    "Delayed market data is available.{what}",
    10092: "Deep market data is not supported for this combination of security type/exchange",
    10147: "OrderId {id} that needs to be cancelled is not found.",
    10148: "OrderId {id} that needs to be cancelled cannot be cancelled, state: {state}.",
    10167: "Requested market data is not subscribed. Displaying delayed market data.{what}",
    10168: "Requested market data is not subscribed. Delayed market data is not enabled.{what}",
    10299: "{cause}",
    10314: "{cause}",
    10339: "{cause}",
    10172: "Failed to request news article:{cause}",
    10182: "Failed to request live updates (disconnected).",
    10197: "No market data during competing live session",
    10276: "News feed is not allowed.",
}

ALL_FARMS: Final = "All data farms are connected: usfarm; ushmds; secdefil"

FARMS: Final[dict[int, str]] = {
    2103: "usfarm",
    2104: "usfarm",
    2105: "ushmds",
    2106: "ushmds",
    2107: "ushmds",
    2108: "usfarm",
    2119: "usfarm",
    2157: "secdefil",
    2158: "secdefil",
}
"""The farm that a farm code names by default."""

AT_CONNECT: Final[tuple[tuple[int, str], ...]] = (
    (2104, "usfarm.nj"),
    (2104, "usfarm"),
    (2106, "ushmds"),
    (2158, "secdefil"),
)
"""The farm notices a healthy gateway sends after the next valid id."""

READ_ONLY: Final = "The API interface is currently in Read-Only mode."
PACING: Final = "Historical data request pacing violation"
SUMMARY_LIMIT: Final = "Maximum number of account summary requests exceeded; desubscribe to previous request first"
SNAPSHOT_GENERIC: Final = "Snapshot market data subscription is not applicable to generic ticks"
DUPLICATE_TICKER: Final = "Duplicate ticker id"


def words(code: int, **parts: object) -> str:
    """The text of `code`; a farm code without `farm` names its usual one. Unknown codes have no words of their own."""
    template = TEXTS.get(code, "")
    if code in FARMS:
        parts.setdefault("farm", FARMS[code])
    for part in ("cause", "what", "who", "id", "state", "farms", "port"):
        parts.setdefault(part, "")
    return template.format_map(parts)
