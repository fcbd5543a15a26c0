"""Metrics: the contract's names, in a text that Prometheus reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from shared.messages import Expected, Proof
from shared.reasons import CATALOGUE
from tests.facade.conftest import Served, running
from tests.facade.fake_daemon import FakeDaemon
from tests.waiting import until

MONITORING = Path(__file__).resolve().parents[3] / "docs" / "monitoring"

INFO = {
    "watchers": 2,
    "deltasMerged": 3,
    "marketLines": 4,
    "historyBudgetRemaining": 55,
    "loopLagS": 0.001,
    "link": {
        "attempts": 7,
        "losses": {"socketLost": 2},
        "timeToReady": 0.25,
        "messagesIn": 100,
        "messagesOut": 10,
        "decodeErrors": {"position": 1},
    },
}


async def scraped(served: Served) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, text, headers = await served.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, session: str | None = "default", **labels: str) -> float:
    """`session`: `None` where the metric has no such label."""
    if session is not None:
        labels["session"] = session
    return samples[name, tuple(sorted(labels.items()))]


async def test_the_names_of_the_contract(served: Served) -> None:
    served.daemon.answer("daemon.info", INFO)
    served.daemon.link(proof=Proof(ageMs=2000))
    await until(lambda: (served.state.proof_age or 0) > 1)
    await served.get("/api/ibkr/positions")
    await served.get("/api/ibkr/contracts/1?x=1")
    await served.get("/nothing/of/the/kind")
    samples = await scraped(served)

    assert value(samples, "ibkr_link_phase", phase="ready") == 1
    assert value(samples, "ibkr_link_phase", phase="waiting") == 0
    assert 2 <= value(samples, "ibkr_link_proof_age_seconds") < 60
    assert value(samples, "ibkr_link_attempts_total") == 7
    assert value(samples, "ibkr_link_losses_total", reason="socketLost") == 2
    assert value(samples, "ibkr_link_time_to_ready_seconds") == 0.25
    assert value(samples, "ibkr_messages_total", direction="in") == 100
    assert value(samples, "ibkr_messages_total", direction="out") == 10
    assert value(samples, "ibkr_decode_errors_total", kind="position") == 1
    assert value(samples, "ibkr_market_lines") == 4
    assert value(samples, "ibkr_history_budget_remaining") == 55
    assert value(samples, "ibkr_watchers") == 2
    assert value(samples, "ibkr_deltas_merged_total") == 3
    assert value(samples, "ibkr_loop_lag_seconds", process="daemon") == 0.001
    assert value(samples, "ibkr_loop_lag_seconds", session="", process="facade") >= 0
    assert value(samples, "ibkr_http_requests_total", route="/api/ibkr/positions", status="200") == 1
    assert value(samples, "ibkr_http_requests_total", route="/api/ibkr/contracts/{conId}", status="422") == 1
    assert value(samples, "ibkr_http_requests_total", route="unknown", status="404") == 1
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


async def test_a_scrape_without_a_daemon_shows_it_unreachable(tmp_path: Path, socket_path: str) -> None:
    async with running(tmp_path, FakeDaemon(socket_path)) as served:
        samples = await scraped(served)
        assert value(samples, "ibkr_daemon_reachable") == 0
        assert value(samples, "ibkr_link_connected") == 0
        assert not any(name == "ibkr_link_attempts_total" for name, _ in samples)


async def test_a_daemon_that_went_away_leaves_no_phase_behind(served: Served) -> None:
    await served.daemon.stop()
    await until(lambda: not served.state.reachable)
    samples = await scraped(served)
    assert value(samples, "ibkr_daemon_reachable") == 0
    assert value(samples, "ibkr_link_connected") == 0
    assert not any(amount for (name, _), amount in samples.items() if name == "ibkr_link_phase")


async def test_alerts_and_dashboard_use_existing_metrics(served: Served) -> None:
    """Each metric that is named, with each label that it is selected, grouped or shown by."""
    sink = {"sink": "https://example.com", "delivered": 0, "failed": 0, "givenUp": 0, "pending": 0}
    heartbeat = {"sent": 0, "failed": 0, "lastAt": None}
    served.daemon.answer("daemon.info", {**INFO, "alerts": [sink], "incidents": [], "heartbeat": heartbeat})
    served.daemon.link(proof=Proof(ageMs=0))
    await served.get("/api/ibkr/positions")
    known: dict[str, set[str]] = {}
    for name, labels in await scraped(served):
        known.setdefault(name, {"instance", "job"}).update(label for label, _ in labels)
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    known |= {rule["record"]: {"instance", "session"} for rule in rules if "record" in rule}
    shown = [(rule["expr"], "") for rule in rules]
    shown += [(one["expr"], one["legendFormat"]) for panel in dashboard()["panels"] for one in panel["targets"]]
    used: dict[str, set[str]] = {}
    for expression, legend in shown:
        names = re.findall(r"\b(?:ibkr|process)[_:]\w+", expression)
        for name in names:
            used.setdefault(name, set()).update(re.findall(r"{{(\w+)}}", legend))
        if len(names) == 1:
            grouped = ",".join(re.findall(r"\bby ?\(([^)]*)\)", expression))
            used[names[0]].update(re.findall(r"\w+", grouped))
        for name, selectors in re.findall(r"\b((?:ibkr|process)[_:]\w+)\{([^}]*)\}", expression):
            used[name].update(re.findall(r"(\w+)=~?\"", selectors))
    unknown = {name: labels - known.get(name, set()) for name, labels in used.items()}
    assert set(used) <= set(known)
    assert not {name: labels for name, labels in unknown.items() if labels}
    assert len(used) > 20


async def test_the_reason_and_a_planned_window_are_series_from_the_start(served: Served) -> None:
    served.daemon.link(phase="waiting", reason="portClosed", expected=Expected(active=True, kind="nightlyReset"))
    await until(lambda: served.state.link.reason == "portClosed")
    samples = await scraped(served)
    assert value(samples, "ibkr_link_reason", reason="portClosed") == 1
    assert value(samples, "ibkr_link_reason", reason="loginRequired") == 0
    assert value(samples, "ibkr_link_window_active") == 1


async def test_durations_are_counted_by_route_and_status_without_event_streams(served: Served) -> None:
    await served.get("/api/ibkr/status")
    samples = await scraped(served)
    route = {"route": "/api/ibkr/status", "status": "200"}
    assert value(samples, "ibkr_http_request_duration_seconds_count", **route) == 1
    assert value(samples, "ibkr_build_info", session=None, version=version("ibkr-link"), python=python_version()) == 1


def dashboard() -> Any:
    return json.loads((MONITORING / "dashboard.json").read_text())


def test_the_dashboard_is_of_one_data_source_and_its_queries_are_promql(tmp_path: Path) -> None:
    """Every panel follows the variables, has a place of its own, and a query that Prometheus parses."""
    board = dashboard()
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "instance", "session"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in board["panels"]]
    assert len(set(places)) == len(places)
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert all("$instance" in expression for expression in expressions)
    assert sum("$session" in expression for expression in expressions) >= len(expressions) - 2
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus).")
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_rules_fire_when_they_should_and_only_then() -> None:
    """Prometheus' own tool runs alerts_test.yml: outages, planned windows, the first loss, a login that is needed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus).")
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_links_to_what_to_do() -> None:
    """A reason's section on the facade's page, else a heading of the monitoring page."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    headings = re.findall(r"^### (.+)$", (MONITORING / "README.md").read_text(), re.M)
    ours = {f"docs/monitoring/README.md#{heading.lower()}" for heading in headings}
    page = "http://127.0.0.1:9101/docs/reasons"
    reasons = {page, *(f"{page}#{reason}" for reason in (*CATALOGUE, "{{ $labels.reason }}"))}
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert [one["alert"] for one in alerts if one["annotations"].get("runbook_url") not in ours | reasons] == []
    linked = {one["annotations"]["runbook_url"] for one in alerts}
    assert ours <= linked
