"""The page's files, each read once when it is first requested, and sent with an entity tag.

A path that is not in the table does not exist, so there is no directory to escape from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from aiohttp import web

from facade.app import Session
from facade.http.responses import HTML, matches, not_modified, reply
from facade.http.routing import RequestContext, Route

PAGE = Path(__file__).parent.parent / "page"
DOCUMENT = "complete_platform.html"

TYPES = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",  # LICENSE, NOTICE
}
"""By suffix; a file of another kind is not served."""


class File:
    """One file: its bytes and their tag, from its first request on."""

    def __init__(self, path: Path, content_type: str) -> None:
        self.content_type = content_type
        self._path = path

    @cached_property
    def body(self) -> bytes:
        return self._path.read_bytes()

    @cached_property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:20]}"'

    async def send(self, _session: Session, context: RequestContext) -> web.StreamResponse:
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if matches(context.request.headers.getall("If-None-Match", ()), self.tag):
            return not_modified(headers)
        return reply(self.body, self.content_type, headers=headers)


docs = File(PAGE / "docs.html", HTML).send
"""The page to try the API."""


def page_routes(directory: Path = PAGE) -> Iterator[Route]:
    """`/ui/NAME` for every file below `directory`; `/` for the document."""
    for path in sorted(directory.rglob("*")):
        content_type = TYPES.get(path.suffix)
        if content_type is None or not path.is_file():
            continue
        file = File(path, content_type)
        name = path.relative_to(directory).as_posix()
        for template in (f"/ui/{name}", *(["/"] if name == DOCUMENT else [])):
            yield Route(
                template=template,
                handle=file.send,
                summary="A file of the page",
                answer=content_type,
                statuses=(200, 304),
                open=True,
                hidden=True,
                label="/ui/{file}",
            )
