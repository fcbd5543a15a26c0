"""What is known of one execution when it is told again: pure rules, the same for the topic and for the ledger.

IBKR names an execution `0000e0d5.6534a1f2.01.01`; a correction comes with a higher number after the last dot and
replaces it. Never decides how long a fill is kept or shown.
"""

from __future__ import annotations

from msgspec.structs import replace

from shared.messages import Fill


def identity(exec_id: str) -> tuple[str, int]:
    """What an execution and its corrections have in common, and the correction's number (0 where there is none)."""
    base, dot, revision = exec_id.rpartition(".")
    return (base, int(revision)) if dot and revision.isascii() and revision.isdigit() else (exec_id, 0)


def newer(held: Fill | None, told: Fill) -> Fill | None:
    """The fill to hold from now on, or `None` when `told` adds nothing.

    An older revision changes nothing. How the fill was first learnt stays true; a commission once told stays until a
    newer one comes, since IBKR reports it apart and only once.
    """
    if held is None:
        return told
    if identity(told.execId)[1] < identity(held.execId)[1]:
        return None
    known: dict[str, object] = {"recovered": held.recovered}
    if told.commission is None:
        known |= {"commission": held.commission, "commissionCurrency": held.commissionCurrency}
    if told.realizedPNL is None:
        known |= {"realizedPNL": held.realizedPNL}
    merged = replace(told, **known)
    return None if merged == held else merged
