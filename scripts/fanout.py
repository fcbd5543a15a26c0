"""How far the fan-out over NATS goes: `python scripts/fanout.py` counts and simulates with measured costs.

The costs are those of scripts/bench/fanout.json, which `python scripts/bench fanout` measures. `costs`, `load` and
`simulate` are pure. Prints the tables of docs/scale-out-arithmetic.md.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

FILE = Path(__file__).resolve().parent / "bench" / "fanout.json"
STREAMS = 250
"""Readers of a facade; it serves 256 at most."""
RATE = 50
"""Ticks/s of the points that are counted with. At more a step costs less, since each wake-up serves several."""
REPLICAS = 3
STREAM_BYTES = 64 << 20
LINK = 1.25e9
"""Bytes/s of a 10 Gbit/s link."""

Point = Mapping[str, float]
"""A measured arrangement, as fanout.json has it."""


# --- costs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """s of processor time. A step is what a tick changes; it is one message, and one event for each reader."""

    tick: float
    """The daemon: a tick read, decoded, stored and encoded, with its local facade's copy."""
    encode: float
    """Of that: the row put into the store, and its delta encoded once for all readers."""
    publish: float
    """The daemon: the message handed to NATS, and its acknowledgement."""
    receive: float
    """nats-server: the message taken and stored."""
    deliver: float
    """nats-server: one copy to one facade."""
    fold: float
    """A facade: the message read and folded, and framed once."""
    write: float
    """A facade: the event to one reader."""
    daemon_idle: float
    """Per second: signs of life, heartbeats."""
    facade_idle: float
    message: float
    """Bytes of a message with its headers, as the stream stores it."""
    event: float
    """Bytes of an event."""


def costs(points: Iterable[Point], encode: float) -> Costs:
    """From the arrangements with one reader a facade and the one with a hundred; the others are left for checking."""
    by_shape = {(int(point["remote"]), int(point["readers"])): point for point in points if point["rate"] == RATE}
    local, one, many, four = (by_shape[shape] for shape in ((0, 1), (1, 1), (1, 100), (4, 1)))
    receive, deliver = line((1, per_step(one, "server")), (4, per_step(four, "server")))
    fold, write = line((1, per_step(one, "facades")), (100, per_step(many, "facades")))
    tick = per_step(local, "daemon")
    with_nats = statistics.mean(per_step(point, "daemon") for point in (one, many, four))
    return Costs(
        tick=tick,
        encode=encode,
        publish=with_nats - tick,
        receive=receive,
        deliver=deliver,
        fold=fold,
        write=write,
        daemon_idle=one["daemonIdle"],
        facade_idle=one["facadesIdle"],
        message=one["storedPerMessage"],
        event=one["octetsPerEvent"],
    )


def line(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Intercept and slope through two points; neither is below 0."""
    slope = max(0.0, (second[1] - first[1]) / (second[0] - first[0]))
    return max(0.0, first[1] - slope * first[0]), slope


def per_step(point: Point, group: str) -> float:
    """s of processor time of `group` per step, beyond what it uses while nothing happens."""
    return (point[group] - point[f"{group}Idle"] * point["seconds"]) / point["steps"]


def predicted(cost: Costs, facades: int, readers: int) -> dict[str, float]:
    """What `per_step` of such an arrangement should be."""
    return {
        "daemon": cost.tick + cost.publish,
        "server": cost.receive + facades * cost.deliver,
        "facades": facades * (cost.fold + readers * cost.write),
    }


# --- arithmetic -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """`rate`: steps/s of a session. `readers`: in all, each of one session.

    `together`: the readers of a session are sent to as few facades as hold them; else each goes to any facade.
    `regions`: leaf servers, each with a mirror of every stream that is read there; 0: facades read the hub itself.
    """

    sessions: int
    readers: int
    rate: float
    together: bool = True
    regions: int = 0

    @property
    def facades(self) -> int:
        return math.ceil(self.readers / STREAMS)

    @property
    def readers_per_facade(self) -> int:
        return min(STREAMS, self.readers)

    @property
    def sessions_per_facade(self) -> float:
        """Sessions of which a facade has readers, and so follows the stream."""
        if self.together:
            return max(1.0, self.readers_per_facade * self.sessions / self.readers)
        return self.sessions * (1 - (1 - 1 / self.sessions) ** self.readers_per_facade)

    @property
    def copies(self) -> float:
        """Facades that follow a session."""
        return self.facades * self.sessions_per_facade / self.sessions


@dataclass(frozen=True)
class Load:
    """What a plan needs. Cores: s of processor time a second."""

    consumers: float
    """Streams that facades follow: JetStream consumers."""
    daemon: float
    """Cores of one daemon."""
    hub: float
    """Cores of the hub's servers in all."""
    hub_out: float
    """Bytes/s that leave the hub, beside its own replication."""
    leaf: float
    """Cores of one region's server."""
    leaf_out: float
    facade: float
    """Cores of one facade."""
    facades: float
    """Cores of all of them."""
    facade_out: float
    """Bytes/s of one facade to its readers."""
    storage: float
    """Bytes of full streams in the hub."""


def load(cost: Costs, plan: Plan) -> Load:
    messages = plan.sessions * plan.rate
    copies = messages * plan.copies
    regions = plan.regions
    hub_copies = messages * min(regions, plan.copies) if regions else copies
    facade = (
        plan.sessions_per_facade * plan.rate * cost.fold
        + plan.readers_per_facade * plan.rate * cost.write
        + cost.facade_idle
    )
    received = messages * min(regions, plan.copies) / regions if regions else 0.0
    return Load(
        consumers=plan.facades * plan.sessions_per_facade,
        daemon=plan.rate * (cost.tick + cost.publish) + cost.daemon_idle,
        hub=messages * cost.receive * REPLICAS + hub_copies * cost.deliver,
        hub_out=hub_copies * cost.message,
        leaf=received * cost.receive + copies / regions * cost.deliver if regions else 0.0,
        leaf_out=copies / regions * cost.message if regions else 0.0,
        facade=facade,
        facades=facade * plan.facades,
        facade_out=plan.readers_per_facade * plan.rate * cost.event,
        storage=float(plan.sessions * STREAM_BYTES * REPLICAS),
    )


def first_limit(plan: Plan, need: Load) -> str:
    """The part that is used most, of those that cannot be shared among more: what breaks first."""
    shares = {
        "one facade's core": need.facade,
        "one daemon's core": need.daemon,
        "the hub's link (10 Gbit/s)": need.hub_out / LINK,
        "a hub server's eight cores": need.hub / REPLICAS / 8,
    }
    if plan.regions:
        shares["a region's link (10 Gbit/s)"] = need.leaf_out / LINK
        shares["a region's server of eight cores"] = need.leaf / 8
    name = max(shares, key=lambda part: shares[part])
    return f"{name}: {shares[name]:.0%}"


# --- simulation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Of one facade. Seconds from the tick to the event at the last of its readers."""

    p50: float
    p99: float
    merged: float
    """Share of the steps that were merged into a later one's event."""
    busy: float
    """Share of the time that the facade's core was used."""


def simulate(cost: Costs, plan: Plan, seconds: float, random_unit: random.Random) -> Outcome:
    """Steps arrive at random (Poisson), pass daemon and server, and wait for the facade, which handles one at a time.

    A step that finds an earlier one of its session still waiting is merged with it: one fold more, no event more.
    """
    sessions = max(1, round(plan.sessions_per_facade))
    readers = plan.readers_per_facade / sessions
    need = load(cost, plan)
    used = min(0.95, need.leaf if plan.regions else need.hub / REPLICAS)
    queue = used / (2 * (1 - used)) * cost.deliver  # M/D/1, one core
    arrivals: list[tuple[float, float, int]] = []
    for session in range(sessions):
        at = 0.0
        while (at := at + random_unit.expovariate(plan.rate)) < seconds:
            copy = random_unit.random() * plan.copies * cost.deliver  # how many copies are sent before this one
            passed = cost.tick + cost.publish + cost.receive * (2 if plan.regions else 1) + queue + copy
            arrivals.append((at + passed, at, session))
    arrivals.sort()
    waiting: dict[int, tuple[float, int]] = {}  # session -> its oldest step that waits, and how many
    found: list[float] = []
    merged, now, used_time, following = 0, 0.0, 0.0, 0
    while following < len(arrivals) or waiting:
        if not waiting:
            now = max(now, arrivals[following][0])
        while following < len(arrivals) and arrivals[following][0] <= now:
            _, at, session = arrivals[following]
            oldest, steps = waiting.get(session, (at, 0))
            merged += steps > 0
            waiting[session] = (oldest, steps + 1)
            following += 1
        session = next(iter(waiting))
        at, steps = waiting.pop(session)
        work = steps * cost.fold + readers * cost.write
        now, used_time = now + work, used_time + work
        found.append(now - at)
    found.sort()
    return Outcome(
        p50=found[len(found) // 2],
        p99=found[min(len(found) - 1, int(len(found) * 0.99))],
        merged=merged / len(arrivals),
        busy=used_time / max(now, seconds),
    )


# --- the shell --------------------------------------------------------------------------------------------------------

PLANS = {
    "1 session, 10 facades": Plan(1, 2_500, 20),
    "1,000 sessions, 100,000 readers": Plan(1_000, 100_000, 1),
    "the same, 20 steps/s": Plan(1_000, 100_000, 20),
    "the same, readers at any facade": Plan(1_000, 100_000, 20, together=False),
    "the same, 10 regions": Plan(1_000, 100_000, 20, together=False, regions=10),
    "1,000 × 100,000 readers": Plan(1_000, 100_000_000, 1),
    "1,000 × 100,000 readers, 100 regions": Plan(1_000, 100_000_000, 1, regions=100),
}


def table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join((head, f"|{'---|' * len(rows[0])}", *rest))


def costs_table(cost: Costs) -> str:
    names = {
        "tick": "daemon: read, decode, store, encode a tick, send it to the local facade",
        "encode": "of that: put the row, encode once",
        "publish": "daemon: publish its message",
        "receive": "nats-server: take and store it",
        "deliver": "nats-server: deliver it to one facade",
        "fold": "facade: fold it, frame the event once",
        "write": "facade: write the event to one reader",
    }
    rows = [("step", "CPU, µs")]
    rows += [(text, f"{getattr(cost, name) * 1e6:.0f}") for name, text in names.items()]
    rows.append(("idle, a second: daemon · facade", f"{cost.daemon_idle * 1e6:.0f} · {cost.facade_idle * 1e6:.0f}"))
    rows.append(("bytes: message · event", f"{cost.message:.0f} · {cost.event:.0f}"))
    return table(rows)


def plans_table(cost: Costs, seed: int = 18) -> str:
    rows = [("plan", "facades", "consumers", "cores: hub · region · all facades", "MB/s: hub · region", "p99", "first")]
    for name, plan in PLANS.items():
        need = load(cost, plan)
        outcome = simulate(cost, replace(plan), 20 / plan.rate + 10, random.Random(seed))
        rows.append(
            (
                name,
                f"{plan.facades:,}",
                f"{need.consumers:,.0f}",
                f"{need.hub:,.1f} · {need.leaf:,.1f} · {need.facades:,.0f}",
                f"{need.hub_out / 1e6:,.1f} · {need.leaf_out / 1e6:,.1f}",
                f"{outcome.p99 * 1e3:.0f} ms",
                first_limit(plan, need),
            )
        )
    return table(rows)


def main() -> int:
    measured = json.loads(FILE.read_text())
    cost = costs(measured["points"], measured["encode"])
    print(costs_table(cost), "\n")
    print(plans_table(cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())
