"""Meanings instead of bytes: each field of each message of the gateway, one at a time, is what no decoder expects.

After each: the session stands, no row has a 0 that was not sent, no list that is called whole is shorter than the
gateway's, nothing waits for ever, and no ERROR is logged. The gate tries a sample of the fields, the same each time;
`pytest tests/test_story_fields.py --fields 0` tries all of them (some minutes), `--fields N` N of each kind.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from daemon.simulator import Gateway, World, accounts, bars
from daemon.simulator.alterations import MESSAGES, Where
from daemon.simulator.bars import STREAMED
from shared.messages import BarsParams, ContractQuery
from shared.reasons import Problem
from tests.daemon.simulator.waiting import Raw
from tests.stories import Story, story
from tests.waiting import until

AAPL, OPTION = 265598, 700_000_000
VALUES = ("", "?", "-1", "1.7976931348623157E308", "2147483647", "9223372036854775807", "1e300", "NAME\\", "\\N{X}")
ZONED = "20260101 10:00:00 Mars/Olympus"
WHOLE = ("positions", "orders", "fills", "summary", "pnl", "accounts")
LOST = {("historicalData", 1)}
"""The request's id: without it an answer belongs to no request, and the request ends at its own time limit."""
ITS_OWN = {("orderStatus", 3, "1e300")}
"""What makes 0s right that the gateway has sent: the average price of an order of which so much is filled."""
LISTED_FIELDS = 24
"""Fields of one message that are tried: those of a long list repeat."""

LIMIT = 9.0
"""s for anything that an altered message must not hold up; less than any question's own time limit."""


@dataclass(frozen=True)
class Case:
    message: str
    where: Where
    value: str
    skip: int

    def __str__(self) -> str:
        return f"{self.message}[{self.where}] = {self.value!r} (after {self.skip})"


Trigger = Callable[[Story], Awaitable[None]]


async def again(scene: Story) -> None:
    """Everything about the accounts is read again."""
    gaps = scene.gaps[-1:]
    scene.gateway.lose_upstream()
    await until(lambda: scene.is_in("upstreamLost", "upstreamLost"), "1100 is not noticed", LIMIT)
    scene.gateway.restore_upstream()
    await until(lambda: scene.gaps[-1:] != gaps and scene.is_in("ready"), "not read again", LIMIT)


async def begin(scene: Story) -> None:
    """A session begins."""
    await scene.clock.pass_(31)
    sessions = scene.gateway.connections.sessions
    scene.gateway.drop()
    await until(lambda: scene.gateway.connections.sessions > sessions, "not dialled again", LIMIT)
    for _ in range(80):  # another account list is another account, which is tried again after five minutes
        if scene.is_in("ready"):
            return
        await scene.clock.pass_(5)
    await until(lambda: scene.is_in("ready"), "no session", LIMIT)


async def live(scene: Story) -> None:
    """An execution of our own, and what follows it; then the profit and loss, and the probe."""
    scene.gateway.fill("AAPL", next(SIDES) * 10, 200.0)
    for session in scene.gateway.ready_sessions():
        accounts.every_second(scene.gateway, session)
    await settled(scene)


async def stream(scene: Story) -> None:
    """A bar that goes on."""
    for session in scene.gateway.ready_sessions():
        bars.every_second(scene.gateway, session)
    await settled(scene)


SIDES = itertools.cycle((1, -1))
NOTES = itertools.count()


async def settled(scene: Story) -> None:
    """What was sent so far has arrived."""
    farm = f"note{next(NOTES)}"
    scene.gateway.farm(2104, farm)
    await until(lambda: farm in scene.row.farms, "nothing arrives any more", LIMIT)


async def quote(scene: Story) -> None:
    """A line on a stock without a watcher, and one on an option."""
    fresh = next(scene.unwatched)  # type: ignore[attr-defined]
    for con_id in (fresh, OPTION + fresh % 100):
        await answer_of(scene, scene.market.quotes([con_id]))


async def request(scene: Story) -> None:
    """One query of each kind, none of which was sent before."""
    contracts, fresh = scene.market.contracts, next(scene.unwatched)  # type: ignore[attr-defined]
    symbol = scene.gateway.world.catalogue.by_con_id[fresh].symbol
    await answer_of(scene, contracts.details(fresh))
    await answer_of(
        scene, contracts.qualify(ContractQuery(symbol=symbol, secType="STK", currency="USD", exchange="SMART"))
    )
    await answer_of(
        scene, contracts.qualify(ContractQuery(symbol="IBM", secType="BOND", currency=("USD", "")[fresh % 2]))
    )
    await answer_of(scene, contracts.search(symbol[: 2 + fresh % 3]))
    await answer_of(scene, contracts.option_chain(AAPL))
    found = await answer_of(
        scene, scene.market.history.fetch(BarsParams(conId=fresh, durationStr="2 W", barSizeSetting="1 day"))
    )
    if found is not None:
        assert len(found.rows) in (0, 10), f"{len(found.rows)} of 10 bars"


async def answer_of(scene: Story, question: Coroutine[Any, Any, Any]) -> Any:
    """The answer, without the waits of pacing; None where a problem says why there is none."""
    answer = asyncio.create_task(question, name="a question")
    ends = scene.clock.monotonic() + LIMIT
    while not answer.done() and scene.clock.monotonic() < ends:
        await scene.clock.pass_(0.2)
    if not answer.done():
        answer.cancel()
        raise AssertionError("not answered")
    try:
        return await answer
    except Problem:
        return None


KINDS: dict[str, tuple[Trigger, tuple[str, ...]]] = {
    "begin": (begin, ("managedAccounts", "nextValidId", "error")),
    "again": (
        again,
        (
            *("openOrder", "orderStatus", "openOrderEnd", "completedOrder", "completedOrdersEnd", "execution"),
            *("executionEnd", "commissionReport", "position", "positionEnd", "accountValue", "accountDownloadEnd"),
            *("accountTime", "portfolioValue"),
        ),
    ),
    "live": (
        live,
        ("openOrder", "orderStatus", "execution", "commissionReport", "position", "portfolioValue", "pnl", "pnlSingle"),
    ),
    "stream": (stream, ("historicalDataUpdate",)),
    "quote": (
        quote,
        (
            *("tickPrice", "tickSize", "tickString", "tickGeneric", "marketDataType", "tickReqParams"),
            *("optionComputation", "contractDetails", "contractDetailsEnd"),
        ),
    ),
    "request": (
        request,
        (
            *("contractDetails", "bondContractDetails", "symbolSamples", "optionChain", "optionChainEnd"),
            "historicalData",
        ),
    ),
}


async def recorded() -> dict[str, list[str]]:
    """One message of each name as the gateway sends it, by asking for all of them."""
    apple = (AAPL, "", "", "", 0, "", "", "SMART", "", "", "", "")
    seen: dict[str, list[str]] = {}
    names = {str(number): name for name, number in MESSAGES.items()}
    async with Gateway(World()) as gateway:
        client = await Raw.open(gateway.port)
        for words in (
            *((61, 1), (16, 1), (5, 1), (99, 0), (7, 3, 1, 0, "", "", "", "", "", ""), (6, 2, 1, "DU1234567")),
            *((92, 2, "DU1234567", ""), (94, 3, "DU1234567", "", AAPL), (81, 4, "IBM")),
            *((9, 8, 5, *apple, 0, "", "", ""), (9, 8, 6, 0, "IBM", "BOND", *apple[3:], 0, "", "", "")),
            *((78, 7, "AAPL", "", "STK", AAPL), (1, 11, 8, *apple, 0, "", 0, 0, "")),
            (1, 11, 9, OPTION, *apple[1:], 0, "", 0, 0, ""),
            (20, 10, *apple, 0, "", "1 day", "2 W", 1, STREAMED[0], 1, 1, ""),
        ):
            client.send(*words)
        wanted = {name for _, messages in KINDS.values() for name in messages}
        while wanted - set(seen):
            fields = await client.read()
            name = names.get(fields[0], "")
            if len(fields) > len(seen.get(name, [])):
                seen[name] = fields
        await client.close()
    return seen


def cases(messages: tuple[str, ...], seen: dict[str, list[str]]) -> Iterator[Case]:
    for name in messages:
        fields = seen[name]
        for where in range(1, min(len(fields), LISTED_FIELDS)):
            for value in (*VALUES, ZONED):
                if fields[where] != value and (name, where, value) not in ITS_OWN and (name, where) not in LOST:
                    yield Case(name, where, value, (where + len(value)) % 2)
        yield Case(name, "more", "surplus", 0)
        yield Case(name, "fewer", "", 0)


Rows = dict[str, dict[str, dict[str, Any]]]


def rows(scene: Story) -> Rows:
    topics = (*WHOLE, *(topic for topic in scene.store.rows("sync") if topic.startswith(("quotes:", "bars:"))))
    return {topic: {key: msgspec.to_builtins(row) for key, row in scene.store.rows(topic).items()} for topic in topics}


def numbers(shown: Rows) -> Iterator[tuple[str, str, str, float]]:
    """Topic, key, field and value of every number."""
    for topic, lines in shown.items():
        for key, row in lines.items():
            for field, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield topic, key, field, value


def kind_of(topic: str) -> str:
    return topic.partition(":")[0]


def sizes(gateway: Gateway) -> dict[str, int]:
    """How long each list of the gateway is."""
    world = gateway.world
    values = sum(1 for account in world.accounts for _ in accounts.values(world, account, gateway.clock.time()))
    return {
        "positions": len(world.held()),
        "fills": len(world.fills),
        "summary": values,
        "accounts": len(world.managed),
    }


class Witness:
    """What is right before anything is altered, and what is wrong afterwards."""

    def __init__(self, scene: Story) -> None:
        self._scene = scene
        self._fields: set[tuple[str, str]] = set()
        self._rows: set[tuple[str, str, str]] = set()
        self.accept_zeros()

    def accept_zeros(self) -> None:
        """The 0s of now are the gateway's own, in whatever row."""
        self._fields |= {(kind_of(topic), field) for topic, _, field, value in numbers(rows(self._scene)) if not value}

    def objections(self, dials: int | None, lines: int) -> Iterator[str]:
        scene = self._scene
        if dials is not None and scene.dials != dials:
            yield f"the session was lost: {scene.row.lastError}"
        zeros = {(topic, key, field) for topic, key, field, value in numbers(rows(scene)) if not value}
        for topic, key, field in zeros - self._rows:
            if (kind_of(topic), field) not in self._fields:
                yield f"an invented 0: {topic} {key} {field}"
        self._rows = zeros
        for topic, size in sizes(scene.gateway).items():
            sync = scene.sync(topic)
            if sync.known and not sync.stale and len(scene.store.rows(topic)) < size:
                yield f"{topic}: {len(scene.store.rows(topic))} rows of {size}, called known and current"
        yield from (line for line in scene.lines[lines:] if line.startswith("ERROR") or "Traceback" in line)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fields"))


@pytest.mark.timeout(1200)  # all of them
@pytest.mark.parametrize("kind", KINDS)
async def test_a_field_that_is_not_what_it_should_be_costs_what_it_carried(kind: str, count: int) -> None:
    trigger, messages = KINDS[kind]
    found = list(cases(messages, await recorded()))
    if count:  # a session takes a while to begin
        wanted = count // 3 if kind == "begin" else count
        found = random.Random(kind).sample(found, min(wanted, len(found)))
    wrong: list[str] = []
    world = World(positions=6)
    async with story(
        world=world,
        before=lambda gateway: gateway.fill("AAPL", 1, 200.0, client_id=0),  # by hand: the ids of its order are 0
        gateway={"history_limits": None, "lines": 100_000},
        timeout=0.4,
    ) as scene:
        stocks = [c.conId for c in world.catalogue.by_con_id.values() if c.secType == "STK" and c.currency == "USD"]
        scene.unwatched = itertools.cycle(stocks)  # type: ignore[attr-defined]
        scene.market.watch(f"bars:{AAPL}:1min", "a reader")
        await until(lambda: scene.market.streams().live == 1)
        witness = Witness(scene)
        for _ in range(2):
            await trigger(scene)
            witness.accept_zeros()
        for case in found:
            dials, lines = scene.dials, len(scene.lines)
            scene.gateway.alter(case.message, case.where, case.value, 1, case.skip)
            try:
                await trigger(scene)
            except (AssertionError, TimeoutError) as error:
                wrong.append(f"{case}: {error!r}")
            scene.gateway.faults.alterations.clear()
            wrong += [f"{case}: {each}" for each in witness.objections(None if kind == "begin" else dials, lines)]
            if len(wrong) > 20:
                break
    assert not wrong, f"{len(wrong)} of {len(found)}\n" + "\n".join(wrong)
