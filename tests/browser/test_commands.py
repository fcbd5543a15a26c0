"""What a person can do to the link from the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Page, Request, expect

from tests.browser.conftest import Desk, Shot, Visit
from tests.browser.desk import account, fill, trouble

pytestmark = pytest.mark.asyncio(loop_scope="session")


def posted(request: Request) -> tuple[str, Any, str | None]:
    """Path, body and content type of a request."""
    path = request.url.partition("/api/ibkr")[2]
    return path, json.loads(request.post_data or "null"), request.headers.get("content-type")


async def test_the_button_connects_with_an_empty_object(reset: tuple[Desk, Page]) -> None:
    """It names no host: `{}` as JSON; and the page follows when the link comes up."""
    desk, page = reset
    desk.daemon.link(**trouble("disabled", "autoConnectOff"))

    async def connect(_params: Mapping[str, Any]) -> dict[str, Any]:
        desk.daemon.link()
        return {}

    desk.daemon.replies["link.connect"] = connect
    async with page.expect_request("**/api/ibkr/connect") as sent:
        await page.get_by_role("button", name="🔌 Connect IBKR", exact=True).click()

    assert posted(await sent.value) == ("/connect", {}, "application/json")
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    assert ("link.connect", {}) in desk.daemon.requests


@pytest.mark.parametrize("phase", ["connecting", "waiting", "blocked", "ready"])
async def test_the_button_works_in_every_phase(reset: tuple[Desk, Page], phase: str) -> None:
    """Also while the daemon tries on its own: a request joins the attempt or ends the wait."""
    desk, page = reset
    if phase != "ready":
        desk.daemon.link(**trouble(phase, "portClosed", next_in=60))

    async def connect(_params: Mapping[str, Any]) -> dict[str, Any]:
        desk.daemon.link()
        return {}

    desk.daemon.replies["link.connect"] = connect
    async with page.expect_response("**/api/ibkr/connect") as answered:
        await page.locator("#connect").click()

    assert (await answered.value).status == 200


async def test_the_button_reads_the_same_while_it_works(reset: tuple[Desk, Page]) -> None:
    """Its name never changes; aria-busy shows that it works, and a second click sends nothing."""
    desk, page = reset
    gate = asyncio.Event()

    async def connect(_params: Mapping[str, Any]) -> dict[str, Any]:
        await gate.wait()
        return {}

    desk.daemon.replies["link.connect"] = connect
    button = page.locator("#connect")

    await button.click()
    await expect(button).to_have_attribute("aria-busy", "true")
    await expect(button).to_have_text("🔌 Connect IBKR")
    await button.click()
    gate.set()

    await expect(button).not_to_have_attribute("aria-busy", "true")
    assert [name for name, _ in desk.daemon.requests].count("link.connect") == 1


async def test_a_refusal_is_shown_as_the_facade_words_it(reset: tuple[Desk, Page], shot: Shot) -> None:
    """Title, detail, reason and ordered advice of the problem; it can be closed."""
    desk, page = reset
    advice = ["First do this.", "Then that."]
    desk.daemon.refuse("link.connect", "clientIdInUse", advice=advice, detail="Client id 1 is taken.")
    await page.locator("#connect").click()

    problem = page.locator("#problem")
    await expect(problem.locator("strong")).to_have_text("The client id is in use")
    await expect(problem.locator("p")).to_have_text("Client id 1 is taken.")
    await expect(problem.locator(".reason")).to_have_text("clientIdInUse")
    await expect(problem.locator("ol > li")).to_have_text(advice)
    await shot(page, "refused")
    await problem.get_by_role("button").click()
    await expect(problem).to_be_hidden()


async def test_disconnect_holds_the_link(reset: tuple[Desk, Page]) -> None:
    """The page shows what came of it; disconnecting again makes no sense then and is not offered."""
    desk, page = reset

    async def disconnect(_params: Mapping[str, Any]) -> dict[str, Any]:
        desk.daemon.link(**trouble("held", "manual"))
        return {}

    desk.daemon.replies["link.disconnect"] = disconnect
    async with page.expect_request("**/api/ibkr/disconnect") as sent:
        await page.get_by_role("button", name="Disconnect").click()

    assert posted(await sent.value) == ("/disconnect", {}, "application/json")
    await expect(page.locator("#headline")).to_have_text("IBKR: Disconnected by you")
    await expect(page.locator("#disconnect")).to_be_hidden()


async def test_disconnecting_from_real_money_is_confirmed_first(desk: Desk, visit: Visit) -> None:
    """A live link is not ended by one click: the dialog can be left without a word to the facade."""
    desk.daemon.set_all(**account("U1234567", paper=False))
    page = await visit(desk.url)
    await expect(page.locator("#ribbon")).to_be_visible()
    posts: list[str] = []
    page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)

    await page.get_by_role("button", name="Disconnect").click()
    await page.get_by_role("button", name="Stay connected").click()
    assert posts == []
    await page.locator("#disconnect").click()
    async with page.expect_request("**/api/ibkr/disconnect"):
        await page.locator("#confirm-dialog").get_by_role("button", name="Disconnect").click()


async def test_the_form_names_host_port_and_client_id(desk: Desk, visit: Visit, shot: Shot) -> None:
    """It begins with what is dialled now; the four standard ports have names; a success closes it."""
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    await page.get_by_role("button", name="Link details").click()
    await page.get_by_role("button", name="Connect to…").click()
    form = page.locator("#target")
    await expect(form.get_by_role("textbox", name="Host")).to_be_focused()
    await expect(form.get_by_role("textbox", name="Host")).to_have_value("127.0.0.1")
    await expect(form.get_by_role("spinbutton", name="Port")).to_have_value("7497")
    await expect(form.locator("option")).to_have_text(
        ["TWS paper (7497)", "TWS live (7496)", "Gateway paper (4002)", "Gateway live (4001)", "Other port"]
    )
    await form.get_by_role("combobox", name="Gateway").select_option("Gateway paper (4002)")
    await expect(form.get_by_role("spinbutton", name="Port")).to_have_value("4002")
    await form.get_by_role("spinbutton", name="Client id").fill("7")
    await shot(page, "form")
    async with page.expect_request("**/api/ibkr/connect") as sent:
        await form.get_by_role("button", name="Connect there").click()

    body = {"host": "127.0.0.1", "port": 4002, "clientId": 7}
    assert posted(await sent.value) == ("/connect", body, "application/json")
    await expect(form).to_be_hidden()


async def test_a_refused_form_stays_with_what_was_typed(desk: Desk, visit: Visit) -> None:
    """A live port that is locked: the refusal's words, and the form as it was."""
    desk.daemon.refuse("link.connect", "liveLocked")
    page = await visit(desk.url)
    await page.get_by_role("button", name="Link details").click()
    await page.get_by_role("button", name="Connect to…").click()
    form = page.locator("#target")
    await form.get_by_role("spinbutton", name="Port").fill("7496")
    await expect(form.get_by_role("combobox", name="Gateway")).to_have_value("7496")

    await form.get_by_role("button", name="Connect there").click()

    await expect(page.locator("#problem .reason")).to_have_text("liveLocked")
    await expect(form.get_by_role("spinbutton", name="Port")).to_have_value("7496")
    await form.get_by_role("spinbutton", name="Port").press("Escape")
    await expect(form).to_be_hidden()


async def test_a_command_that_does_not_reach_the_facade_is_answered(desk: Desk, visit: Visit) -> None:
    """The facade is gone: the click is answered with a sentence, not with silence."""
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await desk.close_facade()

    await page.locator("#connect").click()

    await expect(page.locator("#problem")).to_contain_text("did not reach the facade")


RECORD_NOTIFICATIONS = """
window.announced = [];
window.Notification = class extends EventTarget {
    static permission = 'granted';
    static requestPermission = async () => 'granted';
    constructor(title) { super(); announced.push(title); }
};
Object.defineProperty(document, 'hidden', { get: () => window.inBackground ?? false });
"""


async def test_a_fill_is_announced_while_the_tab_is_in_the_background(desk: Desk, visit: Visit) -> None:
    """If the person wants that; one that is seen on the page is not announced."""
    page = await visit("about:blank")
    await page.add_init_script(RECORD_NOTIFICATIONS)
    await page.goto(desk.url)
    await expect(page.locator("#fills-note")).to_contain_text("3 fills")
    await page.get_by_role("button", name="Notify me").click()
    await expect(page.locator("#notify")).to_have_text("Notifications on")

    desk.daemon.store.put({"fills": {"seen": msgspec.structs.replace(fill(8), execId="seen")}})
    await expect(page.locator("#fills-note")).to_contain_text("4 fills")
    await page.evaluate("window.inBackground = true")
    desk.daemon.store.put({"fills": {"new": msgspec.structs.replace(fill(0), execId="new")}})

    await page.wait_for_function("announced.length > 0")
    assert await page.evaluate("announced") == ["Bought 100 AAPL at 100.00"]


# --- the token ------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def locked(tmp_path: Path) -> AsyncIterator[Desk]:
    """A facade that requires a token."""
    token = tmp_path / "token"
    token.write_text("open-sesame-open-sesame-open-sesame")
    token.chmod(0o600)
    built = Desk(tmp_path, facade_token_file=token)
    await built.daemon.start()
    try:
        built.daemon.set_all(**account())
        await built.open_facade()
        yield built
    finally:
        await built.close()


async def test_the_token_is_required_once_and_kept_for_the_tab(locked: Desk, visit: Visit, shot: Shot) -> None:
    """A wrong one is required again; the right one serves reads, commands and the stream, also after a reload."""
    page = await visit(locked.url)
    dialog = page.locator("#token-dialog")
    await expect(dialog).to_be_visible()
    await shot(page, "token")
    await page.locator("#token").fill("wrong")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.locator("#token-why")).to_contain_text("refused")

    await page.locator("#token").fill("open-sesame-open-sesame-open-sesame")
    await page.get_by_role("button", name="Use it").click()

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#figures")).to_contain_text("1,024,318.42")
    async with page.expect_response("**/api/ibkr/connect") as answered:
        await page.locator("#connect").click()
    assert (await answered.value).status == 200
    await page.reload()
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(dialog).to_be_hidden()
    assert "open-sesame" not in await page.evaluate("document.cookie + location.href + JSON.stringify(localStorage)")


async def test_a_token_that_no_header_can_carry_is_refused_where_it_is_typed(locked: Desk, visit: Visit) -> None:
    """A quotation mark of a word processor is no sign of a dead facade; the right token is taken afterwards."""
    page = await visit(locked.url)
    await page.locator("#token").fill("“open-sesame-open-sesame-open-sesame”")
    await page.get_by_role("button", name="Use it").click()
    assert await page.locator("#token").evaluate("(input) => input.validity.patternMismatch")
    await expect(page.locator("#token-dialog")).to_be_visible()

    await page.locator("#token").fill(" open-sesame-open-sesame-open-sesame ")
    await page.get_by_role("button", name="Use it").click()

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")


async def test_the_help_pages_work_with_a_token_and_break_no_policy(locked: Desk, visit: Visit, shot: Shot) -> None:
    """The reasons are open; the API's page prompts for the token and then shows and tries every route with it."""
    address = locked.url.removesuffix("/ui/complete_platform.html")
    page = await visit(f"{address}/docs/reasons#portClosed")
    await expect(page.get_by_role("heading", name="portClosed")).to_be_visible()
    await page.get_by_role("link", name="API").click()

    await page.locator("#token").fill("open-sesame-open-sesame-open-sesame")
    await page.get_by_role("button", name="Use it").click()

    await page.get_by_role("button", name="GET /api/ibkr/status").first.click()
    await page.get_by_role("button", name="Try it out").click()
    await page.get_by_role("button", name="Execute").click()
    await expect(page.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    await shot(page, "docs")


async def test_blocked_storage_is_no_silence(desk: Desk, visit: Visit) -> None:
    """Where the browser keeps nothing for the site the page works, and keeps what it must in memory."""
    page = await visit("about:blank")
    await page.add_init_script("""
        for (const name of ['sessionStorage', 'localStorage'])
            Object.defineProperty(window, name, { get() { throw new DOMException('blocked', 'SecurityError'); } });
    """)

    await page.goto(desk.url)

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_contain_text("10 positions")
