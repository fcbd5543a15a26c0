"""When an incident of the link begins, is reported and is over: pure, with the time that passed as an argument.

One alert an incident, one more when it turns out to need a person, one when it is over. A short return to `ready` is
part of the incident. Inside planned windows time counts only for what needs a person.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from shared.messages import Link

ATTEMPTING = frozenset({"connecting", "syncing"})
"""Phases of an attempt: until it has failed or succeeded, things are as they were before it."""
BY_HAND = frozenset({"held", "disabled", "stopping"})
"""Phases that a person has requested."""
NEEDS_A_PERSON = frozenset({"loginRequired", "competingSession", "accountMismatch"})

Report = Literal["down", "action", "recovered"]


class Condition(Struct, frozen=True, kw_only=True):
    """The link's row, as far as the rules use it. `expected`: inside a planned window."""

    phase: str | None
    reason: str | None = None
    sentence: str = ""
    advice: tuple[str, ...] = ()
    expected: bool = False

    @property
    def down(self) -> bool:
        return self.phase != "ready" and self.phase not in BY_HAND

    @property
    def action(self) -> bool:
        return self.down and (self.phase == "blocked" or self.reason in NEEDS_A_PERSON)


class Incident(Struct, frozen=True, kw_only=True):
    """Seconds: `lasted` since it began; `down` outside planned windows; in need of a person (`action`) in one go;
    not down any more (`over`), which began after `overAfter`.
    """

    id: str
    since: datetime
    reported: tuple[Report, ...] = ()
    lasted: float = 0.0
    down: float = 0.0
    action: float = 0.0
    over: float = 0.0
    overAfter: float | None = None


class State(Struct, frozen=True, kw_only=True):
    """As of the last step. `incident`: the one under way."""

    condition: Condition | None = None
    incident: Incident | None = None


class Reported(Struct, frozen=True):
    """An alert that is due."""

    kind: Report
    incident: Incident
    condition: Condition


def condition(row: Link) -> Condition:
    return Condition(
        phase=row.phase,
        reason=row.reason,
        sentence=row.sentence,
        advice=row.advice,
        expected=row.expected.active,
    )


def step(
    state: State, seen: Condition, now: datetime, elapsed: float, after: float, name: str, *, actions: bool = True
) -> tuple[State, Reported | None]:
    """The state at `now`, `elapsed` s after the last step, and an alert that became due.

    `after`: s that a state must last. `name`: of an incident that begins now. `actions`: whether what needs a person is
    an alert of its own; else it is `down` as all else is.
    """
    before = state.condition
    current = seen
    if seen.phase in ATTEMPTING and before is not None and before.down:
        current = replace(before, expected=seen.expected)
    incident = state.incident
    if incident is not None and before is not None:
        incident = _passed(incident, before, elapsed)
        if before.expected and not current.expected:  # what outlasts a planned window is reported soon after it
            incident = replace(incident, down=max(incident.down, after / 2))
    if current.down:
        incident = incident or Incident(id=name, since=now)
        incident = replace(incident, over=0.0, overAfter=None, action=incident.action if current.action else 0.0)
    elif incident is not None and incident.overAfter is None:
        incident = replace(incident, overAfter=incident.lasted)
    if incident is None:
        return State(condition=current), None
    due = _due(incident, current, after, actions=actions)
    if due is not None and due != "recovered":
        incident = replace(incident, reported=(*incident.reported, due))
    report = None if due is None else Reported(due, incident, current)
    if incident.over >= after:
        if not incident.reported:
            report = None
        return State(condition=current), report
    return State(condition=current, incident=incident), report


def _passed(incident: Incident, before: Condition, elapsed: float) -> Incident:
    if not before.down:
        return replace(incident, lasted=incident.lasted + elapsed, over=incident.over + elapsed)
    return replace(
        incident,
        lasted=incident.lasted + elapsed,
        down=incident.down + (0.0 if before.expected else elapsed),
        action=incident.action + (elapsed if before.action else 0.0),
    )


def _due(incident: Incident, current: Condition, after: float, *, actions: bool) -> Report | None:
    if not current.down:
        return "recovered" if incident.over >= after else None
    if actions and current.action and incident.action >= after:
        return None if "action" in incident.reported else "action"
    if not current.expected and incident.down >= after and not incident.reported:
        return "down"
    return None
