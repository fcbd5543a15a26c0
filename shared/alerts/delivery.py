"""One attempt to deliver one alert to one sink, with a deadline. Raises nothing; never shows a URL."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import datetime
from typing import Any, NamedTuple

from shared.alerts.messages import as_text
from shared.alerts.signing import signature
from shared.alerts.sinks import Sink

TIMEOUT = 10.0
"""s for the receiver's answer, the connection included."""
GONE = 410


class Outcome(NamedTuple):
    """`status`: of HTTP, `None` where there was no response. `detail`: what went wrong, fit to be shown."""

    delivered: bool
    status: int | None = None
    detail: str = ""

    @property
    def gone(self) -> bool:
        """The receiver refuses all further alerts."""
        return self.status == GONE


class Sender:
    """`secret`: signs webhooks."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._threads: dict[str, threading.Thread] = {}

    async def send(self, sink: Sink, message_id: str, body: bytes, now: datetime) -> Outcome:
        """Deliver `body` to `sink`. `now`: the time of this attempt, which is signed too."""
        try:
            async with asyncio.timeout(TIMEOUT):
                if sink.kind == "webhook":
                    return await self._post(sink.url, message_id, body, int(now.timestamp()))
                return await self._notify(sink, body)
        except TimeoutError:
            return Outcome(False, None, f"no answer within {TIMEOUT:g} s")
        except Exception as error:  # of a library: named by its kind, since its text may hold the URL
            return Outcome(False, None, described(error))

    async def ping(self, sink: Sink) -> Outcome:
        """One GET of a URL, for a heartbeat."""
        import aiohttp

        try:
            async with (
                asyncio.timeout(TIMEOUT),
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
                client.get(sink.url, allow_redirects=False) as response,
            ):
                return _answered(response.status)
        except TimeoutError:
            return Outcome(False, None, f"no answer within {TIMEOUT:g} s")
        except Exception as error:
            return Outcome(False, None, described(error))

    async def _post(self, url: str, message_id: str, body: bytes, timestamp: int) -> Outcome:
        import aiohttp  # only for those who have a webhook

        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, message_id, timestamp, body),
        }
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            client.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            return _answered(response.status)

    async def _notify(self, sink: Sink, body: bytes) -> Outcome:
        """Apprise blocks, so it runs in a thread of its own, one for each sink; one that hangs is waited out."""
        running = self._threads.get(sink.key)
        if running is not None and running.is_alive():
            return Outcome(False, None, "the attempt before has not ended yet")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def work() -> None:
            try:
                sent, error = notify(sink.url, *as_text(body)), None
            except Exception as failure:
                sent, error = False, failure
            try:
                loop.call_soon_threadsafe(_settle, answer, sent, error)
            except RuntimeError:
                pass  # the loop has ended

        thread = self._threads[sink.key] = threading.Thread(target=work, name=f"alert {sink.key}", daemon=True)
        thread.start()
        sent = await answer
        return Outcome(sent, None, "" if sent else "Apprise could not deliver it")


def _answered(status: int) -> Outcome:
    delivered = 200 <= status < 300
    return Outcome(delivered, status, "" if delivered else f"HTTP status {status}")


def notify(url: str, title: str, text: str) -> bool:
    """Send by Apprise. Blocks."""
    service = _apprise()
    return bool(service.add(url) and service.notify(title=title, body=text))


def unusable(sink: Sink) -> str | None:
    """Why nothing can be sent to `sink`, `None` where that is not known beforehand. Slow: imports Apprise."""
    if sink.kind == "webhook":
        return None
    return None if _apprise().add(sink.url) else f"{sink.label} is no URL that Apprise reads."


def _apprise() -> Any:
    import apprise

    for name in ("apprise", "urllib3"):  # their lines hold URLs: topics, and at DEBUG tokens
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return apprise.Apprise()


def described(error: BaseException) -> str:
    """The kind of an error, and the system's words for it where it has a number."""
    words = getattr(getattr(error, "os_error", error), "strerror", None)  # of aiohttp's errors, or of the system's
    return f"{type(error).__name__}: {words}" if isinstance(words, str) and "://" not in words else type(error).__name__


def _settle(answer: asyncio.Future[Any], sent: bool, error: Exception | None) -> None:
    if not answer.done():
        answer.set_result(sent) if error is None else answer.set_exception(error)
