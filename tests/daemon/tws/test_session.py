from __future__ import annotations

import asyncio
import errno
import socket
import sys

import pytest

from daemon.link.events import (
    AttemptOverdue,
    Dialled,
    Failed,
    FarmChanged,
    Greeted,
    Lost,
    MessageReceived,
    Opened,
    RateExceeded,
    UpstreamLost,
)
from daemon.tws import LinkLost
from tests.clock import LoopTime
from tests.daemon.tws.scripted import Peer, ScriptedGateway
from tests.daemon.tws.sessions import Script, Session, attempting, session
from tests.waiting import until

REQ_IDS, REQ_MANAGED_ACCOUNTS = 8, 17


async def attempt(script: Script, timeout: float = 60.0) -> Session:
    """An attempt that ended, with its events."""
    async with session(script, timeout) as made:
        return made


async def test_a_session_opens_with_account_list_and_next_id():
    async def gateway(peer: Peer) -> None:
        await peer.shake("DU1234567,DU7654321")
        await peer.finish()

    made = await attempt(gateway)

    assert made.events == [
        Dialled(session=3, peer="127.0.0.1"),
        Greeted(session=3, serverVersion=176),
        Opened(session=3, serverVersion=176, accounts=("DU1234567", "DU7654321")),
    ]


async def test_a_closed_port_keeps_pythons_own_words():
    """`portClosed`, and on Linux `[Errno 111] Connect call failed ('127.0.0.1', PORT)`; Windows has other words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        made = Session(port)
        await made.tws.open()

    assert made.failed.reason == "portClosed"
    assert made.failed.code in (errno.ECONNREFUSED, 1225)
    if sys.platform != "win32":
        assert made.failed.text == f"[Errno {errno.ECONNREFUSED}] Connect call failed ('127.0.0.1', {port})"
    assert len(made.events) == 1


async def test_a_name_that_does_not_resolve_is_an_unreachable_host():
    made = Session(7000, host="no-such-host.invalid")
    await made.tws.open()

    assert made.failed.reason == "hostUnreachable"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b"SSH-2.0-OpenSSH\r\n",
        b"\0\0\0\x06GATE\0\0",
    ],
    ids=["http", "tls", "ssh", "no number"],
)
async def test_another_protocol_is_reported_at_once(answer: bytes):
    """`notTws` does not wait for the deadline, whatever the first four bytes read as a length promise."""

    async def gateway(peer: Peer) -> None:
        await peer.hello()
        peer.raw(answer)
        await peer.finish()

    made = await attempt(gateway, timeout=60)

    assert made.failed.reason == "notTws"
    assert not made.of(Greeted)


@pytest.mark.parametrize("version", [100, 156, 190])
async def test_an_unsupported_version_is_reported_at_once(version: int):
    async def gateway(peer: Peer) -> None:
        await peer.greet(version)
        await peer.finish()

    made = await attempt(gateway, timeout=60)

    assert made.failed.reason == "versionUnsupported"
    assert str(version) in made.failed.text


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["at once", "after the hello", "after the version", "after the accounts"])
async def test_an_end_before_the_session_is_reported_at_once(when: str, how: str):
    async def gateway(peer: Peer) -> None:
        if when != "at once":
            await peer.hello()
        if when in ("after the version", "after the accounts"):
            peer.send(176, "20261125 10:00:00 UTC")
            await peer.until(71)
        if when == "after the accounts":
            peer.send(15, 1, "DU1234567")
            await peer.writer.drain()
        if how == "reset":
            peer.reset()

    made = await attempt(gateway, timeout=60)

    assert made.failed.reason == "closedDuringHandshake"


@pytest.mark.parametrize(
    ("sent", "missing"),
    [
        ([(9, 1, 1)], "no account list came"),
        ([(9, 1, 1), (15, 1, "")], "the account list was empty"),
        ([(9, 1, 1), (15, 1)], "the account list came, but could not be read"),
        ([(15, 1, "DU1234567")], "no next valid id came"),
        ([], "no account list came and no next valid id came"),
    ],
)
async def test_half_a_session_reports_which_half_is_missing(sent: list[tuple[object, ...]], missing: str):
    async def gateway(peer: Peer) -> None:
        await peer.greet()
        for fields in sent:
            peer.send(*fields)
        await peer.finish()

    async with ScriptedGateway(gateway) as scripted, attempting(scripted.port, timeout=0.5) as made:
        overdue = await made.overdue()

    assert overdue.reason == "sessionIncomplete"
    assert missing in overdue.text


async def test_an_overdue_attempt_stays_open_and_reports_once_more_when_only_a_version_came():
    version, rest = asyncio.Event(), asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.hello()
        await version.wait()
        peer.send(176, "20261125 10:00:00 UTC")
        await peer.until(REQ_MANAGED_ACCOUNTS)
        await peer.until(REQ_IDS)
        rest.set()
        peer.send(15, 1, "DU1234567")
        peer.send(9, 1, 1)
        await peer.finish()

    async with ScriptedGateway(gateway) as scripted, attempting(scripted.port, timeout=0.2) as made:
        assert (await made.overdue()).reason == "handshakeTimeout"
        version.set()
        await until(lambda: len(made.of(AttemptOverdue)) == 2)
        assert (await made.overdue()).reason == "sessionIncomplete"
        await until(rest.is_set)
        await until(lambda: made.of(Opened))

    assert made.of(Failed) == []


async def test_a_dial_has_the_targets_timeout(full: socket.socket, monkeypatch: pytest.MonkeyPatch):
    time = LoopTime(monkeypatch)
    async with attempting(full.getsockname()[1], timeout=600) as made:
        await time.pass_(0)
        await time.pass_(590)
        assert made.of(Failed) == []
        await time.pass_(20)
        await until(lambda: made.of(Failed))

    assert made.failed.reason == "dialTimeout"


@pytest.mark.parametrize("late", [False, True])
async def test_each_part_of_a_handshake_has_the_targets_timeout(late: bool, monkeypatch: pytest.MonkeyPatch):
    """Until the first report, and from there or from a version that comes late until the second."""
    version = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.hello()
        await version.wait()
        peer.send(176, "20261125 10:00:00 UTC")
        await peer.finish()

    time = LoopTime(monkeypatch)
    async with ScriptedGateway(gateway) as scripted, attempting(scripted.port, timeout=600) as made:
        await until(lambda: made.of(Dialled))
        for reports in (1, 2):
            if reports == 2 or not late:
                version.set()
                await until(lambda: made.of(Greeted))
            await time.pass_(590)
            assert len(made.of(AttemptOverdue)) == reports - 1
            await time.pass_(20)
            await until(lambda reports=reports: len(made.of(AttemptOverdue)) == reports)


async def test_cancelling_an_attempt_ends_it_without_a_word():
    gone = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.hello()
        try:
            await peer.finish()
        finally:
            gone.set()

    async with ScriptedGateway(gateway) as there:
        made = Session(there.port)
        attempt = asyncio.create_task(made.tws.open())
        await until(lambda: made.of(Dialled))
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await asyncio.wait_for(gone.wait(), 60)

    assert not made.of(Failed)


async def test_2110_in_the_first_packet_is_an_event():
    """A TWS that is not connected to IBKR reports it before, and beside, a good handshake (FAULTS 7)."""

    async def gateway(peer: Peer) -> None:
        await peer.greet()
        await peer.until(71)
        peer.error(2110, "Connectivity between Trader Workstation and server is broken.")
        peer.error(2104, "Market data farm connection is OK:usfarm.nj")
        peer.send(15, 1, "DU1234567")
        peer.send(9, 1, 1)
        await peer.finish()

    made = await attempt(gateway)

    assert [type(event) for event in made.events] == [Dialled, Greeted, UpstreamLost, FarmChanged, Opened]
    assert made.of(FarmChanged) == [FarmChanged(session=3, farm="usfarm.nj", type="market", state="ok")]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_end_of_an_open_session_is_a_loss(how: str):
    leave = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await leave.wait()
        if how == "reset":
            peer.reset()

    async with session(gateway) as made:
        leave.set()
        await until(lambda: made.of(Lost))

    (lost,) = made.of(Lost)
    assert isinstance(lost, Lost)
    assert lost.reason == "socketLost"
    if sys.platform != "win32":
        assert lost.code == (errno.ECONNRESET if how == "reset" else None)
    assert made.events[-1] is lost


async def test_a_message_that_cannot_be_decoded_is_counted_and_the_session_goes_on(caplog: pytest.LogCaptureFixture):
    """No traceback, and what follows is read (FAULTS 54)."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        peer.send(9999, "no such message")
        peer.send(61, 3, "DU1", "not a number")
        peer.error(100, "Max rate of messages per second has been exceeded.")
        await peer.finish()

    with caplog.at_level("INFO"):
        async with session(gateway) as made:
            await until(lambda: made.of(RateExceeded))

    assert made.tws.decode_errors == {"unknown": 1, "position": 1}
    assert not [record for record in caplog.records if record.name.startswith("ib_async")]


async def test_nothing_is_emitted_after_abort():
    more = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await more.wait()
        peer.error(1100, "Connectivity between IBKR and Trader Workstation has been lost.")

    async with session(gateway) as made:
        before = list(made.events)
        made.tws.abort()
        more.set()
        await asyncio.sleep(0)
        with pytest.raises(LinkLost):
            await made.tws.probe(1)

    assert made.events == before


async def test_close_is_polite_and_gives_the_client_id_back():
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await peer.until(49)
        peer.send(49, 1, 1700000000)
        for _ in range(1000):
            peer.error(2104, "Market data farm connection is OK:usfarm")
        ended.set_result(await peer.reader.read(1))

    async with session(gateway) as made:
        await made.tws.probe(10)
        await made.tws.close(10)

    assert await asyncio.wait_for(ended, 60) == b""
    assert not made.of(Lost)


async def test_close_fails_the_open_requests_at_once():
    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await peer.finish()
        await asyncio.Event().wait()  # it stays

    async with session(gateway) as made:
        lookup = asyncio.create_task(made.tws.matching_symbols("AAPL", 60))
        probe = asyncio.create_task(made.tws.probe(60))
        await until(lambda: made.tws.messages_out >= 4)
        closing = asyncio.create_task(made.tws.close(60))
        for pending in (lookup, probe):
            with pytest.raises(LinkLost):
                await pending
        closing.cancel()
        await asyncio.wait([closing])


async def test_a_peer_that_has_stopped_reading_does_not_hold_us():
    """ib_async's own disconnect never ends with unsent bytes, and its next connect waits for it."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await asyncio.Event().wait()  # it stays

    async with session(gateway) as made:
        transport = made.tws.wire.transport
        assert transport is not None
        made.tws.wire.send(b"x" * 11_000_000)
        await made.tws.close(0.05)
        await until(lambda: made.tws.wire.transport is None)

    assert not made.of(Lost)


async def test_nothing_is_sent_while_the_peer_does_not_read():
    seen: list[str] = []

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        seen.append((await peer.until(49))[0])
        peer.send(49, 1, 1700000000)
        await peer.finish()

    async with session(gateway) as made:
        made.tws.wire.pause_writing()
        probe = asyncio.create_task(made.tws.probe(10))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert made.tws.queue.waiting == 1
        made.tws.wire.resume_writing()
        await probe

    assert seen == ["49"]


async def test_an_attempt_that_was_aborted_opens_nothing():
    async def gateway(peer: Peer) -> None:
        await peer.finish()

    async with ScriptedGateway(gateway) as there:
        made = Session(there.port)
        attempt = asyncio.create_task(made.tws.open())
        await asyncio.sleep(0)
        made.tws.abort()
        await asyncio.wait_for(attempt, 60)
        await until(lambda: made.tws.wire.transport is None)

    assert made.events == []


async def test_probes_at_the_same_time_share_one_request():
    """reqCurrentTime has no request id: a second one would take the first one's answer."""
    received: list[list[str]] = []

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        received.append(await peer.until(49))
        await asyncio.sleep(0)
        peer.send(49, 1, 1700000000)
        received.append(await peer.next())

    async with session(gateway) as made:
        await asyncio.gather(*(made.tws.probe(10) for _ in range(5)))

    assert len(received) == 1


async def test_an_overdue_probe_leaves_nothing_behind_and_the_next_message_is_news():
    speak = asyncio.Event()

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await peer.until(49)
        await speak.wait()
        peer.send(49, 1, 1700000000)
        await peer.until(49)
        peer.send(49, 1, 1700000000)
        await peer.finish()

    async with session(gateway) as made:
        with pytest.raises(TimeoutError):
            await made.tws.probe(0.02)
        assert not made.of(MessageReceived)
        speak.set()
        await until(lambda: made.of(MessageReceived))
        await made.tws.probe(10)

    assert made.of(MessageReceived) == [MessageReceived(session=3)]


async def test_an_answer_and_the_end_in_one_segment_are_an_answer_and_an_end():
    """FIELD B24: the probe's answer proves nothing about a connection that ended with it."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await peer.until(49)
        peer.send(49, 1, 1700000000)

    async with session(gateway) as made:
        assert await made.tws.probe(10) >= 0
        await until(lambda: made.of(Lost))

    assert len(made.of(Lost)) == 1


async def test_the_socket_is_kept_alive():
    """Keepalive with a short idle, and a limit on unacknowledged bytes where the system has one (FAULTS 5)."""

    async def gateway(peer: Peer) -> None:
        await peer.shake()
        await peer.finish()

    async with session(gateway) as made:
        sock = made.tws.wire.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 15
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 20_000


async def test_code_100_halves_the_rate():
    async def gateway(peer: Peer) -> None:
        await peer.shake()
        peer.error(100, "Max rate of messages per second has been exceeded.")
        await peer.finish()

    async with session(gateway) as made:
        await until(lambda: made.of(RateExceeded))
        assert made.tws.queue.rate == 20
