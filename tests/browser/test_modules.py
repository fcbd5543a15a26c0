"""The page's pure modules, run where they will run: in the browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def run(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """The value of `body`, a function of the module (and of `argument`)."""
    return await page.evaluate(f"async (argument) => ({body})(await import('/ui/{module}.js'), argument)", argument)


# --- fold.js --------------------------------------------------------------------------------------------------------

FOLD = """({ Replica }, events) => {
    const replica = new Replica();
    const steps = [];
    for (const [event, data, id] of events) {
        if (event === 'interrupted') { replica.interrupted(); continue; }
        const changed = replica.accept(event, data, id);
        steps.push({
            changed: changed && [...changed].sort(),
            rows: Object.fromEntries([...replica.topics].map(([topic, rows]) => [topic, Object.fromEntries(rows)])),
            lastId: replica.lastId,
        });
    }
    return steps;
}"""


def snapshot(topic: str, rows: dict[str, Any], complete: bool = False) -> dict[str, Any]:
    return {"topic": topic, "rows": rows, "complete": complete}


def delta(topic: str, rows: dict[str, Any]) -> dict[str, Any]:
    return {"topic": topic, "rows": rows}


FIRST = [
    ["snapshot", snapshot("link", {"link": 1}), None],
    ["snapshot", snapshot("positions", {"a": 1, "b": 1}, complete=True), "e-1"],
]


async def test_a_snapshot_is_seen_only_when_its_last_page_has_come(blank: Page) -> None:
    """Half a snapshot is no state: before the last page nothing is shown of it, with it everything at once."""
    first, second = await run(blank, "fold", FOLD, FIRST)

    assert first == {"changed": None, "rows": {}, "lastId": None}
    assert second == {
        "changed": ["link", "positions"],
        "rows": {"link": {"link": 1}, "positions": {"a": 1, "b": 1}},
        "lastId": "e-1",
    }


async def test_deltas_are_folded_when_the_id_of_their_step_has_come(blank: Page) -> None:
    """Events without an id belong to the step that the next id closes; null removes a key."""
    events = [
        *FIRST,
        ["delta", delta("positions", {"a": 2}), None],
        ["delta", delta("link", {"link": 2}), "e-2"],
        ["delta", delta("positions", {"b": None, "c": 3}), "e-3"],
    ]

    open_step, closed, removed = (await run(blank, "fold", FOLD, events))[2:]

    assert open_step["changed"] is None
    assert open_step["rows"]["positions"] == {"a": 1, "b": 1}
    assert closed["changed"] == ["link", "positions"]
    assert closed["rows"]["positions"] == {"a": 2, "b": 1}
    assert removed["rows"]["positions"] == {"a": 2, "c": 3}
    assert removed["lastId"] == "e-3"


async def test_what_a_broken_connection_had_begun_is_forgotten(blank: Page) -> None:
    """The next connection sends the step again from its start: half of it must not be folded twice."""
    events = [
        *FIRST,
        ["delta", delta("positions", {"a": 9}), None],
        ["interrupted", None, None],
        ["delta", delta("link", {"link": 2}), "e-2"],
    ]

    assert (await run(blank, "fold", FOLD, events))[-1]["rows"] == {"link": {"link": 2}, "positions": {"a": 1, "b": 1}}


async def test_a_reset_brings_a_snapshot_that_replaces_everything(blank: Page) -> None:
    """After a reset the old rows stay until the new snapshot is complete, and then none of them is left."""
    events = [
        *FIRST,
        ["reset", {"reason": "epoch"}, None],
        ["snapshot", snapshot("link", {"link": 5}), None],
        ["snapshot", snapshot("positions", {"z": 1}, complete=True), "f-1"],
    ]

    reset, page, last = (await run(blank, "fold", FOLD, events))[2:]

    assert reset["lastId"] is None
    assert page["rows"]["positions"] == {"a": 1, "b": 1}
    assert last["rows"] == {"link": {"link": 5}, "positions": {"z": 1}}
    assert last["lastId"] == "f-1"


async def test_pages_of_one_topic_are_joined_and_an_empty_topic_is_there(blank: Page) -> None:
    """A long topic comes in several pages; one without rows is known to have none."""
    events = [
        ["snapshot", snapshot("positions", {"a": 1}), None],
        ["snapshot", snapshot("positions", {"b": 2}), None],
        ["snapshot", snapshot("orders", {}, complete=True), "e-1"],
    ]

    assert (await run(blank, "fold", FOLD, events))[-1]["rows"] == {"positions": {"a": 1, "b": 2}, "orders": {}}


async def test_a_snapshot_that_ends_within_a_step_waits_for_its_id(blank: Page) -> None:
    """What changed while the pages were written follows them; only then all rows are of one moment."""
    events = [
        ["snapshot", snapshot("link", {"link": 1}), None],
        ["snapshot", snapshot("positions", {"a": 2}, complete=True), None],
        ["delta", delta("link", {"link": 2}), "e-2"],
    ]

    *begun, last = await run(blank, "fold", FOLD, events)

    assert [step["rows"] for step in begun] == [{}, {}]
    assert last == {
        "changed": ["link", "positions"],
        "rows": {"link": {"link": 2}, "positions": {"a": 2}},
        "lastId": "e-2",
    }


# --- sse.js ---------------------------------------------------------------------------------------------------------

PARSE = """({ eventParser }, chunks) => {
    const events = [];
    const parse = eventParser((event) => events.push(event));
    for (const chunk of chunks) parse(chunk);
    return events;
}"""


async def test_events_are_read_however_the_network_cuts_them(blank: Page) -> None:
    """One character at a time gives the same events as all at once; comments and carriage returns are no part."""
    text = 'id: e-1\nevent: delta\ndata: {"a": "ü"}\n\n: beat\n\nevent: snapshot\r\ndata:1\r\ndata: 2\r\n\r\ndata: open'
    wanted = [
        {"event": "delta", "data": '{"a": "ü"}', "id": "e-1"},
        {"event": "snapshot", "data": "1\n2", "id": None},
    ]

    assert await run(blank, "sse", PARSE, [text]) == wanted
    assert await run(blank, "sse", PARSE, list(text)) == wanted


# --- events.js ------------------------------------------------------------------------------------------------------

OTHER_TOPICS = """async ({ EventStream }, [first, late]) => {
    const { Replica } = await import('/ui/fold.js');
    const requests = [];
    let old = null;
    let again;
    const reopened = new Promise((resolve) => (again = resolve));
    const fetched = window.fetch;
    window.fetch = async (path, { headers }) => {
        if (!path.includes('/events')) return new Response('{}');
        requests.push(headers['Last-Event-ID'] ?? null);
        if (requests.length > 1) again();
        return new Response(new ReadableStream({ start: (feed) => (old ??= feed) }));
    };
    try {
        const replica = new Replica();
        let changed;
        const known = new Promise((resolve) => (changed = resolve));
        const quiet = () => {};
        const stream = new EventStream(replica, { changed, facade: quiet, link: quiet, refused: quiet });
        stream.open(['link']);
        while (!old) await new Promise((resolve) => setTimeout(resolve, 1));
        old.enqueue(new TextEncoder().encode(first));
        await known;
        stream.open(['link', 'quotes:1']);
        old.enqueue(new TextEncoder().encode(late));
        old.close();
        await reopened;
        return requests.slice(0, 2);
    } finally {
        window.fetch = fetched;
    }
}"""


async def test_what_the_old_stream_still_says_is_not_gone_on_from(blank: Page) -> None:
    """With other topics wanted the next stream begins with a snapshot: an id that was under way does not resume it."""
    first = 'event: snapshot\nid: e-1\ndata: {"topic": "link", "rows": {}, "complete": true}\n\n'
    late = 'event: delta\nid: e-2\ndata: {"topic": "link", "rows": {}}\n\n'

    try:
        assert await run(blank, "events", OTHER_TOPICS, [first, late]) == [None, None]
    finally:
        await blank.reload()


# --- format.js ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "n/a", True])
@pytest.mark.parametrize("how", ["money", "signed", "quantity", "price", "percent", "duration", "age"])
async def test_the_unknown_is_a_dash_and_never_zero(blank: Page, how: str, value: object) -> None:
    """What is not a number is not known, whichever figure it should have been."""
    assert await run(blank, "format", f"(format, value) => format.{how}(value)", value) == "—"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("money('1024318.4')", "1,024,318.40"),
        ("money(0)", "0.00"),
        ("money(-3)", "-3.00"),
        ("signed(12.5)", "+12.50"),
        ("signed(-12.5)", "-12.50"),
        ("signed(0)", "0.00"),
        ("quantity(0.25)", "0.25"),
        ("quantity(1000)", "1,000"),
        ("quantity(0.00001234)", "0.00001234"),
        ("quantity(0.1 + 0.2)", "0.3"),
        ("price(182.5, 'STK')", "182.50"),
        ("price(0.0312, 'STK')", "0.0312"),
        ("price(1.0842, 'CASH')", "1.08420"),
        ("percent(0.99999)", "99.99%"),
        ("percent(1)", "100%"),
        ("price(110.578125, 'FUT')", "110.578125"),
        ("price(187.5200043, 'STK', true)", "187.52"),
        ("price(110.578125, 'FUT', true)", "110.57813"),
        ("price(averagePrice({avgCost: 285512.5, multiplier: '50', secType: 'FUT'}), 'FUT', true)", "5,710.25"),
        ("relative(moved(101, 100))", "+1.00%"),
        ("relative(moved(101, null))", "—"),
        ("part(0.1234)", "12.3%"),
        ("duration(0.4)", "< 1 s"),
        ("duration(59.9)", "59 s"),
        ("duration(192)", "3 min 12 s"),
        ("duration(8040)", "2 h 14 min"),
        ("duration(90000)", "1 d 1 h"),
        ("age(0.44)", "0.4 s"),
        ("age(75)", "1 min 15 s"),
        ("countdown(0.2)", "1 s"),
        ("words('clientIdInUse')", "client id in use"),
        ("words('notTws')", "not TWS"),
        ("contractName({secType: 'STK', symbol: 'AAPL'})", "AAPL"),
        ("contractName({secType: 'CASH', symbol: 'EUR', currency: 'USD', localSymbol: 'EUR.USD'})", "EUR.USD"),
        (
            "contractName({secType: 'OPT', symbol: 'GOOGL', lastTradeDateOrContractMonth: '20251219', strike: 190,"
            " right: 'C'})",
            "GOOGL 19 Dec 25 190 C",
        ),
    ],
)
async def test_figures_are_written_as_a_trader_reads_them(blank: Page, call: str, text: str) -> None:
    """Units, signs, two decimals of money; an uptime is never rounded up to a full 100 %."""
    assert await run(blank, "format", f"(format) => {{ with (format) return {call}; }}") == text


# --- history.js -----------------------------------------------------------------------------------------------------

HOUR = 3_600_000
NOW = 1_764_000_000_000


def event(
    hours_ago: float, phase: str, reason: str | None, seconds: float | None, expected: bool = False
) -> dict[str, Any]:
    return {"hoursAgo": hours_ago, "phase": phase, "reason": reason, "durationS": seconds, "expected": expected}


DATED = f"events.map((event) => ({{ ...event, at: new Date({NOW} - event.hoursAgo * {HOUR}).toISOString() }}))"
SEGMENTS = f"""({{ segments }}, events) =>
    segments({DATED}, {NOW}).map(({{ from, to, kind }}) => [kind, (to - from) / {HOUR}])"""
LOG = f"""({{ logLines }}, events) =>
    logLines({DATED}, new Map(), []).map(({{ what, detail, seconds }}) => [what, detail, seconds])"""


async def test_the_timeline_joins_what_is_alike_and_says_where_nothing_is_known(blank: Page) -> None:
    """Attempts of one outage are one piece; time without a daemon is unknown, not down; planned windows stand apart."""
    events = [
        event(20, "connecting", None, 1),
        event(20 - 1 / 3600, "ready", None, 8 * 3600 - 1),
        event(12, "waiting", "socketLost", 1800),
        event(11.5, "connecting", "portClosed", 1800),
        event(11, "ready", None, 3 * 3600),
        event(8, "waiting", "socketLost", 3600, expected=True),
        event(7, "ready", None, 3600),
        event(2, "ready", None, None),
    ]

    pieces = await run(blank, "history", SEGMENTS, events)

    assert [kind for kind, _ in pieces] == ["unknown", "off", "up", "down", "up", "planned", "up", "unknown", "up"]
    assert [round(hours, 2) for _, hours in pieces] == [4, 0, 8, 1, 3, 1, 1, 4, 2]


async def test_the_log_joins_attempts_that_failed_for_one_reason(blank: Page) -> None:
    """A hundred dials against a closed port are one line, not a hundred lines."""
    attempts = [
        event(1 - index / 1000, phase, "portClosed", 3.6) for index, phase in enumerate(["waiting", "connecting"] * 100)
    ]

    around = [event(2, "ready", None, 3600), *attempts, event(0.8, "ready", None, None)]

    lines = await run(blank, "history", LOG, around)

    assert lines == [
        ["Connected", "", None],
        ["Waiting", "Port closed", pytest.approx(720)],
        ["Connected", "", 3600],
    ]


TROUBLE = f"({{ troubleSince }}, events) => {{ const at = troubleSince({DATED}); return at && ({NOW} - at) / {HOUR}; }}"


@pytest.mark.parametrize(
    ("events", "hours"),
    [
        ([event(5, "ready", None, None)], None),
        (
            [
                event(5, "ready", None, 3600),
                event(4, "waiting", "socketLost", 1800),
                event(3.5, "waiting", "portClosed", None),
            ],
            4,
        ),
        ([event(4, "waiting", "portClosed", 3600), event(3, "held", "manual", None)], 3),
        ([event(9, "waiting", "portClosed", 3600), event(2, "connecting", None, None)], 2),
    ],
    ids=["ready", "attempts", "held", "anotherDaemon"],
)
async def test_trouble_began_with_the_loss_and_not_with_the_last_attempt(
    blank: Page, events: list[dict[str, Any]], hours: float | None
) -> None:
    """A closed port is dialled twice a second, each dial a new phase: "since" is when the link went down."""
    assert await run(blank, "history", TROUBLE, events) == hours


@pytest.mark.parametrize(
    ("recovered", "words"),
    [
        ({"fills": ["a.01"], "fillCount": 1, "streams": 0}, "1 fill recovered"),
        ({"fills": ["a.01", "b.01"], "fillCount": 700, "streams": 0}, "700 fills recovered"),
        ({"fills": [], "fillCount": 0, "streams": 0}, "no fill missed"),
        ({"fills": ["a.01", "b.01"], "streams": 0}, "2 fills recovered"),
    ],
)
async def test_a_gap_counts_all_its_fills(blank: Page, recovered: dict[str, Any], words: str) -> None:
    """Of very many it names only the first; a daemon of before named all and did not count them."""
    gap = {"cause": "socketLost", "recovered": recovered}
    log = f"""({{ logLines }}, gap) => {{
        const at = new Date({NOW}).toISOString();
        return logLines([], new Map(), [['e-1', {{ ...gap, from: at, to: at }}]]).map(({{ detail }}) => detail);
    }}"""

    assert await run(blank, "history", log, gap) == [f"Socket lost · {words}"]


# --- chart.js -------------------------------------------------------------------------------------------------------

SERIES = """({ Series }, [count, step, from]) => {
    const series = new Series();
    for (let index = 0; index < count; index += 1) series.add(from + index * step * 1000, index);
    const ordered = series.times.every((at, place) => !place || at > series.times[place - 1]);
    return { points: series.times.length, last: series.values.at(-1), ordered };
}"""


async def test_a_days_curve_is_bounded_and_ends_with_the_newest_value(blank: Page) -> None:
    """Sixteen hours of a value a second keep the memory of a few thousand points, and none of the newest is lost."""
    midnight = await blank.evaluate("new Date(2026, 2, 3).getTime()")

    series = await run(blank, "chart", SERIES, [16 * 3600, 1, midnight])

    assert series["points"] <= 4097
    assert series["last"] == 16 * 3600 - 1
    assert series["ordered"]


async def test_the_recorded_day_and_what_came_after_it_are_one_curve(blank: Page) -> None:
    """No point twice: what the page collected before the record's end is in the record."""
    body = """({ joined, Series }, at) => {
        const newer = new Series();
        for (const [minutes, value] of [[1, 15], [2, 20], [3, 30]]) newer.add(at + minutes * 60000, value);
        const { times, values } = joined([{ at, value: 1 }, { at: at + 120000, value: 20 }], newer);
        return times.map((seconds, place) => [(seconds * 1000 - at) / 60000, values[place]]);
    }"""
    noon = await blank.evaluate("new Date(2026, 2, 3, 12).getTime()")

    assert await run(blank, "chart", body, noon) == [[0, 1], [2, 20], [3, 30]]


async def test_the_curve_of_all_accounts_begins_when_each_has_a_value(blank: Page) -> None:
    """Before that their sum would be that of some of them."""
    body = "({ summed }, recordings) => summed(recordings).map(({ at, value }) => [at, value])"
    first = [{"at": 0, "value": 1}, {"at": 10, "value": 2}, {"at": 30, "value": 3}]
    second = [{"at": 10, "value": 100}, {"at": 20, "value": 200}]

    assert await run(blank, "chart", body, [first, second]) == [[10, 102], [20, 202], [30, 203]]


async def test_a_new_day_begins_a_new_curve(blank: Page) -> None:
    """The curve is that of today: yesterday's points go at midnight."""
    before_midnight = await blank.evaluate("new Date(2026, 2, 3, 23, 59, 0).getTime()")

    assert (await run(blank, "chart", SERIES, [20, 10, before_midnight]))["points"] == 14


# --- csv.js, notify.js ----------------------------------------------------------------------------------------------


async def test_a_csv_has_every_field_and_no_formula(blank: Page) -> None:
    """Unknown is empty; quotes and commas are kept; a text that a spreadsheet would execute stays a text."""
    rows = [
        {"symbol": "A,B", "position": -5, "note": None},
        {"symbol": '=HYPERLINK("x")', "position": 0.5, "note": "-1"},
    ]
    text = await run(blank, "csv", "({ csv }, rows) => csv(rows)", rows)

    assert text == 'symbol,position,note\r\n"A,B",-5,\r\n"\'=HYPERLINK(""x"")",0.5,-1\r\n'


ANNOUNCE = """({ announce, QUIET }, moments) => {
    let state = QUIET;
    const announced = [];
    for (const moment of moments) {
        const fills = moment.fills && new Map(moment.fills.map((id) => [id, { side: 'BOT', shares: 10, symbol: id }]));
        const seen = { known: true, wanted: true, expected: false, login: false, sentence: '', ...moment, fills };
        let notes;
        [state, notes] = announce(state, { headline: 'IBKR: Waiting', ...seen });
        announced.push(notes.map(({ title }) => title));
    }
    return announced;
}"""


def moment(at: float, ready: bool, **changes: Any) -> dict[str, Any]:
    return {"at": at * 1000, "ready": ready, "fills": None, **changes}


async def test_a_loss_is_announced_when_it_lasts_and_its_end_once(blank: Page) -> None:
    """A short one is not; one inside a planned window not before the window is over; nor what a person switched off."""
    lasting = [moment(0, True), *(moment(at, False) for at in (1, 20, 31, 60)), moment(70, True), moment(71, True)]
    short = [moment(0, True), moment(1, False), moment(29, True)]
    planned = [moment(1, False, expected=True), moment(60, False, expected=True), moment(61, False)]
    off = [moment(1, False, wanted=False), moment(60, False, wanted=False)]

    lost, back = ["IBKR: Waiting"], ["IBKR: Connected"]
    assert await run(blank, "notify", ANNOUNCE, lasting) == [[], [], [], lost, [], back, []]
    assert await run(blank, "notify", ANNOUNCE, short) == [[], [], []]
    assert await run(blank, "notify", ANNOUNCE, planned) == [[], [], lost]
    assert await run(blank, "notify", ANNOUNCE, off) == [[], []]


async def test_a_login_that_is_needed_is_announced_at_once_and_once(blank: Page) -> None:
    """Nothing but a person mends it."""
    login = {"login": True, "headline": "IBKR: Login needed"}
    moments = [moment(0, True), moment(1, False, **login), moment(40, False, **login), moment(50, True)]

    assert await run(blank, "notify", ANNOUNCE, moments) == [[], ["IBKR: Login needed"], [], ["IBKR: Connected"]]


async def test_new_fills_are_announced_and_those_of_the_snapshot_are_not(blank: Page) -> None:
    """Each by its words; many at once by their number."""
    moments = [moment(at, True, fills=list(ids)) for at, ids in enumerate(["ab", "abc", "abc", "abcdefgh"])]

    assert await run(blank, "notify", ANNOUNCE, moments) == [[], ["Bought 10 c at —"], [], ["5 fills"]]
