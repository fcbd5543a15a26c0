"""The link's log lines: one for each change of phase or reason; repeats are counted and not printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from daemon.link.row import words
from daemon.link.states import Connecting, Link, Live
from shared.reasons import describe
from shared.settings import is_loopback

log = structlog.get_logger("daemon.session")

UP = frozenset({"ready", "held", "disabled", "stopping"})


class LinkLog:
    """Holds what was logged last, so that repeats are counted."""

    def __init__(self, *, automatic: bool) -> None:
        self._first = automatic  # whether the first automatic attempt is still to be logged
        self._automatic = automatic
        self._trial: int | None = None  # the latest attempt that was requested beside the automatic ones
        self._last_logged: tuple[str, str | None] = ("", None)
        self._repeats = 0

    def begin(self, link: Link) -> None:
        """The daemon's start."""
        if link.phase == "connecting":
            target = link.target
            log.info(
                "link.auto_connect",
                message=f"Attempting to auto-connect to IBKR at {target.host}:{target.port}...",
            )
        elif link.phase == "disabled":
            self._remember(link)
            log.info(
                "link.disabled",
                message="IBKR auto-connect disabled (set IBKR_AUTO_CONNECT=true in .env to enable)",
            )
        else:
            self._log_change(link, log.info)

    def step(self, before: Link, after: Link) -> None:
        """One step of the machine."""
        self._log_facts(before, after)
        tried = self._log_trial(before, after)
        if (after.phase, after.reason) == (before.phase, before.reason):
            return
        if after.phase in ("connecting", "syncing"):
            self._under_way(before, after)
        elif after.phase == "ready":
            self._ready(after)
        elif self._first_failed(before, after) or (tried and after.phase in UP):
            self._remember(after)
        elif (after.phase, after.reason) == self._last_logged:
            self._repeats += 1
        else:
            self._log_change(after, log.info if after.phase in UP else log.warning)

    def _log_trial(self, before: Link, after: Link) -> bool:
        """Something that was only tried has failed, and the link is back to what it was before."""
        trial = before.state
        if not isinstance(trial, Connecting | Live) or trial.back is None:
            return False
        self._trial = trial.session
        if after.current == trial.session:
            return False
        error = after.lastError
        if error is None or error is before.lastError:
            return False  # it did not fail: it was ended by request
        target = before.target
        log.warning("link.connect_failed", message=f"✗ Connect to {target.host}:{target.port} failed: {error.text}")
        return True

    def _under_way(self, before: Link, after: Link) -> None:
        """An attempt is no news, but for what it follows."""
        log.debug("link.attempt", message=words(after)[0], phase=after.phase, session=after.session)
        lost = isinstance(before.state, Live) and before.current != after.current and after.reason is not None
        if lost and (after.phase, after.reason) != self._last_logged:
            self._log_change(after, log.warning, "Connection lost, dialling again. ")

    def _ready(self, after: Link) -> None:
        if self._repeats:
            log.debug("link.repeats", message="Attempts before this one", repeats=self._repeats)
        self._remember(after)
        log.info("link.connected", message=f"✓ Connected to IBKR on port {after.target.port}")
        if self._automatic and after.current != self._trial:
            self._automatic = self._first = False
            log.info(
                "link.auto_connected",
                message=f"✓ Auto-connected to IBKR successfully on port {after.target.port}",
            )

    def _first_failed(self, before: Link, after: Link) -> bool:
        """Driver once, in words that people look for."""
        if not (self._first and before.phase == "connecting" and after.phase in ("waiting", "blocked")):
            return False
        self._first = False
        why = after.lastError.text if after.lastError is not None else words(after)[0]
        log.warning("link.auto_connect_failed", message=f"✗ Auto-connect to IBKR failed: {why}")
        log.info("link.manual_hint", message="You can manually connect via the UI or /api/ibkr/connect endpoint")
        return True

    def _log_change(self, link: Link, write: Callable[..., Any], first: str = "") -> None:
        fields: dict[str, Any] = {"phase": link.phase}
        if link.reason is not None:
            fields["reason"] = link.reason
        if self._repeats:
            fields["repeats"] = self._repeats
        if link.lastError is not None and link.lastError.text and link.phase not in UP:
            fields["error"] = link.lastError.text
        self._remember(link)
        write(f"link.{link.phase}", message=first + words(link)[0], **fields)

    def _remember(self, link: Link) -> None:
        self._last_logged, self._repeats = (link.phase, link.reason), 0

    def _log_facts(self, before: Link, after: Link) -> None:
        """What a session shows for the first time, and where a port or address is another than the configured one."""
        old, new = before.state, after.state
        if not (isinstance(old, Connecting | Live) and isinstance(new, Connecting | Live)):
            return
        if new.session == old.session and new.facts.readOnly and not old.facts.readOnly:
            log.info("link.read_only", message="The API is read-only: orders stay unknown in this session.")
        if new.connection.peer not in (
            old.connection.peer,
            host := after.target.host,
        ) and not is_loopback(host):
            log.info(
                "link.address",
                message=f"{host} answered at {new.connection.peer}, which is dialled first from now on.",
                address=new.connection.peer,
            )
        if after.base.port != before.base.port:
            _, advice = describe("portMoved", port=after.base.port)
            log.warning("link.port_moved", message=" ".join(advice), port=after.base.port)
