"""What each method of the local socket takes, beside the structs that HTTP takes too (`shared/messages.py`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from shared.messages import BarsParams, ConId, ConnectParams


class _Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`{}` is always acceptable unless a field has no default."""


class ConnectRequest(ConnectParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`wait` false: answered as soon as the attempt is under way."""

    wait: bool = True


class Paged(_Params, frozen=True, kw_only=True):
    """`after`: the `next` of the page before."""

    after: Annotated[str, Meta(max_length=300)] = ""


class Since(_Params, frozen=True, kw_only=True):
    """`since`: RFC 3339 with its offset, inclusive. `limit`: rows at most. `cursor`: the `next` of the page before."""

    since: Annotated[datetime, Meta(tz=True)] | None = None
    limit: Annotated[int, Meta(ge=1, le=5000)] = 1000
    cursor: Annotated[str, Meta(max_length=300)] = ""


class Executions(Since, frozen=True, kw_only=True):
    """`account`: only its fills."""

    account: Annotated[str, Meta(max_length=32)] = ""


class OfAccount(Paged, frozen=True, kw_only=True):
    """`allowStale`: what was last known, also while the link is down."""

    account: Annotated[str, Meta(max_length=32)] = ""
    allowStale: bool = False


class Orders(OfAccount, frozen=True, kw_only=True):
    scope: Literal["open", "completed", ""] = ""


class Search(Paged, frozen=True, kw_only=True):
    q: Annotated[str, Meta(max_length=64)] = ""


class OfContract(Paged, frozen=True, kw_only=True):
    conId: ConId


class OfContracts(_Params, frozen=True, kw_only=True):
    conIds: Annotated[tuple[ConId, ...], Meta(min_length=1, max_length=100)]


class Bars(BarsParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: Annotated[str, Meta(max_length=300)] = ""


class Topics(_Params, frozen=True, kw_only=True):
    topics: Annotated[tuple[str, ...], Meta(max_length=1024)]
