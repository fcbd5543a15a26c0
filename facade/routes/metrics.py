"""The metrics in Prometheus' text: the link by the replica, the daemon's figures by `daemon.info`, the facade's own.

Read at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from facade.app import Facade
from facade.http.responses import reply
from facade.http.routing import RequestContext
from shared.messages import Phase
from shared.reasons import CATALOGUE, LINK_REASONS, Problem

INFO_TIMEOUT = 1.0
"""s for the daemon's figures; a scrape without them is better than none."""

PHASES = get_args(Phase)


class Figures(Collector):
    """The metrics of one scrape. `info`: the daemon's response to `daemon.info`, empty where there was none."""

    def __init__(self, facade: Facade, info: Mapping[str, Any]) -> None:
        self._facade = facade
        self._info = info

    def collect(self) -> Iterator[Metric]:
        yield from self._link()
        yield from self._daemon()
        yield from self._own()

    def _link(self) -> Iterator[Metric]:
        mirror = self._facade.mirror
        phase = mirror.state.link.phase if mirror.state.link is not None and mirror.state.reachable else None
        phases = GaugeMetricFamily("ibkr_link_phase", "1 for the phase that the link is in.", labels=["phase"])
        for name in PHASES:
            phases.add_metric([name], float(name == phase))
        yield phases
        yield GaugeMetricFamily(
            "ibkr_link_connected", "1 while the session is proven.", value=float(mirror.state.connected)
        )
        yield GaugeMetricFamily(
            "ibkr_daemon_reachable", "1 while the daemon answers.", value=float(mirror.state.reachable)
        )
        age = mirror.state.proof_age
        if age is not None:
            yield GaugeMetricFamily("ibkr_link_proof_age_seconds", "Age of the gateway's last message.", value=age)

    def _daemon(self) -> Iterator[Metric]:
        link = self._info.get("link") or {}
        if not self._info:
            return
        yield CounterMetricFamily("ibkr_link_attempts", "Attempts to connect.", value=_number(link.get("attempts")))
        losses = CounterMetricFamily("ibkr_link_losses", "Sessions lost, by reason.", labels=["reason"])
        counts = dict.fromkeys(LINK_REASONS, 0) | (link.get("losses") or {})
        for reason, count in counts.items():  # a series that begins at 1 hides its first loss from `increase()`
            losses.add_metric([reason], count)
        yield losses
        if link.get("timeToReady") is not None:
            yield GaugeMetricFamily(
                "ibkr_link_time_to_ready_seconds",
                "From the loss, or the request to connect, to ready, last time.",
                value=_number(link["timeToReady"]),
            )
        messages = CounterMetricFamily("ibkr_messages", "Messages exchanged with the gateway.", labels=["direction"])
        messages.add_metric(["in"], _number(link.get("messagesIn")))
        messages.add_metric(["out"], _number(link.get("messagesOut")))
        yield messages
        unreadable = CounterMetricFamily(
            "ibkr_decode_errors", "Messages of the gateway that could not be read.", labels=["kind"]
        )
        counted = link.get("decodeErrors")
        for kind, count in counted.items() if isinstance(counted, dict) else ():
            unreadable.add_metric([str(kind)], _number(count))
        yield unreadable
        for name, key, text in (
            ("ibkr_market_lines", "marketLines", "Market-data lines in use."),
            ("ibkr_history_budget_remaining", "historyBudgetRemaining", "History requests left in IBKR's ten minutes."),
            ("ibkr_watchers", "watchers", "Connections that watch the daemon's topics."),
        ):
            yield GaugeMetricFamily(name, text, value=_number(self._info.get(key)))

    def _own(self) -> Iterator[Metric]:
        facade = self._facade
        merged = _number(self._info.get("deltasMerged")) + facade.streams.merged
        yield CounterMetricFamily("ibkr_deltas_merged", "Deltas merged for readers that were behind.", value=merged)
        lag = GaugeMetricFamily("ibkr_loop_lag_seconds", "How late the event loop was, last time.", labels=["process"])
        lag.add_metric(["facade"], facade.loop_lag)
        if "loopLagS" in self._info:
            lag.add_metric(["daemon"], _number(self._info["loopLagS"]))
        yield lag
        yield GaugeMetricFamily("ibkr_event_streams", "Event streams being served.", value=len(facade.streams))
        requests = CounterMetricFamily("ibkr_http_requests", "HTTP requests answered.", labels=["route", "status"])
        for (route, status), count in sorted({**_unborn(facade), **facade.counts}.items()):
            requests.add_metric([route, str(status)], count)
        yield requests


async def metrics(facade: Facade, _context: RequestContext) -> web.StreamResponse:
    """One scrape."""
    info: Mapping[str, Any] = {}
    try:
        info = msgspec.json.decode(await facade.mirror.call("daemon.info", {}, INFO_TIMEOUT), type=dict[str, Any])
    except (Problem, msgspec.DecodeError):
        pass  # ibkr_daemon_reachable is 0
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Figures(facade, info))
    return reply(generate_latest(registry), CONTENT_TYPE_LATEST)


def _unborn(facade: Facade) -> dict[tuple[str, int], int]:
    """Each route with each 5xx that it may answer, at 0."""
    return {
        (route.label or route.template, status): 0
        for route in facade.routes
        for status in (500, *(CATALOGUE[reason].status for reason in route.reasons))
        if status >= 500
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
