"""One fact, one line, nothing in it that should not be."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from shared import log


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def console(encoding: str = "utf-8", level: str = "INFO") -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    log.set_up(level, "console", stream=stream)
    return stream


def written(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding)


def test_the_console_pads_the_level_and_appends_the_fields() -> None:
    stream = console()
    logger = structlog.get_logger("daemon.session")
    logger.info("link.connected", message="✓ Connected to IBKR on port 7497")
    logger.warning("link.failed", message="✗ Auto-connect to IBKR failed: refused", attempts=3, text="a b")
    assert written(stream).splitlines() == [
        "INFO:     ✓ Connected to IBKR on port 7497",
        'WARNING:  ✗ Auto-connect to IBKR failed: refused attempts=3 text="a b"',
    ]


def test_a_line_names_the_request_that_caused_it() -> None:
    stream = console()
    token = log.REQUEST_ID.set("abc.1")
    structlog.get_logger("facade").info("a.b", message="Done.")
    log.REQUEST_ID.reset(token)
    structlog.get_logger("facade").info("a.b", message="Done.")
    assert written(stream).splitlines() == ["INFO:     Done. requestId=abc.1", "INFO:     Done."]


def test_json_lines_carry_time_level_logger_event_and_message() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    log.set_up("INFO", "json", stream=stream)
    structlog.get_logger("daemon.session").info("link.connected", message="✓ Connected", port=7497)
    line = json.loads(written(stream))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "daemon.session",
        "event": "link.connected",
        "message": "✓ Connected",
        "port": 7497,
    }


def test_a_console_that_cannot_print_the_marks_gets_ascii() -> None:
    for encoding in ("ascii", "cp1252"):
        stream = console(encoding)
        structlog.get_logger("x").info("y", message="✓ Connected, ✗ failed 🔌")
        assert written(stream).startswith("INFO:     [ok] Connected, [failed] failed")


@pytest.mark.parametrize("name", ["asyncio", "ib_async.client", "py.warnings"])
def test_the_event_of_another_librarys_line_is_a_dotted_name(name: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    log.set_up("DEBUG", "json", stream=stream)
    logging.getLogger(name).debug("Using %s", "epoll")
    line = json.loads(written(stream))
    assert (line["event"], line["logger"], line["message"]) == (
        f"library.{name}",
        name,
        "Using epoll",
    )


def test_an_exception_is_one_line_at_info_and_a_traceback_at_debug() -> None:
    for level, lines in (("INFO", False), ("DEBUG", True)):
        stream = console(level=level)
        try:
            raise ValueError("one\ntwo")
        except ValueError:
            logging.getLogger("a.library").exception("it broke")
        text = written(stream)
        assert "ValueError: one" in text
        assert ("Traceback" in text) is lines
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("DU1234567", "DU…67"),
        ("DUM583526, DUO847203", "DU…26, DU…03"),
        ("U7654321,", "U7…21,"),
        ("(DF1234567)", "(DF…67)"),
        ("F123456 and I1234567", "F1…56 and I1…67"),
        ("DF1234567A, accountU7654321", "DF…67A, accountU7…21"),
        ("EURUSD 1234567 XU1234567 AU12345678", "EURUSD 1234567 XU1234567 AU12345678"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer …"),
    ],
)
def test_account_ids_and_tokens_are_masked(text: str, shown: str) -> None:
    assert log.masked(text) == shown


def test_account_ids_of_another_form_are_masked_once_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """IBKR names the accounts of a session, and `.env` one that may be misspelled (FIELD F11)."""
    monkeypatch.setattr(log, "_other_ids", {})
    monkeypatch.setattr(log, "_other_id", [])
    text = "logged in to C12345, DU1234567, expected du1234567 or Joint.Margin (All)"
    assert log.masked(text) == text.replace("DU1234567", "DU…67")
    log.protect(["C12345", "DU1234567", "All", "du1234567"])
    log.protect(["Joint.Margin"])

    assert log.masked(text) == "logged in to C1…, DU…67, expected du…67 or Jo…in (All)"
    assert log.masked("C123456, xdu1234567") == "C123456, xdu1234567"


@given(st.text())
def test_no_text_from_outside_starts_a_second_line_or_an_escape_sequence(text: str) -> None:
    shown = log.printable(text)
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


@pytest.mark.parametrize("form", ["console", "json"])
def test_half_characters_cost_no_line(form: Literal["console", "json"]) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    log.set_up("INFO", form, stream=stream)
    structlog.get_logger("x").info("y", message="a path \udcff here", path="of mine \udcfe")
    assert written(stream).count("udcff") == written(stream).count("udcfe") == 1


def test_fields_are_cleaned_at_any_depth() -> None:
    stream = console()
    structlog.get_logger("x").info("y", accounts=["DU1234567"], more={"a": {"DU7654321": "x\ny"}})
    assert "1234567" not in written(stream)
    assert "7654321" not in written(stream)
    assert len(written(stream).splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="modes are Unix's; the profile's directories are private there")
def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "daemon.log"
    log.set_up("INFO", "console", stream=io.StringIO(), file=path)
    structlog.get_logger("x").info("started")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(path.read_text())["event"] == "started"


def test_a_file_that_cannot_be_written_costs_one_warning_and_one_line_when_it_works_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "daemon.log"
    stream = io.StringIO()
    log.set_up("INFO", "console", stream=stream, file=path)
    path.mkdir()  # stands in for a full disk: opening fails
    logger = structlog.get_logger("x")
    for _ in range(3):
        logger.info("tick")
    path.rmdir()
    logger.info("tock")
    text = stream.getvalue()
    assert text.count("cannot be written") == 1
    assert "3 lines were lost" in text
    assert "tock" in path.read_text()
