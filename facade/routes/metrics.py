"""The metrics in Prometheus' text: the link by the replica, the daemon's figures by `daemon.info`, the facade's own.

Read at each scrape.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, get_args

from aiohttp import web
from msgspec.structs import asdict
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from facade.app import Facade, Session
from facade.http.responses import reply
from facade.http.routing import RequestContext
from shared.messages import Phase
from shared.reasons import CATALOGUE, LINK_REASONS

PHASES = get_args(Phase)


class Figures(Collector):
    """The metrics of one scrape. `infos`: each session's response to `daemon.info`, empty where there was none."""

    def __init__(self, facade: Facade, infos: Mapping[str, Mapping[str, Any]]) -> None:
        self._facade = facade
        self._infos = infos

    def collect(self) -> Iterator[Metric]:
        yield from self._links()
        yield from self._daemons()
        yield from self._alerts()
        yield from self._heartbeats()
        yield from self._own()

    def _links(self) -> Iterator[Metric]:
        phases = GaugeMetricFamily(
            "ibkr_link_phase", "1 for the phase that the link is in.", labels=["session", "phase"]
        )
        connected = _gauge("ibkr_link_connected", "1 while the session is proven.")
        reachable = _gauge("ibkr_daemon_reachable", "1 while the daemon answers.")
        proof = _gauge("ibkr_link_proof_age_seconds", "Age of the gateway's last message.")
        window = _gauge("ibkr_link_window_active", "1 within a planned window such as the nightly reset.")
        reasons = GaugeMetricFamily(
            "ibkr_link_reason", "1 for the reason why the link is not ready.", labels=["session", "reason"]
        )
        for name, session in self._facade.sessions.items():
            state = session.mirror.state
            phase = state.link.phase if state.link is not None and state.reachable else None
            for known in PHASES:
                phases.add_metric([name, known], float(known == phase))
            connected.add_metric([name], float(state.connected))
            reachable.add_metric([name], float(state.reachable))
            window.add_metric([name], float(state.link is not None and state.link.expected.active))
            reason = "daemonUnreachable" if not state.reachable else state.link and state.link.reason
            for known in ("daemonUnreachable", *LINK_REASONS):
                reasons.add_metric([name, known], float(known == reason))
            if state.proof_age is not None:
                proof.add_metric([name], state.proof_age)
        yield from (phases, connected, reachable, window, reasons, proof)

    def _daemons(self) -> Iterator[Metric]:
        attempts = CounterMetricFamily("ibkr_link_attempts", "Attempts to connect.", labels=["session"])
        losses = CounterMetricFamily("ibkr_link_losses", "Sessions lost, by reason.", labels=["session", "reason"])
        to_ready = _gauge(
            "ibkr_link_time_to_ready_seconds", "From the loss, or the request to connect, to ready, last time."
        )
        messages = CounterMetricFamily(
            "ibkr_messages", "Messages exchanged with the gateway.", labels=["session", "direction"]
        )
        errors = CounterMetricFamily(
            "ibkr_decode_errors", "Messages of the gateway that could not be read.", labels=["session", "kind"]
        )
        gauges = {
            "marketLines": _gauge("ibkr_market_lines", "Market-data lines in use."),
            "historyBudgetRemaining": _gauge(
                "ibkr_history_budget_remaining", "History requests left in IBKR's ten minutes."
            ),
            "watchers": _gauge("ibkr_watchers", "Connections that watch the daemon's topics."),
        }
        for name, info in self._infos.items():
            if not info:
                continue
            link = info.get("link") or {}
            attempts.add_metric([name], _number(link.get("attempts")))
            # a series that begins at 1 hides its first loss from `increase()`
            for reason, count in (dict.fromkeys(LINK_REASONS, 0) | (link.get("losses") or {})).items():
                losses.add_metric([name, reason], count)
            if link.get("timeToReady") is not None:
                to_ready.add_metric([name], _number(link["timeToReady"]))
            messages.add_metric([name, "in"], _number(link.get("messagesIn")))
            messages.add_metric([name, "out"], _number(link.get("messagesOut")))
            counted = link.get("decodeErrors")
            for kind, count in counted.items() if isinstance(counted, dict) else ():
                errors.add_metric([name, str(kind)], _number(count))
            for key, gauge in gauges.items():
                gauge.add_metric([name], _number(info.get(key)))
        yield from (attempts, losses, to_ready, messages, errors, *gauges.values())

    def _alerts(self) -> Iterator[Metric]:
        alerts = CounterMetricFamily(
            "ibkr_alerts", "Attempts to deliver an alert.", labels=["session", "process", "sink", "outcome"]
        )
        pending = GaugeMetricFamily(
            "ibkr_alerts_pending", "Alerts that are not delivered yet.", labels=["session", "process", "sink"]
        )
        incidents = GaugeMetricFamily("ibkr_incidents", "Reported incidents under way.", labels=["session", "process"])
        health = [(name, "daemon", one) for name, info in self._infos.items() for one in info.get("alerts") or ()]
        health += [(watch.session, "facade", asdict(one)) for watch in self._facade.alerts for one in watch.health()]
        for name, process, one in health:
            for outcome in ("delivered", "failed", "givenUp"):
                alerts.add_metric([name, process, one["sink"], outcome], _number(one[outcome]))
            pending.add_metric([name, process, one["sink"]], _number(one["pending"]))
        for name, info in self._infos.items():
            if "incidents" in info:
                incidents.add_metric([name, "daemon"], len(info["incidents"]))
        for watch in self._facade.alerts:
            incidents.add_metric([watch.session, "facade"], float(watch.absence is not None and watch.absence.reported))
        yield from (alerts, pending, incidents)

    def _heartbeats(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "ibkr_heartbeats", "Requests of IBKR_HEARTBEAT_URL.", labels=["session", "outcome"]
        )
        accepted = _gauge("ibkr_heartbeat_last_accepted_timestamp_seconds", "When the last one was accepted.")
        for name, info in self._infos.items():
            if health := info.get("heartbeat"):
                requests.add_metric([name, "accepted"], _number(health["sent"]))
                requests.add_metric([name, "failed"], _number(health["failed"]))
                if health["lastAt"]:
                    accepted.add_metric([name], datetime.fromisoformat(health["lastAt"]).timestamp())
        yield from (requests, accepted)

    def _own(self) -> Iterator[Metric]:
        facade = self._facade
        merged = CounterMetricFamily(
            "ibkr_deltas_merged", "Deltas merged for readers that were behind.", labels=["session"]
        )
        lag = GaugeMetricFamily(
            "ibkr_loop_lag_seconds", "How late the event loop was, last time.", labels=["session", "process"]
        )
        streams = _gauge("ibkr_event_streams", "Event streams being served.")
        lag.add_metric(["", "facade"], facade.loop_lag)
        for name, session in facade.sessions.items():
            info = self._infos.get(name, {})
            merged.add_metric([name], _number(info.get("deltasMerged")) + session.streams.merged)
            if "loopLagS" in info:
                lag.add_metric([name, "daemon"], _number(info["loopLagS"]))
            streams.add_metric([name], len(session.streams))
        yield from (merged, lag, streams)
        requests = CounterMetricFamily(
            "ibkr_http_requests", "HTTP requests answered.", labels=["route", "status", "session"]
        )
        for (route, status, name), count in sorted({**_unborn(facade), **facade.counts}.items()):
            requests.add_metric([route, str(status), name], count)
        yield requests
        yield from facade.durations.collect()
        build = GaugeMetricFamily("ibkr_build_info", "1; the version is in the label.", labels=["version", "python"])
        build.add_metric([_version(), platform.python_version()], 1.0)
        yield build


async def metrics(session: Session, _context: RequestContext) -> web.StreamResponse:
    """One scrape of all sessions."""
    facade = session.facade
    infos = await asyncio.gather(*(one.daemon_info() for one in facade.sessions.values()))
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Figures(facade, dict(zip(facade.sessions, infos, strict=True))))
    return reply(generate_latest(registry), CONTENT_TYPE_LATEST)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["session"])


def _unborn(facade: Facade) -> dict[tuple[str, int, str], int]:
    """Each route with each 5xx that it may answer and each session, at 0."""
    return {
        (route.label or route.template, status, name): 0
        for name in facade.sessions
        for route in facade.routes
        for status in (500, *(CATALOGUE[reason].status for reason in route.reasons))
        if status >= 500
    }


def _version() -> str:
    import importlib.metadata  # with e-mail and ZIP archives: only where there is a scrape

    try:
        return importlib.metadata.version("ibkr-link")
    except importlib.metadata.PackageNotFoundError:  # run from the source, not installed
        return ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
