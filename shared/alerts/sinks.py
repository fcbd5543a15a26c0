"""Where alerts go: the URLs of `IBKR_ALERTS`. An URL is a secret; only its label may be shown."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

KINDS = ("down", "action", "recovered", "gap", "fill", "daemon")
"""What `IBKR_ALERTS_ON` chooses from."""
WEBHOOKS = ("http://", "https://")
MOST_SINKS = 16
"""Each has a queue of its own, and a task."""


@dataclass(frozen=True, slots=True)
class Sink:
    """One receiver of alerts. `label`: what may be shown of it. `key`: names it in the ledger."""

    label: str
    kind: Literal["webhook", "apprise"]
    url: str = field(repr=False)

    @property
    def key(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]


def read_sinks(text: str) -> tuple[Sink, ...]:
    """The receivers in a comma list. Raises `ValueError` with a sentence that does not show the URL."""
    found: list[Sink] = []
    for number, url in enumerate(_urls(text), 1):
        sink = _sink(url, number)
        if any(sink.label == other.label for other in found):
            sink = replace(sink, label=f"{sink.label} (number {number})")
        if all(sink.url != other.url for other in found):
            found.append(sink)
    if len(found) > MOST_SINKS:
        raise ValueError(f"At most {MOST_SINKS} receivers.")
    return tuple(found)


def read_url(text: str) -> Sink:
    """The receiver of heartbeats: one URL. Raises `ValueError` with a sentence that does not show it."""
    if "," in text:
        raise ValueError("It is one URL, not a list; write a comma inside a URL as %2C.")
    return Sink(_label(text, "It"), "webhook", text)


def _label(url: str, subject: str) -> str:
    """What may be shown of a URL for plain HTTP requests. Raises `ValueError` for one that may not be used."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{subject} is no URL.") from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise ValueError(f"{subject} is no URL.")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"{subject} is http:// to another machine: use https://.")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port else "")


def _urls(text: str) -> list[str]:
    """Split at commas, but for those inside a URL of Apprise, which may list several targets; in others write %2C."""
    urls: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if urls and part and "://" not in part and not urls[-1].lower().startswith(WEBHOOKS):
            urls[-1] += f",{part}"
        elif part:
            urls.append(part)
    return urls


def _sink(url: str, number: int) -> Sink:
    scheme, separator, rest = url.partition("://")
    if not separator or not rest or not scheme.replace("+", "").replace("-", "").isalnum():
        raise ValueError(f"Number {number} is no URL.")
    if url.lower().startswith(WEBHOOKS):
        return Sink(_label(url, f"Number {number}"), "webhook", url)
    if find_spec("apprise") is None:
        raise ValueError(f"Number {number} ({scheme}://) needs Apprise: pip install '.[alerts]'")
    return Sink(f"{scheme}://… (number {number})", "apprise", url)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
