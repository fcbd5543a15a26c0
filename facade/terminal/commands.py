"""The commands of `ibkr` that may take a moment: watch, connect, doctor, logs, install and the rest.

Speaks to the daemon over the local socket and to the facade not at all. The quick `ibkr status` is in `facade/cli.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from facade import cli
from facade.doctor import checks as doctor
from facade.terminal import home, restarting
from shared.jsonrpc import blocking_client
from shared.jsonrpc.codec import INVALID_PARAMS
from shared.reasons import describe
from shared.settings import BAD_SETTINGS, PROJECT_ROOT, Settings, SettingsError
from shared.transport.address import DEFAULT_SESSION

app = typer.Typer(
    name="ibkr",
    help="The one held session with Interactive Brokers: ask it, command it, put it at home on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    session: Annotated[
        str, typer.Option("--session", metavar="NAME", help="The session that the command is about; also after it.")
    ] = "",
) -> None:
    """Options of every command."""


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of words.")]
MOST_SECONDS = 3600


def run(arguments: Sequence[str]) -> int:
    """The exit status of `ibkr` with these arguments."""
    try:
        status = app(list(arguments), standalone_mode=False)
    except typer.Exit as end:
        return int(end.exit_code)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return BAD_SETTINGS
    except (typer.Abort, KeyboardInterrupt):
        return cli.NOT_CONNECTED
    except Exception as error:
        if hasattr(error, "format_message"):  # click's errors of usage; without a command its help has said all
            if told := error.format_message():
                print(f"ibkr: {told}", file=sys.stderr)
            return cli.USAGE
        raise
    return int(status or 0)


def settings() -> Settings:
    return Settings.load(os.environ)


def ask(method: str, params: dict[str, Any] | None = None, *, as_json: bool = False) -> Any:
    """The daemon's answer, however long it takes while it is alive.

    Ends the command where there is none: 3 no daemon, 1 refused, 2 usage. The words go to standard error; with
    `as_json` their object to standard output.
    """
    try:
        return blocking_client.call_while_alive(settings().socket_path, method, params, cli.PATIENCE)
    except blocking_client.CallError as refused:
        data = refused.data if isinstance(refused.data, dict) else {}
        usage = refused.code == INVALID_PARAMS
        reason = data.get("reason") or ("invalidParameters" if usage else None)
        _tell(reason, data.get("detail") or refused.message, data.get("advice") or (), as_json)
        raise typer.Exit(cli.USAGE if usage else cli.NOT_CONNECTED) from None
    except OSError as error:
        sentence, advice = describe("daemonUnreachable")
        _tell("daemonUnreachable", f"{sentence} ({error})", advice, as_json)
        raise typer.Exit(cli.NO_DAEMON) from None


def _tell(reason: str | None, detail: str, advice: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"reason": reason, "detail": detail, "advice": list(advice)}, ensure_ascii=False))
        return
    print(detail, file=sys.stderr)
    for number, line in enumerate(advice, 1):
        print(f"  {number}. {line}", file=sys.stderr)


@app.command()
def status(as_json: AsJson = False) -> int:
    """Whether the link is up, and if not, why and what to do. Exit status 0 connected, 1 not, 3 no daemon."""
    try:
        link = blocking_client.call_once(settings().socket_path, "link.get", {}, cli.PATIENCE)
    except (OSError, blocking_client.CallError) as error:
        sentence, advice = describe("daemonUnreachable")
        link = {
            "phase": None,
            "reason": "daemonUnreachable",
            "sentence": sentence,
            "advice": list(advice),
            "connected": False,
            "stale": True,
            "lastError": {"code": None, "text": str(error), "at": None},
        }
    return cli.show(link, sys.stdout, as_json=as_json)


@app.command()
def watch(as_json: AsJson = False) -> int:
    """The link, live, until Ctrl-C. With --json one line a change."""
    from facade.terminal.watch import watch as follow

    return follow(settings(), as_json=as_json)


@app.command()
def connect(
    host: str | None = None,
    port: Annotated[int | None, typer.Option(min=1024, max=65535)] = None,
    client_id: Annotated[int | None, typer.Option(min=0, max=2**31 - 1)] = None,
    account: str | None = None,
    timeout: Annotated[float | None, typer.Option(help=f"s for the attempt; at most {MOST_SECONDS}.")] = None,
    as_json: AsJson = False,
) -> int:
    """Bring the link up and keep it up; what is not named is taken from the settings."""
    if timeout is not None and not 0 < timeout <= MOST_SECONDS:
        raise typer.BadParameter(f"{timeout:g} is not above 0 and at most {MOST_SECONDS} s.", param_hint="'--timeout'")
    named = {"host": host, "port": port, "clientId": client_id, "account": account, "timeout": timeout}
    params = {name: value for name, value in named.items() if value is not None}
    ask("link.connect", params, as_json=as_json)
    return _state(as_json)


@app.command()
def disconnect(as_json: AsJson = False) -> int:
    """Take the link down; it stays down until somebody connects."""
    ask("link.disconnect", as_json=as_json)
    _state(as_json)
    return 0


@app.command()
def reconnect(as_json: AsJson = False) -> int:
    """End the wait: try now. Where nothing waits, nothing happens."""
    ask("link.reconnect", as_json=as_json)
    _state(as_json)
    return 0


def _state(as_json: bool) -> int:
    return cli.show(ask("link.get", as_json=as_json), sys.stdout, as_json=as_json)


@app.command()
def stop(as_json: AsJson = False) -> int:
    """Stop the daemon; it closes the session cleanly first."""
    ask("daemon.stop", as_json=as_json)
    print(json.dumps({"stopped": True}) if as_json else "The daemon is stopping.")
    return 0


@app.command("doctor")
def doctor_command(as_json: AsJson = False) -> int:
    """Check everything between you and IBKR, one thing after the other. Exit status 1 if something was found."""
    checks = doctor.examine(os.environ)
    if as_json:
        found = list(checks)
        print(json.dumps({"checks": [check.as_dict() for check in found]}, ensure_ascii=False))
    else:
        found = list(_told(checks))
    if any(check.result == "failed" and check.name == "settings" for check in found):
        return BAD_SETTINGS
    return int(any(check.result == "failed" for check in found))


def _told(checks: Iterator[doctor.Check]) -> Iterator[doctor.Check]:
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for check in checks:
        print("\n".join(check.lines(colour=colour)), flush=True)
        yield check


alert = typer.Typer(help="Alerts about the link.", no_args_is_help=True)
app.add_typer(alert, name="alert")


@alert.command("test")
def alert_test(as_json: AsJson = False) -> int:
    """Send one alert to each receiver of IBKR_ALERTS, once. Exit status 1 if one refuses it or there is none."""
    sinks = ask("alerts.test", as_json=as_json)["sinks"]
    if as_json:
        print(json.dumps({"sinks": sinks}, ensure_ascii=False))
    for sink in () if as_json else sinks:
        print(f"{sink['sink']}: {'delivered' if sink['delivered'] else 'not delivered: ' + sink['detail']}")
    if not sinks and not as_json:
        print("No receiver is set: name one in IBKR_ALERTS and restart the daemon.", file=sys.stderr)
    return int(not sinks or not all(sink["delivered"] for sink in sinks))


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    number: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    which: Annotated[str, typer.Argument(help="daemon or facade")] = "daemon",
    as_json: AsJson = False,
) -> int:
    """The log of daemon or facade, from the state directory."""
    from facade.terminal.logs import LogMissing, show

    if which not in ("daemon", "facade"):
        print("ibkr logs takes daemon or facade.", file=sys.stderr)
        return cli.USAGE
    try:
        show(settings().state_dir / "logs" / f"{which}.log", number, follow=follow, as_json=as_json, out=sys.stdout)
    except LogMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written and run; change nothing.")]


@app.command()
def install(dry_run: DryRun = False) -> int:
    """Start daemon and facade at login (systemd user units, launchd agents or scheduled tasks).

    With --session the daemon of that session alone: the facade that is installed without it serves all of them.
    """
    if differing := home.unreached(settings(), os.environ):
        file = PROJECT_ROOT / (".env" if settings().session == DEFAULT_SESSION else f".env.{settings().session}")
        print(f"What starts at login reads {file} alone; set otherwise here: {', '.join(differing)}.", file=sys.stderr)
    return _at_home(home.install, dry_run)


@app.command()
def uninstall(dry_run: DryRun = False) -> int:
    """Undo `install` without a trace."""
    return _at_home(home.uninstall, dry_run)


@app.command()
def restart(which: Annotated[str, typer.Argument(help="daemon, facade or all")] = "all") -> int:
    """Restart what `install` or ./scripts/start runs; the facade alone never touches the session."""
    if which not in ("daemon", "facade", "all"):
        print("ibkr restart takes daemon, facade or all.", file=sys.stderr)
        return cli.USAGE
    return restarting.restart(which, _machine(), settings(), sys.stdout)


def _at_home(act: Callable[..., int], dry_run: bool) -> int:
    return act(_machine(), settings(), sys.stdout, dry_run=dry_run)


def _machine() -> home.Machine:
    return home.Machine.here(Path(sys.executable), os.environ)


@app.command("support-bundle")
def support_bundle(
    target: Annotated[Path | None, typer.Argument(help="The archive to write; default: the working directory.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before writing.")] = False,
) -> int:
    """Logs, settings, link events, versions and the doctor's findings in one archive, redacted."""
    from facade.terminal.bundle import bundle

    return bundle(os.environ, target, ask=None if yes else typer.confirm)
