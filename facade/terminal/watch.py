"""`ibkr watch`: the link on one screen, live, from the local socket. Never commands anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from facade import cli
from shared.jsonrpc.client import Client
from shared.jsonrpc.codec import RpcError
from shared.settings import Settings

TOPICS = ("link", "farms", "gaps", "notices")
AGAIN_AFTER = 0.5  # s before the daemon is looked for again
TURN = 1.0
"""s between pings, without which a stopped daemon would look like a quiet one; as often the countdown is drawn anew."""
NOTICES, GAPS = 8, 4  # rows that fit on one screen beside the link

Rows = dict[str, dict[str, Any]]
TINTS = {"ready": "bold green", "blocked": "bold red", "upstreamLost": "bold red"}


def watch(settings: Settings, *, as_json: bool) -> int:
    """Follow the link until interrupted; its exit status tells how it was at the end."""
    screen = _Screen(as_json)
    try:
        if as_json:
            asyncio.run(_follow(settings, screen))
        else:
            with Live(screen.render(), refresh_per_second=4, screen=sys.stdout.isatty()) as live:
                screen.live = live
                asyncio.run(_follow(settings, screen))
    except KeyboardInterrupt:
        pass
    link = screen.rows["link"].get("link")
    if screen.away or link is None:
        return cli.NO_DAEMON
    return cli.CONNECTED if link.get("connected") else cli.NOT_CONNECTED


class _Screen:
    """What is known, and how it looks."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.rows: dict[str, Rows] = {topic: {} for topic in TOPICS}
        self.away: str | None = "looking for the daemon"
        self.live: Live | None = None

    def take(self, params: dict[str, Any]) -> None:
        """Fold one page of changes."""
        for topic, delta in params["topics"].items():
            held = self.rows[topic]
            for key, row in delta["rows"].items():
                if row is None:
                    held.pop(key, None)
                else:
                    held.pop(key, None)
                    held[key] = row
                if self.as_json:
                    print(json.dumps({"topic": topic, "key": key, "row": row}, ensure_ascii=False), flush=True)
        self.show()

    def gone(self, why: str) -> None:
        if self.as_json and why != self.away:
            print(json.dumps({"topic": "link", "key": "link", "row": None, "error": why}), flush=True)
        self.away = why
        self.show()

    def show(self) -> None:
        if self.live is not None:
            self.live.update(self.render())

    def render(self) -> RenderableType:
        if self.away is not None:
            return Text(f"IBKR: daemon not answering ({self.away})", style="bold yellow")
        link = self.rows["link"].get("link") or {}
        told = cli.lines(link, colour=False) if link else ["IBKR: no word yet"]
        parts: list[RenderableType] = [Text(told[0], style=TINTS.get(link.get("phase") or "", "bold yellow"))]
        parts += [Text(line) for line in told[1:]]
        if link.get("nextAttemptAt"):
            left = (datetime.fromisoformat(link["nextAttemptAt"]) - datetime.now(UTC)).total_seconds()
            parts.append(Text(f"  in        {max(0.0, left):.0f} s"))
        parts.append(_table("Farms", ("farm", "type", "state", "since"), list(self.rows["farms"].values())))
        parts.append(_table("Gaps", ("cause", "from", "to"), list(self.rows["gaps"].values())[-GAPS:]))
        parts.append(_table("IBKR says", ("at", "code", "text"), list(self.rows["notices"].values())[-NOTICES:]))
        return Group(*parts)


def _table(title: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> RenderableType:
    table = Table(title=title, title_justify="left", expand=False)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(str(row.get(column, ""))) for column in columns))
    return table if rows else Text("")


async def _follow(settings: Settings, screen: _Screen) -> None:
    """Watch for ever; look for the daemon again whenever it has gone."""
    while True:
        ended = asyncio.Event()
        try:
            client = await Client.open(
                settings.socket_path,
                client="ibkr-watch/1",
                on_notification=lambda _method, params: screen.take(json.loads(bytes(params))),
                on_close=lambda _reason, ended=ended: ended.set(),  # type: ignore[misc]
            )
        except (OSError, RpcError) as error:
            screen.gone(str(error))
            await asyncio.sleep(AGAIN_AFTER)
            continue
        try:
            for rows in screen.rows.values():
                rows.clear()
            screen.away = None
            await client.call("watch", {"topics": list(TOPICS)}, cli.PATIENCE)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TURN):
                        await ended.wait()
                screen.show()
                if not ended.is_set():
                    await client.call("ping", {}, cli.PATIENCE)
            screen.gone("the daemon closed the connection")
        except TimeoutError:
            screen.gone(f"no answer for {cli.PATIENCE:g} s")
        except (OSError, RpcError) as error:
            screen.gone(str(error))
        finally:
            await client.close()
