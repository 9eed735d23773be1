"""What a server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gpt_jax.serve.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server; its workers' numbers are read when they are asked for."""

    def __init__(self, workers: Mapping[str, Worker]):
        self._registry, self._workers = CollectorRegistry(), workers
        self.answers = Counter(
            "gpt_jax_responses", "HTTP answers by route and status", ["route", "status"],
            registry=self._registry,
        )  # fmt: skip
        self.first = Histogram(
            "gpt_jax_first_token_seconds", "From the request to its first token", ["model"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.whole = Histogram(
            "gpt_jax_completion_seconds", "From the request to its last token", ["model"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The engines' numbers, for the registry."""
        tokens = CounterMetricFamily(
            "gpt_jax_tokens", "Tokens by what was done with them", labels=["model", "what"]
        )
        open_ = GaugeMetricFamily(
            "gpt_jax_open_completions", "Completions that wait or run", labels=["model"]
        )
        for name, worker in self._workers.items():
            for what in ("read", "copied", "drawn"):
                tokens.add_metric([name, what], worker.engine.counters[what])
            open_.add_metric([name], len(worker.jobs))
        yield tokens
        yield open_

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
