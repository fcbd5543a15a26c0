"""`./scripts/soak --minutes N --seed S`: random faults against the simulated gateway, invariants checked throughout.

The gateway runs here, daemon and facade as processes; readers fold the event stream, the facade is restarted, fills
happen while the link is down. One line a minute, a summary at the end; exit status 1 if an invariant was violated.
Loopback only, bounded in time; ends what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import aiohttp
import psutil

from daemon.simulator import Gateway, World
from daemon.simulator.alterations import Where
from daemon.simulator.broken import Malformed

ROOT = Path(__file__).resolve().parent.parent
PROBE_INTERVAL, PROBE_TIMEOUT = 1.0, 1.0
"""s; shorter than the defaults, so that an hour holds many losses. What is asserted follows from them."""
UNDECODABLE: tuple[Malformed, ...] = tuple(how for how in get_args(Malformed) if how != "hugeLength")
"""Messages that no decoder can read; a length that no message has ends the session."""
PROOF_LIMIT = PROBE_INTERVAL + PROBE_TIMEOUT
NOTICE_LIMIT = PROOF_LIMIT + 1.5
"""s from a fault that ends the session to `connected: false`; 1.5 s for a busy machine."""
READY_LIMIT = 10.0
"""s to ready from the attempt that the link has promised (`nextAttemptAt`), or from the end of the fault: a session is
there within one, a daemon that was killed takes a few to start, and an attempt under way may fail once more first."""
START_LIMIT = 30.0
"""s until a daemon that was started answers."""
LONGEST_WAIT = 121.0
"""s; the longest wait that is allowed here: 120 s for a connection without an answer, then a new dial after 1 s."""
STOCK, OPTION = 265598, 700_000_000
"""Contracts of the simulated gateway that one reader follows."""
LISTED: tuple[tuple[str, Where], ...] = (
    *(("position", 14), ("position", 15), ("position", "fewer"), ("execution", 15), ("execution", 19)),
    *(("execution", 20), ("execution", "fewer"), ("executionEnd", "fewer"), ("orderStatus", 3), ("openOrder", 14)),
    *(("openOrder", "fewer"), ("completedOrder", 13), ("commissionReport", 3), ("portfolioValue", 13)),
    *(("accountValue", "fewer"), ("accountUpdateMulti", "fewer"), ("pnl", 2), ("pnlSingle", 3)),
)
STREAMED: tuple[tuple[str, Where], ...] = (
    *(("tickPrice", 4), ("tickPrice", "fewer"), ("tickSize", 4), ("optionComputation", "fewer")),
    *(("marketDataType", "fewer"), ("historicalDataUpdate", 2), ("historicalDataUpdate", 4)),
)
ANSWERED: tuple[tuple[str, Where], ...] = (
    *(("historicalData", 4), ("historicalData", "fewer"), ("contractDetails", 12), ("contractDetails", "fewer")),
    *(("contractDetailsEnd", "fewer"), ("symbolSamples", 2), ("symbolSamples", "fewer"), ("optionChain", "fewer")),
)
"""Messages with their fields that become `?` or `x`, or with a field fewer: rows of lists and their ends, updates of
streams, answers to requests. What a decoder cannot read, of each kind."""
ANSWER_LIMIT = 75.0
"""s for the answer to any question: history has 60 s."""
LOOK_EVERY = 0.1  # s
SETTLE = (0.5, 3.0)  # s of health between faults
HOLD = (0.2, 4.0)  # s that a fault lasts
GROWTH = 0.35
"""Share by which resident memory may grow after the first minute: arenas settle, a leak does not."""
GROWTH_FLOOR = 15e6  # bytes that are no leak at all
FD_SLACK = 2
"""Descriptors: a keep-alive connection of ours that is being replaced; a leak in hours of faults is hundreds."""


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """Where the processes of one soak live."""

    directory: Path
    gateway_port: int
    http_port: int
    daemon: asyncio.subprocess.Process | None = None
    facade: asyncio.subprocess.Process | None = None

    @property
    def environ(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("IBKR_")}
        (self.directory / "none.env").touch()
        return clean | {
            "PYTHONPATH": str(ROOT),
            "IBKR_ENV_FILE": str(self.directory / "none.env"),
            "IBKR_AUTO_CONNECT": "true",
            "IBKR_PORT": str(self.gateway_port),
            "IBKR_FACADE_PORT": str(self.http_port),
            "IBKR_SOCKET": str(self.directory / "run" / "daemon.sock"),
            "IBKR_STATE_DIR": str(self.directory / "state"),
            "IBKR_CONNECT_TIMEOUT": "3",
            "IBKR_PROBE_INTERVAL": str(PROBE_INTERVAL),
            "IBKR_PROBE_TIMEOUT": str(PROBE_TIMEOUT),
            "IBKR_RECONNECT_MAX": "2",
            "IBKR_LOG_LEVEL": "INFO",
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/api/ibkr"

    async def start(self, name: str) -> asyncio.subprocess.Process:
        with (self.directory / f"{name}.out").open("ab") as out:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", name, env=self.environ, stdout=out, stderr=out, stdin=asyncio.subprocess.DEVNULL
            )

    def sessions(self) -> int:
        """Connections that the daemon holds to the gateway."""
        assert self.daemon is not None
        try:
            found = psutil.Process(self.daemon.pid).net_connections("tcp4")
        except psutil.NoSuchProcess:
            return 0
        ends = [conn.raddr for conn in found if conn.status == psutil.CONN_ESTABLISHED]
        return sum(1 for end in ends if end and end.port == self.gateway_port)

    def weight(self) -> dict[str, tuple[int, int]]:
        """Resident bytes and open descriptors of the daemon, and of the facade's family."""
        found = {}
        for name, process in (("daemon", self.daemon), ("facade", self.facade)):
            assert process is not None
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            found[name] = (sum(p.memory_info().rss for p in family), sum(p.num_fds() for p in family))
        return found


async def stop(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()


# --- what is watched ------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """What the soak has seen, and what it holds against it."""

    violations: list[str] = field(default_factory=list)
    notice: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ready: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    phase: str | None = None
    connected: bool = False
    available: bool = False
    next_attempt: datetime | None = None

    def hold(self, what: str) -> None:
        self.violations.append(f"{datetime.now(UTC):%H:%M:%S} {what}")
        print(f"VIOLATION {self.violations[-1]}", flush=True)


async def look(place: Place, http: aiohttp.ClientSession, watch: Watch, gateway: Gateway) -> None:
    """Ask status and link for ever; CONTRACT 4.2 in code."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            async with http.get(f"{place.url}/status") as answer:
                status = await answer.json()
            async with http.get(f"{place.url}/link") as answer:
                link = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            watch.counts["unanswered"] += 1
            watch.hold(f"the facade did not answer: {error!r}")
            continue
        watch.counts["looks"] += 1
        if list(status) != ["connected", "available"]:
            watch.hold(f"status is {status}")
        watch.connected, watch.available, watch.phase = status["connected"], status["available"], link["phase"]
        watch.next_attempt = link["nextAttemptAt"] and datetime.fromisoformat(link["nextAttemptAt"])
        if link["connected"] and link["phase"] != "ready":
            watch.hold(f"connected in phase {link['phase']}")
        # a first attempt has no reason yet: nothing has failed
        if link["phase"] not in ("ready", "connecting", "syncing", None) and not link["reason"]:
            watch.hold(f"no reason in phase {link['phase']}")
        if link["connected"]:
            age = (datetime.now(UTC) - datetime.fromisoformat(link["proof"]["at"])).total_seconds()
            if age > PROOF_LIMIT + 0.5:
                watch.hold(f"connected with a proof {age:.1f} s old")
        # a frozen gateway does not see that we hung up: our end of the connections is what counts
        if gateway.connections.now > 1 and (held := place.sessions()) > 1:
            watch.hold(f"the daemon holds {held} connections to the gateway")


async def request(place: Place, watch: Watch, gateway: Gateway, dice: random.Random) -> None:
    """One question after the other that only IBKR can answer: each gets its answer, or a problem with its reason."""
    contracts = sorted(gateway.world.catalogue.by_con_id)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT)) as http:
        while True:
            await asyncio.sleep(dice.uniform(0.2, 1.5))
            con_id = dice.choice(contracts)
            symbol = gateway.world.catalogue.by_con_id[con_id].symbol
            path = dice.choice(
                (
                    f"contracts/{con_id}",
                    f"contracts/{STOCK}/options",
                    f"contracts/search?q={symbol[: dice.randint(1, 3)]}",
                    f"bars?conId={con_id}&durationStr=2 W&barSizeSetting=1 day",
                    f"quotes?conIds={con_id}",
                )
            )
            try:
                async with http.get(f"{place.url}/{path}") as answer:
                    body = await answer.json()
            except TimeoutError:
                watch.hold(f"no answer to /{path} within {ANSWER_LIMIT:.0f} s")
            except (aiohttp.ClientError, OSError):
                watch.counts["requests cut off"] += 1  # by a restart of the facade
            else:
                watch.counts["requests"] += 1
                if answer.status == 200:
                    watch.counts["requests answered"] += 1
                elif answer.status == 500 or "reason" not in body:
                    watch.hold(f"/{path} is {answer.status}: {body}")
                else:
                    watch.counts[f"requests {body['reason']}"] += 1


class Reader:
    """Folds the event stream as a browser would, resuming with Last-Event-ID; CONTRACT 6 in code."""

    def __init__(self, place: Place, watch: Watch, pause: float, topics: str = "") -> None:
        self.place, self.watch, self.pause = place, watch, pause
        self.url = f"{place.url}/events" + (f"?topics={topics}" if topics else "")
        self.state: dict[str, dict[str, Any]] = defaultdict(dict)
        self.last: str | None = None
        self.complete = False

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_read=40)) as http:
            while True:
                headers = {"Last-Event-ID": self.last} if self.last else {}
                try:
                    async with http.get(self.url, headers=headers) as answer:
                        if answer.status == 200:
                            await self._read(answer.content)
                except (aiohttp.ClientError, TimeoutError, OSError):
                    self.watch.counts["streams resumed"] += 1
                await asyncio.sleep(0.1)

    async def _read(self, content: aiohttp.StreamReader) -> None:
        event: dict[str, str] = {}
        async for raw in content:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
                continue
            if event:
                self._take(event)
                event = {}
                if self.pause:
                    await asyncio.sleep(self.pause)

    def _take(self, event: dict[str, str]) -> None:
        data = json.loads(event.get("data", "{}"))
        kind = event.get("event")
        if kind == "reset":
            self.watch.counts[f"reset {data['reason']}"] += 1
            self.state.clear()
            self.last, self.complete = None, False
        elif kind == "snapshot":
            self.state[data["topic"]].update(data["rows"])
            self.complete = self.complete or data["complete"]
        elif kind == "delta":
            rows = self.state[data["topic"]]
            for key, row in data["rows"].items():
                if row is None:
                    rows.pop(key, None)
                else:
                    rows[key] = row
        if "id" in event:
            epoch, _, seq = event["id"].rpartition("-")
            if self.last:
                before, _, number = self.last.rpartition("-")
                if before == epoch and int(seq) <= int(number):
                    self.watch.hold(f"id {event['id']} after {self.last}")
            self.last = event["id"]


# --- faults ---------------------------------------------------------------------------------------------------------


Act = Callable[[], Awaitable[None] | None]


@dataclass(frozen=True)
class Fault:
    """`begin` and `end` of one fault; `ends` says whether a ready link must stop being connected meanwhile.

    `weight`: how often, beside the others.
    """

    name: str
    begin: Act
    end: Act
    ends: bool = True
    weight: float = 1.0


class Soak:
    def __init__(self, place: Place, gateway: Gateway, dice: random.Random, watch: Watch) -> None:
        self.place, self.gateway, self.dice, self.watch = place, gateway, dice, watch
        self.expected_fills: set[str] = set()

    def faults(self) -> list[Fault]:
        gateway = self.gateway

        def nothing() -> None:
            """The fault ends by itself."""

        def down(drop: Callable[[], None]) -> Act:
            def begin() -> None:
                gateway.refuse()
                drop()

            return begin

        async def kill_daemon() -> None:
            assert self.place.daemon is not None
            self.place.daemon.kill()
            await self.place.daemon.wait()

        async def start_daemon() -> None:
            """A busy machine takes a while to start a process, which is no part of what the link takes."""
            self.place.daemon = await self.place.start("daemon")
            ends = time.monotonic() + START_LIMIT
            while not self.watch.available:
                if time.monotonic() > ends:
                    self.watch.hold(f"a daemon that was started does not answer within {START_LIMIT:.0f} s")
                    return
                await asyncio.sleep(0.02)

        def pause_daemon(number: signal.Signals) -> Act:
            def act() -> None:
                assert self.place.daemon is not None
                self.place.daemon.send_signal(number)

            return act

        def dropped_with(verb: Callable[[], None]) -> Act:
            def begin() -> None:
                verb()
                gateway.drop()

            return begin

        def alter(kind: tuple[tuple[str, Where], ...]) -> None:
            for message, where in self.dice.sample(kind, 3):
                gateway.alter(message, where, self.dice.choice("?x"), times=1, skip=self.dice.randrange(3))

        def logged_in() -> None:
            """A login that closes the connection which was never answered."""
            gateway.behave()
            gateway.drop()

        def altered_accounts() -> None:
            gateway.alter("managedAccounts", "fewer")

        def altered_events() -> None:
            alter(LISTED)
            alter(STREAMED)
            alter(ANSWERED)
            self._fill()

        def altered_lists() -> None:
            gateway.lose_upstream()
            alter(LISTED)

        def answer_late() -> None:
            """The version comes when the attempt has long been reported as failed, on the connection that is there."""
            gateway.slow_version(self.dice.uniform(4, 9))

        def malformed() -> None:
            gateway.malformed(self.dice.choice(UNDECODABLE))

        def burst() -> None:
            for how in (*UNDECODABLE, "fewFields"):
                gateway.malformed(how)

        return [
            Fault("closed (FIN), port shut", down(gateway.drop), gateway.listen),
            Fault("reset (RST), port shut", down(gateway.reset), gateway.listen),
            Fault("frozen", gateway.freeze, gateway.thaw),
            Fault("accepts, stays silent", dropped_with(gateway.accept_silently), logged_in),
            Fault("silent, then normal", dropped_with(gateway.accept_silently), gateway.behave, weight=0.15),
            Fault("silent, answers late", dropped_with(answer_late), gateway.behave),
            Fault("closes in the handshake", dropped_with(gateway.close_in_handshake), gateway.behave),
            Fault("no account list", dropped_with(gateway.no_accounts), gateway.behave),
            Fault("client id in use", dropped_with(gateway.client_id_in_use), gateway.behave),
            Fault("1100 … 1102", gateway.lose_upstream, gateway.restore_upstream),
            Fault("1100 … 1101", gateway.lose_upstream, lambda: gateway.restore_upstream(data_lost=True)),
            Fault("2110 … 1102", lambda: gateway.lose_upstream(2110), gateway.restore_upstream),
            Fault("farm blip", gateway.farm_blip, nothing, ends=False),
            Fault("huge frame, port shut", down(lambda: gateway.malformed("hugeLength")), gateway.listen),
            Fault("malformed message", malformed, nothing, ends=False),
            Fault("malformed messages of all kinds", burst, nothing, ends=False),
            Fault("fields altered as it happens", altered_events, gateway.behave, ends=False),
            Fault("fields altered in lists", altered_lists, gateway.restore_upstream),
            Fault("account list altered", dropped_with(altered_accounts), gateway.behave),
            Fault("daemon killed", kill_daemon, start_daemon),
            Fault("daemon stopped (SIGSTOP)", pause_daemon(signal.SIGSTOP), pause_daemon(signal.SIGCONT), ends=False),
        ]

    async def run(self, ends: float) -> None:
        faults = self.faults()
        while time.monotonic() < ends:
            await self._becomes(True, READY_LIMIT, "ready before the next fault")
            await asyncio.sleep(self.dice.uniform(*SETTLE))
            (fault,) = self.dice.choices(faults, [each.weight for each in faults])
            self.watch.counts["faults"] += 1
            connected_before = self.gateway.connections.total
            begun = time.monotonic()
            await _do(fault.begin)
            if fault.ends:
                noticed = await self._becomes(False, NOTICE_LIMIT, f"not connected after: {fault.name}")
                if noticed is not None:
                    self.watch.notice[fault.name].append(noticed - begun)
            if self.dice.random() < 0.5:
                self._fill()
            restart = None
            if self.dice.random() < 0.3:  # it ends when its new child answers for a daemon, which may be down now
                restart = asyncio.create_task(self._restart_facade(), name="facade restart")
            await asyncio.sleep(max(0.0, self.dice.uniform(*HOLD) - (time.monotonic() - begun)))
            ended = time.monotonic()
            await _do(fault.end)
            again = await self._becomes(True, READY_LIMIT, f"ready after: {fault.name}")
            if restart is not None:
                await restart
            if again is not None and fault.ends:
                self.watch.ready[fault.name].append(again - ended)
            if not fault.ends and fault.name != "daemon stopped (SIGSTOP)":
                made = self.gateway.connections.total - connected_before
                if made:
                    self.watch.hold(f"{made} new connections after a {fault.name}")

    def _fill(self) -> None:
        fill = self.gateway.fill("AAPL", self.dice.choice((1, 2, -1)))
        self.expected_fills.add(fill.execId)
        self.watch.counts["fills"] += 1

    async def _restart_facade(self) -> None:
        self.watch.counts["facade restarts"] += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "facade", "restart", env=self.place.environ, stderr=asyncio.subprocess.DEVNULL
        )
        if await asyncio.wait_for(process.wait(), 60):
            self.watch.counts["facade restarts not complete"] += 1

    async def _becomes(self, wanted: bool, limit: float, what: str) -> float | None:
        """The moment when it is so; `None` and a violation if it does not come within `limit` of what was promised."""
        due = time.monotonic()
        promises: set[datetime] = set()
        while self.watch.connected is not wanted:
            promised = self.watch.next_attempt
            # the attempt under way when the fault ends may fail too: its promise counts, no further one does
            if wanted and promised is not None and promised not in promises and len(promises) < 2:
                promises.add(promised)
                left = (promised - datetime.now(UTC)).total_seconds()
                due = max(due, time.monotonic() + min(left, LONGEST_WAIT))
            if time.monotonic() - due > limit:
                self.watch.hold(f"{what}: not within {limit:.0f} s (phase {self.watch.phase})")
                return None
            await asyncio.sleep(0.02)
        return time.monotonic()


async def _do(act: Act) -> None:
    done = act()
    if done is not None:
        await done


async def settle(place: Place, http: aiohttp.ClientSession, soak: Soak, readers: list[Reader], watch: Watch) -> None:
    """At a quiet point every reader holds what HTTP says, and every fill is there once."""
    soak.gateway.behave()
    soak.gateway.quiet()
    await soak._becomes(True, READY_LIMIT, "ready at the end")
    ends = time.monotonic() + 30
    problems = ["not looked yet"]
    while problems and time.monotonic() < ends:
        await asyncio.sleep(0.5)
        problems = []
        for topic, path in (("positions", "positions"), ("orders", "orders"), ("fills", "executions")):
            rows = []
            for account in soak.gateway.world.managed:
                async with http.get(f"{place.url}/{path}?account={account}") as answer:
                    body = await answer.json()
                if answer.status == 200:
                    rows += body["data"]
                else:
                    problems.append(f"{path} of {account} is {answer.status}")
            for number, reader in enumerate(readers):
                mine = sorted(json.dumps(row, sort_keys=True) for row in reader.state[topic].values())
                if mine != sorted(json.dumps(row, sort_keys=True) for row in rows):
                    problems.append(f"reader {number} holds {len(mine)} {topic}, HTTP says {len(rows)}")
            if topic == "fills":
                found = Counter(row["execId"] for row in rows)
                missing = soak.expected_fills - set(found)
                if missing:
                    problems.append(f"{len(missing)} fills are missing: {sorted(missing)[:3]}")
                problems += [f"fill {name} is there {count} times" for name, count in found.items() if count > 1]
    for problem in problems:
        watch.hold(f"at the end: {problem}")


def summary(watch: Watch) -> str:
    lines = ["", f"{'fault':<32}{'times':>6}{'noticed: median':>17}{'worst':>10}{'ready: median':>16}{'worst':>10}"]
    for name in sorted({*watch.notice, *watch.ready}):
        notice, ready = watch.notice[name], watch.ready[name]
        cells = [
            f"{statistics.median(v):.2f} s" if v else "-" if i % 2 == 0 else ""
            for i, v in enumerate((notice, notice, ready, ready))
        ]
        cells[1] = f"{max(notice):.2f} s" if notice else "-"
        cells[3] = f"{max(ready):.2f} s" if ready else "-"
        times = max(len(notice), len(ready))
        lines.append(f"{name:<32}{times:>6}{cells[0]:>17}{cells[1]:>10}{cells[2]:>16}{cells[3]:>10}")
    lines.append("")
    lines.append(", ".join(f"{name} {count}" for name, count in sorted(watch.counts.items())))
    return "\n".join(lines)


@contextlib.asynccontextmanager
async def running(seed: int) -> AsyncIterator[tuple[Place, Gateway]]:
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        http_port = sock.getsockname()[1]
        sock.close()
        os.chmod(directory, 0o700)
        async with Gateway(World(seed=seed, accounts=2), tick_rate=2) as gateway:
            place = Place(Path(directory), gateway.port, http_port)
            try:
                place.daemon = await place.start("daemon")
                place.facade = await place.start("facade")
                yield place, gateway
            finally:
                await stop(place.facade)
                await stop(place.daemon)


async def wait_for_facade(place: Place, http: aiohttp.ClientSession) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            async with http.get(f"{place.url}/status") as answer:
                if (await answer.json())["connected"]:
                    return
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
        if time.monotonic() > ends:
            raise TimeoutError("daemon and facade did not come up within 30 s")
        await asyncio.sleep(0.1)


async def main(minutes: float, seed: int) -> int:
    watch = Watch()
    timeout = aiohttp.ClientTimeout(total=5)
    async with running(seed) as (place, gateway), aiohttp.ClientSession(timeout=timeout) as http:
        await wait_for_facade(place, http)
        soak = Soak(place, gateway, random.Random(seed), watch)
        streamed = f"link,positions,orders,fills,quotes:{STOCK},quotes:{OPTION},bars:{STOCK}:1min"
        readers = [Reader(place, watch, 0.0), Reader(place, watch, 0.0, streamed), Reader(place, watch, 0.05)]
        background = [asyncio.create_task(look(place, http, watch, gateway), name="look")]
        background.append(asyncio.create_task(request(place, watch, gateway, random.Random(seed + 1)), name="request"))
        background += [asyncio.create_task(r.run(), name=f"reader {n}") for n, r in enumerate(readers)]
        begun = time.monotonic()
        first: dict[str, tuple[int, int]] = {}

        async def report() -> None:
            nonlocal first
            for minute in range(1, 10**6):
                await asyncio.sleep(max(0.0, begun + 60 * minute - time.monotonic()))
                while not watch.connected:  # noqa: ASYNC110 - what weighs is compared in health
                    await asyncio.sleep(LOOK_EVERY)
                weight = place.weight()
                first = first or weight
                weights = ", ".join(f"{name} {rss / 1e6:.0f} MB {fds} fds" for name, (rss, fds) in weight.items())
                counts = f"{watch.counts['faults']} faults, {watch.counts['looks']} looks"
                print(f"minute {minute}: {counts}, {weights}, {len(watch.violations)} violations", flush=True)

        background.append(asyncio.create_task(report(), name="report"))
        try:
            await soak.run(begun + 60 * minutes)
            await settle(place, http, soak, readers, watch)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        await asyncio.sleep(1)
        for name, (rss, fds) in place.weight().items() if first else ():
            was_rss, was_fds = first[name]
            if rss > was_rss * (1 + GROWTH) + GROWTH_FLOOR:
                watch.hold(f"{name} grew from {was_rss / 1e6:.0f} to {rss / 1e6:.0f} MB")
            if fds > was_fds + FD_SLACK:
                watch.hold(f"{name} has {fds} descriptors, {was_fds} after the first minute")
        for name in ("daemon", "facade"):
            text = (place.directory / f"{name}.out").read_text(errors="replace")
            if "Traceback" in text:
                watch.hold(f"a traceback in the {name}'s log: {text[text.index('Traceback') :][:2000]}")
    print(summary(watch))
    print(f"seed {seed}, {minutes:g} minutes: {len(watch.violations)} violated")
    return int(bool(watch.violations))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    sys.exit(asyncio.run(main(chosen.minutes, chosen.seed)))
