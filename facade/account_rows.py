"""Which accounts there are, and which rows belong to one."""

from __future__ import annotations

import msgspec

from facade.replica.state import ReplicaState
from shared.reasons import Problem

KEYED = frozenset({"accounts", "summary", "pnl", "positions"})
"""Topics whose keys begin with the account."""

OWNED = frozenset({"orders", "fills"})
"""Topics whose rows name their account."""


class _Owned(msgspec.Struct):
    account: str


_owned = msgspec.json.Decoder(_Owned)


def accounts_of(state: ReplicaState) -> list[str]:
    """The session's accounts; none while they are not known."""
    known = sorted(state.replica.rows("accounts")) if state.replica is not None else []
    return known or (list(state.link.accounts) if state.link is not None else [])


def check_account(state: ReplicaState, account: str) -> None:
    """Raises `Problem` 404 for an account that the session does not have."""
    if account and (known := accounts_of(state)) and account not in known:
        raise Problem("notFound", "This login has no such account.")


def belongs(topic: str, key: str, row: bytes | None, account: str) -> bool:
    """Whether a row is one of `account`, or of a topic without accounts. A removed row may be anyone's."""
    if topic in KEYED:
        return key.partition(":")[0] == account
    return topic not in OWNED or row is None or _owned.decode(row).account == account
