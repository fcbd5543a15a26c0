"""Who may ask what: every rule that stands before a request's handler, in the contract's order, for every path.

Precomputed and synchronous; costs three look-ups where nothing is wrong. Never reads a body, never answers.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from facade.http import peers
from facade.http.table import Route, Table
from shared.reasons import Problem

if TYPE_CHECKING:
    import asyncio

    from aiohttp.web_request import BaseRequest

BODY_LIMIT = 16 * 1024
"""bytes; the largest body the API has a use for is a contract's description, under 1 KiB."""

OWN_SITES = ("same-origin", "none")
DOCUMENTS = ("/", "/ui/complete_platform.html")
"""What a link on a foreign page may open: a document for the person, never data for the page."""


class Guard:
    """The rules of one facade. `names` and `further`: `host:port` as `Host` may say, the latter those of a proxy too.

    `token`: `None` where none is wanted.
    """

    def __init__(
        self,
        table: Table,
        names: Iterable[str],
        further: Iterable[str] = (),
        *,
        token: bytes | None = None,
        peer_check: bool = True,
    ) -> None:
        self._table = table
        self._hosts = frozenset(names).union(further)
        self._origins = frozenset(
            {f"http://{name}" for name in self._hosts} | {f"https://{name}" for name in further}  # a proxy speaks TLS
        )
        self._token = token
        self._peer_check = peer_check and peers.CAN_TELL

    def admit(self, request: BaseRequest, path: str) -> tuple[Route, Mapping[str, str]]:
        """The route of an acceptable request and its path's parameters. Raises `Problem`."""
        headers = request.headers
        if path[:1] != "/":
            raise Problem("badRequest", "The request's target must be a path that starts with a slash.")
        if "Transfer-Encoding" in headers and [c.lower() for c in headers.getall("Transfer-Encoding")] != ["chunked"]:
            raise Problem("badRequest", "The only Transfer-Encoding that is understood is chunked.")
        if self._peer_check and not request.protocol.admitted:  # type: ignore[attr-defined]  # a Connection
            raise Problem("peerRejected")
        host = headers.get("Host", "")
        if host not in self._hosts and host.lower() not in self._hosts:
            raise Problem("hostRejected")
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            self._own_origin(request, path)
        if self._token is not None:
            self._knows_token(request, path)
        found = self._table.find(path)
        if found is None:
            raise Problem("notFound", "There is no such path here.")
        methods, args = found
        method = request.method
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            raise Problem("methodNotAllowed", extra={"allow": allowed(methods)})
        if method == "POST" and not _is_json(headers.getall("Content-Type", ())):
            raise Problem("unsupportedMediaType")
        if "Content-Encoding" in headers:
            raise Problem("unsupportedMediaType", "A compressed body is not accepted.")
        if int(headers.get("Content-Length", 0)) > BODY_LIMIT:
            raise Problem("tooLarge", f"The body is larger than {BODY_LIMIT} bytes.")
        return route, args

    def _own_origin(self, request: BaseRequest, path: str) -> None:
        headers = request.headers
        for origin in headers.getall("Origin", ()):
            if origin.lower() not in self._origins:
                raise Problem("originRejected")
        if all(site in OWN_SITES for site in headers.getall("Sec-Fetch-Site", ())):
            return
        opened = (
            request.method == "GET"
            and path in DOCUMENTS
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
        )
        if not opened:
            raise Problem("originRejected")

    def _knows_token(self, request: BaseRequest, path: str) -> None:
        if path in ("/", "/livez") or path.startswith("/ui/"):
            return
        given = request.headers.getall("Authorization", ())
        if len(given) == 1:
            scheme, _, token = given[0].partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(
                token.strip().encode("utf-8", "surrogateescape"), self._token or b""
            ):
                return
        raise Problem("tokenMissing")


def same_user(transport: asyncio.Transport) -> bool:
    """Whether the process at the other end is ours or the system administrator's."""
    peer, ours = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not peer or not ours:
        return False
    return peers.owner(peer[:2], ours[:2]) in (os.getuid(), 0)


def names(host: str, port: int) -> frozenset[str]:
    """What `Host` may say: the loopback names, and the address that is bound unless it is a wildcard."""
    hosts = {"127.0.0.1", "localhost", "[::1]"}
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - excluded, not bound
        hosts.add(f"[{host}]" if ":" in host else host.lower())
    return frozenset(spelled(f"{name}:{port}" for name in hosts))


def spelled(given: Iterable[str]) -> set[str]:
    """Names as browsers write them: in lower case, and without the port that their scheme has anyway."""
    lower = {name.lower() for name in given}
    return lower | {name.removesuffix(":80").removesuffix(":443") for name in lower}


def allowed(methods: Iterable[str]) -> str:
    """The value of `Allow`."""
    return ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))


def _is_json(types: Iterable[str]) -> bool:
    """Exactly one content type, JSON, in UTF-8 if it names a charset."""
    given = list(types)
    if len(given) != 1:
        return False
    kind, *parameters = (part.strip().lower() for part in given[0].split(";"))
    charsets = [
        value.strip('" ') for name, _, value in (part.partition("=") for part in parameters) if name == "charset"
    ]
    return kind == "application/json" and all(charset in ("utf-8", "utf8") for charset in charsets)
