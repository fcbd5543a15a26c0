"""The server configurations of docs/scale-out.md, run as they stand there: TLS, the two roles, three servers."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from facade.replica.mirror import Mirror
from facade.replica.nats import nats_connector
from facade.replica.state import ReplicaState
from shared import scaleout
from shared.clock import SystemClock
from shared.messages import Position, Quote
from shared.reasons import Problem
from shared.settings import PROJECT_ROOT
from tests.daemon.running import place, running, settings
from tests.ports import free_port
from tests.scaleout.conftest import SERVER, NatsServer, equal, published, remote, settled
from tests.waiting import answered, until

if TYPE_CHECKING:
    from nats.aio.client import Client

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate"),
    pytest.mark.skipif(SERVER is None, reason="nats-server is not installed: apt-get install nats-server"),
    pytest.mark.skipif(find_spec("nats") is None, reason="nats-py is not installed: pip install '.[nats]'"),
]
USERS = {"daemon": "p", "reader": "p", "operator": "p", "stranger": "x"}


def documented(marker: str, page: str = "scale-out.md", **written: str) -> str:
    """The block of a page of docs/ that contains `marker`, with what stands for its values in `written`."""
    text = (PROJECT_ROOT / "docs" / page).read_text(encoding="utf-8")
    block = next(block for block in text.split("```") if marker in block)
    for value, real in written.items():
        assert value in block
        block = block.replace(value, real)
    return block


def single(directory: Path, port: int) -> str:
    """The configuration of one server."""
    return documented(
        "jetstream {",
        **{
            "0.0.0.0:4222": f"127.0.0.1:{port}",
            "/var/lib/nats": f"{directory}/store",
            "/etc/nats": str(directory),
            "…": "p",
        },
    )


def make_certificate(directory: Path) -> None:
    """A self-signed one for `localhost`, under the names of the documented configuration."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=DNS:localhost", "-keyout", "server.key", "-out", "server.pem"],
        cwd=directory,
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A certificate that this process trusts, and the credentials of each user."""
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    made = {}
    for user, password in USERS.items():
        made[user] = tmp_path / user
        made[user].write_text(f"{user}:{password}\n")
        made[user].chmod(0o600)
    return made


@pytest.fixture
def guarded(tmp_path: Path, nats_server: NatsServer, files: dict[str, Path]) -> Iterator[NatsServer]:
    """The documented server."""
    nats_server.kill()
    server = NatsServer(tmp_path)
    server.config = single(tmp_path, server.port)
    server.url = f"tls://localhost:{server.port}"
    server.start()
    yield server
    server.kill()


async def test_the_documented_server_has_tls_and_two_roles(guarded: NatsServer, files: dict[str, Path]) -> None:
    """A reader sees everything, and its command is refused by NATS as `notPermitted`; an operator commands."""
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(published(guarded, nats_creds=files["daemon"]))
        reader, operator, stranger = [
            await stack.enter_async_context(remote(guarded, credentials=files[user]))
            for user in ("reader", "operator", "stranger")
        ]
        for mirror in (reader, operator):
            await settled(mirror, daemon)
        daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
        reader.subscribe(["quotes:1"])
        await until(lambda: equal(reader, daemon, ("quotes:1",)))
        assert b"epoch" in bytes(await reader.call("daemon.info", {}, 30.0))
        for command in ("link.disconnect", "link.connect", "link.reconnect", "alerts.test"):
            with pytest.raises(Problem) as refused:
                await reader.call(command, {}, 30.0)
            assert (refused.value.reason, refused.value.entry.status) == ("notPermitted", 403)
        assert not stranger.state.reachable
        await operator.call("link.disconnect", {}, 30.0)


@asynccontextmanager
async def connected(urls: tuple[str, ...], credentials: Path | None = None) -> AsyncIterator[Client]:
    client = await scaleout.connect(scaleout.Server(urls, credentials), "a test's", lambda _error: None, lambda: None)
    try:
        yield client
    finally:
        await scaleout.close(client)


async def test_a_reader_cannot_have_the_server_command_in_its_place(
    guarded: NatsServer, files: dict[str, Path]
) -> None:
    """A consumer may deliver to any subject, a method's too, and without bodies: the daemon carries none of it out."""
    from nats.js.api import ConsumerConfig, DeliverPolicy

    with capture_logs() as logs:
        async with (
            published(guarded, nats_creds=files["daemon"]) as daemon,
            remote(guarded, credentials=files["reader"]) as mirror,
        ):
            await settled(mirror, daemon)
            async with connected((guarded.url,), files["daemon"]) as client:
                info = json.loads((await client.request("$SRV.INFO.ibkr-default", b"")).data)
            async with connected((guarded.url,), files["reader"]) as client:
                for headers_only in (True, False):
                    config = ConsumerConfig(
                        deliver_subject="ibkr.default.rpc.link.disconnect",
                        deliver_policy=DeliverPolicy.ALL,
                        deliver_group=info["endpoints"][0]["queue_group"],  # at worst, it has become known
                        headers_only=headers_only,
                    )
                    await client.jetstream().add_consumer("IBKR_DEFAULT", config)
                daemon.store.put({"positions": {"DU1:1": Position(account="DU1", conId=1, position=1.0)}})
                await settled(mirror, daemon)
                await until(lambda: any(line["event"] == "scaleout.refused" for line in logs))
            assert mirror.state.link is not None
            assert mirror.state.link.phase == "disabled"
    assert not [line for line in logs if line["event"] == "link.command"]


class Cluster:
    """Three of the documented servers that replicate to one another."""

    def __init__(self, directory: Path) -> None:
        routes = [free_port() for _ in range(3)]
        self.servers = []
        for number, route in enumerate(routes, 1):
            own = directory / f"n{number}"
            own.mkdir()
            for name in ("server.key", "server.pem"):
                (own / name).symlink_to(directory / name)
            server = NatsServer(own)
            server.url = f"tls://localhost:{server.port}"
            cluster = documented(
                "cluster {",
                **{
                    "server_name: n1": f"server_name: n{number}",
                    "0.0.0.0:6222": f"127.0.0.1:{route}",
                    **{f"nats://n{n}:6222": f"nats://127.0.0.1:{port}" for n, port in enumerate(routes, 1)},
                },
            )
            server.config = single(own, server.port) + cluster
            self.servers.append(server)

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)


@contextmanager
def three_servers(directory: Path) -> Iterator[Cluster]:
    cluster = Cluster(directory)
    for server in cluster.servers:
        server.start()
    try:
        yield cluster
    finally:
        for server in cluster.servers:
            server.kill()


async def replicated_stream(cluster: Cluster, credentials: Path) -> None:
    """Make the session's stream as documented, with three replicas, once the servers have found one another."""
    from nats.js.api import DiscardPolicy, StreamConfig

    command = documented("nats stream add")
    assert "IBKR_DEFAULT --subjects ibkr.default.delta --replicas 3" in " ".join(command.replace("\\\n", " ").split())

    async def make() -> None:
        async with connected(cluster.urls, credentials) as client:
            await client.jetstream().add_stream(
                StreamConfig(
                    name="IBKR_DEFAULT",
                    subjects=["ibkr.default.delta"],
                    num_replicas=3,
                    discard=DiscardPolicy.OLD,
                    max_age=3600,
                    max_bytes=64 << 20,
                )
            )

    await answered(make, absent=Exception)  # no leader yet; nats-py's errors have no common base beside it


async def all_current(cluster: Cluster, credentials: Path) -> None:
    """Wait until the stream has a leader and each of its replicas has caught up."""

    async def current() -> bool:
        async with connected(cluster.urls, credentials) as client:
            found = (await client.jetstream().stream_info("IBKR_DEFAULT")).cluster
        others = found.replicas or [] if found is not None and found.leader else []
        return len(others) == 2 and all(one.current and not one.offline for one in others)

    await answered(current, bool, absent=Exception)


@asynccontextmanager
async def remote_of(cluster: Cluster, credentials: Path) -> AsyncIterator[Mirror]:
    clock = SystemClock()
    connect = nats_connector(scaleout.Server(cluster.urls, credentials), scaleout.Subjects("ibkr", "default"), clock)
    mirror = Mirror(connect, ReplicaState(3600.0, clock))
    task = asyncio.create_task(mirror.run(), name="mirror")
    try:
        yield mirror
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_of_three_servers_any_one_may_be_killed(tmp_path: Path, files: dict[str, Path]) -> None:
    """Daemon and facade go on by the two others; the next one is killed when the one that is back has caught up."""
    with three_servers(tmp_path) as cluster:
        await replicated_stream(cluster, files["operator"])
        async with (
            place() as directory,
            running(settings(directory, nats_url=cluster.urls, nats_creds=files["daemon"])) as daemon,
            remote_of(cluster, files["reader"]) as mirror,
        ):
            await settled(mirror, daemon)
            for number, server in enumerate(cluster.servers):
                server.kill()
                daemon.store.put({"positions": {f"DU1:{number}": Position(account="DU1", conId=number, position=1.0)}})
                await settled(mirror, daemon)
                server.start()
                await all_current(cluster, files["operator"])


@contextmanager
def hub_and_region(directory: Path) -> Iterator[tuple[NatsServer, NatsServer]]:
    page, leaf_port = "scale-out-arithmetic.md", free_port()
    servers = []
    for name in ("hub", "region"):
        (directory / name).mkdir()
        servers.append(NatsServer(directory / name))
    hub, region = servers
    hub.config = f'listen: "127.0.0.1:{hub.port}"' + documented(
        "domain: hub", page, **{"/var/lib/nats": f"{directory}/hub/store", "0.0.0.0:7422": f"127.0.0.1:{leaf_port}"}
    )
    region.config = documented(
        "domain: region",
        page,
        **{
            "0.0.0.0:4222": f"127.0.0.1:{region.port}",
            "/var/lib/nats": f"{directory}/region/store",
            "nats://hub:7422": f"nats://127.0.0.1:{leaf_port}",
        },
    )
    try:
        for server in servers:
            server.start()
        yield hub, region
    finally:
        for server in servers:
            server.kill()


async def mirrored_stream(region: NatsServer) -> None:
    """Make the documented mirror, once the region's server has found the hub's stream."""
    from nats.js.api import StreamConfig

    config = json.loads(documented('"mirror"', "scale-out-arithmetic.md").removeprefix("json"))

    async def make() -> None:
        async with connected((region.url,)) as client:
            await client.jetstream().add_stream(StreamConfig.from_response(config))

    await answered(make, absent=Exception)


async def test_a_region_reads_a_mirror_and_commands_through_its_leaf_server(tmp_path: Path) -> None:
    """Two facades behind it; afterwards it is lost, and back."""
    with hub_and_region(tmp_path) as (hub, region):
        async with published(hub, clock=SystemClock()) as daemon, remote(hub, clock=SystemClock()) as near:
            await settled(near, daemon)
            await mirrored_stream(region)
            async with remote(region, clock=SystemClock()) as far, remote(region, clock=SystemClock()) as other:
                for mirror in (far, other):
                    await settled(mirror, daemon)
                for number in range(20):
                    row = Position(account="DU1", conId=number, position=1.0)
                    daemon.store.put({"positions": {f"DU1:{number}": row}})
                    await asyncio.sleep(0)
                daemon.store.put({"quotes:1": {"1": Quote(conId=1, bid=1.0)}})
                far.subscribe(["quotes:1"])
                await until(lambda: equal(far, daemon, ("quotes:1",)))
                await far.call("link.disconnect", {}, 30.0)
                for mirror in (far, other):
                    await settled(mirror, daemon)
                region.kill()
                await until(lambda: not far.state.reachable)
                daemon.store.put({"positions": {"DU1:1": None}})
                region.start()
                for mirror in (far, other):
                    await settled(mirror, daemon)
