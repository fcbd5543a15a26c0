"""The catalogue of reasons: what each means, what to do about it, how long to wait, and which HTTP status it is.

Page, command line, HTTP, logs and documentation all take their words from here.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Patience = Literal[
    "loopbackPort",  # portClosed: constant on loopback, doubling elsewhere
    "atOnce",  # first attempt at once, unless the loss before was moments ago
    "doubling",
    "handshake",  # the one connection stays open: each new one may raise another dialog in TWS
    "ghost",  # the client id of this daemon's last session first, then a person must act
    "portMoved",
    "person",  # blocked; slow attempts go on
    "upstream",  # no dial: the session is kept
    "none",  # no connection is requested
]


class Reason(Struct, frozen=True, kw_only=True):
    """`sentence` and `advice` may hold `{host}`, `{port}`, `{clientId}` … filled in by `describe`."""

    title: str
    sentence: str
    advice: tuple[str, ...] = ()
    status: int
    retryable: bool
    patience: Patience | None = None  # of a link reason; None: never a state of the link

    def anchor(self, name: str) -> str:
        """Where the documentation explains the reason `name`; the `type` of its problem."""
        return f"/docs/reasons#{name}"


PRODUCTS = {7497: "TWS", 7496: "TWS", 4002: "IB Gateway", 4001: "IB Gateway"}
"""What usually listens on IBKR's standard ports."""
BY_PRODUCT = {
    "TWS": {
        "product": "TWS",
        "menu": "Edit → Global Configuration → API → Settings",
        "enableApi": "Enable the API in TWS: Edit → Global Configuration → API → Settings, tick “Enable ActiveX and "
        "Socket Clients”.",
        "memory": "Configuration → General → Memory Allocation",
    },
    "IB Gateway": {
        "product": "IB Gateway",
        "menu": "Configure → Settings → API → Settings",
        "enableApi": "The API of IB Gateway is on once it is logged in; its options are in Configure → Settings → "
        "API → Settings.",
        "memory": "Configure → Settings → General → Memory Allocation",
    },
    "": {
        "product": "TWS or IB Gateway",
        "menu": "API → Settings",
        "enableApi": "Enable the API: in TWS, Edit → Global Configuration → API → Settings, tick “Enable ActiveX and "
        "Socket Clients”; in IB Gateway it is always on.",
        "memory": "General → Memory Allocation",
    },
}
"""What the menus of each product are called; under the empty name, where the port does not show which one it is."""

START_TWS = "Start TWS or IB Gateway and log in."
CHECK_PORT = (
    "Verify the port: in {product}, {menu} → Socket port must equal IBKR_PORT ({port}). "
    "Standard ports: TWS paper 7497, TWS live 7496, Gateway paper 4002, Gateway live 4001."
)
ENABLE_API = "{enableApi}"
FIREWALL = "Add Python and TWS to the firewall's exceptions (Windows Firewall may be blocking the connection)."
FIRST_FOUR = (START_TWS, CHECK_PORT, ENABLE_API, FIREWALL)
"""The four classic causes of “cannot connect”, in the order in which they are worth checking."""

LOOK_AT_TWS = "Look at the TWS or Gateway window: accept the incoming connection if a dialog is open."
FINISH_LOGIN = "Finish the login there, with two-factor authentication if it is requested."
TRUSTED_IPS = "In {menu}, add this machine's address to “Trusted IPs”, or allow connections from localhost."
STAYS_OPEN = (
    "If TWS is only slow, wait: an automatic attempt stays open for two minutes and connects as soon as TWS answers. "
    "IBKR_CONNECT_TIMEOUT=60 gives it longer before that is reported."
)
SLOW_PROBE = "If TWS is only slow, allow more time: IBKR_PROBE_TIMEOUT=15 in .env."
RESTART_GATEWAY = "If nothing helps, restart TWS or Gateway."
WAIT_UPSTREAM = "Wait: TWS reconnects to IBKR by itself; the session is kept and nothing needs to be restarted."
PRESS_CONNECT = "Press “🔌 Connect IBKR” or POST {{}} to /api/ibkr/connect."

CATALOGUE: dict[str, Reason] = {
    # --- the link: why it is not ready ---
    "portClosed": Reason(
        title="Nothing listens on the gateway's port",
        sentence="Nothing listens on {host}:{port}: TWS or IB Gateway is not running there, or its API is off.",
        advice=FIRST_FOUR,
        status=503,
        retryable=True,
        patience="loopbackPort",
    ),
    "hostUnreachable": Reason(
        title="The gateway's host cannot be reached",
        sentence="The host {host} cannot be reached: its name or its network does not answer.",
        advice=("Check IBKR_HOST ({host}).", "Check the network or VPN between this machine and {host}.", FIREWALL),
        status=503,
        retryable=True,
        patience="doubling",
    ),
    "dialTimeout": Reason(
        title="The gateway's host does not answer",
        sentence="No answer from {host}:{port} within the time limit: a firewall usually drops the packets silently.",
        advice=(FIREWALL, "Check IBKR_HOST ({host}) and that the machine is on.", CHECK_PORT, TRUSTED_IPS),
        status=504,
        retryable=True,
        patience="doubling",
    ),
    "handshakeTimeout": Reason(
        title="The port is open, but TWS does not answer",
        sentence="Port {port} of {host} accepted the connection, but TWS sent nothing: it probably waits for you.",
        advice=(LOOK_AT_TWS, FINISH_LOGIN, STAYS_OPEN, ENABLE_API, TRUSTED_IPS, RESTART_GATEWAY),
        status=504,
        retryable=True,
        patience="handshake",
    ),
    "closedDuringHandshake": Reason(
        title="The gateway closed the connection during the handshake",
        sentence="The port {host}:{port} accepted the connection and closed it before the session was complete.",
        advice=(
            TRUSTED_IPS,
            "If a proxy such as socat stands in front of Gateway, Gateway behind it is probably not running: start it.",
            ENABLE_API,
            RESTART_GATEWAY,
        ),
        status=503,
        retryable=True,
        patience="doubling",
    ),
    "notTws": Reason(
        title="The port does not speak the TWS API",
        sentence="What answers on {host}:{port} is not TWS or IB Gateway.",
        advice=(
            CHECK_PORT,
            "If it is the Client Portal (port 5000) or a web server: this project needs TWS or IB Gateway.",
        ),
        status=502,
        retryable=False,
        patience="person",
    ),
    "clientIdInUse": Reason(
        title="The client id is in use",
        sentence="Another API client holds client id {clientId} at {host}:{port}, or TWS has not yet "
        "released this daemon's last session.",
        advice=(
            "Wait up to two minutes: TWS releases the id of a broken session after a while.",
            "Close the other program that connects with client id {clientId}.",
            "Or give this one another id: IBKR_CLIENT_ID in .env.",
            "If no other program runs, restart TWS or Gateway.",
        ),
        status=409,
        retryable=True,
        patience="ghost",
    ),
    "sessionIncomplete": Reason(
        title="TWS answered, but not completely",
        sentence="TWS answered on {host}:{port} but did not name its accounts or the next order id in time.",
        advice=(
            FINISH_LOGIN,
            "Wait: TWS may be starting or in its nightly reset.",
            STAYS_OPEN,
            RESTART_GATEWAY,
        ),
        status=503,
        retryable=True,
        patience="handshake",
    ),
    "versionUnsupported": Reason(
        title="This TWS version is not supported",
        sentence="The TWS or Gateway on {host}:{port} is too old for this client.",
        advice=("Update TWS or IB Gateway to a current stable version.",),
        status=502,
        retryable=False,
        patience="person",
    ),
    "accountMismatch": Reason(
        title="Another account is logged in than expected",
        sentence="The gateway on {host}:{port} is logged in to {found}, not to the expected {wanted}.",
        advice=(
            "Log in to the expected account in TWS or Gateway (paper and live use different ports).",
            "Or name the account you want: IBKR_ACCOUNT in .env.",
            CHECK_PORT,
        ),
        status=409,
        retryable=False,
        patience="person",
    ),
    "socketLost": Reason(
        title="The connection to the gateway was lost",
        sentence="The gateway closed the connection; it is probably restarting.",
        advice=("Wait: the link reconnects by itself.", START_TWS),
        status=503,
        retryable=True,
        patience="atOnce",
    ),
    "probeTimeout": Reason(
        title="The gateway stopped answering",
        sentence="The socket is open but TWS does not answer: it is probably frozen.",
        advice=(
            "Look at the TWS or Gateway window: if it does not react, restart it.",
            SLOW_PROBE,
            "Out of memory is a common cause: raise {memory} and let it restart daily.",
        ),
        status=504,
        retryable=True,
        patience="atOnce",
    ),
    "portMoved": Reason(
        title="TWS moved to another port",
        sentence="TWS reports that its API port has changed to {port}.",
        advice=("Set IBKR_PORT={port} in .env, so that the next start dials the new port at once.",),
        status=503,
        retryable=True,
        patience="portMoved",
    ),
    "upstreamLost": Reason(
        title="TWS has lost IBKR's servers",
        sentence="TWS answers, but its own connection to IBKR's servers is down.",
        advice=(
            WAIT_UPSTREAM,
            "Check the internet connection of the machine that runs TWS.",
            "Check whether the same user name is logged in elsewhere.",
        ),
        status=503,
        retryable=True,
        patience="upstream",
    ),
    "competingSession": Reason(
        title="Probably logged in elsewhere",
        sentence="The same IBKR user is probably logged in somewhere else (phone, web or another TWS).",
        advice=(
            "Log out of the other session, or confirm the re-login in TWS.",
            "Better for good: a second IBKR user name for the API.",
            WAIT_UPSTREAM,
        ),
        status=503,
        retryable=True,
        patience="upstream",
    ),
    "loginRequired": Reason(
        title="TWS probably waits for your login",
        sentence="TWS or Gateway is probably waiting for its weekly login (IBKR ends all logins on Sunday, 01:00 New "
        "York time).",
        advice=(FINISH_LOGIN, START_TWS, "Attempts go on; the link comes up by itself after the login."),
        status=503,
        retryable=True,
        patience="loopbackPort",
    ),
    "autoConnectOff": Reason(
        title="Auto-connect is off",
        sentence="Auto-connect is off and no connection was requested.",
        advice=(PRESS_CONNECT, "Or set IBKR_AUTO_CONNECT=true in .env and restart the daemon."),
        status=503,
        retryable=False,
        patience="none",
    ),
    "manual": Reason(
        title="Disconnected by you",
        sentence="Disconnected by request; it stays so until you connect again.",
        advice=(PRESS_CONNECT,),
        status=503,
        retryable=False,
        patience="none",
    ),
    "shuttingDown": Reason(
        title="The daemon is stopping",
        sentence="The daemon is stopping; the session is being closed cleanly.",
        advice=("Start it again: ./scripts/start, or python -m daemon.",),
        status=503,
        retryable=True,
        patience="none",
    ),
    # --- published only by the facade ---
    "daemonUnreachable": Reason(
        title="The daemon does not answer",
        sentence="The daemon that holds the session does not answer; what is shown may be old.",
        advice=(
            "Start the daemon: ./scripts/start, or python -m daemon.",
            "Run `ibkr doctor` to find out what is wrong.",
        ),
        status=503,
        retryable=True,
    ),
    # --- answers to a request ---
    "notConnected": Reason(
        title="Not connected",
        sentence="There is no working session with IBKR right now.",
        advice=("See /api/ibkr/link for the reason.", "Add allowStale=true to read what was last known."),
        status=503,
        retryable=True,
    ),
    "snapshotIncomplete": Reason(
        title="Not loaded yet",
        sentence="The initial snapshot of this list is incomplete, so it is unknown, not empty.",
        advice=("Try again in a few seconds: it is requested again every 10 s.",),
        status=503,
        retryable=True,
    ),
    "ledgerUnavailable": Reason(
        title="The daemon's ledger cannot be used",
        sentence="The daemon cannot read its ledger (ledger.sqlite in IBKR_STATE_DIR); everything else works.",
        advice=("Check free disk space and the permissions of the state directory.", "See daemon.log for the error."),
        status=503,
        retryable=True,
    ),
    "tooManyStreams": Reason(
        title="Too many event streams",
        sentence="All event streams of the facade are in use.",
        advice=("Close pages or programs that read /api/ibkr/events.",),
        status=503,
        retryable=True,
    ),
    "brokerTimeout": Reason(
        title="IBKR did not answer in time",
        sentence="The gateway accepted the request but sent no complete answer in time.",
        advice=("Try again.",),
        status=504,
        retryable=True,
    ),
    "brokerError": Reason(
        title="IBKR refused the request",
        sentence="The gateway answered the request with an error.",
        status=502,
        retryable=False,
    ),
    "connectInProgress": Reason(
        title="Another connection attempt is under way",
        sentence="A connection attempt with other parameters is under way; one at a time.",
        advice=("Wait for it to end, or disconnect first.",),
        status=409,
        retryable=True,
    ),
    "accountAmbiguous": Reason(
        title="Several accounts",
        sentence="This login has several accounts; name one.",
        advice=("Add ?account=, or set IBKR_ACCOUNT in .env.",),
        status=409,
        retryable=False,
    ),
    "pacingBudget": Reason(
        title="IBKR's pacing limit",
        sentence="IBKR limits history requests; the budget is used up for now.",
        advice=("Try again when Retry-After says.", "Request larger bars, or fewer and longer durations."),
        status=429,
        retryable=True,
    ),
    "tooManySubscriptions": Reason(
        title="All market-data lines are in use",
        sentence="All market-data lines of this login are in use.",
        advice=("Watch fewer contracts at once.", "IBKR sells further lines (quote booster packs)."),
        status=429,
        retryable=True,
    ),
    "invalidParameters": Reason(
        title="A parameter is not acceptable",
        sentence="A parameter of the request is missing, of the wrong type or out of range.",
        status=422,
        retryable=False,
    ),
    "contractAmbiguous": Reason(
        title="Several contracts match",
        sentence="Several contracts match the description; be more specific.",
        advice=("Choose one of the candidates by its conId.",),
        status=422,
        retryable=False,
    ),
    "notFound": Reason(title="Not found", sentence="What was requested does not exist.", status=404, retryable=False),
    "tokenMissing": Reason(
        title="Token missing or wrong",
        sentence="This facade requires its bearer token.",
        advice=("Send Authorization: Bearer with the content of IBKR_FACADE_TOKEN_FILE.",),
        status=401,
        retryable=False,
    ),
    "peerRejected": Reason(
        title="Another user's connection",
        sentence="Only the user who runs the facade may use it.",
        advice=(
            "Set IBKR_PEER_CHECK=false where the system does not report the user of a connection (containers, WSL).",
        ),
        status=403,
        retryable=False,
    ),
    "originRejected": Reason(
        title="Foreign origin",
        sentence="The request comes from a web page of another origin.",
        advice=("Open the page from the facade's own address.",),
        status=403,
        retryable=False,
    ),
    "hostNotAllowed": Reason(
        title="Host not allowed",
        sentence="This host may not be connected to by request.",
        advice=("Name it in IBKR_HOST or IBKR_ALLOWED_HOSTS.",),
        status=403,
        retryable=False,
    ),
    "notPermitted": Reason(
        title="Not permitted",
        sentence="The NATS credentials of this facade do not permit this command.",
        advice=("Use the credentials of an operator, or ask who runs the NATS server.",),
        status=403,
        retryable=False,
    ),
    "liveLocked": Reason(
        title="Live trading port locked",
        sentence="A live trading port that is not in .env may not be connected to by request.",
        advice=("Set IBKR_PORT to it, or IBKR_ALLOW_LIVE=true.",),
        status=403,
        retryable=False,
    ),
    "notSubscribed": Reason(
        title="No market-data subscription",
        sentence="This IBKR user has no market-data subscription for the contract.",
        advice=("Subscribe to it in the IBKR Client Portal.", "Or set IBKR_MARKET_DATA=delayed."),
        status=403,
        retryable=False,
    ),
    "badRequest": Reason(title="Bad request", sentence="The request cannot be read.", status=400, retryable=False),
    "methodNotAllowed": Reason(
        title="Method not allowed", sentence="This path does not take this method.", status=405, retryable=False
    ),
    "bodyTimeout": Reason(
        title="The body arrived too slowly",
        sentence="The request's body did not arrive in time.",
        status=408,
        retryable=True,
    ),
    "tooLarge": Reason(
        title="Too large", sentence="The request is larger than this API accepts.", status=413, retryable=False
    ),
    "unsupportedMediaType": Reason(
        title="JSON only",
        sentence="Changes are made by POST with Content-Type: application/json.",
        status=415,
        retryable=False,
    ),
    "expectationFailed": Reason(
        title="Expectation not supported",
        sentence="The only Expect header that is understood is 100-continue.",
        status=417,
        retryable=False,
    ),
    "hostRejected": Reason(
        title="Unknown Host",
        sentence="The Host header names neither this facade's address nor one of IBKR_FACADE_NAMES.",
        advice=("Use 127.0.0.1 or localhost with the facade's port.", "Or name it in IBKR_FACADE_NAMES."),
        status=421,
        retryable=False,
    ),
    # --- the local socket alone ---
    "protocolUnsupported": Reason(
        title="Another protocol version",
        sentence="Daemon and client use different versions of the socket's protocol.",
        advice=("Restart both from the same installation.",),
        status=503,
        retryable=False,
    ),
}

LINK_REASONS = tuple(name for name, reason in CATALOGUE.items() if reason.patience is not None)


class _Blank(dict[str, Any]):
    """A fact that is not known is named as unknown."""

    def __missing__(self, key: str) -> str:
        return f"({key} unknown)"


def describe(name: str, **facts: Any) -> tuple[str, tuple[str, ...]]:
    """Sentence and ordered advice of a reason, with `host`, `port`, `clientId`, `found`, `wanted` filled in.

    `port` also decides whose menus the advice names: TWS's, IB Gateway's, or both.
    """
    reason = CATALOGUE[name]
    known = _Blank(BY_PRODUCT[PRODUCTS.get(facts.get("port", 0), "")] | facts)
    return reason.sentence.format_map(known), tuple(line.format_map(known) for line in reason.advice)


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """A request that cannot be served, as the catalogue and RFC 9457 describe it.

    `detail`: what happened this time. `ibCode`: IBKR's number. `retryAfter`: s. `extra`: further members such as
    `candidates` or `accounts`.
    """

    def __init__(
        self,
        reason: str,
        detail: str = "",
        *,
        ibCode: int | None = None,
        retryAfter: float | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        entry = CATALOGUE[reason]
        super().__init__(detail or entry.title)
        self.reason = reason
        self.detail = detail
        self.ibCode = ibCode
        self.retryAfter = retryAfter
        self.extra = extra or {}

    @property
    def entry(self) -> Reason:
        return CATALOGUE[self.reason]
