"""Log set-up: the console's and JSON's form of a line, redaction of account ids and tokens, one line for one fact.

`log = structlog.get_logger("daemon.session")`, then `log.info("link.connected", message="✓ Connected …", port=7497)`:
the event is a stable dotted name, `message` the text for people.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TextIO

import msgspec
import structlog

from shared.console import ascii_words

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The HTTP request that the current task serves, in either process; each line of the task carries it as `requestId`."""

FILE_BYTES = 5_000_000
FILE_COUNT = 5
"""Five files of 5 MB: weeks of a quiet link, hours of a DEBUG log, never a full disk by our doing."""

PADDING = {
    "DEBUG": "DEBUG:    ",
    "INFO": "INFO:     ",
    "WARNING": "WARNING:  ",
    "ERROR": "ERROR:    ",
    "CRITICAL": "CRITICAL: ",
}
# Account ids as IBKR writes them: U1234567, DU… and lately DUM… (paper, a letter more and a digit less), F…, DF…
# (advisor; F1234567A is all of his), I…, DI… (broker).
ACCOUNT = re.compile(r"(?<![0-9A-Z])(?:D[UFI][A-Z]?|[UFI])\d{5,9}(?!\d)")
BEARER = re.compile(r"(?i)(bearer\s+)[^\s,;\"']+")
# C0, C1, DEL, line and paragraph separators, the controls that turn the direction of text, and half characters, as
# which bytes that are no UTF-8 come from headers and paths and which no encoding takes
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


SHORTEST_ID = 4
"""Characters of an account id of another form that is masked; a shorter one may be any word."""
IDS_HELD = 10_000
_other_ids: dict[str, None] = {}  # account ids of another form than `ACCOUNT`
_other_id: list[re.Pattern[str]] = []  # one pattern for all of them


def protect(ids: Iterable[str]) -> None:
    """Mask these account ids from here on, in whatever form they are: as IBKR has named them, or as configured."""
    new = [each for each in ids if len(each) >= SHORTEST_ID and each not in _other_ids and not ACCOUNT.fullmatch(each)]
    if new and len(_other_ids) < IDS_HELD:
        _other_ids.update(dict.fromkeys(new))
        longest_first = sorted(_other_ids, key=len, reverse=True)
        _other_id[:] = [re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")]


def masked(text: str) -> str:
    """`DU1234567` → `DU…67`; bearer tokens → `Bearer …`."""
    for pattern in (ACCOUNT, *_other_id):
        text = pattern.sub(lambda found: f"{found[0][:2]}…{found[0][-2:] if len(found[0]) > 6 else ''}", text)
    return BEARER.sub(r"\1…", text)


def printable(text: str) -> str:
    """Control characters as escapes, so that a text from outside stays within its line and out of the terminal."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


LAUNCHD_LABELS = "io.ibkr."
"""How the labels of the agents begin that `ibkr install` makes on macOS."""


def set_up(
    level: str,
    form: Literal["console", "json"],
    *,
    stream: TextIO | None = None,
    file: Path | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Send every logger of the process to `stream` (default stderr, where there is one) and to `file` as JSON lines.

    As an agent of launchd only to `file`: launchd does not rotate the file that it makes of stderr.
    """
    handlers: list[logging.Handler] = []
    console = stream if stream is not None else sys.stderr
    agent = file is not None and environ.get("XPC_SERVICE_NAME", "").startswith(LAUNCHD_LABELS)
    if console is not None and not agent:  # pythonw has none
        handler: logging.Handler = logging.StreamHandler(console)
        handler.setFormatter(ConsoleLine(console.encoding or "ascii") if form == "console" else JsonLine())
        handlers.append(handler)
    if file is not None:
        handler = PrivateFile(file)
        handler.setFormatter(JsonLine())
        handlers.append(handler)
    logging.captureWarnings(True)
    logging.basicConfig(handlers=handlers, level=level, force=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, _to_record],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _to_record(_logger: Any, _method: str, fields: structlog.types.EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """structlog's event as a record of the standard library, the fields beside it."""
    event = str(fields.pop("event"))
    exc_info = fields.pop("exc_info", None)
    if request_id := REQUEST_ID.get():
        fields["requestId"] = request_id
    return (event,), {"exc_info": exc_info, "extra": {"fields": dict(fields)}}


class _Line(logging.Formatter):
    """A record's parts, cleaned. The event of another library's line is `library.` and its logger's name."""

    def parts(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any]]:
        """Event, message, fields."""
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            event, message, fields = f"library.{record.name}", record.getMessage(), {}
        else:
            event = str(record.msg)
            fields = dict(fields)
            message = str(fields.pop("message", event))
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields["error"] = f"{type(error).__name__}: {error}"
            # tracebacks are for readers who have set DEBUG; at INFO an exception is one line
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                fields["traceback"] = "".join(traceback.format_exception(error))
        return _clean_text(event), _clean_text(message), {name: _clean(value) for name, value in fields.items()}


class JsonLine(_Line):
    """One object a line: time, level, logger, event, message and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, message, fields = self.parts(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "event": event,
            "message": message,
        }
        return msgspec.json.encode(line | fields | line).decode()


class ConsoleLine(_Line):
    """`INFO:     message key=value`. What the console's encoding cannot print is put in ASCII."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.encoding = encoding

    def format(self, record: logging.LogRecord) -> str:
        _event, message, fields = self.parts(record)
        level = PADDING.get(record.levelname, f"{record.levelname}: ")
        line = " ".join([level + message, *(f"{name}={_value(value)}" for name, value in fields.items())])
        try:
            line.encode(self.encoding)
        except UnicodeEncodeError:
            line = ascii_words(line)
        return line


class PrivateFile(logging.handlers.RotatingFileHandler):
    """A log file that only its owner can read. A full disk costs lines, never the process: they are counted."""

    def __init__(self, path: Path) -> None:
        self.lost = 0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILE_COUNT - 1, encoding="utf-8", delay=True)

    def _open(self) -> Any:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_owner_only)

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.lost
        super().emit(record)
        if lost and self.lost == lost:
            self.lost = 0
            text = f"The log file can be written again; {lost} lines were lost."
            logging.getLogger(__name__).warning("log.restored", extra={"fields": {"message": text, "lost": lost}})

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's own signature
        self.lost += 1
        if self.lost == 1:
            for handler in logging.getLogger().handlers:
                if handler is not self:
                    line = logging.LogRecord(__name__, logging.WARNING, __file__, 0, "log.unwritable", None, None)
                    line.fields = {"message": f"The log file cannot be written: {sys.exc_info()[1]}"}
                    handler.handle(line)


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if value and not re.search(r"[\s\"=]", value) else msgspec.json.encode(value).decode()
    return msgspec.json.encode(value).decode()


def _clean_text(text: str) -> str:
    return printable(masked(text))


def _clean(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, Mapping):
        return {_clean_text(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return _clean_text(str(value))
