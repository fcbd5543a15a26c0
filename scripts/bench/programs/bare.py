"""The thing to compare with: a bare aiohttp handler that answers a constant of 60 bytes, on the same event loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from aiohttp import web

BODY = b'{"connected": true, "available": true, "padding": "0123456"}'
assert len(BODY) == 60


async def answer(_request: web.Request) -> web.Response:
    return web.Response(body=BODY, content_type="application/json")


async def main(port: int) -> None:
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
