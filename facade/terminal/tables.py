"""Rows as a table for people, as JSON, or as CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

Form = Literal["table", "json", "csv"]
Row = Mapping[str, Any]
WIDE = 1000
"""Characters of a line in a file or a pipe, where a table is not cut."""


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and how a row's cell is written. Numbers stand to the right."""

    heading: str
    cell: Callable[[Row], str]
    right: bool = True


def text(name: str, heading: str = "") -> Column:
    return Column(heading or name, lambda row: str(row.get(name) or ""), right=False)


def number(name: str, heading: str = "", digits: int | None = None) -> Column:
    """`digits` after the point; None: as many as there are."""
    return Column(heading or name, lambda row: figure(row.get(name), digits))


def moment(name: str, heading: str = "") -> Column:
    return Column(heading or name, lambda row: local(row.get(name)), right=False)


def figure(value: Any, digits: int | None = None) -> str:
    """`12,345.67`; `-` where it is unknown, which is not 0."""
    if value is None:
        return "-"
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,.8f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"


def local(value: Any) -> str:
    """A time of the wire in this machine's zone, to the second."""
    if not value:
        return "-"
    return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%d %H:%M:%S}"


def show(
    rows: Sequence[Row],
    columns: Sequence[Column],
    form: Form,
    *,
    meta: Mapping[str, Any],
    nothing: str,
    out: TextIO | None = None,
) -> None:
    """Print `rows`. `nothing`: the sentence in place of an empty table."""
    out = sys.stdout if out is None else out
    if form == "json":
        print(json.dumps({"data": rows, "meta": meta}, ensure_ascii=False), file=out)
        return
    if form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    if not rows:
        print(nothing, file=out)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    Console(file=out, width=None if out.isatty() else WIDE, highlight=False).print(table)
