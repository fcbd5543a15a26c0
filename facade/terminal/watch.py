"""`ibkr watch`: link, PnL, positions and messages on one screen, live, from the local socket. It sends no commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from facade.terminal import link_view
from facade.terminal.requests import named_session
from facade.terminal.tables import figure
from shared.jsonrpc.client import Client
from shared.jsonrpc.codec import RpcError
from shared.reasons import describe
from shared.settings import Settings
from shared.transport.address import AnotherSession, check_session

TOPICS = ("link", "farms", "pnl", "positions", "gaps", "notices")
RETRY_AFTER = 0.5  # s before the next attempt to reach the daemon
PING_EVERY = 1.0
"""s between pings, without which a stopped daemon would look like a quiet one; the ages are drawn again as often."""
MAX_ACCOUNTS = 4
MIN_NOTICES = 3
"""Lines that messages get at least, where there are any; positions get the rest."""

Rows = dict[str, dict[str, Any]]
TINTS = {"ready": "bold green", "blocked": "bold red", "upstreamLost": "bold red"}


def watch(settings: Settings, *, as_json: bool) -> int:
    """Follow until q or Ctrl-C; the exit status is that of the link at the end."""
    console = Console(highlight=False)
    screen = Screen(console, as_json=as_json, session=named_session(settings))
    with contextlib.suppress(KeyboardInterrupt):
        if as_json:
            asyncio.run(follow(settings, screen))
        else:
            with Live(screen.render(), console=console, auto_refresh=False, screen=sys.stdout.isatty()) as live:
                screen.live = live
                asyncio.run(_until_quit(settings, screen))
    link = screen.rows["link"].get("link")
    if screen.away or link is None:
        return link_view.NO_DAEMON
    return link_view.CONNECTED if link.get("connected") else link_view.NOT_CONNECTED


# --- what is shown: pure ----------------------------------------------------------------------------------------------


def layout(
    rows: dict[str, Rows], away: str | None, now: datetime, width: int, height: int, session: str = ""
) -> list[str]:
    """The screen, at most `height` lines of at most `width` characters. `away`: why the daemon does not answer."""
    link = rows["link"].get("link")
    if away is not None:
        sentence, advice = describe("daemonUnreachable")
        text = ["IBKR: the daemon is not running", f"  {sentence}", f"  {away}"]
        text += [f"  session   {session}"] if session else []
        text += [f"  {number:>3}. {line}" for number, line in enumerate(map(link_view.advice, advice), 1)]
        return _fit(text, width, height)
    if link is None:
        return _fit(["IBKR: waiting for the first update"], width, height)
    text = link_view.lines(link, colour=False, now=now, session=session)
    if broken := [f"{farm['farm']} {farm['state']}" for farm in rows["farms"].values() if farm["state"] == "broken"]:
        text.append(f"  farms     {', '.join(broken)}")
    if rows["gaps"]:
        gap = list(rows["gaps"].values())[-1]
        text.append(f"  last gap  {link_view.when(gap['to'], now)}: {gap['cause']}")
    text += _pnl(list(rows["pnl"].values()))
    notices = [
        f"  {link_view.when(notice['at'], now)}  {notice['code']}  {notice['text']}"
        for notice in reversed(rows["notices"].values())
    ]
    left = height - len(text) - 1
    reserved = min(len(notices), MIN_NOTICES) + 2 if notices else 0
    text += _positions(list(rows["positions"].values()), max(0, left - reserved))
    left = height - len(text) - 1
    if notices and left > 2:
        text += ["", "Messages of TWS, newest first", *notices[: left - 2]]
    return _fit(text, width, height)


def _pnl(rows: list[dict[str, Any]]) -> list[str]:
    text = []
    for row in rows[:MAX_ACCOUNTS]:
        figures = [
            f"{name} {figure(row.get(key), 2)}"
            for name, key in (("today", "dailyPnL"), ("unrealized", "unrealizedPnL"), ("realized", "realizedPnL"))
        ]
        text.append(f"  PnL       {row['account']}{row.get('modelCode') or ''}: {', '.join(figures)}")
    if len(rows) > MAX_ACCOUNTS:
        text.append(f"            and {len(rows) - MAX_ACCOUNTS} more accounts: ibkr accounts")
    return text


def _positions(rows: list[dict[str, Any]], room: int) -> list[str]:
    """The largest first, in `room` lines with blank line and heading."""
    if not rows or room < 3:
        return []
    rows.sort(key=lambda row: abs(row.get("marketValue") or 0.0), reverse=True)
    fitting = room - 2
    shown = rows if len(rows) <= fitting else rows[: max(0, fitting - 1)]
    text = ["", f"  {'Position':<20}{'quantity':>12}{'price':>13}{'value':>16}{'unrealized':>14}"]
    for row in shown:
        name = f"{row.get('localSymbol') or row.get('symbol') or row['conId']}"
        text.append(
            f"  {name:<20.19}{figure(row['position']):>12}{figure(row.get('marketPrice'), 2):>13}"
            f"{figure(row.get('marketValue'), 2):>16}{figure(row.get('unrealizedPNL'), 2):>14}"
        )
    if len(shown) < len(rows):
        text.append(f"  and {len(rows) - len(shown)} more: ibkr positions")
    return text


def _fit(text: list[str], width: int, height: int) -> list[str]:
    kept = [*text[: max(1, height - 1)], "q quits"]
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in kept]


# --- the screen -------------------------------------------------------------------------------------------------------


class Screen:
    """The rows that were received, and the display of them."""

    def __init__(self, console: Console, *, as_json: bool, session: str = "") -> None:
        self.as_json = as_json
        self.session = session
        """The named one; empty: none is named."""
        self.rows: dict[str, Rows] = {topic: {} for topic in TOPICS}
        self.away: str | None = "connecting to the daemon"
        self.live: Live | None = None
        self._console = console

    def take(self, params: dict[str, Any]) -> None:
        """Fold one page of changes."""
        for topic, delta in params["topics"].items():
            held = self.rows[topic]
            for key, row in delta["rows"].items():
                held.pop(key, None)
                if row is not None:
                    held[key] = row
                if self.as_json:
                    print(json.dumps({"topic": topic, "key": key, "row": row}, ensure_ascii=False), flush=True)

    def gone(self, why: str) -> None:
        if self.as_json and why != self.away:
            print(json.dumps({"topic": "link", "key": "link", "row": None, "error": why}), flush=True)
        self.away = why
        self.show()

    def show(self) -> None:
        if self.live is not None:
            self.live.update(self.render(), refresh=True)

    def render(self) -> Text:
        width, height = self._console.size
        text = layout(self.rows, self.away, datetime.now(UTC), width, height, self.session)
        phase = (self.rows["link"].get("link") or {}).get("phase") if self.away is None else None
        shown = Text("\n".join(text), no_wrap=True)
        shown.stylize(TINTS.get(phase or "", "bold yellow"), 0, len(text[0]))
        return shown


# --- following --------------------------------------------------------------------------------------------------------


async def _until_quit(settings: Settings, screen: Screen) -> None:
    quitting = asyncio.Event()
    following = asyncio.create_task(follow(settings, screen), name="watch")
    waiting = asyncio.create_task(quitting.wait(), name="quit key")
    try:
        with quit_key(quitting.set):
            await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (following, waiting):
            task.cancel()
        await asyncio.gather(following, waiting, return_exceptions=True)


@contextlib.contextmanager
def quit_key(quit_now: Callable[[], None]) -> Iterator[None]:
    """Call `quit_now` when q is pressed, where the input is a POSIX terminal; elsewhere Ctrl-C ends the command."""
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if sys.stdin.read(1) in ("q", "Q", ""):
            quit_now()

    tty.setcbreak(fd)
    loop.add_reader(fd, pressed)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def follow(settings: Settings, screen: Screen) -> None:
    """Watch until cancelled; connect to the daemon again whenever the connection has ended."""
    while True:
        ended = asyncio.Event()
        try:
            client = await Client.open(
                settings.socket_path,
                client="ibkr-watch/1",
                on_notification=lambda _method, params: screen.take(json.loads(bytes(params))),
                on_close=lambda _reason, ended=ended: ended.set(),  # type: ignore[misc]
                on_read=screen.show,
            )
            check_session(settings.socket_path, screen.session, client.welcome.session)
        except (OSError, RpcError) as error:
            if isinstance(error, AnotherSession):
                await client.close()
            screen.gone(str(error))
            await asyncio.sleep(RETRY_AFTER)
            continue
        try:
            for rows in screen.rows.values():
                rows.clear()
            screen.away = None
            await client.call("watch", {"topics": list(TOPICS)}, link_view.TIMEOUT)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING_EVERY):
                        await ended.wait()
                screen.show()
                if not ended.is_set():
                    await client.call("ping", {}, link_view.TIMEOUT)
            screen.gone("the daemon closed the connection")
        except TimeoutError:
            screen.gone(f"no answer for {link_view.TIMEOUT:g} s")
        except (OSError, RpcError) as error:
            screen.gone(str(error))
        finally:
            await client.close()
