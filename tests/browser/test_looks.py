"""That the page can be read: contrast, width, dark and light, keyboard, no motion where none is wanted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Desk, Shot, Visit
from tests.browser.desk import account, book, trouble

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEYOND = """(width) => [...document.querySelectorAll('button, input, select, h1, h2, h3')]
    .filter((node) => node.checkVisibility() && !node.closest('thead'))
    .filter((node) => node.getBoundingClientRect().right > width + 1)
    .map((node) => node.outerHTML)"""

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


async def open_target(page: Page) -> None:
    """The form for another gateway, which may be open already."""
    if await page.locator("#details").is_hidden():
        await page.get_by_role("button", name="Link details").click()
    if await page.locator("#target").is_hidden():
        await page.get_by_role("button", name="Connect to…").click()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize(
    ("phase", "reason", "headline"),
    [
        ("ready", "", "Connected"),
        ("waiting", "portClosed", "Waiting"),
        ("blocked", "notTws", "Blocked"),
        ("held", "manual", "Disconnected by you"),
        ("waiting", "loginRequired", "Login needed"),
        ("connecting", "", "Connecting"),
    ],
)
async def test_every_text_has_the_contrast_that_wcag_aa_requires(
    kept: tuple[Desk, Page], shot: Shot, scheme: str, phase: str, reason: str, headline: str
) -> None:
    """4.5 to 1 for text, 3 to 1 where it is large, measured on what is really drawn, with everything opened."""
    desk, page = kept
    desk.daemon.set_all(**account("U1234567", paper=False), **book())
    desk.daemon.refuse("link.connect", "liveLocked")
    if reason:
        desk.daemon.link(**trouble(phase, reason, next_in=600))
    elif phase != "ready":
        desk.daemon.link(phase=phase, connected=False)
    await page.set_viewport_size({"width": 1280, "height": 900})
    # without motion: a colour on its way from the other scheme's is not read
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await expect(page.locator("#headline")).to_have_text(f"IBKR: {headline}")
    await expect(page.locator("#ribbon")).to_be_visible()
    await expect(page.locator("#positions-table tbody")).to_contain_text("AAPL")
    await open_target(page)
    await page.locator("#target [name=port]").fill("7496")
    await page.get_by_role("button", name="Connect there").click()
    await expect(page.locator("#problem")).to_be_visible()
    await shot(page, f"contrast-{scheme}-{phase}", full=True)

    texts = await page.evaluate(CONTRAST)

    assert len(texts) > 100
    assert [text for text in texts if text["ratio"] < text["needed"]] == []


@pytest.mark.parametrize("width", [360, 390, 768, 1024, 1280, 1920])
@pytest.mark.parametrize("trouble_too", [False, True])
async def test_nothing_is_wider_than_the_window(
    kept: tuple[Desk, Page], shot: Shot, width: int, trouble_too: bool
) -> None:
    """From a small phone to a wide screen the page scrolls in one direction only, and its buttons are in reach."""
    desk, page = kept
    desk.daemon.set_all(**account(), **book())
    if trouble_too:
        desk.daemon.link(**trouble("waiting", "portClosed", next_in=600))
    await page.set_viewport_size({"width": width, "height": 900})
    await expect(page.locator("#headline")).to_have_text(f"IBKR: {'Waiting' if trouble_too else 'Connected'}")
    await expect(page.locator("#positions-table tbody")).to_contain_text("AAPL")
    await open_target(page)
    await shot(page, f"width-{width}{'-waiting' if trouble_too else ''}", full=True)

    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate(BEYOND, width) == []


HOURS_CUT_OFF = """() => {
    const hours = document.querySelector('#timeline-hours').getBoundingClientRect();
    return [...document.querySelectorAll('#timeline-hours span')].filter((label) => {
        const words = document.createRange();
        words.selectNodeContents(label);
        const { left, right } = words.getBoundingClientRect();
        return left < hours.left - 0.5 || right > hours.right + 0.5;
    }).map((label) => label.textContent);
}"""

ZONES = ("UTC", "Asia/Kabul", "Etc/GMT-1", "Asia/Kolkata", "Etc/GMT-2", "Asia/Yangon", "Etc/GMT-3", "Asia/Tehran")
"""Half an hour apart, so that in one of them a fourth hour is never more than half an hour away."""


@pytest.mark.parametrize("edge", ["first", "last"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_every_hour_of_the_timeline_is_readable_to_its_ends(
    desk: Desk, visit: Visit, width: int, edge: str
) -> None:
    """Also the one that falls on the bar's first or last minutes."""

    def gone(zone: str) -> timedelta:
        local = datetime.now(UTC).astimezone(ZoneInfo(zone))
        return timedelta(hours=local.hour % 4, minutes=local.minute)

    zone = max(ZONES, key=gone) if edge == "first" else min(ZONES, key=gone)

    page = await visit(desk.url, width=width, timezone_id=zone)
    await expect(page.locator("#timeline-hours span").nth(4)).to_be_visible()

    assert await page.evaluate(HOURS_CUT_OFF) == []


async def test_on_a_phone_a_row_shows_every_value_with_its_name(desk: Desk, visit: Visit) -> None:
    """Each value stands below its column's name; only the weight has no room."""
    page = await visit(desk.url, width=360)
    row = page.locator("#positions-table tbody tr:not(.spacer):not([hidden])").first
    await expect(row.locator("[data-column=contract] .name")).to_be_visible()

    for key in ("position", "avg", "price", "value", "unrealized", "return", "realized"):
        await expect(row.locator(f"[data-column={key}] .value")).to_be_visible()


async def test_dark_and_light_follow_the_system_or_the_choice(desk: Desk, visit: Visit) -> None:
    """Also while the page is open; a choice stays over a reload."""
    page = await visit(desk.url, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(ground)

    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(ground) != light

    await page.get_by_role("combobox", name="Theme").select_option("light")
    assert await page.evaluate(ground) == light
    await page.reload()
    assert await page.evaluate(ground) == light


SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shifted += entry.value;
}).observe({ type: 'layout-shift', buffered: true });
"""


@pytest.mark.parametrize("width", [390, 1024, 1440])
async def test_nothing_moves_while_the_page_loads(desk: Desk, visit: Visit, width: int) -> None:
    """Figures, tables and history come into places that are there for them: CLS stays below 0.05."""
    page = await visit("about:blank", width=width)
    await page.add_init_script(SHIFTS)

    await page.goto(desk.url)

    await expect(page.locator("#positions-table tbody")).to_contain_text("AAPL")
    await expect(page.locator("#timeline-reading")).to_contain_text("Not known")
    assert await page.evaluate("new Promise((done) => requestAnimationFrame(() => done(shifted)))") < 0.05


FIRST_LOOK = ["#headline", "#money", "#account", "[data-figure=net] .value", "[data-figure=daily] .value", "#pulse"]


async def test_a_phones_first_screen_answers_the_first_questions(desk: Desk, visit: Visit) -> None:
    """Connected? To which account? Worth how much? What has changed today?"""
    page = await visit(desk.url, width=390, height=844)
    await expect(page.locator("#positions-table tbody")).to_contain_text("AAPL")

    for part in FIRST_LOOK:
        box = await page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 844


async def test_reduced_motion_is_respected(desk: Desk, visit: Visit) -> None:
    """Nothing turns or sweeps where reduced motion is chosen."""
    desk.daemon.link(phase="syncing", connected=False)
    page = await visit(desk.url, reduced_motion="reduce")
    await expect(page.locator("#headline")).to_have_text("IBKR: Syncing")

    assert await page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length") == 0


async def test_the_commands_are_reached_by_keyboard_in_their_order(desk: Desk, visit: Visit) -> None:
    """The way past the top, what the reason means, connect, disconnect, the details of the link."""
    desk.daemon.link(**trouble("waiting", "portClosed", next_in=600))
    page = await visit(desk.url)
    await expect(page.locator("#disconnect")).to_be_visible()

    reached = []
    for _ in range(5):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate("document.activeElement.textContent.trim()"))

    assert reached == ["Skip to the positions", "portClosed", "🔌 Connect IBKR", "Disconnect", "Link details"]


async def test_the_state_is_announced_and_the_countdown_is_not(reset: tuple[Desk, Page]) -> None:
    """A screen reader announces the headline when it changes, and not a number each second or minute."""
    _, page = reset
    assert await page.locator("[role=status] #headline").count() == 1
    silent = ":is(#next, #facts, #timeline-reading)"
    assert await page.locator(f":is([aria-live], [role=status]) {silent}, {silent}[aria-live]").count() == 0
    for table in ("Positions", "Open orders", "Fills"):
        await expect(page.get_by_role("table", name=table)).to_have_count(1)


async def test_nothing_is_requested_from_another_host(desk: Desk, visit: Visit) -> None:
    """Every request of the page goes to the facade it came from."""
    page = await visit("about:blank")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    await page.goto(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    assert [url for url in requests if not url.startswith(f"http://127.0.0.1:{desk.port}/")] == []
