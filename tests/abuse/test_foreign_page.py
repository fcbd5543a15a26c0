"""A real browser with a foreign page open beside the facade: it can neither read, stream, connect nor disconnect."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.abuse.chain import Chain
from tests.browser.conftest import launched

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREIGN = "evil.example"
"""A name that the browser resolves to this machine, as a rebound name does."""


@contextmanager
def foreign_site() -> Iterator[int]:
    """Another origin on this machine: an empty page for every request."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>foreign</title><body></body>")

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        thread = threading.Thread(target=server.serve_forever, name="foreign site")
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rebound() -> AsyncIterator[Browser]:
    """A browser for which the foreign name is this machine, and that has none of its newer defences switched on."""
    async with async_playwright() as playwright:
        browser = await launched(
            playwright,
            f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
            "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessChecks",
        )
        if browser is None:
            pytest.skip("No Chromium, Chrome or Edge was found: foreign pages were not tried.")
        try:
            yield browser
        finally:
            await browser.close()


ATTEMPTS = (Path(__file__).parent / "attempts.js").read_text(encoding="utf-8")
SENT = ("opaque", "sent", "true")
"""What an attempt may come to that the browser lets through blindly: sent, and nothing of the answer known."""


def answered(whole: Chain) -> dict[tuple[str, str], float]:
    """How often each route has answered with each status."""
    found = {}
    for line in whole.get("/metrics").body.decode().splitlines():
        if line.startswith("ibkr_http_requests_total{"):
            labels, _, value = line.rpartition(" ")
            route, status = (re.findall(rf'{name}="([^"]*)"', labels)[0] for name in ("route", "status"))
            found[route, status] = float(value)
    return found


async def tried(page: Page, base: str) -> dict[str, Any]:
    return dict(await page.evaluate(ATTEMPTS, base))


@pytest.mark.parametrize(
    ("origin", "base"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), (FOREIGN, "localhost"), (FOREIGN, FOREIGN)],
)
async def test_a_foreign_page_gets_and_does_nothing(attacked: Chain, rebound: Browser, origin: str, base: str) -> None:
    """By fetch, stream, beacon, form, frame, script or image, under any name of this machine."""
    before = answered(attacked)
    with foreign_site() as port:
        context = await rebound.new_context()
        page = await context.new_page()
        await page.goto(f"http://{origin}:{port}")
        attempts = await tried(page, f"http://{base}:{attacked.port}")
        await context.close()
    got = {name: what for name, what in attempts.items() if not what.startswith("refused: ") and what not in SENT}
    assert got == {}
    grown = {key for key, count in answered(attacked).items() if count > before.get(key, 0)} - {("/metrics", "200")}
    refusals = {"403", "421"}
    assert {status for _, status in grown} <= refusals, grown
    # it was the facade that refused, not the browser that did not ask
    for path in ("status", "positions", "events", "connect", "disconnect"):
        assert any(route == f"/api/ibkr/{path}" for route, _ in grown), path


async def test_our_own_page_can_do_what_a_foreign_one_cannot(attacked: Chain, rebound: Browser) -> None:
    """The same attempts from our own origin succeed where they should: the foreign page was not refused by chance."""
    context = await rebound.new_context()
    page = await context.new_page()
    await page.goto(f"http://{attacked.authority}/ui/complete_platform.html")
    read = await page.evaluate("async () => (await fetch('/api/ibkr/status')).status")
    opened = await page.evaluate(
        """() => new Promise((done) => {
            const source = new EventSource('/api/ibkr/events');
            source.onopen = () => { source.close(); done(true); };
            source.onerror = () => done(false);
        })"""
    )
    posted = await page.evaluate(
        """async () => (await fetch('/api/ibkr/reconnect', {
            method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}',
        })).status"""
    )
    await context.close()
    assert (read, opened, posted) == (200, True, 202)


async def test_a_rebound_name_is_misdirected(attacked: Chain, rebound: Browser) -> None:
    """DNS rebinding: the foreign name comes to mean this machine, so that for the browser all is one origin."""
    context = await rebound.new_context()
    page = await context.new_page()
    response = await page.goto(f"http://{FOREIGN}:{attacked.port}/ui/complete_platform.html")
    assert response is not None
    assert response.status == 421
    found = await page.evaluate(
        """async () => Promise.all(['/api/ibkr/status', '/api/ibkr/positions', '/', '/livez', '/api/ibkr/events'].map(
            async (path) => { const answer = await fetch(path); return [answer.status, (await answer.json()).reason]; },
        ))"""
    )
    assert found == [[421, "hostRejected"]] * 5
    posted = await page.evaluate(
        """async () => {
            const json = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' };
            const paths = ['/api/ibkr/connect', '/api/ibkr/disconnect'];
            return Promise.all(paths.map(async (path) => (await fetch(path, json)).status));
        }"""
    )
    assert posted == [421, 421]
    await context.close()
