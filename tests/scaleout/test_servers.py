"""Streams that roll over or are lost, readers that do not read, two daemons of one name, every kind of credentials."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.js.api import StorageType, StreamConfig
from structlog.testing import capture_logs

from daemon.process import Daemon
from shared.messages import STATE_TOPICS, Account, Link, Position
from shared.scaleout import EPOCH, Alive, Subjects
from tests.daemon.running import Mirror as LocalMirror
from tests.scaleout.conftest import FastClock, NatsServer, equal, proxied, published, remote, settled
from tests.waiting import until

SUBJECTS = Subjects("ibkr", "default")
STORAGES = [StorageType.FILE, StorageType.MEMORY]


async def make_stream(server: NatsServer, storage: StorageType, max_bytes: int = 64_000_000) -> None:
    client = await nats.connect(server.url)
    config = StreamConfig(name=SUBJECTS.stream, subjects=[SUBJECTS.delta], storage=storage, max_bytes=max_bytes)
    await client.jetstream().add_stream(config)
    await client.close()


def position(number: int, amount: float) -> Position:
    return Position(account="DU1", conId=number, position=amount)


async def stream_state(server: NatsServer) -> Any:
    client = await nats.connect(server.url)
    try:
        return (await client.jetstream().stream_info(SUBJECTS.stream)).state
    finally:
        await client.close()


@pytest.mark.parametrize("storage", STORAGES)
async def test_a_replica_that_was_away_for_longer_than_the_stream_keeps_is_reset(
    nats_server: NatsServer, storage: StorageType
) -> None:
    """It never has a hole: rows that went while it was away are gone. Another that stayed is not reset."""
    await make_stream(nats_server, storage, max_bytes=10_000)
    clock = FastClock(rate=1.0)
    async with (
        published(nats_server, clock=clock) as daemon,
        proxied(nats_server) as network,
        remote(nats_server, clock=clock) as stayed,
        remote(nats_server, clock=clock, url=network.url) as away,
    ):
        daemon.store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
        for mirror in (stayed, away):
            await settled(mirror, daemon)
        begun = (await stream_state(nats_server)).last_seq
        resyncs = stayed.state.resync_count
        network.refuse()
        await until(lambda: not away.state.reachable)
        replica = away.state.replica
        daemon.store.put({"accounts": {"DU1": None}})
        await settled(stayed, daemon)
        while (await stream_state(nats_server)).first_seq <= begun + 1:
            daemon.store.put({"positions": {f"DU1:{n}": position(n, daemon.store.seq) for n in range(20)}})
            await settled(stayed, daemon)
        network.resume()
        await settled(away, daemon)
        assert away.state.replica is not replica
        assert stayed.state.resync_count == resyncs


@pytest.mark.parametrize("storage", STORAGES)
async def test_a_server_that_is_killed_with_its_stream_in_memory_or_on_disk(
    nats_server: NatsServer, storage: StorageType
) -> None:
    """On disk the replica resumes, with the stream in memory it is reset; either way it is the daemon's again."""
    await make_stream(nats_server, storage)
    async with published(nats_server) as daemon, remote(nats_server) as mirror:
        daemon.store.put({"positions": {f"DU1:{n}": position(n, 1.0) for n in range(50)}})
        await settled(mirror, daemon)
        replica = mirror.state.replica
        for number in range(2):
            nats_server.kill()
            await until(lambda: not mirror.state.reachable)
            daemon.store.put({"positions": {f"DU1:{number}": None, "DU1:60": position(60, number)}})
            nats_server.start()
            await settled(mirror, daemon)
        assert (mirror.state.replica is replica) == (storage == StorageType.FILE)


async def test_a_remote_reader_that_does_not_read_delays_no_other(nats_server: NatsServer) -> None:
    """The server closes its connection as that of a slow consumer; it has the daemon's state once it reads again."""
    nats_server.kill()
    nats_server.config += 'write_deadline: "1s"\nmax_pending: 2000000\n'
    nats_server.start()
    await until(lambda: _listens(nats_server))
    async with (
        published(nats_server) as daemon,
        proxied(nats_server) as network,
        remote(nats_server) as reads,
        remote(nats_server, url=network.url) as stalled,
    ):
        for mirror in (reads, stalled):
            await settled(mirror, daemon)
        network.stall()
        for number in range(4):
            daemon.store.put({"positions": {f"DU1:{n}": position(n, number) for n in range(2000)}})
            await settled(reads, daemon)
        await until(lambda: not stalled.state.reachable)
        network.resume()
        await settled(stalled, daemon)


def _listens(server: NatsServer) -> bool:
    try:
        return server.listening()
    except OSError:
        return False


async def test_a_daemon_that_was_cut_off_yields_or_stays_but_one_alone_publishes(nats_server: NatsServer) -> None:
    """A second one has taken the name meanwhile. A replica is of one of them at a time, in the end of the one that
    publishes; a command for the other is not carried out."""
    clock = FastClock()
    with capture_logs() as logs:
        async with (
            proxied(nats_server) as network,
            published(nats_server, clock=clock, url=network.url) as first,
            remote(nats_server) as mirror,
        ):
            first.store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
            await settled(mirror, first)
            network.stall()
            await until(lambda: not mirror.state.reachable)
            async with published(nats_server, clock=clock) as second:
                second.store.put({"accounts": {"DU2": Account(account="DU2", paper=True)}})
                await settled(mirror, second)
                network.resume()
                await until(lambda: any(line["event"] == "scaleout.name_taken" for line in logs))
                await until(lambda: equal(mirror, first) or equal(mirror, second))
                (epoch,) = await epochs_alive(nats_server, signs=4)
                stays, yields = (first, second) if epoch == first.store.epoch else (second, first)
                await settled(mirror, stays)
                await command_the_other(nats_server, stays, yields)
                for one in (first, second):
                    link = one.store.row("link", "link")
                    assert isinstance(link, Link)
                    assert link.phase == "disabled"


async def epochs_alive(server: NatsServer, signs: int) -> set[str]:
    """Of the next signs of life."""
    client = await nats.connect(server.url)
    received = await client.subscribe(SUBJECTS.alive)
    try:
        return {msgspec.json.decode((await received.next_msg(timeout=30)).data, type=Alive).epoch for _ in range(signs)}
    finally:
        await client.close()


async def command_the_other(server: NatsServer, stays: Daemon, yields: Daemon) -> None:
    """A command for the one that does not publish, and a question to the one that does, which comes after it."""
    client = await nats.connect(server.url)
    await client.publish(SUBJECTS.call("link.disconnect"), b"{}", headers={EPOCH: yields.store.epoch})
    question = SUBJECTS.call("daemon.info")
    await client.request(question, b"{}", timeout=30, headers={EPOCH: stays.store.epoch})
    await client.close()


async def test_wrong_credentials_leave_the_daemon_local_with_one_warning(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """Until they are right; then it publishes without a restart."""
    user = '\nauthorization { users: [ { user: daemon, password: "%s" } ] }\n'
    plain = nats_server.config
    nats_server.config = plain + user % "other"
    nats_server.reload()
    right = tmp_path / "right"
    right.write_text("daemon:p\n")
    right.chmod(0o600)
    with capture_logs() as logs:

        def count(event: str) -> int:
            return sum(line["event"] == event for line in logs)

        async with (
            published(nats_server, nats_creds=right) as daemon,
            remote(nats_server, credentials=right) as mirror,
        ):
            await until(lambda: count("scaleout.error") > 2, "the daemon does not try again")
            assert count("scaleout.away") == 1
            local = await LocalMirror.join(daemon.settings.socket_path, STATE_TOPICS)
            assert local.link["phase"] == "disabled"
            await local.leave()
            assert not mirror.state.reachable
            nats_server.config = plain + user % "p"
            nats_server.reload()
            await settled(mirror, daemon)


@asynccontextmanager
async def served_with(server: NatsServer, config: str, credentials: Path) -> AsyncIterator[None]:
    """A daemon and a replica with these credentials."""
    credentials.chmod(0o600)
    server.kill()
    server.config += config
    server.start()
    async with (
        published(server, nats_creds=credentials) as daemon,
        remote(server, credentials=credentials) as mirror,
        remote(server) as stranger,
    ):
        daemon.store.put({"accounts": {"DU1": Account(account="DU1", paper=True)}})
        await settled(mirror, daemon)
        assert not stranger.state.reachable
        yield


async def test_a_daemon_and_a_facade_authenticate_by_nkey(nats_server: NatsServer, tmp_path: Path) -> None:
    nkeys = pytest.importorskip("nkeys")
    seed, key = new_key(nkeys, nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(seed + b"\n")
    async with served_with(
        nats_server, f"authorization {{ users: [ {{ nkey: {public(key)} }} ] }}\n", tmp_path / "seed"
    ):
        pass


async def test_a_daemon_and_a_facade_authenticate_by_jwt(nats_server: NatsServer, tmp_path: Path) -> None:
    """An operator, an account with JetStream, a user: the credentials file that `nsc` writes."""
    nkeys = pytest.importorskip("nkeys")
    _, operator = new_key(nkeys, nkeys.PREFIX_BYTE_OPERATOR)
    _, account = new_key(nkeys, nkeys.PREFIX_BYTE_ACCOUNT)
    seed, user = new_key(nkeys, nkeys.PREFIX_BYTE_USER)
    plain = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1) | {"wildcards": True}
    limits = plain | dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    _, system = new_key(nkeys, nkeys.PREFIX_BYTE_ACCOUNT)
    operator_jwt = signed(operator, operator, "operator", {})
    system_jwt = signed(operator, system, "account", {"limits": plain})
    account_jwt = signed(operator, account, "account", {"limits": limits})
    user_jwt = signed(account, user, "user", {"subs": -1, "data": -1, "payload": -1})
    (tmp_path / "operator.jwt").write_text(operator_jwt)
    credentials = tmp_path / "user.creds"
    credentials.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    config = (
        f'operator: "{tmp_path}/operator.jwt"\nresolver: MEMORY\nsystem_account: {public(system)}\n'
        f"resolver_preload: {{ {public(account)}: {account_jwt}, {public(system)}: {system_jwt} }}\n"
    )
    async with served_with(nats_server, config, credentials):
        pass


def new_key(nkeys: Any, prefix: int) -> tuple[bytes, Any]:
    """A seed, and its key pair."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    return seed, nkeys.from_seed(bytearray(seed))


def public(key: Any) -> str:
    return bytes(key.public_key).decode()


def signed(issuer: Any, subject: Any, kind: str, nats_claims: dict[str, Any]) -> str:
    """A JWT of NATS, version 2."""

    def encoded(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).rstrip(b"=").decode()

    claims = {
        "jti": "1",
        "iat": 1_700_000_000,
        "iss": public(issuer),
        "sub": public(subject),
        "name": kind,
        "nats": {**nats_claims, "type": kind, "version": 2},
    }
    text = ".".join(encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims))
    return f"{text}.{encoded(bytes(issuer.sign(text.encode())))}"
