"""Answers longer than a line, given in pages of one and the same answer."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from shared.reasons import Problem

PAGE = 512 * 1024
"""Bytes of rows in an answer: half a line, the rest is for what stands around them."""
HELD = 32 * 1024 * 1024
"""Bytes of answers held for their next pages: a year of one-minute bars is 11 MB, and three readers may want one."""


class Page(NamedTuple):
    """`facts`: the answer's members beside its rows. `next`: the `after` of the next page, `None` at the end."""

    rows: Sequence[bytes]
    facts: Mapping[str, Any]
    next: str | None


class _Answer(NamedTuple):
    rows: Sequence[bytes]
    facts: Mapping[str, Any]
    size: int


class Pages:
    """The answers with pages not read yet; beyond the bound the oldest are dropped."""

    def __init__(self, *, page: int = PAGE, held: int = HELD) -> None:
        self._page = page
        self._limit = held
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def first(self, rows: Sequence[bytes], facts: Mapping[str, Any]) -> Page:
        """The beginning of an answer."""
        end = self._end(rows, 0)
        if end == len(rows):
            return Page(rows, facts, None)
        name = secrets.token_hex(8)
        self._answers[name] = _Answer(rows, facts, sum(map(len, rows)))
        while sum(answer.size for answer in self._answers.values()) > self._limit and len(self._answers) > 1:
            self._answers.popitem(last=False)
        return Page(rows[:end], facts, f"{name}:{end}")

    def following(self, after: str) -> Page:
        """The page that `after` names. Raises `Problem` for one that is not, or no longer, known."""
        name, _, text = after.partition(":")
        answer = self._answers.get(name)
        start = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        if answer is None or not 0 <= start < len(answer.rows):
            raise Problem("invalidParameters", "after: this answer is no longer held; request it again from the start.")
        self._answers.move_to_end(name)
        end = self._end(answer.rows, start)
        return Page(answer.rows[start:end], answer.facts, f"{name}:{end}" if end < len(answer.rows) else None)

    def _end(self, rows: Sequence[bytes], start: int) -> int:
        """The index after the last row of the page that begins at `start`; a page has at least one row."""
        size = 0
        for index in range(start, len(rows)):
            size += len(rows[index]) + 1
            if size > self._page and index > start:
                return index
        return len(rows)
