"""What the gateway holds, for the functions that answer requests and the verbs that change it.

Holds no socket server and answers nothing: `server` listens and hands requests to the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from daemon.simulator import history
from daemon.simulator.behaviour import Behaviour
from daemon.simulator.clock import Clock
from daemon.simulator.lines import Quotes
from daemon.simulator.market import World
from daemon.simulator.pacing import HistoryLimits, HistoryPacing
from daemon.simulator.requests import Request
from daemon.simulator.seen import RECORDED, Connections, Seen
from daemon.simulator.session import Session


class GatewayState:
    """One gateway's world, faults, clients, lines and limits. `server.Gateway` documents the arguments."""

    def __init__(
        self,
        world: World,
        clock: Clock,
        *,
        tick_rate: float,
        lines: int,
        history_limits: HistoryLimits | None,
        pacing_patience: int,
        commission_delay: float,
        master_client_id: int,
    ) -> None:
        self.world = world
        self.clock = clock
        self.faults = Behaviour()
        self.quotes = Quotes(world, clock, self.faults, limit=lines, rate=tick_rate)
        self.history = HistoryPacing(history_limits or HistoryLimits(), enabled=history_limits is not None)
        self.pacing_patience = pacing_patience
        self.commission_delay = commission_delay
        self.master_client_id = master_client_id
        self.connections = Connections()
        self.requests: deque[Seen] = deque(maxlen=RECORDED)
        self.sessions: set[Session] = set()
        self.client_ids: dict[int, Session] = {}
        self.ghosts: dict[int, float] = {}

    def local_time(self) -> str:
        return history.moment(self.clock.time(), "UTC").removesuffix("UTC") + "GMT"

    def ready_sessions(self) -> list[Session]:
        """The clients whose session has begun, in the order of their ids."""
        return [self.client_ids[number] for number in sorted(self.client_ids)]


Answer = Callable[[GatewayState, Session, Request], Iterable[bytes] | None]
"""Answers one request: the frames, whose last one is the end marker of a list, or None where the answer was sent, comes
later, or there is none."""
