"""What the page shows of the link, for every state it can be in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from shared.messages import Account, Endpoint, Expected, GatewayFacts, LastError, Notice, Sync
from shared.reasons import describe
from tests.browser.conftest import Desk, Shot, Visit, sitting, unanswered
from tests.browser.desk import FACTS, account, now, positions, trouble
from tests.facade.fake_daemon import FakeDaemon

pytestmark = pytest.mark.asyncio(loop_scope="session")

TROUBLES = [
    ("disabled", "autoConnectOff", "Disabled"),
    ("held", "manual", "Disconnected by you"),
    ("waiting", "portClosed", "Waiting"),
    ("waiting", "hostUnreachable", "Waiting"),
    ("waiting", "dialTimeout", "Waiting"),
    ("waiting", "handshakeTimeout", "Waiting"),
    ("waiting", "closedDuringHandshake", "Waiting"),
    ("waiting", "sessionIncomplete", "Waiting"),
    ("waiting", "socketLost", "Waiting"),
    ("waiting", "probeTimeout", "Waiting"),
    ("waiting", "portMoved", "Waiting"),
    ("waiting", "loginRequired", "Login needed"),
    ("waiting", "clientIdInUse", "Waiting"),
    ("unproven", "probeTimeout", "Not responding"),
    ("upstreamLost", "upstreamLost", "Upstream lost"),
    ("upstreamLost", "competingSession", "Upstream lost"),
    ("blocked", "clientIdInUse", "Blocked"),
    ("blocked", "notTws", "Blocked"),
    ("blocked", "versionUnsupported", "Blocked"),
    ("blocked", "accountMismatch", "Blocked"),
    ("stopping", "shuttingDown", "Stopping"),
]


async def test_a_ready_link_is_read_at_one_look(desk: Desk, visit: Visit, shot: Shot) -> None:
    """Connected, in words and by the lamp's shape; paper, account, since, proof, gateway; nothing about trouble."""
    desk.daemon.link(since=now(-8040))

    page = await visit(desk.url)

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page).to_have_title("IBKR: Connected")
    await expect(page.locator("#lamp")).to_have_attribute("href", "#lamp-good")
    await expect(page.locator("link[rel=icon]")).to_have_attribute("href", "/ui/icons/good.svg")
    await expect(page.locator("#money")).to_have_text("PAPER")
    await expect(page.locator("#account")).to_have_text("DU1234567")
    await expect(page.locator("#pulse")).to_contain_text("Last heard")
    await expect(page.locator("#trouble")).to_be_hidden()
    await expect(page.locator("#details")).to_be_hidden()
    await page.get_by_role("button", name="Link details").click()
    await expect(page.locator("#facts")).to_contain_text("2 h 14 min")
    await expect(page.locator("#facts")).to_contain_text("127.0.0.1:7497")
    await expect(page.locator("#ribbon")).to_be_hidden()
    await expect(page.locator("#connect")).to_have_text("🔌 Connect IBKR")
    await shot(page, "connected", full=True)


@pytest.mark.parametrize(("phase", "reason", "headline"), TROUBLES)
async def test_each_trouble_is_shown_with_its_sentence_and_advice(
    kept: tuple[Desk, Page], shot: Shot, phase: str, reason: str, headline: str
) -> None:
    """Phase as headline, the catalogue's sentence, its advice as an ordered list; the lamp is not the good one.

    Whatever trouble was there before.
    """
    desk, page = kept
    sentence, advice = describe(reason, **FACTS)

    desk.daemon.link(**trouble(phase, reason))

    await expect(page.locator("#headline")).to_have_text(f"IBKR: {headline}")
    await expect(page.locator("#sentence")).to_have_text(sentence)
    await expect(page.locator("ol#advice > li")).to_have_text(list(advice))
    await expect(page.locator("#reason")).to_have_text(reason)
    await expect(page.locator("#lamp")).not_to_have_attribute("href", "#lamp-good")
    await shot(page, f"{phase}-{reason}")


@pytest.mark.parametrize(("phase", "headline"), [("connecting", "Connecting"), ("syncing", "Syncing")])
async def test_what_is_under_way_is_shown_too(reset: tuple[Desk, Page], shot: Shot, phase: str, headline: str) -> None:
    """A dial and a first snapshot are neither good nor trouble."""
    desk, page = reset
    desk.daemon.link(phase=phase, sentence="", connected=False)

    await expect(page.locator("#headline")).to_have_text(f"IBKR: {headline}")
    await expect(page.locator("#lamp")).to_have_attribute("href", "#lamp-busy")
    await shot(page, phase)


async def test_the_next_attempt_is_counted_down(reset: tuple[Desk, Page]) -> None:
    """Seconds to the announced time, less and less; the attempts so far and IBKR's last words beside it."""
    desk, page = reset
    error = LastError(code=326, text="Unable to connect as the client id is already in use.", at=now())
    desk.daemon.link(**trouble("blocked", "clientIdInUse", next_in=3600, lastError=error))

    await expect(page.locator("#next")).to_have_text(re.compile(r"^in 59 min \d+ s$"))
    before = await page.locator("#next").text_content()
    await expect(page.locator("#next-note")).to_have_text("14 attempts so far")
    await expect(page.locator("#last-error")).to_contain_text("Last error 326: Unable to connect")
    await expect(page.locator("#next")).not_to_have_text(before or "")
    await expect(page.locator("#next")).to_have_text(re.compile(r"^in 5\d min"))


async def test_the_last_error_of_an_incident_that_is_over_is_not_of_this_one(reset: tuple[Desk, Page]) -> None:
    """Yesterday's refusal beside today's closed port would send a person the wrong way."""
    desk, page = reset
    old = LastError(code=326, text="Unable to connect as the client id is already in use.", at=now(-86_400))
    desk.daemon.link(**trouble("waiting", "portClosed", next_in=600, lastError=old))
    await expect(page.locator("#headline")).to_have_text("IBKR: Waiting")

    await expect(page.locator("#last-error")).to_be_hidden()


async def test_a_momentary_dial_does_not_make_the_page_flicker(desk: Desk, visit: Visit) -> None:
    """A closed port on loopback is dialled twice a second: headline, the tab's title, advice and buttons stay."""
    desk.daemon.link(**trouble("waiting", "portClosed", next_in=0.5))
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Waiting")
    await page.evaluate("""() => {
        window.seen = new Set();
        const every = { subtree: true, childList: true, attributes: true, characterData: true };
        const look = () => seen.add([headline.textContent, document.title, trouble.hidden, disconnect.hidden].join());
        new MutationObserver(look).observe(document, every);
        look();
    }""")

    for _ in range(5):
        for phase in ("connecting", "waiting"):
            desk.daemon.link(**trouble(phase, "portClosed"))
            await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    assert await page.evaluate("[...seen]") == ["IBKR: Waiting,IBKR: Waiting,false,false"]


async def test_a_dial_that_lasts_is_shown(reset: tuple[Desk, Page]) -> None:
    """The pause against flickering does not hide an attempt that is really under way."""
    desk, page = reset
    desk.daemon.link(**trouble("waiting", "handshakeTimeout", next_in=60))
    await expect(page.locator("#headline")).to_have_text("IBKR: Waiting")

    desk.daemon.link(**trouble("connecting", "handshakeTimeout"))

    await expect(page.locator("#headline")).to_have_text("IBKR: Connecting")
    await expect(page.locator("#trouble")).to_be_visible()


async def test_a_live_account_is_unmistakable(reset: tuple[Desk, Page], shot: Shot) -> None:
    """Real money is in words above everything, not by a colour."""
    desk, page = reset
    desk.daemon.set_all(**account("U1234567", paper=False))

    await expect(page.locator("#ribbon")).to_have_text("LIVE ACCOUNT · REAL MONEY")
    await expect(page.locator("#money")).to_have_text("LIVE")
    await shot(page, "live")


async def test_one_live_account_among_paper_ones_is_not_overlooked(reset: tuple[Desk, Page]) -> None:
    """The more dangerous word wins."""
    desk, page = reset
    desk.daemon.set_rows(
        "accounts", {"DU1": Account(account="DU1", paper=True), "U2": Account(account="U2", paper=False)}
    )

    await expect(page.locator("#ribbon")).to_be_visible()
    await expect(page.locator("#money")).to_have_text("LIVE + PAPER")


async def test_the_switch_shows_another_session_and_never_two_of_them(tmp_path: Path, visit: Visit, shot: Shot) -> None:
    """Each session is an address of its own: its accounts, its positions, and LIVE above it all where it is live."""
    async with sitting(tmp_path / "paper") as desk, FakeDaemon(str(tmp_path / "live.sock"), epoch="l1") as live:
        live.set_all(**account("U7777777", paper=False), positions=positions(2, "U7777777"))
        live.link(accounts=("U7777777",))
        desk.others["live"] = live.path
        await desk.close_facade()
        await desk.open_facade()
        page = await visit(desk.url)
        switch = page.get_by_role("combobox", name="Session")
        await expect(switch.locator("option")).to_have_text(["default · paper · connected", "live · LIVE · connected"])
        await expect(page.locator("#positions-note")).to_contain_text("10 positions")
        await expect(page.locator("#ribbon")).to_be_hidden()

        await switch.select_option("live · LIVE · connected")

        await expect(page.locator("#ribbon")).to_be_visible()
        await expect(page).to_have_title("IBKR: Connected · live")
        await expect(page.locator("#positions-note")).to_contain_text("2 positions")
        await expect(page.locator("#account")).to_have_text("U7777777")
        await shot(page, "sessions")
        async with page.expect_request("**/connect") as sent:
            await page.locator("#connect").click()
        assert (await sent.value).url.endswith("/api/ibkr/sessions/live/connect")
        await page.wait_for_function("!connect.hasAttribute('aria-busy')")


async def test_a_planned_window_is_an_annotation(reset: tuple[Desk, Page]) -> None:
    """Expected does not make it up: the phase stays what it is, and the window is named with its end."""
    desk, page = reset
    expected = Expected(active=True, kind="nightlyReset", nextAt=now(1800))
    desk.daemon.link(**trouble("upstreamLost", "upstreamLost", expected=expected))

    await expect(page.locator("#headline")).to_have_text("IBKR: Upstream lost")
    await expect(page.locator("#next-note")).to_contain_text("Expected: nightly reset until")


async def test_a_moved_port_is_shown_beside_the_configured_one(desk: Desk, visit: Visit) -> None:
    """Both are there: what is dialled now and what the settings say."""
    moved = GatewayFacts(host="127.0.0.1", port=7500, clientId=1, configured=Endpoint(host="127.0.0.1", port=7497))
    desk.daemon.link(gateway=moved)

    page = await visit(desk.url)
    await page.get_by_role("button", name="Link details").click()

    await expect(page.locator("#facts")).to_contain_text("127.0.0.1:7500")
    await expect(page.locator("#facts")).to_contain_text("configured 127.0.0.1:7497")


async def test_a_read_only_api_says_so(reset: tuple[Desk, Page]) -> None:
    """Connected all the same, and orders are not known rather than none."""
    desk, page = reset
    desk.daemon.store.forget("orders")
    desk.daemon.link(readOnly=True)

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#orders-note")).to_have_text("not known")
    await expect(page.locator("#orders-table .nothing")).to_contain_text("the TWS API is read-only")


async def test_what_never_came_is_not_known_and_not_zero(reset: tuple[Desk, Page], shot: Shot) -> None:
    """No list, no figure: a dash and "not known" everywhere, never 0 and never "none"."""
    desk, page = reset
    for topic in ("summary", "pnl", "positions", "orders", "fills"):
        desk.daemon.store.forget(topic)
    desk.daemon.link()

    for topic in ("positions", "orders", "fills", "accounts"):
        await expect(page.locator(f"#{topic}-note")).to_have_text("not known")
    await expect(page.locator("#positions-table .nothing")).to_contain_text("Not known")
    for value in await page.locator("#figures .value").all():
        await expect(value).to_have_text("—")
    await shot(page, "unknown", full=True)


async def test_an_empty_list_that_came_is_empty(reset: tuple[Desk, Page]) -> None:
    """A known empty list reads as none."""
    desk, page = reset
    desk.daemon.set_rows("positions", {})

    await expect(page.locator("#positions-table .nothing")).to_have_text("No positions.")
    await expect(page.locator("#positions-note")).to_have_text("0 positions")


async def test_values_of_before_a_loss_are_marked_with_their_age(reset: tuple[Desk, Page]) -> None:
    """While the link is down the last values stay, greyed, with the time of the loss: until then they were kept."""
    desk, page = reset
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")

    desk.daemon.store.put({"sync": {"positions": Sync(known=True, asOf=now(-240), stale=True)}})
    desk.daemon.link(**trouble("waiting", "socketLost", next_in=30))

    await expect(page.locator("#positions-note")).to_contain_text("stale · as of")
    await expect(page.locator("#positions-note")).to_contain_text("1 min")
    await expect(page.locator("#positions-table table")).to_have_attribute("data-stale", "true")
    await expect(page.locator("#figures dd[data-stale=true]").first).to_be_visible()


async def test_ibkrs_texts_are_text(reset: tuple[Desk, Page]) -> None:
    """Markup in an IBKR message is shown letter by letter and makes no element."""
    desk, page = reset
    text = "<img src=x onerror=alert(1)><b>bold</b>"
    desk.daemon.store.notice(Notice(at=now(), code=399, text=text))
    desk.daemon.link(**trouble("waiting", "portClosed", lastError=LastError(code=502, text=text, at=now())))

    await expect(page.locator("#last-error")).to_contain_text(text)
    await expect(page.locator("#log tbody")).to_contain_text(text)
    assert await page.locator("#log img, #log b, #last-error img").count() == 0


# --- daemon or facade away ----------------------------------------------------------------------------------


async def test_a_dead_daemon_is_shown_and_its_return_too(desk: Desk, visit: Visit, shot: Shot) -> None:
    """Nothing is touched: the headline follows, values are stale meanwhile, and no row is there twice afterwards."""
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    await desk.daemon.stop()
    await expect(page.locator("#headline")).to_have_text("IBKR: Daemon not answering")
    await expect(page.locator("#advice")).to_contain_text("Start the daemon")
    await expect(page.locator("#positions-note")).to_contain_text("stale")
    await shot(page, "daemon-away")

    await desk.daemon.start()
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")
    await expect(page.locator("#positions-table tbody tr:not(.spacer):visible")).to_have_count(10)


async def test_a_new_daemon_brings_its_own_rows(desk: Desk, visit: Visit) -> None:
    """Another epoch: the old daemon's rows are replaced, not added to."""
    page = await visit(desk.url)
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")

    await desk.renew_daemon()
    desk.daemon.set_all(**account())

    await expect(page.locator("#positions-note")).to_have_text("0 positions")
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")


async def test_a_dead_facade_is_shown_and_its_return_too(desk: Desk, visit: Visit, shot: Shot) -> None:
    """The page stays, shows that the facade does not answer and since when, and recovers by itself."""
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    await desk.close_facade()
    await expect(page.locator("#headline")).to_have_text("IBKR: Facade not answering")
    await expect(page).to_have_title("IBKR: Facade not answering")
    await expect(page.locator("#positions-note")).to_contain_text("stale")
    await expect(page.locator("#facts")).to_have_attribute("data-stale", "true")
    await shot(page, "facade-away")

    await desk.open_facade()
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")
    await expect(page.locator("#positions-table tbody tr:not(.spacer):visible")).to_have_count(10)


async def test_what_happened_while_the_facade_was_away_is_there_afterwards(desk: Desk, visit: Visit) -> None:
    """The stream goes on from where it was: a changed position is changed, a closed one is gone."""
    page = await visit(desk.url)
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")

    await desk.close_facade()
    await expect(page.locator("#headline")).to_have_text("IBKR: Facade not answering")
    desk.daemon.store.put({"positions": {"DU1234567:1000": None}})
    await desk.open_facade()

    await expect(page.locator("#positions-note")).to_have_text("9 positions · in USD")


async def test_a_frozen_facade_is_noticed_too(reset: tuple[Desk, Page]) -> None:
    """An open connection on which nothing comes and a request without an answer: that is not answering."""
    _, page = reset
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    async with unanswered(page, "**/api/ibkr/link"):
        await expect(page.locator("#headline")).to_have_text("IBKR: Facade not answering")

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")


async def test_a_stream_that_never_opens_is_requested_again(desk: Desk, visit: Visit) -> None:
    """A request without an answer, as over a connection that was lost without a word, is given up."""
    page = await visit("about:blank")
    await page.clock.install()
    async with unanswered(page, "**/api/ibkr/events?*", first=1) as requests:
        await page.goto(desk.url)
        await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
        await expect(page.locator("#positions-note")).to_have_text("not known")
        assert len(requests) == 1

        await page.clock.fast_forward(60_000)

        await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")


async def refuse_streams(page: Page, retry_after: int) -> list[Route]:
    """From now on each stream is refused as one too many; the list grows with each request."""
    requests: list[Route] = []

    async def refuse(route: Route) -> None:
        requests.append(route)
        body = {"title": "Too many event streams are open", "status": 503, "reason": "tooManyStreams", "advice": []}
        headers = {"Retry-After": str(retry_after)}
        await route.fulfill(status=503, content_type="application/problem+json", headers=headers, json=body)

    await page.route("**/api/ibkr/events?*", refuse)
    return requests


async def test_without_a_stream_the_link_is_what_the_facade_answers_and_values_are_old(
    desk: Desk, visit: Visit
) -> None:
    """The facade answers but lets no stream in: the last one's rows are not taken for IBKR's present state."""
    page = await visit(desk.url)
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")
    await refuse_streams(page, retry_after=1)

    await desk.close_facade()
    await expect(page.locator("#headline")).to_have_text("IBKR: Facade not answering")
    await desk.open_facade()

    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_contain_text("stale")
    desk.daemon.link(**trouble("waiting", "socketLost", next_in=60))
    await expect(page.locator("#headline")).to_have_text("IBKR: Waiting")

    await page.unroute("**/api/ibkr/events?*")
    desk.daemon.link()
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")
    await expect(page.locator("#positions-note")).to_have_text("10 positions · in USD")


async def test_a_refused_stream_is_requested_again_after_retry_after(desk: Desk, visit: Visit) -> None:
    """Retry-After holds, also while the facade goes on answering other questions."""
    page = await visit("about:blank")
    await page.clock.install()
    requests = await refuse_streams(page, retry_after=3600)
    probes: list[str] = []
    page.on("response", lambda response: probes.append(response.url) if response.url.endswith("/link") else None)
    await page.goto(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    while len(probes) < 5:
        await page.clock.run_for(1000)

    assert len(requests) == 1


async def test_a_frozen_daemon_is_noticed_by_the_facade_and_shown(desk: Desk, visit: Visit) -> None:
    """Sockets stay open and nothing is answered: within the facade's two seconds and the page's own it is shown."""
    page = await visit(desk.url)
    await expect(page.locator("#headline")).to_have_text("IBKR: Connected")

    desk.daemon.silent = True

    await expect(page.locator("#headline")).to_have_text("IBKR: Daemon not answering")


async def test_a_page_opened_while_the_daemon_is_away_shows_that(desk: Desk, visit: Visit, shot: Shot) -> None:
    """The first thing it can know is that the daemon does not answer; it needs no stream for that."""
    await desk.daemon.stop()

    page = await visit(desk.url)

    await expect(page.locator("#headline")).to_have_text("IBKR: Daemon not answering")
    await shot(page, "daemon-away-from-the-start")
