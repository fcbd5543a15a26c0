"""The examples of the OpenAPI document, recorded from a running demonstration.

`python -m facade.routes.examples URL > facade/routes/examples.json`; each list is cut to its first rows.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from facade.http.routing import API
from facade.routes.openapi import openapi
from facade.routes.paths import ROUTES

ROWS = 2
"""Rows of a list that show its shape."""
TIMEOUT = 10.0  # s

APPLE = 265598
REQUESTS: dict[str, tuple[str, Any]] = {
    route.template: (route.template, None)
    for route in ROUTES
    if route.method == "GET" and not isinstance(route.answer, str) and route.handle is not openapi
    if "{session}" not in route.template
} | {
    f"{API}/connect": (f"{API}/connect", {}),
    f"{API}/reconnect": (f"{API}/reconnect", {}),
    f"{API}/quotes": (f"{API}/quotes?conIds={APPLE}", None),
    f"{API}/bars": (f"{API}/bars?conId={APPLE}&durationStr=2%20D&barSizeSetting=1%20day", None),
    f"{API}/contracts/search": (f"{API}/contracts/search?q=AAPL", None),
    f"{API}/contracts/{{conId}}": (f"{API}/contracts/{APPLE}", None),
    f"{API}/contracts/{{conId}}/options": (f"{API}/contracts/{APPLE}/options", None),
    f"{API}/contracts/qualify": (
        f"{API}/contracts/qualify",
        {"symbol": "AAPL", "secType": "STK", "exchange": "SMART", "currency": "USD"},
    ),
    f"{API}/disconnect": (f"{API}/disconnect", {}),  # last: the others need the session
}
"""By path template: what is requested, and the body of a POST."""


def recorded(url: str) -> dict[str, Any]:
    return {path: _cut(_fetch(url + target, body)) for path, (target, body) in REQUESTS.items()}


def _fetch(url: str, body: Any) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - the URL is the caller's
        return json.load(answer)


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        return [_cut(item) for item in value[:ROWS]]
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return value


if __name__ == "__main__":
    json.dump(recorded(sys.argv[1].rstrip("/")), sys.stdout, indent=1)
    print()  # noqa: T201
