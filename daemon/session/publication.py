"""Publishes the link: its rows, gaps, history and log lines."""

from __future__ import annotations

import os
from datetime import datetime

from daemon.link import row as linkrow
from daemon.link.hints import hints
from daemon.link.states import Link, Live, Policy
from daemon.session.gaps import Gaps, Moment
from daemon.session.interfaces import Market, Memory, Rows
from daemon.session.link_log import LinkLog
from shared.clock import Clock
from shared.messages import BROKER_TOPICS, DaemonFacts, Expected, LinkEvent
from shared.messages import Link as LinkRow

PROOF = 0.7
"""s between published proofs while messages come: with a turn of listening it stays below the promised second."""


class Publication:
    """`proofLimit`: s after which a proof no longer makes the link connected."""

    def __init__(
        self,
        policy: Policy,
        *,
        store: Rows,
        memory: Memory,
        market: Market,
        clock: Clock,
        proofLimit: float,
        version: str,
    ) -> None:
        self.last_message: float | None = None  # monotonic s of the last complete message, of whatever session
        self.rtt: float | None = None  # s, of the last probe
        self.listening: frozenset[int] = frozenset()  # standard ports of this machine on which a process listens
        self._policy = policy
        self._store = store
        self._memory = memory
        self._market = market
        self._clock = clock
        self._proof_limit = proofLimit
        self._version = version
        self._started = clock.monotonic()
        self._gaps = Gaps()
        self._narration = LinkLog(automatic=policy.automatic and not memory.held)
        self._window: tuple[datetime, Expected] | None = None
        self._accounts: frozenset[str] = frozenset()
        self._at = self._started
        self._proof: float | None = None
        self._row: LinkRow | None = None  # as it was published last

    def begin(self, link: Link) -> None:
        self._narration.begin(link)
        self._remember(link)
        self.publish(link)

    def step(self, before: Link, after: Link) -> None:
        """One step of the machine: log, history, what becomes stale, and the beginning of a gap."""
        self._narration.step(before, after)
        if (after.phase, after.reason) != (before.phase, before.reason):
            self._remember(after)
        if (after.upstream, after.farms) != (before.upstream, before.farms):
            self._market.link_changed(after.upstream, after.farms)
        if before.phase == "ready" != after.phase:
            fills = self._store.rows("fills").keys()
            cause = after.reason or "manual"
            self._gaps.begin(cause, self._moment(), expected=self.expected().active, fills=fills)
        ended = isinstance(before.state, Live) and before.current != after.current
        if ended or (after.phase == "upstreamLost" != before.phase):
            self._store.stale(BROKER_TOPICS)
        if isinstance(after.state, Live):
            self._see_accounts(frozenset(after.state.connection.accounts))

    def _see_accounts(self, accounts: frozenset[str]) -> None:
        """Forget the rows of another login: they are not old but wrong."""
        if accounts != self._accounts:
            if self._accounts:
                for topic in BROKER_TOPICS:
                    self._store.forget(topic)
            self._accounts = accounts

    def replayed(self, streams: int) -> None:
        self._gaps.replayed(streams)

    def end_gap(self, unrecovered: frozenset[str]) -> None:
        """The link is ready, and what could be read again has been."""
        self._gaps.expect(self.expected().active)
        gap = self._gaps.end(self._moment(), fills=self._store.rows("fills"), unrecovered=unrecovered)
        if gap is not None:
            self._store.gap(gap)

    def _moment(self) -> Moment:
        return Moment(self._clock.now(), self._clock.monotonic())

    def publish(self, link: Link) -> None:
        """The rows of `link` and `farms`, as they are now."""
        monotonic, wall = self._clock.monotonic(), self._clock.now()
        around = linkrow.Around(
            epoch=self._store.epoch,
            daemon=DaemonFacts(pid=os.getpid(), version=self._version, uptimeS=round(monotonic - self._started, 1)),
            expected=self.expected(),
            last_message=self.last_message,
            rtt=self.rtt,
            proofLimit=self._proof_limit,
            streams=self._market.streams(),
            pacing=self._market.pacing(),
            hints=hints(link, self.listening),
        )
        row = linkrow.row(link, around, monotonic, wall)
        farms = linkrow.farms(link, dict(self._store.rows("farms")), wall)
        self._store.put({"link": {"link": row}, "farms": farms})
        self._at, self._proof, self._row = monotonic, self.last_message, row

    def refresh(self, link: Link) -> None:
        """Publish what time alone changes: a newer proof at least once a second, sooner where the limits are short."""
        due = self._clock.monotonic() - self._at >= min(PROOF, self._proof_limit / 8)
        if (due and self.last_message != self._proof) or self._outlived():
            self.publish(link)

    def refresh_pacing(self, link: Link) -> None:
        """Publish the pacing figures if they differ from the published ones."""
        if self._row is not None and self._row.pacing.used != self._market.pacing().used:
            self.publish(link)

    def _outlived(self) -> bool:
        """Whether the published row is no longer true: its proof has grown too old, or a planned window has begun."""
        row, last_message = self._row, self.last_message
        if row is None or row.expected != self.expected():
            return row is not None
        return row.connected and (last_message is None or self._clock.monotonic() - last_message >= self._proof_limit)

    def expected(self) -> Expected:
        """The planned window around now, looked up again only when it may have changed."""
        wall = self._clock.now()
        if self._window is not None:
            since, expected = self._window
            if since <= wall and (expected.nextAt is None or wall < expected.nextAt):
                return expected
        self._window = (wall, self._policy.calendar.at(wall))
        return self._window[1]

    def _remember(self, link: Link) -> None:
        self._memory.phase(
            LinkEvent(
                at=self._clock.now(),
                phase=link.phase,
                reason=link.reason,
                expected=self.expected().active,
                epoch=self._store.epoch,
                session=link.opened,
            )
        )
