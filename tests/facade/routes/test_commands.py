"""What changes something: decided before anything is dialled, answered when the effect can be read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shared.jsonrpc.codec import APPLICATION_ERROR, RpcError
from shared.messages import Proof
from tests.facade.conftest import Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

API = "/api/ibkr"
JSON = {"Content-Type": "application/json"}


async def test_connect_answers_when_the_session_can_be_read(served: Served) -> None:
    daemon = served.daemon
    daemon.link(phase="held", reason="manual", connected=False)

    async def connect(_params: Mapping[str, Any]) -> Any:
        daemon.link()
        return {}

    daemon.replies["link.connect"] = connect
    status, body, _ = await served.post(f"{API}/connect", {"clientId": 7, "timeout": 2.5})
    assert (status, body) == (200, {"connected": True, "available": True})
    assert daemon.requests == [("link.connect", {"clientId": 7, "timeout": 2.5})]
    assert (await served.get(f"{API}/positions"))[0] == 200


@pytest.mark.parametrize("fails", [False, True])
async def test_a_response_waits_for_its_effect_however_late_the_delta_is(served: Served, fails: bool) -> None:
    """Also a refusal: what failed may have left the link in another state, which the next read must show."""
    daemon = served.daemon
    daemon.link(phase="held", reason="manual", connected=False)
    await until(lambda: not served.state.connected)
    (speaker,) = daemon.service.connections
    write, news = speaker.write, list[bytes]()
    speaker.write = lambda line: (news.append if b'"delta"' in line else write)(line)  # type: ignore[method-assign]

    async def connect(_params: Mapping[str, Any]) -> Any:
        if fails:
            daemon.link(phase="waiting", reason="portClosed", connected=False)
            raise RpcError(APPLICATION_ERROR, "portClosed", {"reason": "portClosed"})
        daemon.link()
        return {}

    daemon.replies["link.connect"] = connect
    posted = asyncio.create_task(served.post(f"{API}/connect"), name="post")
    await until(lambda: news)
    for _ in range(20):  # the daemon's answer has long been read
        await served.get(f"{API}/status")
    assert not posted.done()

    write(b"".join(news))
    status, _, _ = await posted
    assert status == (503 if fails else 200)
    assert (await served.get(f"{API}/link"))[1]["phase"] == ("waiting" if fails else "ready")


async def test_a_session_without_a_proof_is_no_success(served: Served) -> None:
    served.daemon.link(proof=Proof(ageMs=60_000))
    await until(lambda: not served.state.connected)
    status, body, _ = await served.post(f"{API}/connect")
    assert (status, body["reason"]) == (503, "notConnected")
    status, body, _ = await served.post(f"{API}/connect?wait=false")
    assert (status, body) == (202, {"connected": False, "available": True})


async def test_an_empty_body_is_an_empty_object(served: Served) -> None:
    status, _, _ = await served.request("POST", f"{API}/connect", data=b"", headers=JSON)
    assert status == 200
    assert served.daemon.requests == [("link.connect", {})]


async def test_connect_without_waiting_is_accepted(served: Served) -> None:
    status, body, _ = await served.post(f"{API}/connect?wait=false")
    assert (status, set(body)) == (202, {"connected", "available"})
    assert served.daemon.requests == [("link.connect", {"wait": False})]


async def test_disconnect_and_reconnect(served: Served) -> None:
    daemon = served.daemon

    async def disconnect(_params: Mapping[str, Any]) -> Any:
        daemon.link(phase="held", reason="manual", connected=False)
        return {}

    daemon.replies["link.disconnect"] = disconnect
    status, body, _ = await served.post(f"{API}/disconnect")
    assert (status, body) == (200, {"connected": False, "available": True})
    status, body, _ = await served.post(f"{API}/reconnect")
    assert (status, body) == (202, {"connected": False, "available": True})


@pytest.mark.parametrize(
    ("reason", "status"),
    [("portClosed", 503), ("dialTimeout", 504), ("notTws", 502), ("clientIdInUse", 409), ("connectInProgress", 409)],
)
async def test_a_failed_connect_is_the_daemons_problem(served: Served, reason: str, status: int) -> None:
    served.daemon.refuse(
        "link.connect", reason, detail="No listener.", advice=["Start it."], ibCode=326, phase="waiting", port=1
    )
    got, body, _ = await served.post(f"{API}/connect")
    assert got == status
    assert (body["reason"], body["detail"], body["advice"], body["ibCode"]) == (
        reason,
        "No listener.",
        ["Start it."],
        326,
    )
    assert body["type"].endswith(f"#{reason}")


async def test_a_failed_connect_is_answered_when_its_effect_can_be_read(served: Served) -> None:
    daemon = served.daemon

    async def fail(_params: Mapping[str, Any]) -> Any:
        daemon.link(phase="connecting", connected=False)
        await until(lambda: served.state.link is not None and served.state.link.phase == "connecting")
        daemon.link(phase="held", reason="manual", connected=False)
        raise RpcError(APPLICATION_ERROR, "portClosed", {"reason": "portClosed"})

    daemon.replies["link.connect"] = fail
    status, body, _ = await served.post(f"{API}/connect", {"port": 4002})
    assert (status, body["reason"], body["phase"]) == (503, "portClosed", "held")
    assert "seq" not in body


async def test_the_daemon_decides_what_may_be_dialled(served: Served) -> None:
    served.daemon.refuse("link.connect", "hostNotAllowed")
    assert (await served.post(f"{API}/connect", {"host": "evil.example"}))[1]["reason"] == "hostNotAllowed"


@pytest.mark.parametrize("path", ["disconnect", "reconnect"])
async def test_disconnect_and_reconnect_take_no_parameters(served: Served, path: str) -> None:
    assert (await served.post(f"{API}/{path}", {"force": True}))[0] == 422
    assert (await served.post(f"{API}/{path}?force=true"))[0] == 422
    assert served.daemon.requests == []


async def test_commands_without_a_daemon_are_refused(tmp_path: Path, socket_path: str) -> None:
    async with running(tmp_path, FakeDaemon(socket_path)) as served:
        for path in ("connect", "disconnect", "reconnect"):
            status, body, headers = await served.post(f"{API}/{path}")
            assert (status, body["reason"], headers["Retry-After"]) == (503, "daemonUnreachable", "1")


async def test_a_daemon_that_ends_during_a_command_is_reported(served: Served) -> None:
    waiting = asyncio.Event()

    async def never(_params: Mapping[str, Any]) -> Any:
        waiting.set()
        await asyncio.Event().wait()

    served.daemon.replies["link.connect"] = never
    connecting = asyncio.create_task(served.post(f"{API}/connect"), name="connecting")
    await waiting.wait()
    await served.daemon.stop()
    status, body, _ = await connecting
    assert (status, body["reason"]) == (503, "daemonUnreachable")
