"""The rules that every request must pass before its route's handler, in the contract's order, on every path.

Synchronous and precomputed; nothing here reads a body.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Iterable
from weakref import WeakSet

from aiohttp import HttpVersion11, web

from facade.http import peers
from shared.reasons import Problem

BODY_LIMIT = 16 * 1024
"""bytes; the largest body the API has a use for is a contract's description, under 1 KiB."""

OWN_SITES = ("same-origin", "none")
CONTINUE = "100-continue"

DOCUMENTS = ("/", "/ui/complete_platform.html")
"""What a link on a foreign page may open: a document for the person, never data for the page."""


class Guard:
    """The rules of one facade. `names` and `further`: `host:port` that `Host` may name, the latter also by TLS.

    `open_paths`: answered without a token. `token`: `None` where none is required; where one is, it identifies the
    client, and the user of the peer is not checked.
    """

    def __init__(
        self,
        names: Iterable[str],
        further: Iterable[str] = (),
        open_paths: Iterable[str] = (),
        *,
        token: bytes | None = None,
        peer_check: bool = True,
    ) -> None:
        self._hosts = frozenset(names).union(further)
        self._origins = frozenset(
            {f"http://{name}" for name in self._hosts} | {f"https://{name}" for name in further}  # a proxy speaks TLS
        )
        self._open = frozenset(open_paths)
        self._token = token
        self._peer_check = peer_check and token is None and peers.SUPPORTED
        self._admitted: WeakSet[asyncio.BaseTransport] = WeakSet()  # checked once a connection

    def admit(self, request: web.BaseRequest, path: str) -> None:
        """Raises `Problem` for a request that no route may answer. `path`: as it came, without its query."""
        headers = request.headers
        if request.version.major != 1:
            raise Problem("badRequest", "The facade speaks HTTP/1.1.")
        if path[:1] != "/":
            raise Problem("badRequest", "The request's target must be a path that starts with a slash.")
        if request.method == "CONNECT":  # its target is no path, so that no route has it
            raise Problem("badRequest", "The facade is no proxy: it has no CONNECT.")
        if "Transfer-Encoding" in headers and [c.lower() for c in headers.getall("Transfer-Encoding")] != ["chunked"]:
            raise Problem("badRequest", "The only Transfer-Encoding that is understood is chunked.")
        if self._peer_check and request.transport not in self._admitted:
            self._check_peer(request.transport)
        host = headers.get("Host", "")
        if host not in self._hosts and host.lower() not in self._hosts:
            raise Problem("hostRejected")
        if "Origin" in headers or "Sec-Fetch-Site" in headers:
            self._check_origin(request, path)
        if self._token is not None and path not in self._open:
            self._check_token(headers.getall("Authorization", ()), self._token)

    def _check_peer(self, transport: asyncio.Transport | None) -> None:
        if transport is None or not same_user(transport):
            raise Problem("peerRejected")
        self._admitted.add(transport)

    def _check_origin(self, request: web.BaseRequest, path: str) -> None:
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

    def _check_token(self, given: Iterable[str], token: bytes) -> None:
        credentials = list(given)
        if len(credentials) == 1:
            scheme, _, value = credentials[0].partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(
                value.strip().encode("utf-8", "surrogateescape"), token
            ):
                return
        raise Problem("tokenMissing")


def check_body_headers(request: web.BaseRequest) -> None:
    """Raises `Problem` 417, 415 or 413 for a body that must not be read."""
    headers = request.headers
    if "Expect" in headers and request.version >= HttpVersion11 and headers["Expect"].lower() != CONTINUE:
        raise Problem("expectationFailed")
    if request.method == "POST" and not _is_json(headers.getall("Content-Type", ())):
        raise Problem("unsupportedMediaType")
    if "Content-Encoding" in headers:
        raise Problem("unsupportedMediaType", "A compressed body is not accepted.")
    if (request.content_length or 0) > BODY_LIMIT:
        raise Problem("tooLarge", f"The body is larger than {BODY_LIMIT} bytes.")


def same_user(transport: asyncio.Transport) -> bool:
    """Whether the peer's process belongs to our user or to the system administrator."""
    peer, ours = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not peer or not ours:
        return False
    return peers.owner(peer[:2], ours[:2]) in (os.getuid(), 0)


def names(host: str, port: int) -> frozenset[str]:
    """What `Host` may name: the loopback names, and the address that is bound unless it is a wildcard."""
    hosts = {"127.0.0.1", "localhost", "[::1]"}
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - excluded, not bound
        hosts.add(f"[{host}]" if ":" in host else host.lower())
    return frozenset(spelled(f"{name}:{port}" for name in hosts))


def spelled(given: Iterable[str]) -> set[str]:
    """Names as browsers write them: in lower case, and without the port that their scheme has anyway."""
    lower = {name.lower() for name in given}
    return lower | {name.removesuffix(":80").removesuffix(":443") for name in lower}


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
