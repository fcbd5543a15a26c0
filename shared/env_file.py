"""A settings file (`.env`), read strictly: what looks like a setting of ours and is not read as one is an error.

The lines are python-dotenv's; its interpolation is not used. Encodings: UTF-8, and UTF-16 with a byte order mark.
"""

from __future__ import annotations

import codecs
import difflib
import io
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import Binding, parse_stream

OURS = "IBKR_"
MAX_BYTES = 1 << 20
SIMILAR = 0.88
"""Ratio of difflib from which a name counts as a misspelt one of ours: IKBR_PORT does, IB_PORT is another program's."""

SECRETS = ("_ALERTS", "_URL")
"""How the names end whose values, which are URLs, are secrets."""

_NAME = re.compile(r"ibkr[\s_.:-]*[a-z][a-z_.-]*", re.IGNORECASE)
_OPENING = re.compile(
    r"""^[\s'"\ufeff\u200b-\u200d]*(?:(?:export|set|setx|let|local|declare|env|-e|-x|ENV|ARG)\s+)*
    (?:[-;*]\s+|//\s*|\$env:|env:|\$|set\s*["']?)?["']?(?=ibkr[\s_.:-]|\[\s*ibkr)""",
    re.IGNORECASE | re.VERBOSE,
)


class SettingsError(Exception):
    """One sentence: which variable, which value, where it stands, what is accepted."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value as it is written, and the line of the file on which it stands."""

    value: str
    line: int


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The settings of ours in one file. `warnings`: sentences for the log."""

    path: Path
    assignments: dict[str, Assignment]
    warnings: tuple[str, ...] = ()


def read_env_file(path: Path, known: Collection[str]) -> EnvFile:
    """The `IBKR_*` values of the file at `path`. Raises `SettingsError`."""
    found: dict[str, Assignment] = {}
    warnings = []
    for binding, line in _bindings(_text(path)):
        where = f"{path}, line {line}"
        name = binding.key or ""
        if binding.error or not name.startswith(OURS) or binding.value is None:
            if looks_like_ours(binding, known):
                raise SettingsError(f"{where}: {misread(binding, known)}")
            continue
        value = binding.value
        if re.search(r"[\r\n\t\v\f\b\a\u2028\u2029\x85]", value):
            raise SettingsError(
                f"{where}: the value of {name} has a control character in it. Close the quote on its own line, and put "
                "a path with backslashes in single quotes."
            )
        if not re.match(
            r"[^=]*=\s*['\"]", binding.original.string
        ):  # python-dotenv leaves a comment that is all there is
            value = without_comment(value)
        before = found.get(name)
        if before is not None and before.value != value:
            raise SettingsError(
                f"{where}: {name} is set here and, differently, on line {before.line}. Remove one of the two lines."
            )
        if before is not None:
            warnings.append(f"{where}: {name} is set to the same value on line {before.line} already.")
        found[name] = Assignment(value, line)
    return EnvFile(path, found, tuple(warnings))


def without_comment(value: str) -> str:
    """`7497   # Port number` is 7497. A `#` without white space before it belongs to the value."""
    return re.sub(r"(^|\s+)#.*$", "", value, flags=re.DOTALL).strip()


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that `name` is probably meant for."""
    folded = _folded(name)
    if folded in known:
        return folded
    return next(iter(difflib.get_close_matches(folded, known, 1, 0.75)), None)


def _folded(name: str) -> str:
    return re.sub(r"[\s.:_-]+", "_", name.strip(" \t:.").upper())


# --- what is no assignment of ours, and looks like one --------------------------------------------------------------


def looks_like_ours(binding: Binding, known: Collection[str]) -> bool:
    """Whether a line that sets nothing of ours was probably meant to."""
    text = binding.original.string.lstrip()
    if text.startswith("#") or not text:
        return False
    if _OPENING.match(text):
        return True
    name = binding.key or re.split(r"[=:\s]", text, maxsplit=1)[0]
    return bool(difflib.get_close_matches(name.upper(), known, 1, SIMILAR))


def misread(binding: Binding, known: Collection[str]) -> str:
    """What is wrong with the line, and what was meant if that can be guessed. Shows no secret, nor what may be one."""
    text = binding.original.string.strip().splitlines()[0]
    named = _NAME.search(text)
    rest = text[named.end() :] if named else text.partition("=")[2]
    written = named[0] if named else re.split(r"[=:\s]", text, maxsplit=1)[0]
    name = nearest(written, known)
    value = re.sub(r"^[\s:=>\"'\uff1d]+", "", without_comment(rest)).rstrip("\"' ;,")
    form = "a setting is NAME=value, in capital letters, on a line of its own"
    if text.count('"') % 2 or text.count("'") % 2:
        form = "a quote is opened and not closed on this line"
    if name is None:
        return f"the line looks like a setting and is not one; {form}."
    secret = _folded(written) != name or name.endswith(SECRETS)
    meant = f"{name}=…" if secret or not value else f"{name}={value}"
    return f"the line looks like a setting and is not read as one; {form}. Did you mean {meant}?"


# --- text and lines -------------------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_BYTES:
        raise SettingsError(f"The settings file {path} is larger than 1 MiB: that is no settings file.")
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise SettingsError(f"{path}, line {line}: this is not UTF-8 text. Save the file as UTF-8.") from None
    if "\0" in text:
        raise SettingsError(f"The settings file {path} has null bytes in it. Save it as UTF-8 text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _bindings(text: str) -> Iterator[tuple[Binding, int]]:
    """Each line that is not empty, and its number; a quoted value may extend over several."""
    for binding in parse_stream(io.StringIO(text)):
        raw = binding.original.string
        blank = raw[: len(raw) - len(raw.lstrip())].count("\n")
        yield binding, binding.original.line + blank
