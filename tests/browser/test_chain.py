"""The page at the end of the whole chain: simulated gateway, daemon and facade as processes, and a browser."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from daemon.simulator import Gateway, World
from tests.browser.conftest import Shot, Visit
from tests.ports import free_port
from tests.waiting import answered

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMIT = 60.0
"""s for a process to start or to end; a Python start alone takes one or two on a busy machine."""

ROOT = Path(__file__).resolve().parents[2]
ROWS = "tbody tr:not(.spacer):not([hidden])"


class Chain:
    """Daemon and facade as processes of their own before `gateway`, which runs in this process for its faults."""

    def __init__(self, directory: Path, gateway: Gateway) -> None:
        self.gateway = gateway
        self.port = free_port()
        (directory / "run").mkdir(mode=0o700)
        (directory / "env").touch()
        self._directory = directory
        self._settings = {
            "IBKR_ENV_FILE": str(directory / "env"),
            "IBKR_SOCKET": str(directory / "run" / "d.sock"),
            "IBKR_STATE_DIR": str(directory / "state"),
            "IBKR_FACADE_PORT": str(self.port),
            "IBKR_PORT": str(gateway.port),
            "IBKR_AUTO_CONNECT": "true",
            "IBKR_CONNECT_TIMEOUT": "30",
        }
        self.daemon: Process | None = None
        self.facade: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ui/complete_platform.html"

    async def start(self, **settings: str) -> None:
        self._settings |= settings
        self.daemon = await self.run("daemon")
        self.facade = await self.run("facade")
        _, writer = await answered(lambda: asyncio.open_connection("127.0.0.1", self.port))
        writer.close()
        await writer.wait_closed()

    async def run(self, *module: str) -> Process:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
        with (self._directory / f"{module[0]}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", *module, env=environ | self._settings, cwd=ROOT, stdout=log, stderr=log
            )

    async def restart_facade(self) -> int:
        async with asyncio.timeout(LIMIT):
            return await (await self.run("facade", "restart")).wait()

    async def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        await self.daemon.wait()
        self.daemon = None

    async def stop(self) -> None:
        for process in filter(None, (self.facade, self.daemon)):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), LIMIT)
                except TimeoutError:
                    process.kill()
                    await process.wait()


@pytest_asyncio.fixture(loop_scope="session")
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    """A gateway that listens, and daemon and facade that are started by the test."""
    gateway = Gateway(World(seed=7))
    gateway.port = free_port()
    async with gateway:
        built = Chain(tmp_path, gateway)
        try:
            yield built
        finally:
            await built.stop()


def headline(page: Page) -> Any:
    return page.locator("#headline")


async def test_the_whole_chain_shows_what_the_gateway_holds(chain: Chain, visit: Visit, shot: Shot) -> None:
    """Connected, 25 positions, orders of three kinds, fills, account values, a quote that moves."""
    await chain.start()
    page = await visit(chain.url)

    await expect(headline(page)).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_contain_text("25 positions")
    await expect(page.locator("#orders-note")).to_have_text("3 open orders")
    await expect(page.locator(f"#fills-table {ROWS}")).to_have_count(4)
    await expect(page.locator("#figures .large .value").first).not_to_have_text("—")
    await page.locator("#quote-search").fill("AAPL")
    await expect(page.locator("#quote-found").get_by_role("option").first).to_be_visible()
    await page.locator("#quote-search").press("Enter")
    last = page.locator(f"#quotes-table {ROWS} [data-column=last] .value")
    chain.gateway.pin("AAPL", 123.45)
    chain.gateway.tick("AAPL", last=123.45)
    await expect(last).to_have_text("123.45")
    await expect(page.locator("#curve canvas")).to_be_visible()
    await shot(page, "chain-connected", full=True)


async def test_a_gateway_that_goes_and_comes_back_is_followed(chain: Chain, visit: Visit, shot: Shot) -> None:
    """1100 and 1102; then waiting with reason and advice while nothing listens; connected again, the gap in the log."""
    await chain.start()
    page = await visit(chain.url)
    await expect(headline(page)).to_have_text("IBKR: Connected")

    chain.gateway.lose_upstream()
    await expect(headline(page)).to_have_text("IBKR: Upstream lost")
    chain.gateway.restore_upstream()
    await expect(headline(page)).to_have_text("IBKR: Connected")

    chain.gateway.refuse()
    chain.gateway.drop()
    await expect(headline(page)).to_have_text("IBKR: Waiting")
    await expect(page.locator("#reason")).to_have_text("portClosed")
    await expect(page.locator("#advice > li").first).to_have_text("Start TWS or IB Gateway and log in.")
    await expect(page.locator("#positions-note")).to_contain_text("stale")
    await shot(page, "chain-waiting")

    await chain.gateway.listen()
    await expect(headline(page)).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_contain_text("25 positions")
    await expect(page.locator(f"#positions-table {ROWS}:visible")).not_to_have_count(0)
    await expect(page.locator("#log")).to_contain_text("Gap closed")


async def test_a_gateway_that_needs_a_person_is_shown_as_blocked(chain: Chain, visit: Visit, shot: Shot) -> None:
    """Blocked, with the reason that the daemon found on the wire and the time of its next slow attempt."""
    chain.gateway.speak_http()
    await chain.start()
    page = await visit(chain.url)

    await expect(headline(page)).to_have_text("IBKR: Blocked")
    await expect(page.locator("#person")).to_be_visible()
    await expect(page.locator("#reason")).to_have_text("notTws")
    await expect(page.locator("#next")).to_contain_text("min")
    await shot(page, "chain-blocked")

    chain.gateway.behave()
    await page.get_by_role("button", name="🔌 Connect IBKR", exact=True).click()
    await expect(headline(page)).to_have_text("IBKR: Connected")


async def test_a_frozen_gateway_is_not_connected(chain: Chain, visit: Visit) -> None:
    """The socket stays open and nothing comes: the page is not connected, and is again after a thaw."""
    await chain.start(IBKR_PROBE_INTERVAL="1", IBKR_PROBE_TIMEOUT="1")
    page = await visit(chain.url)
    await expect(headline(page)).to_have_text("IBKR: Connected")

    chain.gateway.freeze()
    await expect(headline(page)).not_to_have_text("IBKR: Connected")
    await expect(page.locator("#reason")).to_have_text("probeTimeout")

    chain.gateway.thaw()
    await expect(headline(page)).to_have_text("IBKR: Connected")


async def test_restarts_under_the_page_are_survived(chain: Chain, visit: Visit, shot: Shot) -> None:
    """Another facade, the same session, no row twice; a killed daemon is shown with values that carry their age, and
    the next one's rows replace the old ones. Nothing is touched."""
    await chain.start()
    page = await visit(chain.url)
    await expect(page.locator("#positions-note")).to_contain_text("25 positions")
    sessions = chain.gateway.connections.total

    assert await chain.restart_facade() == 0
    chain.gateway.fill("AAPL", 10, price=200.0)

    await expect(page.locator(f"#fills-table {ROWS}")).to_have_count(5)
    await expect(headline(page)).to_have_text("IBKR: Connected")
    assert chain.gateway.connections.total == sessions

    await chain.kill_daemon()
    await expect(headline(page)).to_have_text("IBKR: Daemon not answering")
    await expect(page.locator("#positions-note")).to_contain_text("stale")
    await shot(page, "chain-daemon-killed")

    chain.daemon = await chain.run("daemon")
    await expect(headline(page)).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_contain_text("25 positions")
    await expect(page.locator(f"#fills-table {ROWS}")).to_have_count(5)


async def test_the_button_brings_up_a_link_without_auto_connect(chain: Chain, visit: Visit, shot: Shot) -> None:
    """Auto-connect off: disabled, with the advice to press the button; pressed, it connects; disconnect holds it."""
    await chain.start(IBKR_AUTO_CONNECT="false")
    page = await visit(chain.url)
    await expect(headline(page)).to_have_text("IBKR: Disabled")
    await shot(page, "chain-disabled")

    await page.get_by_role("button", name="🔌 Connect IBKR", exact=True).click()
    await expect(headline(page)).to_have_text("IBKR: Connected")
    await page.get_by_role("button", name="Disconnect").click()
    await expect(headline(page)).to_have_text("IBKR: Disconnected by you")
