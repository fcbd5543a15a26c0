"""Text for a console that cannot print every character: ASCII words in place of ✓ and ✗, never an exception."""

from __future__ import annotations

import codecs
import sys

TYPE_CHECKING = False  # imported by `ibkr status`, which loads no typing
if TYPE_CHECKING:
    from typing import TextIO

WORDS = {
    "✓": "[ok]",
    "✗": "[failed]",
    "🔌": "",
    "…": "...",
    "→": "->",
    "–": "-",
    "—": "-",
    "×": "x",
    "“": '"',
    "”": '"',
    "’": "'",
}
_FRAMES = str.maketrans("─━│┃╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛┡┩╇╞╡╪╶╴•", "--||+++++++++++++++++++++++--*")
_WORDS = str.maketrans(WORDS)


def ascii_words(text: str) -> str:
    """`text` with words or ASCII characters in place of those that have one; the others as escapes."""
    return text.translate(_WORDS).translate(_FRAMES).encode("ascii", "backslashreplace").decode("ascii")


def _replacement(error: UnicodeError) -> tuple[str, int]:
    """What a stream writes in place of the characters that its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_words(error.object[error.start : error.end]), error.end


codecs.register_error("ascii_words", _replacement)


def make_printable(*streams: TextIO | None) -> None:
    """Let these streams (None: a process without a console) write any text."""
    for stream in streams or (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="ascii_words")
