"""Reading logs back as people read them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from facade.terminal.logs import LogMissing, _coming, readable, show

LINE = '{"time":"2026-03-01T12:00:00Z","level":"WARNING","logger":"x","event":"link.lost","message":"lost","port":1}\n'


def test_a_json_line_is_shown_as_on_the_console_with_its_time() -> None:
    assert readable(LINE) == "2026-03-01T12:00:00Z WARNING:  lost port=1"


def test_what_is_no_json_line_is_shown_as_it_is() -> None:
    for line in ("plain", '"text"', "[1]", '{"a": 1}'):
        assert readable(line + "\n") == line


def test_the_last_lines_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("".join(f"line {number}\n" for number in range(100)))
    out = io.StringIO()
    show(path, 2, follow=False, as_json=False, out=out)
    assert out.getvalue() == "line 98\nline 99\n"


def test_a_missing_log_is_reported_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(LogMissing, match=r"daemon\.log"):
        show(tmp_path / "daemon.log", 1, follow=False, as_json=False, out=io.StringIO())


def test_what_comes_is_shown_in_full_across_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("shown\n")
    file = path.open()
    assert file.readlines() == ["shown\n"]
    with path.open("a") as more:
        more.write("at once\n")
    lines = _coming(path, file)

    assert next(lines) == "at once\n"
    path.rename(tmp_path / "daemon.log.1")
    with (tmp_path / "daemon.log.1").open("a") as late:
        late.write("before it went\n")
    path.write_text("new\n")

    assert [next(lines), next(lines)] == ["before it went\n", "new\n"]
    lines.close()  # type: ignore[attr-defined]  # a generator
