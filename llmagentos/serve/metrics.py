"""Figures of one replica in Prometheus' text format. Labels hold routes and numbers, never ids or text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Own registry, so that two services in one process do not collide."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "llmagentos_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram("llmagentos_answer_seconds", "Time of a whole answer", buckets=_SECONDS, registry=self._registry)
        self.tokens = Counter("llmagentos_tokens", "Tokens read and written", ["kind"], registry=self._registry)
        self.answers = Counter("llmagentos_answers", "Answers by version and end", ["version", "end"], registry=self._registry)
        self.version = Gauge("llmagentos_champion", "Version that answers as champion", registry=self._registry)
        self.unflushed = Gauge("llmagentos_spool_records", "Records waiting for a flush", registry=self._registry)
        self.ongoing = Gauge("llmagentos_ongoing", "Answers under way", registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
