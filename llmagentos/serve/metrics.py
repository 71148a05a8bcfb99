"""Figures of one replica in Prometheus' text format. Labels hold routes and numbers, never ids or text."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmagentos.serve.traffic import Visit

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Own registry, so that two services in one process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by route and status", "route", "status")
        self.request_seconds = self._histogram("request_seconds", "Time of a request to its last byte", _SECONDS, "route")
        self.seconds = self._histogram("answer_seconds", "Time of a whole answer", _SECONDS)
        self.queue_seconds = self._histogram("queue_seconds", "Time until a request's turn came", _SECONDS, "route")
        self.first_token_seconds = self._histogram(
            "first_token_seconds", "Time from a request to its first token, streams only", _SECONDS, "version", "route"
        )
        self.token_seconds = self._histogram(
            "token_seconds", "Time per token of an answer, behind the first where it streams", _TOKEN_SECONDS, "version", "route"
        )
        self.tokens = self._counter("tokens", "Tokens read and written", "kind")
        self.answers = self._counter("answers", "Answers by version and end", "version", "end")
        self.version = self._gauge("champion", "Version that answers as champion")
        self.unflushed = self._gauge("spool_records", "Records waiting for a flush")
        self.ongoing = self._gauge("ongoing", "Answers under way")
        self.queue = self._gauge("queue_length", "Requests that wait for their turn to be answered")

    def enter_queue(self, visit: Visit) -> None:
        """The request waits for its turn."""
        visit.queued = True
        self.queue.inc()

    def leave_queue(self, visit: Visit) -> None:
        """Its turn came, or it was refused or left; asked again it counts no more."""
        if visit.queued:
            visit.queued = False
            self.queue.dec()
            self.queue_seconds.labels(visit.route).observe(time.perf_counter() - visit.began)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"llmagentos_{name}", words, labels, registry=self._registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"llmagentos_{name}", words, registry=self._registry)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"llmagentos_{name}", words, labels, buckets=buckets, registry=self._registry)
