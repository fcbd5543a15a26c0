"""The commands of `ibkr` but the quick `ibkr status`, which runs in `facade/cli.py`. They use the daemon's socket."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from facade.doctor import checks as doctor
from facade.terminal import data, diagnosis, link_view, restarting, service_install
from facade.terminal.requests import Failure, named_session, request, why_no_session
from facade.terminal.tables import Form
from shared.jsonrpc import blocking_client
from shared.reasons import describe
from shared.settings import BAD_SETTINGS, PROJECT_ROOT, TABLE, Settings, SettingsError, Value
from shared.transport.address import DEFAULT_SESSION
from shared.transport.private_paths import holder

app = typer.Typer(
    name="ibkr",
    help="One session with TWS or IB Gateway: its state, its account data, and commands for it.",
    epilog=f"Settings, from the environment and .env (see .env.example): IBKR_ENV_FILE, {', '.join(TABLE)}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, with every field of the rows.")]
Account = Annotated[str, typer.Option(help="Only this account; needed where the login has several.")]
Stale = Annotated[bool, typer.Option("--stale", help="Print what was last known, also while the link is down.")]
MAX_SECONDS = 3600


def run(arguments: Sequence[str]) -> int:
    """The exit status of `ibkr` with these arguments."""
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    try:
        status = app(list(arguments), prog_name="ibkr", standalone_mode=False)
    except typer.Exit as end:
        return int(end.exit_code)
    except Failure as failure:
        return failure.show(as_json="--json" in arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return BAD_SETTINGS
    except (typer.Abort, KeyboardInterrupt):
        return link_view.NOT_CONNECTED
    except Exception as error:
        if hasattr(error, "format_message"):  # click's errors of usage; without a command the help is all there is
            if message := error.format_message():
                print(f"ibkr: {message}", file=sys.stderr)
            return link_view.USAGE
        raise
    return int(status or 0)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ibkr {version('ibkr-link')}, ib_async {version('ib_async')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    session: Annotated[
        str, typer.Option(metavar="NAME", help="The session to use, where there are several (IBKR_SESSION).")
    ] = "",
) -> None:
    """Options of every command. `--session` is taken out before this is called: it may stand anywhere."""


def settings() -> Settings:
    return Settings.load(os.environ)


@app.command()
def status(as_json: AsJson = False) -> int:
    """Whether the link is up, and if not, why and what to do. Exit status 0 connected, 1 not, 3 no daemon."""
    ours = settings()
    try:
        link = blocking_client.call_once(
            ours.socket_path, "link.get", {}, link_view.TIMEOUT, session=named_session(ours)
        )
    except (OSError, blocking_client.CallError) as error:
        sentence, advice = describe("daemonUnreachable")
        if unknown := why_no_session(ours):
            sentence, advice = unknown, ()
        link = {
            "phase": None,
            "reason": "daemonUnreachable",
            "sentence": sentence,
            "advice": list(advice),
            "connected": False,
            "stale": True,
            "lastError": {"code": None, "text": str(error), "at": None},
        }
    status = link_view.show(link, sys.stdout, as_json=as_json, environ=os.environ, session=named_session(ours))
    if link["phase"] is None and not as_json and (demo := restarting.demonstration(ours)):
        print(f"  demo      a demonstration is running; its status: IBKR_ENV_FILE={demo / 'demo.env'} ibkr status")
    return status


@app.command()
def watch(as_json: AsJson = False) -> int:
    """Link, positions and PnL, live, until q or Ctrl-C. With --json one line a change."""
    from facade.terminal.watch import watch as follow

    return follow(settings(), as_json=as_json)


@app.command()
def connect(
    host: Annotated[str | None, typer.Option(help="Host of TWS or IB Gateway, instead of IBKR_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1024, max=65535, help="Its API port, instead of IBKR_PORT.")] = None,
    client_id: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Instead of IBKR_CLIENT_ID.")] = None,
    account: Annotated[str | None, typer.Option(help="Account to use, instead of IBKR_ACCOUNT.")] = None,
    timeout: Annotated[float | None, typer.Option(help=f"s for the attempt; at most {MAX_SECONDS}.")] = None,
    as_json: AsJson = False,
) -> int:
    """Connect, and reconnect automatically from then on; what is not named is taken from the settings."""
    if timeout is not None and not 0 < timeout <= MAX_SECONDS:
        raise typer.BadParameter(f"{timeout:g} is not above 0 and at most {MAX_SECONDS} s.", param_hint="'--timeout'")
    named = {"host": host, "port": port, "clientId": client_id, "account": account, "timeout": timeout}
    params = {name: value for name, value in named.items() if value is not None}
    request(settings(), "link.connect", params)
    return _state(as_json)


@app.command()
def disconnect(as_json: AsJson = False) -> int:
    """Disconnect, and stay disconnected until the next connect."""
    request(settings(), "link.disconnect")
    _state(as_json)
    return 0


@app.command()
def reconnect(as_json: AsJson = False) -> int:
    """Retry now instead of waiting for the next attempt."""
    ours = settings()
    phase = request(ours, "link.get").get("phase")
    request(ours, "link.reconnect")
    if not as_json and (why := NOTHING_TO_RETRY.get(phase)):
        print(why)
    _state(as_json)
    return 0


NOTHING_TO_RETRY = {
    "ready": "Nothing to do: the link is connected.",
    "held": "Nothing to do: you have disconnected the link. To connect it: ibkr connect",
    "disabled": "Nothing to do: auto-connect is off. To connect once: ibkr connect",
    "upstreamLost": "Nothing to do: the session with TWS stands; TWS itself reconnects to IBKR.",
}


def _state(as_json: bool) -> int:
    ours = settings()
    link = request(ours, "link.get")
    return link_view.show(link, sys.stdout, as_json=as_json, environ=os.environ, session=named_session(ours))


@app.command()
def stop(as_json: AsJson = False) -> int:
    """Stop the daemon; it closes the session cleanly first."""
    ours = settings()
    try:
        request(ours, "daemon.stop")
        how = "The daemon is stopping."
    except Failure as failure:
        pid = holder(ours.state_dir) if failure.reason == "daemonUnreachable" else None
        if pid is None:
            raise
        try:
            os.kill(pid, signal.SIGTERM)  # on Windows it ends at once: there is no such signal
        except ProcessLookupError:  # it has ended since
            raise failure from None
        how = f"The daemon (process {pid}) does not answer at {ours.socket_path}; it was sent SIGTERM and is stopping."
    print(json.dumps({"stopped": True}) if as_json else how)
    return 0


# --- data -----------------------------------------------------------------------------------------------------------


def _form(as_json: bool, as_csv: bool) -> Form:
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    return "json" if as_json else "csv" if as_csv else "table"


@app.command()
def accounts(stale: Stale = False, as_json: AsJson = False, as_csv: AsCsv = False) -> int:
    """Every account with its value, cash, margin and today's profit."""
    return data.accounts(settings(), _form(as_json, as_csv), stale=stale)


@app.command()
def positions(account: Account = "", stale: Stale = False, as_json: AsJson = False, as_csv: AsCsv = False) -> int:
    """What the accounts hold."""
    return data.positions(settings(), _form(as_json, as_csv), account=account, stale=stale)


@app.command()
def orders(
    account: Account = "",
    done: Annotated[bool, typer.Option("--all", help="Completed orders too.")] = False,
    stale: Stale = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> int:
    """Open orders, of this and other clients."""
    return data.orders(settings(), _form(as_json, as_csv), account=account, done=done, stale=stale)


@app.command()
def fills(
    account: Account = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="From this time, such as 2026-03-01T09:30:00Z.")] = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> int:
    """Executions of the last day, or since a time; also while the link is down."""
    return data.fills(settings(), _form(as_json, as_csv), account=account, since=since)


Type = Annotated[str, typer.Option("--type", metavar="TYPE", help="IBKR's security type: STK, FUT, OPT, CASH, IND …")]
Currency = Annotated[str, typer.Option(help="Currency of the contract, such as USD.")]
Exchange = Annotated[str, typer.Option(help="Exchange of the contract.")]
Expiry = Annotated[str, typer.Option(metavar="YYYYMM[DD]", help="Month or last trade date of a future or option.")]


def _query(security_type: str, currency: str, exchange: str, expiry: str) -> dict[str, str]:
    given = {
        "secType": security_type.upper(),
        "currency": currency.upper(),
        "exchange": exchange.upper() or ("SMART" if security_type.upper() in ("STK", "OPT") else ""),
        "lastTradeDateOrContractMonth": expiry,
    }
    return {name: value for name, value in given.items() if value}


@app.command()
def quote(
    symbols: Annotated[list[str], typer.Argument(metavar="SYMBOL…", help="Symbols or conIds; currencies as EUR.USD.")],
    security_type: Type = "STK",
    currency: Currency = "",
    exchange: Exchange = "",
    expiry: Expiry = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> int:
    """Prices now. A symbol that means several contracts lists them."""
    query = _query(security_type, currency, exchange, expiry)
    return data.quotes(settings(), _form(as_json, as_csv), symbols, query=query)


@app.command()
def bars(
    symbol: Annotated[str, typer.Argument(help="Symbol or conId.")],
    size: Annotated[str, typer.Option(help="IBKR's bar size, such as '5 mins' or '1 day'.")] = "1 min",
    duration: Annotated[str, typer.Option(help="How far back, such as '2 D' or '1 Y'.")] = "1 D",
    what: Annotated[str, typer.Option(help="TRADES, MIDPOINT, BID, ASK …; default: what is traded.")] = "",
    end: Annotated[str, typer.Option(metavar="TIME", help="End of the bars; default: now.")] = "",
    all_hours: Annotated[bool, typer.Option("--all-hours", help="Outside regular trading hours too.")] = False,
    security_type: Type = "STK",
    currency: Currency = "",
    exchange: Exchange = "",
    expiry: Expiry = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> int:
    """Historical prices of one contract."""
    params = {"barSizeSetting": size, "durationStr": duration, "whatToShow": what, "endDateTime": end}
    return data.bars(
        settings(),
        _form(as_json, as_csv),
        symbol,
        query=_query(security_type, currency, exchange, expiry),
        params={**params, "useRTH": not all_hours},
    )


# --- the machine ----------------------------------------------------------------------------------------------------


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> int:
    """Check everything between you and IBKR, one thing after the other. Exit status 1 if something was found."""
    checks = diagnosis.examine(os.environ)
    if as_json:
        found = list(checks)
        print(json.dumps({"checks": [check.as_dict() for check in found]}, ensure_ascii=False))
    else:
        found = list(_printed(checks))
        print(f"\n{doctor.summary(found)}")
    if any(check.result == "failed" and check.name == "settings" for check in found):
        return BAD_SETTINGS
    return int(any(check.result == "failed" for check in found))


def _printed(checks: Iterator[doctor.Check]) -> Iterator[doctor.Check]:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for check in checks:
        print("\n".join(check.lines(colour=colour)), flush=True)
        yield check


alert = typer.Typer(help="Alerts about the link.", no_args_is_help=True)
app.add_typer(alert, name="alert")


@alert.command("test")
def alert_test(as_json: AsJson = False) -> int:
    """Send one alert to each receiver of IBKR_ALERTS, once. Exit status 1 if one refuses it or there is none."""
    sinks = request(settings(), "alerts.test")["sinks"]
    if as_json:
        print(json.dumps({"sinks": sinks}, ensure_ascii=False))
    for sink in () if as_json else sinks:
        print(f"{sink['sink']}: {'delivered' if sink['delivered'] else 'not delivered: ' + sink['detail']}")
    if not sinks and not as_json:
        print("No receiver is set: name one in IBKR_ALERTS and restart the daemon.", file=sys.stderr)
    return int(not sinks or not all(sink["delivered"] for sink in sinks))


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until Ctrl-C.")] = False,
    number: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    which: Annotated[str, typer.Argument(metavar="WHICH", help="daemon or facade.")] = "daemon",
    as_json: AsJson = False,
) -> int:
    """The log of daemon or facade, from the state directory."""
    from facade.terminal.logs import LogMissing, show

    if which not in ("daemon", "facade"):
        print("ibkr logs takes daemon or facade.", file=sys.stderr)
        return link_view.USAGE
    try:
        show(settings().state_dir / "logs" / f"{which}.log", number, follow=follow, as_json=as_json, out=sys.stdout)
    except LogMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written and run; change nothing.")]


System = Annotated[
    bool, typer.Option("--system", help="Services of the system, started at boot, with a user of their own (systemd).")
]


@app.command()
def install(system: System = False, dry_run: DryRun = False) -> int:
    """Start daemon and facade at login (systemd user units, launchd agents or scheduled tasks), or at boot (--system).

    With --session the daemon of that session alone: the facade that is installed without it serves all of them.
    """
    if system:
        return _change_system(service_install.install, dry_run)
    if differing := service_install.settings_not_in_env_file(settings(), os.environ):
        file = PROJECT_ROOT / (".env" if settings().session == DEFAULT_SESSION else f".env.{settings().session}")
        print(f"The services read {file} alone; these differ from it: {', '.join(differing)}.", file=sys.stderr)
    return _change_services(service_install.install, dry_run)


@app.command()
def uninstall(system: System = False, dry_run: DryRun = False) -> int:
    """Remove the services; keeps settings and data."""
    if system:
        return _change_system(service_install.uninstall, dry_run)
    return _change_services(service_install.uninstall, dry_run)


@app.command()
def restart(which: Annotated[str, typer.Argument(metavar="WHICH", help="daemon, facade or all.")] = "all") -> int:
    """Restart what `install` or ./scripts/start runs; with `facade`, the session is not touched."""
    if which not in ("daemon", "facade", "all"):
        print("ibkr restart takes daemon, facade or all.", file=sys.stderr)
        return link_view.USAGE
    return restarting.restart(which, _machine(), settings(), sys.stdout)


def _change_services(act: Callable[..., int], dry_run: bool) -> int:
    return act(_machine(), settings(), sys.stdout, dry_run=dry_run)


def _change_system(act: Callable[..., int], dry_run: bool) -> int:
    """Of the settings below /etc, where they are there already: not those of whoever installs."""
    given = Value("IBKR_SESSION", os.environ.get("IBKR_SESSION", "").strip(), Path("/"))
    session = TABLE["IBKR_SESSION"].read(given)
    session = "" if session == DEFAULT_SESSION else session
    file = service_install.system_settings(session)
    found = Settings(session=session or DEFAULT_SESSION)
    if file.is_file():
        found = Settings.load({"IBKR_ENV_FILE": str(file), "IBKR_SESSION": session}, Path("/"))
    machine = service_install.Machine(system="system", python=Path(sys.executable), home=Path("/root"), user="root")
    return act(machine, found, sys.stdout, dry_run=dry_run)


def _machine() -> service_install.Machine:
    return service_install.Machine.here(Path(sys.executable), os.environ)


@app.command("mcp")
def mcp_command(
    show_accounts: Annotated[bool, typer.Option("--show-accounts", help="Whole account ids, not masked ones.")] = False,
) -> int:
    """Serve read-only tools to an agent, over the Model Context Protocol on standard input and output."""
    try:
        from facade.terminal.mcp_server import serve
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "mcp":
            raise
        print(f"ibkr mcp needs the package mcp: {sys.executable} -m pip install 'mcp>=2.3,<3'", file=sys.stderr)
        return 1
    serve(settings(), os.environ, version=version("ibkr-link"), show_accounts=show_accounts)
    return 0


@app.command("support-bundle")
def support_bundle(
    target: Annotated[
        Path | None, typer.Argument(help="The archive: .zip, or .tar.gz (default, in the working directory).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write without a question.")] = False,
) -> int:
    """Logs, settings, link events, versions and the doctor's findings in one archive, redacted."""
    from facade.terminal.bundle import bundle

    return bundle(os.environ, target, ask=None if yes else typer.confirm)
