"""Where alerts and heartbeats arrive, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Desk, Shot, Visit
from tests.browser.desk import book, now

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


def receiver(name: str, **changes: Any) -> dict[str, Any]:
    health = {"sink": name, "delivered": 0, "failed": 0, "givenUp": 0, "pending": 0, "lastAt": None, "lastStatus": None}
    return health | {"lastError": "", "deliveredAt": None, "failedAt": None, "failure": "", "ended": False} | changes


def health() -> dict[str, Any]:
    failed = {"lastError": "HTTP status 500", "failure": "HTTP status 500", "failed": 3, "failedAt": now(-60)}
    return {
        "alerts": [
            receiver("https://hooks.example.com", delivered=2, deliveredAt=now(-3600)),
            receiver("ntfy://… (number 2)", pending=1, **failed),
        ],
        "incidents": [
            {
                "id": "i1",
                "since": now(-600),
                "reported": ["down"],
                "reason": "portClosed",
                "sentence": "Nothing listens on 127.0.0.1:7497.",
            }
        ],
        "heartbeat": {
            "receiver": "https://hc.example.com",
            "sent": 5,
            "failed": 0,
            "lastAt": now(-30),
            "failedAt": None,
            "lastError": "",
        },
    }


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")])
async def test_open_incidents_and_what_was_not_delivered_are_listed_with_the_reason(
    desk: Desk, visit: Visit, shot: Shot, width: int, scheme: Any
) -> None:
    desk.daemon.set_all(**book())
    desk.daemon.answer("daemon.info", health())
    page = await visit(desk.url, width=width, color_scheme=scheme)
    lines = page.locator("#alerts-list li")
    await expect(lines).to_have_count(4)
    await expect(lines.nth(0)).to_contain_text("Open incident since")
    await expect(lines.nth(1)).to_contain_text("https://hooks.example.com 2 delivered, last")
    await expect(lines.nth(2)).to_contain_text("HTTP status 500 · 1 waiting")
    await expect(lines.nth(3)).to_contain_text("Heartbeat to https://hc.example.com 5 accepted")
    await expect(page.locator("#alerts-note")).to_have_text("2 to look at")
    await page.locator("#alerts").scroll_into_view_if_needed()
    await shot(page, f"alerts-{scheme}-{width}")
    texts = await page.evaluate(CONTRAST)
    assert [text for text in texts if text["ratio"] < text["needed"]] == []
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_without_receivers_there_is_no_list(desk: Desk, visit: Visit) -> None:
    desk.daemon.set_all(**book())
    desk.daemon.answer("daemon.info", {"alerts": [], "incidents": [], "heartbeat": None})
    page = await visit(desk.url)
    await expect(page.locator("#positions-table tbody")).to_contain_text("AAPL")
    await expect(page.locator("#alerts")).to_be_hidden()


async def test_a_daemon_that_goes_away_leaves_its_receivers_unknown_not_absent(desk: Desk, visit: Visit) -> None:
    desk.daemon.set_all(**book())
    desk.daemon.answer("daemon.info", {"alerts": [receiver("https://hooks.example.com")]})
    page = await visit(desk.url)
    lines = page.locator("#alerts-list li")
    await expect(lines).to_have_text(["https://hooks.example.com 0 delivered"])
    await expect(page.locator("#alerts-note")).to_have_text("none fails")
    await desk.daemon.stop()
    await expect(lines).to_have_text(["Daemon not answering: its receivers are not known"])
    await expect(page.locator("#alerts")).to_be_visible()
