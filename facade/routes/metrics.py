"""The metrics, in Prometheus' text: the link as the replica has it, the daemon's figures as it tells them, our own.

Read at each scrape and never kept. Loaded with the first one, since most facades are never scraped.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from facade.http.answer import Answer
from facade.http.table import Asked
from shared.messages import Phase
from shared.reasons import Problem

if (
    sys.modules.get("ssl", sys) is None
):  # left out by __main__; the client library imports TLS, which nobody speaks here
    del sys.modules["ssl"]
    for name in ("http.client", "urllib.request"):
        importlib.reload(importlib.import_module(name))

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from facade.app import Facade

ASK = 1.0
"""s for the daemon's figures; a scrape without them is better than none."""

PHASES = get_args(Phase)


class Figures(Collector):
    """One scrape's worth: `info` is the daemon's answer to `daemon.info`, empty where it gave none."""

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
        for reason, count in (link.get("losses") or {}).items():
            losses.add_metric([reason], count)
        yield losses
        if link.get("timeToReady") is not None:
            yield GaugeMetricFamily(
                "ibkr_link_time_to_ready_seconds",
                "From the loss, or the wish to connect, to ready, last time.",
                value=_number(link["timeToReady"]),
            )
        messages = CounterMetricFamily("ibkr_messages", "Messages exchanged with the gateway.", labels=["direction"])
        messages.add_metric(["in"], _number(link.get("messagesIn")))
        messages.add_metric(["out"], _number(link.get("messagesOut")))
        yield messages
        yield CounterMetricFamily(
            "ibkr_decode_errors",
            "Messages of the gateway that could not be read.",
            value=_number(link.get("decodeErrors")),
        )
        for name, key, text in (
            ("ibkr_market_lines", "marketLines", "Market-data lines in use."),
            ("ibkr_history_budget_remaining", "historyBudgetRemaining", "History requests left in IBKR's ten minutes."),
            ("ibkr_watchers", "watchers", "Conversations that watch the daemon's topics."),
        ):
            yield GaugeMetricFamily(name, text, value=_number(self._info.get(key)))

    def _own(self) -> Iterator[Metric]:
        facade = self._facade
        merged = _number(self._info.get("deltasMerged")) + facade.streams.merged
        yield CounterMetricFamily(
            "ibkr_deltas_merged", "Deltas merged for readers that were not reading.", value=merged
        )
        lag = GaugeMetricFamily("ibkr_loop_lag_seconds", "How late the event loop was, last time.", labels=["process"])
        lag.add_metric(["facade"], facade.loop_lag)
        if "loopLagS" in self._info:
            lag.add_metric(["daemon"], _number(self._info["loopLagS"]))
        yield lag
        yield GaugeMetricFamily("ibkr_event_streams", "Event streams being served.", value=len(facade.streams))
        requests = CounterMetricFamily("ibkr_http_requests", "HTTP requests answered.", labels=["route", "status"])
        for (route, status), count in sorted(facade.counts.items()):
            requests.add_metric([route, str(status)], count)
        yield requests


async def metrics(facade: Facade, _asked: Asked) -> Answer:
    """One scrape."""
    info: Mapping[str, Any] = {}
    try:
        info = msgspec.json.decode(await facade.mirror.call("daemon.info", {}, ASK), type=dict[str, Any])
    except (Problem, msgspec.DecodeError):
        pass  # ibkr_daemon_reachable says so
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Figures(facade, info))
    return Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
