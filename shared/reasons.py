"""The one catalogue: what every reason means, what to do about it, how patient to be, and which HTTP status it is.

Page, command line, HTTP, logs and documentation all take their words from here. Never decides which reason applies.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Patience = Literal[
    "loopbackPort",  # portClosed: constant on loopback, doubling elsewhere
    "atOnce",  # first attempt at once, unless the loss before was moments ago
    "doubling",
    "handshake",  # the one connection stays open: each new one may raise another dialog in TWS
    "ghost",  # our own dead session's client id first, then a person must act
    "portMoved",
    "person",  # blocked; slow attempts go on
    "upstream",  # nothing to dial: the session is kept
    "none",  # nobody wants the link up
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


START_TWS = "Start TWS or IB Gateway and log in."
CHECK_PORT = (
    "Verify the port: in TWS, Settings → API → Socket Port must equal IBKR_PORT ({port}). "
    "Standard ports: TWS paper 7497, TWS live 7496, Gateway paper 4002, Gateway live 4001."
)
ENABLE_API = (
    "Enable the API in TWS: Edit → Global Configuration → API → Settings, tick “Enable ActiveX and Socket Clients”."
)
FIREWALL = "Add Python and TWS to the firewall's exceptions (Windows Firewall may be blocking the connection)."
FIRST_FOUR = (START_TWS, CHECK_PORT, ENABLE_API, FIREWALL)
"""The four classic causes of “cannot connect”, in the order in which they are worth checking."""

LOOK_AT_TWS = "Look at the TWS or Gateway window: accept the incoming connection if a dialog asks for it."
FINISH_LOGIN = "Finish the login there, with two-factor authentication if it asks."
TRUSTED_IPS = "In API → Settings, add this machine's address to “Trusted IPs”, or allow connections from localhost."
STAYS_OPEN = (
    "If TWS is only slow, wait: an automatic attempt stays open for two minutes and connects as soon as TWS answers. "
    "IBKR_CONNECT_TIMEOUT=60 gives it longer before that is reported."
)
SLOW_PROBE = "If TWS is only slow, raise IBKR_PROBE_TIMEOUT, for example to 15."
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
        title="The gateway's host does not answer the dial",
        sentence="No answer from {host}:{port} within the time limit: a firewall usually swallows the dial silently.",
        advice=(FIREWALL, "Check IBKR_HOST ({host}) and that the machine is on.", CHECK_PORT, TRUSTED_IPS),
        status=504,
        retryable=True,
        patience="doubling",
    ),
    "handshakeTimeout": Reason(
        title="The port is open, but no TWS greeting came",
        sentence="Port {port} of {host} took the connection, but TWS said nothing: it probably waits for a person.",
        advice=(LOOK_AT_TWS, FINISH_LOGIN, STAYS_OPEN, ENABLE_API, TRUSTED_IPS, RESTART_GATEWAY),
        status=504,
        retryable=True,
        patience="handshake",
    ),
    "closedDuringHandshake": Reason(
        title="The gateway hung up during the handshake",
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
        sentence="Another API client holds client id {clientId} at {host}:{port}, or our own last session is not "
        "released yet.",
        advice=(
            "Wait up to two minutes: a session that ended badly is released by TWS after a while.",
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
            "Wait: TWS may still be starting or in its nightly reset.",
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
            "Gateway out of memory is a common cause: raise its Java heap and let it restart daily.",
        ),
        status=504,
        retryable=True,
        patience="atOnce",
    ),
    "portMoved": Reason(
        title="TWS moved to another port",
        sentence="TWS says its API port has changed to {port}.",
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
            "Check whether somebody logged in elsewhere with the same user name.",
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
        title="TWS probably waits for a login",
        sentence="TWS or Gateway is probably waiting for its weekly login (IBKR ends all logins on Sunday, 01:00 New "
        "York time).",
        advice=(FINISH_LOGIN, START_TWS, "Attempts go on; the link comes up by itself after the login."),
        status=503,
        retryable=True,
        patience="loopbackPort",
    ),
    "autoConnectOff": Reason(
        title="Auto-connect is off",
        sentence="Auto-connect is disabled and nobody has asked for a connection.",
        advice=(PRESS_CONNECT, "Or set IBKR_AUTO_CONNECT=true in .env and restart the daemon."),
        status=503,
        retryable=False,
        patience="none",
    ),
    "manual": Reason(
        title="Disconnected by request",
        sentence="Somebody disconnected the link; it stays down until somebody connects it.",
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
    # --- only the facade can say this of the link ---
    "daemonUnreachable": Reason(
        title="The daemon does not answer",
        sentence="The daemon that holds the session does not answer; what is shown may be old.",
        advice=("Start the daemon: ./scripts/start, or python -m daemon.", "Ask `ibkr doctor` what is wrong."),
        status=503,
        retryable=True,
    ),
    # --- answers to a request ---
    "notConnected": Reason(
        title="Not connected",
        sentence="There is no proven session with IBKR right now.",
        advice=("See /api/ibkr/link for the reason.", "Add allowStale=true to read what was last known."),
        status=503,
        retryable=True,
    ),
    "snapshotIncomplete": Reason(
        title="Not known yet",
        sentence="The gateway has not told this list to its end, so it is unknown, not empty.",
        advice=("Ask again in a few seconds: it is requested again every 10 s.",),
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
        sentence="The gateway took the request but gave no complete answer in time.",
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
        sentence="This login has several accounts; say which one.",
        advice=("Add ?account=, or set IBKR_ACCOUNT in .env.",),
        status=409,
        retryable=False,
    ),
    "pacingBudget": Reason(
        title="IBKR's pacing limit",
        sentence="IBKR limits history requests; the budget is used up for now.",
        advice=("Try again when Retry-After says.", "Ask for larger bars or fewer, longer durations."),
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
    "notFound": Reason(title="Not found", sentence="There is no such thing here.", status=404, retryable=False),
    "tokenMissing": Reason(
        title="Token missing or wrong",
        sentence="This facade needs its bearer token.",
        advice=("Send Authorization: Bearer with the content of IBKR_FACADE_TOKEN_FILE.",),
        status=401,
        retryable=False,
    ),
    "peerRejected": Reason(
        title="Another user's connection",
        sentence="Only the user who runs the facade may use it.",
        advice=("Set IBKR_PEER_CHECK=false where the system cannot tell users apart (containers, WSL).",),
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
        sentence="The link may not be pointed at this host.",
        advice=("Name it in IBKR_HOST or IBKR_ALLOWED_HOSTS.",),
        status=403,
        retryable=False,
    ),
    "liveLocked": Reason(
        title="Live trading port locked",
        sentence="A live trading port that .env does not name may not be dialled by request.",
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
        title="The body came too slowly",
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
    "hostRejected": Reason(
        title="Unknown Host",
        sentence="The request was addressed to a name this facade does not have.",
        advice=("Use 127.0.0.1 or localhost with the facade's port.", "Or name it in IBKR_FACADE_NAMES."),
        status=421,
        retryable=False,
    ),
    # --- the local socket alone ---
    "protocolUnsupported": Reason(
        title="Another protocol version",
        sentence="Daemon and client speak different versions of the socket's protocol.",
        advice=("Restart both from the same installation.",),
        status=503,
        retryable=False,
    ),
}

LINK_REASONS = tuple(name for name, reason in CATALOGUE.items() if reason.patience is not None)


class _Blank(dict[str, Any]):
    """What is not known is named, not crashed on."""

    def __missing__(self, key: str) -> str:
        return f"({key} unknown)"


def describe(name: str, **facts: Any) -> tuple[str, tuple[str, ...]]:
    """Sentence and ordered advice of a reason, with `host`, `port`, `clientId`, `found`, `wanted` filled in."""
    reason = CATALOGUE[name]
    known = _Blank(facts)
    return reason.sentence.format_map(known), tuple(line.format_map(known) for line in reason.advice)


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """A request that cannot be served, as the catalogue and RFC 9457 tell it.

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
