"""The page's files, read once into memory and answered with an entity tag.

A path that is not in memory does not exist, so there is nothing to climb out of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from facade.answer import Answer
from facade.reads import matches
from facade.table import Asked, Route

if TYPE_CHECKING:
    from facade.app import Facade

PAGE = Path(__file__).parent / "page"
DOCUMENT = "complete_platform.html"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
}
"""By suffix; a file of another kind is not served."""


class File:
    """One file's bytes and tag."""

    __slots__ = ("body", "content_type", "tag")

    def __init__(self, body: bytes, content_type: str) -> None:
        self.body = body
        self.content_type = content_type
        self.tag = f'"{hashlib.sha256(body).hexdigest()[:20]}"'.encode("ascii")

    def answer(self, _facade: Facade, asked: Asked) -> Answer:
        more = b"ETag: " + self.tag + b"\r\n"
        if matches(asked.request.headers.getall("If-None-Match", ()), self.tag):
            return Answer(304, b"", "", more, caching="no-cache")
        return Answer(200, self.body, self.content_type, more, caching="no-cache")


def page_routes(directory: Path = PAGE) -> Iterator[Route]:
    """`/ui/NAME` for every file below `directory`; `/` for the document."""
    for path in sorted(directory.rglob("*")):
        content_type = TYPES.get(path.suffix)
        if content_type is None or not path.is_file():
            continue
        file = File(path.read_bytes(), content_type)
        name = path.relative_to(directory).as_posix()
        for template in (f"/ui/{name}", *(["/"] if name == DOCUMENT else [])):
            yield Route(
                method="GET",
                template=template,
                handle=file.answer,
                summary="A file of the page",
                answer=content_type,
                statuses=(200, 304),
                open=True,
                hidden=True,
                label="/ui/{file}",
            )
