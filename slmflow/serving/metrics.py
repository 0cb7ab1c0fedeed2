"""What is measured, for Prometheus, in a registry of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
RATES = (1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
GAUGES = {
    "running": "Requests that the worker generates for at the moment",
    "waiting": "Requests that wait in the worker",
    "batch_size": "Sequences of the worker's last step",
    "kv_bytes": "Bytes of keys and values in use",
    "kv_limit_bytes": "Bytes that keys and values may take",
    "resident_bytes": "Resident memory of the worker in bytes",
}
"""Numbers of a worker's `stats`, each a gauge; `batch_size` is `running` where it is left out."""


class Metrics:
    """All counters, histograms and gauges of one front."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = self._counter("requests", "Requests by route and HTTP status", labels)
        self.errors = self._counter(
            "errors", "Errors by route and status, also those within a stream that began with 200", labels
        )
        self.first_token = self._histogram("first_token_seconds", "From arrival to the first token", WAITS)
        self.queue = self._histogram("queue_seconds", "From arrival to the start of work", WAITS)
        self.rate = self._histogram("tokens_per_second", "Tokens after the first, per request", RATES)
        self.gap = self._histogram("chunk_gap_seconds", "Between two chunks of a stream", GAPS)
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self.cached_tokens = self._counter("cached_tokens", "Tokens of prompts taken from the cache")
        self.completion_tokens = self._counter("completion_tokens", "Tokens of answers")
        self.restarts = self._counter("worker_restarts", "Workers that ended unasked and were replaced")
        self.start_failures = self._counter("worker_start_failures", "Workers that did not become ready")
        self.swaps = self._counter("version_swaps", "Changes to another version of the model")
        self.swap_failures = self._counter("version_swap_failures", "Versions that could not be loaded")
        self.follow_failures = self._counter("follow_failures", "Look-ups of the alias that failed")
        self.ready = Gauge("slmflow_ready", "1 while a worker is ready", registry=self.registry)
        self.stats = {name: self._gauge(name, help_text) for name, help_text in GAUGES.items()}
        self.worker_tokens = self._gauge("tokens", "Tokens that the present worker has made")

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"slmflow_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"slmflow_{name}", text, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"slmflow_worker_{name}", text, registry=self.registry)

    def observe(self, timings: Any) -> None:
        """Take a finished request's `timings`, all seconds from its arrival; what is missing is left out."""
        values = _numbers(timings)
        for name, histogram in (("first_token_seconds", self.first_token), ("queued_seconds", self.queue)):
            if name in values:
                histogram.observe(values[name])
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
            getattr(self, name).inc(max(values.get(name, 0), 0))
        after = values.get("completion_tokens", 0) - 1
        seconds = values.get("seconds", 0) - values.get("first_token_seconds", 0)
        if after > 0 and seconds > 0:
            self.rate.observe(after / seconds)

    def take_stats(self, stats: Any) -> None:
        """Take a worker's `stats`; what is missing keeps its last value."""
        values = _numbers(stats)
        if "running" in values:
            values.setdefault("batch_size", values["running"])
        for name, gauge in self.stats.items():
            if name in values:
                gauge.set(values[name])
        if "tokens_total" in values:
            self.worker_tokens.set(values["tokens_total"])

    def text(self) -> bytes:
        """Everything in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)


def _numbers(said: Any) -> dict[str, float]:
    """The finite numbers of a mapping: a worker's mistake must not fail the request that it answered."""
    if not isinstance(said, Mapping):
        return {}
    numbers = (int, float)
    return {
        str(name): value
        for name, value in said.items()
        if isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    }
