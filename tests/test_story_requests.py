"""Faults of single requests that look like faults of the link, and streams of bytes that look like none (FAULTS 44–56).

Here only what they do to the link and the topics; what a request itself is answered is tested in the tests of its part.
"""

from __future__ import annotations

import pytest

from daemon.simulator import World
from daemon.simulator.market import account_names
from shared.messages import AccountValue, ContractQuery, Notice
from tests.stories import Story, story
from tests.waiting import refused, until

AAPL = 265598


def notices(scene: Story) -> list[Notice]:
    return [row for row in scene.store.rows("notices").values() if isinstance(row, Notice)]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (101, "Max number of tickers has been reached."),
        (102, "Duplicate ticker ID."),
        (162, "Historical Market Data Service error message:Historical data request pacing violation"),
        (165, "Historical Market Data Service query message:Trading TWS session is connected from a different IP"),
        (200, "No security definition has been found for the request"),
        (300, "Can't find EId with tickerId:77"),
        (320, "Error reading request"),
        (322, "Error processing request.-'bW' : cause - Maximum number of account summary requests exceeded"),
        (354, "Requested market data is not subscribed."),
        (366, "No historical data query found for ticker id:77"),
        (420, "Invalid Real-time Query: No market data permissions"),
        (2100, "New account data requested from TWS. API client has been unsubscribed from account data."),
        (2101, "Unable to subscribe to account as the following clients are subscribed to a different account."),
        (2109, "Order Event Warning: Attribute 'Outside Regular Trading Hours' is ignored"),
        (2137, "The closing order quantity is greater than your current position."),
        (10089, "Requested market data requires additional subscription for API."),
        (10090, "Part of requested market data is not subscribed."),
        (10167, "Requested market data is not subscribed. Displaying delayed market data."),
        (10168, "Requested market data is not subscribed. Delayed market data is not enabled."),
        (10182, "Failed to request live updates (disconnected)."),
        (10197, "No market data during competing live session"),
        (99999, "An unknown code"),
    ],
)
async def test_no_code_of_a_request_touches_the_link(code: int, text: str) -> None:
    """44 to 52: with an id of ours, with an unknown id, or with none."""
    async with story() as scene:
        for req_id in (-1, 1, 4_711):
            scene.gateway.send_error(code, text, req_id=req_id)
        scene.gateway.farm(2104, "theend")
        await until(lambda: "theend" in scene.row.farms)

        assert scene.phases == [("connecting", None), ("syncing", None), ("ready", None)]
        assert scene.dials == 1
        assert scene.row.connected


# --- 44 to 50 -------------------------------------------------------------------------------------------------------


async def test_45_a_321_to_a_question_ends_it_at_once() -> None:
    """ib_async takes 321 for a warning and would wait for ever."""
    async with story() as scene:
        caught = await refused(scene.market.contracts.qualify(ContractQuery(symbol="AAPL")))
        assert (caught.reason, caught.ibCode) == ("invalidParameters", 321)
        assert scene.is_in("ready")


async def test_46_a_read_only_api_becomes_ready_with_orders_unknown_and_raises_one_dialog() -> None:
    async with story(before=lambda gateway: gateway.read_only(), connected=False) as scene:
        await scene.becomes("ready")
        await until(lambda: scene.row.readOnly)
        assert not scene.sync("orders").known
        assert scene.sync("positions").known
        questions = (
            scene.requested("reqAllOpenOrders")
            + scene.requested("reqOpenOrders")
            + scene.requested("reqCompletedOrders")
        )
        assert questions <= 2
        await scene.clock.pass_(65)

        after = (
            scene.requested("reqAllOpenOrders")
            + scene.requested("reqOpenOrders")
            + scene.requested("reqCompletedOrders")
        )
        assert after == questions, "each would raise another dialog in TWS"
        assert scene.logged("read-only") == 1


async def test_49_many_1102_leave_one_account_subscription() -> None:
    """IBKR allows two account summaries a client; each 1102 reads again, none leaks."""
    async with story(world=World(accounts=51, positions=5)) as scene:
        for number in (1, 2):
            scene.gateway.lose_upstream(1100)
            await scene.becomes("upstreamLost", "upstreamLost")
            scene.gateway.restore_upstream()
            await scene.becomes("ready")
            await until(lambda wanted=number: len(scene.gaps) == wanted)

        assert not any(notice.code == 322 for notice in notices(scene))
        assert not any(gap.unrecovered for gap in scene.gaps)


async def test_52_account_values_that_tws_stops_sending_are_stale_until_they_are_sent_again() -> None:
    async with story() as scene:
        scene.gateway.unsubscribe_accounts()
        await until(lambda: any(notice.code == 2100 for notice in notices(scene)))
        await until(lambda: scene.sync("summary").known and not scene.sync("summary").stale)

        assert scene.is_in("ready")
        assert scene.dials == 1


@pytest.mark.parametrize("which", [0, 1])
async def test_values_that_ibkr_refuses_after_their_first_answer_are_not_current(which: int) -> None:
    """FIELD A2: the session's own account and another's; what stays refused is unknown, the other as before."""
    accounts = account_names(2)
    async with story(world=World(accounts=2)) as scene:
        scene.gateway.refuse_account(accounts[which], subscribed=True)
        await until(lambda: scene.sync("summary").stale)
        if which == 0:
            scene.gateway.behave()
        await scene.clock.pass_(11)
        await until(lambda: not scene.sync("summary").stale)

        rows = scene.store.rows("summary").values()
        unknown = {row.account for row in rows if isinstance(row, AccountValue) and row.value is None}
        assert unknown == (set() if which == 0 else {accounts[1]})
        assert scene.logged("refused a subscription") == 1


# --- 53 to 55: bytes ------------------------------------------------------------------------------------------------


async def test_53_texts_in_other_languages_and_encodings_are_understood_by_their_numbers() -> None:
    async with story() as scene:
        scene.gateway.send_error(1100, "Die Verbindung zwischen IB und der TWS wurde unterbrochen.")
        await scene.becomes("upstreamLost", "upstreamLost")
        scene.gateway.send_error(1102, "接続が復旧しました。データは維持されています。")
        await scene.becomes("ready")
        scene.gateway.malformed("latin1")
        await until(lambda: "usfarm" in scene.row.farms)

        assert scene.dials == 1
        assert scene.session is not None
        assert scene.session.decode_errors == {}


async def test_54_many_that_cannot_be_read_are_counted_and_the_session_goes_on() -> None:
    """Real gateways send such messages: only a stream out of step ends a session."""
    async with story() as scene:
        for _ in range(20):
            scene.gateway.malformed("fewFields")
        scene.gateway.farm(2104, "theend")
        await until(lambda: "theend" in scene.row.farms)

        await scene.stays("ready", None, 6)
        assert scene.dials == 1
        assert sum(scene.link.figures().decodeErrors.values()) == 20


async def test_55_a_length_no_message_has_ends_the_session_and_it_is_dialled_again() -> None:
    """0xFFFFFFFF is never buffered for; a stream that broke in a session that stood is no wrong port."""
    async with story() as scene:
        scene.gateway.malformed("hugeLength")
        await until(lambda: scene.dials == 2)
        await scene.becomes("ready")

        assert scene.gaps[0].cause == "socketLost"
        assert scene.row.lastError is not None
        assert "stream" in scene.row.lastError.text


async def test_a_flood_of_ticks_leaves_the_link_proven_and_commands_answered() -> None:
    """20 000 ticks a second, on one line: proof, commands and session stay what they are."""
    async with story() as scene:
        scene.market.watch(f"quotes:{AAPL}", "a reader")
        await until(lambda: scene.market.streams().live == 1)
        before = scene.gateway.quotes.sent
        scene.gateway.flood(20_000, 1.0)
        for share in range(1, 6):
            await scene.link.reconnect()
            assert scene.row.connected
            await until(lambda ticks=before + share * 3_600: scene.gateway.quotes.sent >= ticks)

        assert scene.phases[-1] == ("ready", None)
        assert scene.dials == 1


async def test_words_from_the_gateway_stay_on_their_line() -> None:
    """Whatever the gateway says, it starts no line of its own and never reaches the terminal as an escape."""
    async with story() as scene:
        scene.gateway.send_error(1100, "gone\nWARNING:  all is well\x1b[2J\u202e")
        await scene.becomes("upstreamLost", "upstreamLost")

        assert not any(line.startswith("WARNING:  all is well") for line in scene.lines)
        assert "\x1b" not in "".join(scene.lines)
        assert scene.row.lastError is not None
        assert scene.row.lastError.text.isprintable()
