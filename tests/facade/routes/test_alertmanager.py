"""The documented way to Alertmanager: Debian's Prometheus scrapes a facade, evaluates alerts.yml and notifies it."""

from __future__ import annotations

import asyncio
import re
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.daemon.alerts.receiver import receiving
from tests.facade.conftest import running
from tests.facade.fake_daemon import FakeDaemon
from tests.ports import free_port
from tests.waiting import until

MONITORING = Path(__file__).resolve().parents[3] / "docs" / "monitoring"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("prometheus-alertmanager") is None,
    reason="Prometheus or Alertmanager is not installed (Debian: prometheus, prometheus-alertmanager).",
)


@asynccontextmanager
async def started(directory: Path, program: str, *arguments: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(program, *arguments, cwd=directory, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def test_a_daemon_that_is_away_reaches_a_receiver_of_alertmanager(tmp_path: Path, socket_path: str) -> None:
    """The page's scrape configuration and rules as they are, but for waiting times, addresses and intervals."""
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", (MONITORING / "README.md").read_text(), re.M | re.S)
    alertmanager = free_port()
    async with receiving() as receiver, running(tmp_path, FakeDaemon(socket_path)) as served:
        config = yaml.safe_load(example.replace("9101", str(served.port)))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        rules = (MONITORING / "alerts.yml").read_text()
        (tmp_path / "alerts.yml").write_text(re.sub(r"^( +)for: \w+$", r"\1for: 0s", rules, flags=re.M))
        route = {"receiver": "here", "group_wait": "0s", "group_by": ["alertname"]}
        webhooks = {"name": "here", "webhook_configs": [{"url": receiver.url}]}
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": [webhooks]}))
        async with (
            started(
                *(tmp_path, "prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=am"),
                *("--cluster.listen-address=", f"--web.listen-address=127.0.0.1:{alertmanager}"),
            ),
            started(
                *(tmp_path, "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"),
                f"--web.listen-address=127.0.0.1:{free_port()}",
            ),
        ):
            await until(lambda: any("IbkrDaemonUnreachable" in str(alert) for alert in receiver.alerts))
    (alert,) = next(one["alerts"] for one in receiver.alerts if "IbkrDaemonUnreachable" in str(one))
    assert (alert["status"], alert["labels"]["session"], alert["labels"]["severity"]) == (
        "firing",
        "default",
        "critical",
    )
    assert alert["annotations"]["runbook_url"].endswith("/docs/reasons#daemonUnreachable")
