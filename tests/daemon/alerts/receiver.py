"""A webhook's receiver on loopback, with a status that a test sets; checks signatures after Standard Webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web


class Receiver:
    """`status`: what it answers; 0: it never does. `received`: (webhook-id, headers, body) of each request."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.url = ""
        self._released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append((headers.get("webhook-id", ""), headers, await request.read()))
        if self.status == 0:
            await self._released.wait()
        return web.Response(status=self.status or 200, headers={"location": "/elsewhere"})

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(body) for _, _, body in self.received]

    def kinds(self) -> list[str]:
        return [alert["type"].rpartition(".")[2] for alert in self.alerts]


@asynccontextmanager
async def receiving(status: int = 200, port: int = 0) -> AsyncIterator[Receiver]:
    receiver = Receiver(status)
    app = web.Application()
    app.router.add_route("*", "/hook/secret-path", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/secret-path"
    try:
        yield receiver
    finally:
        receiver._released.set()
        await runner.cleanup()


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """As the specification words it, and not as our own code does it."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in headers["webhook-signature"].split(" ")
