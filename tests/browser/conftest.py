"""A browser, and the page before a real facade whose daemon publishes what the test sets.

The browser is one that is found on this machine, else playwright's own, which is downloaded if it can be. Without one
these tests are skipped with a sentence, unless LINK_TEST_SKIPS=none: then they fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page, Playwright, Route, async_playwright, expect

from facade.serving import served
from shared.settings import Settings
from tests.browser.desk import account, book, contract
from tests.facade.fake_daemon import FakeDaemon
from tests.ports import free_port

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LIMIT = 60.0
"""s for the facade to come up or to go, and for the page to show what it is expected to show."""

expect.set_options(timeout=LIMIT * 1000)

DOWNLOAD_LIMIT = 90.0
"""s; below the limit of one test, whose fixture this is."""


def installed() -> Iterator[dict[str, str]]:
    """How to launch each browser there may be on this machine, the likeliest first."""
    for path in filter(None, map(shutil.which, NAMES)):
        yield {"executable_path": path}
    yield {"channel": "chrome"}  # playwright finds the places of installers
    yield {"channel": "msedge"}
    yield {}  # playwright's own


async def launched(playwright: Playwright, *more: str) -> Browser | None:
    """The first browser that starts; `more` stands beside the ordinary arguments."""
    for how in installed():
        with contextlib.suppress(Error):
            return await playwright.chromium.launch(args=[*ARGUMENTS, *more], **how)
    return None


async def download() -> None:
    """Playwright's own browser, into playwright's own cache; nothing of the system is touched."""
    command = (sys.executable, "-m", "playwright", "install", "chromium")
    process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with asyncio.timeout(DOWNLOAD_LIMIT):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    # asyncio's debug mode, in which each callback keeps its stack, makes a page's thirty requests take a second
    asyncio.get_running_loop().set_debug(False)
    async with async_playwright() as playwright:
        found = await launched(playwright)
        if found is None:
            await download()
            found = await launched(playwright)
        if found is None:
            pytest.skip("No Chromium, Chrome or Edge was found, nor playwright's had: the page was not tested.")
        try:
            yield found
        finally:
            await found.close()


Visit = Callable[..., Awaitable[Page]]
Shot = Callable[..., Awaitable[None]]

WATCH = """
window.violations = [];
addEventListener('securitypolicyviolation', ({ violatedDirective: what, blockedURI }) => {
    violations.push(`${what} ${blockedURI}`);
});
"""


SHOWN = "() => !('loading' in document.body.dataset) || document.querySelector('dialog[open]') !== null"
"""The page has its first values, or prompts for a token."""


@asynccontextmanager
async def visiting(browser: Browser) -> AsyncIterator[Visit]:
    """Opens pages: `visit(url, width=…, height=…, quotes=[contract…], **context)`.

    No page of any test may break the content security policy or end in an unhandled error.
    """
    contexts = []
    pages: list[Page] = []
    wrong: list[str] = []

    async def open_page(
        url: str, *, width: int = 1280, height: int = 900, quotes: list[dict[str, Any]] | None = None, **options: Any
    ) -> Page:
        context = await browser.new_context(
            locale="en-US", viewport={"width": width, "height": height}, **{"color_scheme": "dark", **options}
        )
        contexts.append(context)
        context.set_default_timeout(LIMIT * 1000)
        page = await context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"unhandled: {error}"))
        page.on("console", lambda line: wrong.append(line.text) if "Content Security Policy" in line.text else None)
        await page.add_init_script(WATCH)
        if quotes is not None:
            await page.add_init_script(f"localStorage['ibkr.quotes'] ??= {json.dumps(json.dumps(quotes))}")
        await page.goto(url)
        if url != "about:blank":
            await page.wait_for_function(SHOWN)  # each frame; `expect` looks again after a pause that grows
        pages.append(page)
        return page

    try:
        yield open_page
        for page in pages:
            wrong += await page.evaluate("window.violations ?? []")
        assert wrong == []
    finally:
        for context in contexts:
            for page in context.pages:
                await page.unroute_all(behavior="wait")
            await context.close()


@asynccontextmanager
async def unanswered(page: Page, url: str, *, first: int | None = None) -> AsyncIterator[list[Route]]:
    """Requests for `url`, or the `first` of them, get no response, as from a stopped process; they fail at the end.

    The list has every request. A request that is left without response would leave a task of playwright behind.
    """
    requests: list[Route] = []
    ended = asyncio.Event()

    async def hold(route: Route) -> None:
        requests.append(route)
        if first is not None and len(requests) > first:
            await route.continue_()
            return
        await ended.wait()
        await route.abort()

    await page.route(url, hold)
    try:
        yield requests
    finally:
        ended.set()
        await page.unroute_all(behavior="wait")  # `unroute` would let the browser send the held requests


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncIterator[Visit]:
    async with visiting(browser) as open_page:
        yield open_page


class Desk:
    """A facade on a port of its own before `daemon`; both can be taken away and brought back."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        run = directory / "run"
        run.mkdir(mode=0o700, parents=True)
        self.daemon = FakeDaemon(str(run / "d.sock"), epoch="e1")
        # the stand-in for the daemon proves its link once, and a slow machine's test may last longer than a proof
        lasting = {"probe_interval": 3600.0}
        self.settings = {"socket": self.daemon.path, "state_dir": directory / "state", **lasting, **settings}
        self.others: dict[str, str] = {}
        """Further sessions of the facade: the socket of each one's daemon, by name."""
        self.port = free_port()
        self._leave = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ui/complete_platform.html"

    async def open_facade(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.listen(128)
        sock.setblocking(False)
        up = asyncio.Event()
        self._leave.clear()

        own = Settings(facade_port=self.port, **self.settings)
        others = {name: replace(own, session=name, socket=path) for name, path in self.others.items()}

        async def serve() -> None:
            async with served(own, [sock], drain=0, sessions={own.session: own, **others}):
                up.set()
                await self._leave.wait()

        self._serving = asyncio.create_task(serve(), name="facade")
        waiting = asyncio.create_task(up.wait(), name="facade up")
        await asyncio.wait({self._serving, waiting}, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        if not up.is_set():
            waiting.cancel()
            await self._serving

    async def close_facade(self) -> None:
        if self._serving is not None:
            self._leave.set()
            await asyncio.wait_for(self._serving, LIMIT)
            self._serving = None

    async def renew_daemon(self) -> None:
        """A new daemon process as a facade sees it: another epoch, nothing of the old one's rows."""
        await self.daemon.stop()
        self.daemon = FakeDaemon(self.daemon.path, epoch="e2")
        await self.daemon.start()

    async def close(self) -> None:
        await self.close_facade()
        await self.daemon.stop()


@asynccontextmanager
async def sitting(directory: Path) -> AsyncIterator[Desk]:
    """A ready link to a paper account with a few positions, orders and fills."""
    built = Desk(directory)
    await built.daemon.start()
    try:
        built.daemon.set_all(**account(), **book())
        await built.open_facade()
        yield built
    finally:
        await built.close()


@pytest_asyncio.fixture(loop_scope="session")
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with sitting(tmp_path) as built:
        yield built


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def kept(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Desk, Page]]:
    """A desk and a page before it that stays open over the tests of a file: each sets all that it looks at."""
    async with sitting(tmp_path_factory.mktemp("kept")) as built, visiting(browser) as visit:
        yield built, await visit(built.url, quotes=[contract(0), contract(1)])


@pytest_asyncio.fixture(loop_scope="session")
async def reset(kept: tuple[Desk, Page]) -> tuple[Desk, Page]:
    """The kept desk and page, the desk as `sitting` gives it: for tests that change only what the daemon publishes."""
    desk, _ = kept
    desk.daemon.replies.clear()
    desk.daemon.requests.clear()
    desk.daemon.set_all(**account(), **book())
    desk.daemon.link()
    return kept


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def blank(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    """A document of the facade without the page, to run the page's pure modules in."""
    built = Desk(tmp_path_factory.mktemp("blank"))
    context = await browser.new_context(locale="en-US")
    try:
        await built.open_facade()
        page = await context.new_page()
        await page.goto(f"http://127.0.0.1:{built.port}/ui/vendor/README.md")
        yield page
    finally:
        await context.close()
        await built.close()


@pytest.fixture
def shot() -> Shot:
    """Keep a picture of the page in the folder LINK_TEST_ARTEFACTS, where one is named: drawing them takes its time."""
    folder = os.environ.get("LINK_TEST_ARTEFACTS")

    async def take(page: Page, name: str, *, full: bool = False) -> None:
        if folder:
            await page.screenshot(path=Path(folder) / f"page-{name}.png", full_page=full, animations="disabled")

    return take
