"""One attempt to deliver an alert, against a real receiver on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from functools import partial

import pytest
from msgspec.structs import replace

from shared import log
from shared.alerts.delivery import Sender
from shared.alerts.messages import AlertData, as_text, body
from shared.alerts.sinks import Sink, read_sinks
from tests.daemon.alerts.receiver import receiving, verified
from tests.ports import free_port

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DATA = AlertData(
    incident="i1", state="firing", session="default", sentence="Down at DU1234567.", since=NOON, account="DU1234567"
)
BODY = body("down", NOON, DATA)


@pytest.fixture
def sender() -> Sender:
    import base64

    return Sender(base64.b64decode(SECRET.removeprefix("whsec_")))


def sink(url: str) -> Sink:
    return read_sinks(url)[0]


async def test_a_webhook_is_signed_and_masked(sender: Sender) -> None:
    async with receiving() as receiver:
        outcome = await sender.send(sink(receiver.url), "msg_1", BODY, NOON)

    assert (outcome.delivered, outcome.status, outcome.gone) == (True, 200, False)
    ((message, headers, received),) = receiver.received
    assert (message, headers["content-type"]) == ("msg_1", "application/json")
    assert verified(headers, received, SECRET)
    assert not verified(headers, received + b" ", SECRET)
    (alert,) = receiver.alerts
    assert (alert["type"], alert["timestamp"]) == ("ibkr.link.down", "2026-01-05T12:00:00Z")
    assert (alert["data"]["account"], alert["data"]["sentence"]) == ("DU…67", "Down at DU…67.")
    assert set(alert["data"]) == {
        *("incident", "state", "session", "phase", "reason", "sentence", "advice", "since", "durationS"),
        *("account", "details"),
    }


def test_an_account_that_is_named_as_a_member_is_does_not_break_the_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever account was requested is masked in what people read, and the body stays one."""
    monkeypatch.setattr(log, "_other_ids", {})
    monkeypatch.setattr(log, "_other_id", [])
    log.protect(["data", "firing", "details"])
    details = {"text": ["the data"], "at": NOON, "fillCount": 1}
    sent = body("down", NOON, replace(DATA, sentence="No account data.", details=details))

    alert = json.loads(sent)["data"]
    assert as_text(sent)[0] == "IBKR default: down (firing)"
    assert alert["sentence"] == "No account da…."
    assert alert["details"] == {"text": ["the da…"], "at": "2026-01-05T12:00:00Z", "fillCount": 1}


@pytest.mark.parametrize("status", [199, 301, 307, 400, 410, 500])
async def test_all_but_2xx_is_a_failure_and_no_redirect_is_followed(sender: Sender, status: int) -> None:
    async with receiving(max(status, 300)) as receiver:
        outcome = await sender.send(sink(receiver.url), "msg_1", BODY, NOON)

    assert (outcome.delivered, outcome.gone) == (False, status == 410)
    assert outcome.detail == f"HTTP status {max(status, 300)}"
    assert len(receiver.received) == 1


async def test_a_receiver_that_hangs_is_given_up(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.alerts.delivery.TIMEOUT", 0.2)
    async with receiving(0) as receiver:
        outcome = await sender.send(sink(receiver.url), "msg_1", BODY, NOON)

    assert (outcome.delivered, outcome.status) == (False, None)
    assert "no answer" in outcome.detail


async def test_a_receiver_that_is_not_there_is_named_without_its_path(sender: Sender) -> None:
    outcome = await sender.send(sink(f"http://127.0.0.1:{free_port()}/secret-path"), "msg_1", BODY, NOON)

    assert not outcome.delivered
    assert outcome.detail
    assert "secret" not in outcome.detail


@pytest.mark.filterwarnings("ignore")  # of its own modules
async def test_apprise_delivers_where_it_is_installed(sender: Sender) -> None:
    pytest.importorskip("apprise")
    async with receiving() as receiver:
        receiver_url = receiver.url.replace("http://", "json://")
        outcome = await sender.send(sink(receiver_url), "msg_1", BODY, NOON)

    assert outcome.delivered
    assert receiver.alerts[0]["message"].startswith("Down at DU…67.")


@pytest.mark.filterwarnings("ignore")  # of its own modules
async def test_no_line_of_a_library_shows_a_url(sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    caplog.set_level(logging.DEBUG)
    async with receiving() as receiver:
        delivered = await sender.send(sink(receiver.url.replace("http://", "json://")), "msg_1", BODY, NOON)
    failed = await sender.send(sink(f"ntfy://127.0.0.1:{free_port()}/secret-path"), "msg_1", BODY, NOON)

    assert (delivered.delivered, failed.delivered) == (True, False)
    lines = [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]  # the receiver's
    assert "secret" not in "\n".join(lines)


@pytest.mark.filterwarnings("ignore")  # of its own modules
async def test_apprise_delivers_mail(sender: Sender) -> None:
    """To a mail server on loopback: one message, the title as its subject."""
    pytest.importorskip("apprise")
    received: list[str] = []
    async with await asyncio.start_server(partial(serve_mail, received), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"mailto://127.0.0.1:{port}?from=ibkr@example.org&to=me@example.org"
        outcome = await sender.send(sink(url), "msg_1", BODY, NOON)

    assert outcome.delivered
    (mail,) = received
    assert "Subject: IBKR default: down (firing)" in mail
    assert "Down at DU" in mail
    assert "DU1234567" not in mail


async def serve_mail(received: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of SMTP as a client needs."""
    writer.write(b"220 mail.example.org ESMTP\r\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        writer.write(b"354 go on\r\n" if verb == b"DATA" else b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
        if verb == b"DATA":
            received.append((await reader.readuntil(b"\r\n.\r\n")).decode())
            writer.write(b"250 ok\r\n")
        elif verb == b"QUIT":
            break
    writer.close()
